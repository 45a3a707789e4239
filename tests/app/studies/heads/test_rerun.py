"""A head's gain, run from its layer on: identity, restoration, and agreement with the ordinary machinery."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from vlm_app.studies.heads.rerun import Rerun, cached
from vlm_app.studies.heads.routes import joined
from vlm_kernels import CLASS_COUNT, AttentionPlan

from tests.support.compare import distance, equal, rounding
from tests.support.heads import Case
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
def rerun(case: Case) -> Rerun:
    return Rerun(case.vlm, cached(case.vlm, case.begun), case.begun, case.rows)


def _hooks(vlm: VLM) -> int:
    """Return how many hooks stand on the model; transformers has some of its own."""
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in vlm.model.modules())


def test_a_gain_of_one_changes_no_bit(case: Case, rerun: Rerun) -> None:
    for layer in range(examine(case.vlm.model).depth):
        assert equal(rerun.changed(case.one_head(layer, 0, 1.0)), rerun.plain)
    assert equal(rerun.changed({}), rerun.plain)


def test_a_head_that_gives_nothing_is_not_missed(case: Case) -> None:
    """Its columns of the output projection are 0, for as long as the test lasts."""
    anatomy = examine(case.vlm.model)
    weight = anatomy.projections[1].weight
    size = weight.shape[1] // anatomy.heads
    before = weight.detach().clone()
    with torch.no_grad():
        weight[:, 2 * size : 3 * size] = 0
    try:
        rerun = Rerun(case.vlm, cached(case.vlm, case.begun), case.begun, case.rows)
        assert equal(rerun.changed(case.one_head(1, 2, 0.0)), rerun.plain)
        assert not equal(rerun.changed(case.one_head(1, 1, 0.0)), rerun.plain)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_changes_leave_no_trace(case: Case, rerun: Rerun) -> None:
    hooks = _hooks(case.vlm)
    first = rerun.changed(case.one_head(1, 1, 0.0))
    rerun.changed(case.one_head(0, 3, 2.0))
    assert equal(rerun.changed(case.one_head(1, 1, 0.0)), first)
    assert _hooks(case.vlm) == hooks


@pytest.mark.parametrize(("layer", "head", "gain"), [(0, 3, 0.0), (1, 2, 2.0), (-1, 1, 0.0)])
def test_it_is_what_an_intervention_does(case: Case, rerun: Rerun, layer: int, head: int, gain: float) -> None:
    """The slow way: one whole forward over pictures and captions, with the head's gain attached."""
    anatomy, found = examine(case.vlm.model), list[Tensor]()
    layer %= anatomy.depth
    handle = anatomy.layers[-1].register_forward_hook(
        lambda _, __, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        with torch.inference_mode(), attach(case.vlm.model, OneHead(layer=layer, head=head, gain=gain)):
            case.vlm.model(**joined(case.begun, case.rows), use_cache=False)
    finally:
        handle.remove()
    expected = found[0][case.rows.scenes, case.begun.length + case.rows.columns]
    changed = rerun.changed(case.one_head(layer, head, gain))
    tolerance = rounding(torch.float32, terms=1024, size=float(expected.abs().max()))
    assert distance(changed, expected) < tolerance
    assert distance(changed, rerun.plain) > 10 * tolerance  # so that doing nothing would fail


def test_gains_are_each_scenes_own(case: Case, rerun: Rerun) -> None:
    """A head switched off in the first scene alone: there as everywhere off, elsewhere as plain."""
    everywhere = case.one_head(1, 2, 0.0)
    first = {1: everywhere[1].clone()}
    first[1][1:] = 1.0
    mine = case.rows.scenes == 0
    changed = rerun.changed(first)
    tolerance = rounding(torch.float32, terms=1024, size=float(rerun.plain.abs().max()))
    assert distance(changed[mine], rerun.changed(everywhere)[mine]) < tolerance
    assert mine.all() or distance(changed[~mine], rerun.plain[~mine]) < tolerance


def test_hiding_the_image_from_a_layer_on_is_a_whole_forward_with_that_mask(case: Case, rerun: Rerun) -> None:
    """The reference runs picture and rows at once, and closes the image's keys to the rows in every layer above."""
    anatomy = examine(case.vlm.model)
    image = case.begun.inputs["input_ids"] == anatomy.image_token_id
    rows, before = case.rows.ids, case.begun.length
    whole = before + rows.shape[1]
    seen = torch.ones(whole, whole, dtype=torch.bool).tril().repeat(len(rows), 1, 1, 1)
    seen[:, :, before:, :before] &= ~image[:, None, None, :]
    inputs = {**case.begun.inputs, "input_ids": torch.cat([case.begun.inputs["input_ids"], rows], dim=1)}
    inputs["attention_mask"] = torch.ones(len(rows), whole, dtype=torch.int64)
    given: list[Tensor] = []

    def closed(_: object, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> tuple[tuple[Tensor, ...], object]:
        return args, {**kwargs, "attention_mask": seen}

    def last(_: object, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        given.append(output[0] if isinstance(output, tuple) else output)

    for start in range(anatomy.depth + 1):
        handles = [one.register_forward_pre_hook(closed, with_kwargs=True) for one in anatomy.layers[start:]]
        handles.append(anatomy.layers[-1].register_forward_hook(last))
        with torch.inference_mode():
            case.vlm.model(**inputs, use_cache=False)
        for handle in handles:
            handle.remove()
        expected = given.pop()[case.rows.scenes, before + case.rows.columns]
        assert distance(rerun.blind_from(start), expected) < 1e-4
    assert equal(rerun.blind_from(anatomy.depth), rerun.plain)
    assert not equal(rerun.blind_from(0), rerun.plain)
