"""vLLM's plug-in beside a stand-in for vLLM: what the engine itself does with it is in test_vllm_engine.py."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vlm_app.bridges.engine_gains import Share
from vlm_app.bridges.vllm_gains import ATTENTION, GAINS, bind, refuse_engine
from vlm_app.bridges.vllm_names import PROFILE

from tests.support.compare import equal, same_ids
from tests.support.families import Tiny, build
from tests.support.stand_in_engine import forward, greedy, prompt, stand_in
from vlm_heads import HeadProfile, StaticGains, attach, examine, fold_gains
from vlm_heads.errors import UnsupportedModel

LOT = torch.tensor([[2.0, 1.0, 0.5, 4.0], [1.0, 1.0, 1.0, 1.0], [0.25, 2.0, 1.0, 0.0]])  # powers of two are exact


@pytest.fixture
def engine() -> Iterator[Tiny]:
    with stand_in(build) as tiny:
        yield tiny


def test_the_plug_in_is_off_and_light_unless_a_profile_is_named() -> None:
    """vLLM loads it in every process, whatever is served."""
    program = (
        "import sys; from vlm_app.bridges.vllm import register; register(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'vllm')))"
    )
    environment = {name: value for name, value in os.environ.items() if name != PROFILE}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0


def test_the_plug_in_is_found_by_its_entry_point() -> None:
    """Read from the project's own file: an installation of another checkout may be beside this one."""
    stated = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert stated["vllm.general_plugins"] == {"vlm_heads": "vlm_app.bridges.vllm:register"}


def test_bound_is_folded(engine: Tiny) -> None:
    """The same gains in the weights of another model give the same logits, bit for bit for powers of two."""
    folded = build("llava")
    fold_gains(folded.model, LOT)
    folded.model.config.get_text_config()._attn_implementation = ATTENTION
    plain = forward(engine, prompt(engine))
    bind(engine.model, LOT, Share())
    assert equal(forward(engine, prompt(engine)), forward(folded, prompt(folded)))
    assert not equal(forward(engine, prompt(engine)), plain)


def test_bound_says_what_the_attached_profile_says(engine: Tiny) -> None:
    attached = build("llava")
    profile = HeadProfile(torch.zeros(3, 4), gains=LOT)
    with attach(attached.model, [StaticGains()], profile=profile):
        expected = attached.generate(8).sequences[0, -8:]
    assert not same_ids(expected, attached.generate(8).sequences[0, -8:])
    bind(engine.model, LOT, Share())
    assert greedy(engine, 8) == expected.tolist()


def test_neutral_gains_leave_every_bit_and_every_module(engine: Tiny) -> None:
    plain = forward(engine, prompt(engine))
    bind(engine.model, torch.ones(3, 4), Share())
    assert equal(forward(engine, prompt(engine)), plain)
    assert not [name for name, _ in engine.model.named_buffers() if GAINS in name]


def test_a_rank_holds_the_gains_of_its_own_heads(engine: Tiny) -> None:
    bind(engine.model, LOT, Share(1, 2))
    held = {layer: getattr(one, GAINS, None) for layer, one in examine(engine.model).attentions.items()}
    assert held[0].tolist() == [0.5, 4.0]
    assert held[1] is None
    assert held[2].tolist() == [1.0, 0.0]


def test_the_gains_are_no_part_of_the_checkpoint(engine: Tiny) -> None:
    before = set(engine.model.state_dict())
    bind(engine.model, LOT, Share())
    assert set(engine.model.state_dict()) == before


def test_attention_that_is_not_reached_is_refused() -> None:
    tiny = build("llava")
    with pytest.raises(UnsupportedModel, match="layer 0 asks for attention 'sdpa'"):
        bind(tiny.model, LOT, Share())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformers": False}, "--model-impl transformers"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"use_ubatching": True}, "micro-batches"),
    ],
)
def test_engines_that_gains_cannot_follow_are_refused(changes: dict[str, object], message: str) -> None:
    def config(transformers: object = True, **parallel: object) -> SimpleNamespace:
        model = SimpleNamespace(architecture="LlavaModel", using_transformers_backend=lambda: transformers)
        around = SimpleNamespace(**{"pipeline_parallel_size": 1, "use_ubatching": False, **parallel})
        return SimpleNamespace(model_config=model, parallel_config=around)

    refuse_engine(config())
    with pytest.raises(UnsupportedModel, match=message):
        refuse_engine(config(**changes))
