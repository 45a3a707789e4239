"""Models that accelerate has spread out: weights that lie in memory or on disk between two forwards."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from torch import Tensor
from transformers.utils import logging
from vlm_evals.answer import fingerprint
from vlm_evals.scenes.samples import sample_path

from tests.support.compare import equal
from tests.support.families import Tiny
from vlm_heads import VLM, HeadReinforcement, RouteGain, SinkRedistribution, attach, fold_gains, score_heads
from vlm_heads.errors import UnsupportedModel

HERE = ("vision_tower", "multi_modal_projector")
TRIALS = [
    HeadReinforcement(),
    HeadReinforcement(blind="lockstep"),
    HeadReinforcement(blind="two-pass"),
    RouteGain(),
    SinkRedistribution(**SinkRedistribution.trial),
]


def _automatic(_: Path) -> VLM:
    return VLM.from_pretrained("mini", device_map="auto")


def _in_memory(_: Path) -> VLM:
    vlm = VLM.from_pretrained("mini")
    cpu_offload(vlm.model, execution_device="cpu")
    return vlm


def _on_disk(folder: Path) -> VLM:
    vlm = VLM.from_pretrained("mini")
    disk_offload(vlm.model, folder, execution_device="cpu")
    return vlm


def _by_layer(folder: Path) -> VLM:
    """Every second layer and the first weights of the model on disk."""
    text = "model.language_model"
    places = {f"{text}.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(8)}
    places |= {f"{text}.{part}": "cpu" for part in ("embed_tokens", "norm", "rotary_emb")} | {"lm_head": "cpu"}
    places |= {f"model.{part}": "disk" for part in HERE}
    return VLM.from_pretrained("mini", device_map=places, offload_folder=folder)


SPREAD: dict[str, Callable[[Path], VLM]] = {
    "auto": _automatic, "in memory": _in_memory, "on disk": _on_disk, "by layer": _by_layer,
}  # fmt: skip


Said = tuple[list[tuple[int, ...]], dict[str, object], Tensor, str]  # token ids, receipt, scores, fingerprint


@pytest.fixture(scope="module")
def said() -> Said:
    """What the whole model does in memory: its answer, then one for each intervention; its head scores."""
    return _says(VLM.from_pretrained("mini"))


def _says(vlm: VLM) -> Said:
    picture = sample_path("park")
    answers = [
        vlm.answer(picture, interventions=chosen, max_new_tokens=4) for chosen in ((), *((one,) for one in TRIALS))
    ]
    with attach(vlm.model, [HeadReinforcement()]) as run:
        vlm.answer(picture, max_new_tokens=2)
    scores = score_heads(vlm.model, vlm.processor, [picture]).scores
    return [one.token_ids for one in answers], run.receipt.to_dict(), scores, fingerprint(vlm.model)


@pytest.mark.filterwarnings("ignore::UserWarning:accelerate")
@pytest.mark.parametrize("spread", SPREAD)
def test_a_model_that_is_spread_out_does_what_the_whole_one_does(spread: str, said: Said, tmp_path: Path) -> None:
    logging.disable_progress_bar()
    vlm = SPREAD[spread](tmp_path / "offload")
    offloaded = any(parameter.is_meta for parameter in vlm.model.parameters())
    assert offloaded == (spread != "auto")
    assert vlm.device == torch.device("cpu")
    answers, receipt, scores, weights = _says(vlm)
    assert answers == said[0]
    assert receipt == said[1]
    assert equal(scores, said[2])
    assert weights == said[3]
    assert any(parameter.is_meta for parameter in vlm.model.parameters()) == offloaded  # back where they were


def test_offloaded_weights_are_not_folded_in_memory(tmp_path: Path) -> None:
    vlm = _on_disk(tmp_path / "offload")
    with pytest.raises(UnsupportedModel, match="vlm-heads fold"):
        fold_gains(vlm.model, torch.full((8, 8), 2.0))


def test_layers_that_compute_on_several_devices_are_refused(llava: Tiny) -> None:
    """As a model spread over two GPUs says it, its weights offloaded in between."""
    for layer, block in enumerate(llava.decoder_layers):
        block.self_attn.to("meta")
        block.self_attn._hf_hook = SimpleNamespace(execution_device=f"cuda:{min(layer, 1)}")
    with pytest.raises(UnsupportedModel, match="cuda:0 and cuda:1"), attach(llava.model, [HeadReinforcement()]):
        raise AssertionError("nothing may run")
    assert llava.model.model.language_model.config._attn_implementation == "sdpa"
