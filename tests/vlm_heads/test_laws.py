"""The laws, over every intervention found in the folder; the number in a test's name is its law's.

1. Neutral options change nothing, bit for bit, and generate the same tokens.
2. Leaving `attach`, normally or by an exception, leaves the model exactly as it was. Nothing happens at import.
3. State belongs to one generation. The next one starts clean, and two threads with two models do not mix.
4. A batch gives what its rows give alone: padding, ragged image spans and heads chosen by row included.
5. An explicit request that cannot be met fails loudly and says why.
6. An intervention that was attached and never fired raises at exit, unless `allow_idle=True`.
7. A new intervention is one file: words and these laws find it by themselves.
"""

import copy
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput
from vlm_kernels import AttentionPlan

import vlm_heads.interventions
from tests.support.compare import Generated, distance, equal
from tests.support.families import CLOSE, Build, Tiny
from tests.support.laws import fingerprint, ragged
from vlm_heads import attach, errors, examine, known_interventions, methods
from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.methods import parse_intervention

NAMES = list(known_interventions())


def _active(name: str, **changes: object) -> Intervention:
    """Return an intervention with the options under which it acts on a tiny random model, on all layers."""
    kind = known_interventions()[name]
    everywhere = {"layers": "all"} if "layers" in {one.name for one in fields(kind)} else {}
    return kind(**{**everywhere, **kind.trial, **changes})


def _neutral(name: str) -> Intervention:
    return _active(name, **known_interventions()[name].neutral)


def _makes_a_first_pass(name: str, llava: Tiny) -> bool:
    """Whether a method acts inside `generate` alone, and on a tiny random picture perhaps not at all."""
    return _active(name).first_pass(examine(llava.model)) is not None


@pytest.mark.parametrize("name", NAMES)
def test_1_neutral_changes_no_bit(name: str, llava: Tiny) -> None:
    plain = llava.generate(steps=8)
    with attach(llava.model, [_neutral(name)], allow_idle=True):
        assert equal(plain, llava.generate(steps=8))


@pytest.mark.parametrize("name", NAMES)
def test_1_active_changes_something(name: str, llava: Tiny) -> None:
    plain = llava.generate()
    with attach(llava.model, [_active(name)]):
        assert not equal(plain, llava.generate())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_2_leaving_restores_the_model(name: str, implementation: str, llava: Tiny) -> None:
    llava.model.set_attn_implementation(implementation)
    # transformers puts hooks of its own on the vision tower when it first runs
    plain, before = llava.generate(), fingerprint(llava.model)
    with attach(llava.model, [_active(name)]):
        llava.generate()
    assert fingerprint(llava.model) == before
    assert equal(plain, llava.generate())


