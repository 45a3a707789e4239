"""A head's gain, run from its layer on: identity, restoration, and agreement with the ordinary machinery."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from vlm_app.studies.heads.asked import Beginning, Rows
from vlm_app.studies.heads.rerun import Rerun, cached
from vlm_app.studies.heads.routes import joined
from vlm_kernels import CLASS_COUNT, AttentionPlan

from tests.support.compare import distance, equal, rounding
from vlm_heads import VLM, AttentionCall, Intervention, attach, examine
from vlm_heads.methods import text_after_image


@dataclass(frozen=True)
class OneHead(Intervention):
    """One head's output counts `gain` times on the rows after the image: what the study does, as an intervention."""

    name: ClassVar[str] = "one-head"

    layer: int = 0
    head: int = 0
    gain: float = 0.0

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if call.layer != self.layer:
            return None
        gains = call.query.new_ones((*call.query.shape[:2], CLASS_COUNT))
        gains[:, self.head] = self.gain
        call.note_all_heads()
        return AttentionPlan(class_gain=gains, rows=text_after_image(call))


@pytest.fixture
def rerun(mini: VLM, begun: Beginning, captioned: Rows) -> Rerun:
    return Rerun(mini, cached(mini, begun), begun, captioned)


def _on_one(mini: VLM, begun: Beginning, layer: int, head: int, gain: float) -> dict[int, Tensor]:
    gains = torch.ones(len(begun.inputs["input_ids"]), examine(mini.model).heads)
    gains[:, head] = gain
    return {layer: gains}


def _hooks(vlm: VLM) -> int:
    """Return how many hooks stand on the model; transformers has some of its own."""
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in vlm.model.modules())


@pytest.mark.parametrize("layer", [0, 5, 7])
def test_a_gain_of_one_changes_no_bit(mini: VLM, begun: Beginning, rerun: Rerun, layer: int) -> None:
    assert equal(rerun.changed(_on_one(mini, begun, layer, 0, 1.0)), rerun.plain)


def test_a_head_that_gives_nothing_is_not_missed(mini: VLM, begun: Beginning, captioned: Rows) -> None:
    """Its columns of the output projection are 0, for as long as the test lasts."""
    weight: Tensor = mini.model.model.language_model.layers[3].self_attn.o_proj.weight
    size = weight.shape[1] // examine(mini.model).heads
    before = weight.detach().clone()
    with torch.no_grad():
        weight[:, 2 * size : 3 * size] = 0
    try:
        rerun = Rerun(mini, cached(mini, begun), begun, captioned)
        assert equal(rerun.changed(_on_one(mini, begun, 3, 2, 0.0)), rerun.plain)
        assert not equal(rerun.changed(_on_one(mini, begun, 3, 1, 0.0)), rerun.plain)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_changes_leave_no_trace(mini: VLM, begun: Beginning, rerun: Rerun) -> None:
    hooks = _hooks(mini)
    first = rerun.changed(_on_one(mini, begun, 2, 1, 0.0))
    rerun.changed(_on_one(mini, begun, 0, 4, 2.0))
    assert equal(rerun.changed(_on_one(mini, begun, 2, 1, 0.0)), first)
    assert _hooks(mini) == hooks


@pytest.mark.parametrize(("layer", "head", "gain"), [(0, 3, 0.0), (2, 6, 2.0), (7, 1, 0.0)])
def test_it_is_what_an_intervention_does(
    mini: VLM, begun: Beginning, captioned: Rows, rerun: Rerun, layer: int, head: int, gain: float
) -> None:
    """The slow way: one whole forward over pictures and captions, with the head's gain attached."""
    found: list[Tensor] = []
    last = mini.model.model.language_model.layers[-1]
    handle = last.register_forward_hook(lambda _, __, output: found.append(output))
    try:
        with torch.inference_mode(), attach(mini.model, OneHead(layer=layer, head=head, gain=gain)):
            mini.model(**joined(begun, captioned), use_cache=False)
    finally:
        handle.remove()
    expected = found[0][captioned.scenes, begun.length + captioned.columns]
    changed = rerun.changed(_on_one(mini, begun, layer, head, gain))
    tolerance = rounding(torch.float32, terms=1024, size=float(expected.abs().max()))
    assert distance(changed, expected) < tolerance
    assert distance(changed, rerun.plain) > 10 * tolerance  # so that doing nothing would fail


def test_gains_are_each_scenes_own(mini: VLM, begun: Beginning, captioned: Rows, rerun: Rerun) -> None:
    """A head switched off in the first scene alone: there as everywhere off, elsewhere as plain."""
    everywhere = _on_one(mini, begun, 4, 2, 0.0)
    first = {4: torch.where(torch.arange(4)[:, None] == 0, everywhere[4], 1.0)}
    mine = captioned.scenes == 0
    changed = rerun.changed(first)
    tolerance = rounding(torch.float32, terms=1024, size=float(rerun.plain.abs().max()))
    assert distance(changed[mine], rerun.changed(everywhere)[mine]) < tolerance
    assert distance(changed[~mine], rerun.plain[~mine]) < tolerance