class _Trouble(Exception):
    pass


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["body", "layer", "image-free pass"])
def test_2_an_exception_restores_the_model(name: str, where: str, llava: Tiny) -> None:
    # transformers puts hooks of its own on the vision tower when it first runs
    plain, before = llava.generate(), fingerprint(llava.model)
    trouble = _Trouble()

    def fail(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        whole = args[0].shape[1] == llava.inputs["input_ids"].shape[1]
        if whole == (where == "layer"):
            raise trouble

    def run() -> None:
        with attach(llava.model, [_active(name)]):
            llava.generate()
            raise trouble

    handles = [llava.decoder_layers[1].register_forward_pre_hook(fail)] if where != "body" else []
    with pytest.raises(_Trouble):
        run()
    for handle in handles:
        handle.remove()
    assert fingerprint(llava.model) == before
    assert equal(plain, llava.generate())


def test_2_nothing_happens_at_import() -> None:
    program = (
        "import transformers.modeling_utils as m, transformers.masking_utils as k\n"
        "before = set(m.ALL_ATTENTION_FUNCTIONS), set(k.ALL_MASK_ATTENTION_FUNCTIONS)\n"
        "import vlm_heads\n"
        "assert before == (set(m.ALL_ATTENTION_FUNCTIONS), set(k.ALL_MASK_ATTENTION_FUNCTIONS))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("name", NAMES)
def test_3_a_second_call_starts_clean(name: str, llava: Tiny) -> None:
    other = copy.copy(llava)
    other.inputs = {**llava.inputs, "pixel_values": torch.randn_like(llava.inputs["pixel_values"])}
    idle = _makes_a_first_pass(name, llava)
    with attach(llava.model, [_active(name)], allow_idle=idle):
        alone = other.generate()
    with attach(llava.model, [_active(name)]):
        llava.generate()
        assert equal(alone, other.generate())


@pytest.mark.parametrize("name", NAMES)
def test_3_two_threads_with_two_models_do_not_mix(name: str, tiny: Build) -> None:
    models = [tiny("llava", seed=seed) for seed in (1, 2)]
    idle = _makes_a_first_pass(name, models[0])
    expected = []
    for model in models:
        with attach(model.model, [_active(name)], allow_idle=idle):
            expected.append(model.generate(steps=12))
    got: dict[int, Generated] = {}
    start = threading.Barrier(2)

    def work(index: int) -> None:
        start.wait()
        with attach(models[index].model, [_active(name)], allow_idle=idle):
            got[index] = models[index].generate(steps=12)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal(expected[index], got[index]) for index in (0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_3_generations_that_take_turns_do_not_mix(name: str, llava: Tiny) -> None:
    """Two caches on one model, a step each in turn, as a second stream of a contrast runs them."""
    images = [torch.randn_like(llava.inputs["pixel_values"]) for _ in range(2)]
    ids = llava.inputs["input_ids"]
    next_token = torch.tensor([[11]])

    def begin(image: Tensor) -> ModelOutput:
        return llava.model(input_ids=ids, pixel_values=image, use_cache=True)

    if _makes_a_first_pass(name, llava):
        with (
            torch.no_grad(),
            pytest.raises(errors.UnsupportedGeneration, match="generate"),
            attach(llava.model, [_active(name)]),
        ):
            begin(images[0])
        return
    with torch.no_grad(), attach(llava.model, [_active(name)]):
        expected = []
        for image in images:
            first = begin(image)
            expected.append(llava.model(input_ids=next_token, past_key_values=first.past_key_values).logits)
        started = [begin(image) for image in images]
        got = [llava.model(input_ids=next_token, past_key_values=one.past_key_values).logits for one in started]
    assert equal(expected, got)


# a row that says the end of the text alone would be shorter than in a batch
_FIVE_TOKENS: dict[str, Any] = {
    "max_new_tokens": 5,
    "min_new_tokens": 5,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_4_a_batch_gives_what_its_rows_give_alone(name: str, heads: int, tiny: Build) -> None:
    model = tiny("llava", num_key_value_heads=heads)
    batch, rows = ragged()
    with attach(model.model, [_active(name)]):
        together = model.model.generate(**batch, **_FIVE_TOKENS)
    for index, row in enumerate(rows):
        with attach(model.model, [_active(name)], allow_idle=True):
            alone = model.model.generate(**row, **_FIVE_TOKENS)
        for step, (ours, theirs) in enumerate(zip(together.logits, alone.logits, strict=True)):
            assert distance(ours[index], theirs[0]) < CLOSE, f"row {index}, step {step}"


@pytest.mark.parametrize("name", NAMES)
def test_4_right_padding_gives_the_same_as_left(name: str, llava: Tiny) -> None:
    """A bare forward may pad on the right; the last prompt position is then not the last column."""
    if _makes_a_first_pass(name, llava):
        pytest.skip("it acts inside generate() alone, where prompts are padded on the left")
    ids = llava.inputs["input_ids"]
    pad = torch.zeros(1, 3, dtype=torch.long)
    with torch.no_grad(), attach(llava.model, [_active(name)], allow_idle=True):
        alone = llava.model(**llava.inputs).logits
        right = llava.model(
            input_ids=torch.cat([ids, pad], dim=1),
            attention_mask=torch.cat([torch.ones_like(ids), pad], dim=1),
            pixel_values=llava.inputs["pixel_values"],
        ).logits
    assert distance(alone, right[:, : ids.shape[1]]) < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_5_an_explicit_request_fails_loudly(name: str, llava: Tiny) -> None:
    if not torch.cuda.is_available():
        with (
            pytest.raises(errors.UnsupportedModel, match="CUDA"),
            attach(llava.model, [_active(name)], backend="triton"),
        ):
            raise AssertionError("nothing may run")
    with pytest.raises(errors.BadOption, match="torch"), attach(llava.model, [_active(name)], backend="torhc"):
        raise AssertionError("nothing may run")


@pytest.mark.parametrize("name", NAMES)
def test_6_nothing_fired_raises_at_exit(name: str, llava: Tiny) -> None:
    text_only = {"input_ids": torch.tensor([[1, 5, 6, 7, 8]])}
    with pytest.raises(errors.NothingIntervened, match="not run"), attach(llava.model, [_active(name)]):
        pass
    with pytest.raises(errors.NothingIntervened, match="image tokens"), attach(llava.model, [_active(name)]):
        llava.model.generate(**text_only, max_new_tokens=2)
    with attach(llava.model, [_active(name)], allow_idle=True) as run:
        llava.model.generate(**text_only, max_new_tokens=2)
    assert not run.receipt.fired
    assert "nothing fired" in str(run.receipt)


@pytest.mark.parametrize("name", NAMES)
def test_6_an_own_failure_is_not_hidden_by_nothing_fired(name: str, llava: Tiny) -> None:
    with pytest.raises(_Trouble), attach(llava.model, [_active(name)]):
        raise _Trouble


NEW_FILE = """
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar
from vlm_kernels import AttentionPlan
from vlm_heads.families import Anatomy
from vlm_heads.call import AttentionCall
from vlm_heads.interventions.base import Intervention

@dataclass(frozen=True)
class LouderHeads(Intervention):
    name: ClassVar[str] = "louder"
    neutral: ClassVar[Mapping[str, Any]] = {"gain": 1.0}
    gain: float = 3.0

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset(anatomy.attentions)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        everyone = call.query.new_ones(call.query.shape[:2], dtype=bool)
        call.tally.note(everyone)
        return AttentionPlan(head_gain=call.gains(everyone, self.gain))
"""


def test_7_a_new_intervention_is_one_file(tmp_path: Path, llava: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "louder_heads.py").write_text(NEW_FILE)
    monkeypatch.setattr(vlm_heads.interventions, "__path__", [*vlm_heads.interventions.__path__, str(tmp_path)])
    methods._found.cache_clear()
    try:
        louder = parse_intervention("louder:gain=4")
    finally:
        methods._found.cache_clear()
        sys.modules.pop("vlm_heads.interventions.louder_heads", None)
    plain = llava.generate()
    with attach(llava.model, [louder]) as run:
        assert not equal(plain, llava.generate())
    assert run.receipt.interventions[0].layers == (0, 1, 2)


@dataclass(frozen=True)
class _Everything(Intervention):
    """Asks for a class gain of 1 on every key class, so that the kernel has to run."""

    name: ClassVar[str] = "everything"
    neutral: ClassVar[Mapping[str, Any]] = {}

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset(anatomy.attentions)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        rows, heads = call.query.shape[:2]
        call.tally.note(call.query.new_ones((rows, heads), dtype=torch.bool))
        return AttentionPlan(class_gain=call.query.new_ones(rows, heads, 5))


@pytest.mark.parametrize("backend", ["auto", "reference", "torch"])
@pytest.mark.parametrize("family_name", ["llava", "gemma3", "qwen2_vl"])
def test_plans_that_edit_weights_go_through_the_kernel(backend: str, family_name: str, tiny: Build) -> None:
    model = tiny(family_name)
    plain = model.generate(steps=12)
    with attach(model.model, [_Everything()], backend=backend):
        got = model.generate(steps=12)
    assert distance(plain.logits, got.logits) < CLOSE
