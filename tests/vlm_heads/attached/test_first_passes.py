"""First passes: plain, unseen, one a call of generate, and what they find is at hand in the caller's own generation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from vlm_kernels import AttentionPlan

from tests.support.compare import equal, same_ids
from tests.support.families import BYPASSING, Build, Tiny
from tests.support.family_table import FamilyTable
from vlm_heads import AttentionCall, HeadReinforcement, Watcher, attach, errors
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.methods import Steering, StreamCall
from vlm_heads.toolkit.first_pass import FirstPass


class _Outputs(FirstPass):
    """Keeps the outputs of the last layer, and how many forwards there were."""

    tokens = 4

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.outputs: list[Tensor] = []

    def see(self, call: AttentionCall) -> None:
        if call.layer == self.layer:
            assert call.output is not None
            self.outputs.append(call.output[:, -1])

    def found(self, lengths: Tensor) -> Mapping[Any, Any]:
        return {"lengths": lengths, "outputs": torch.stack(self.outputs, dim=1), "forwards": len(self.outputs)}


@dataclass(frozen=True)
class _Told(Intervention):
    """Doubles all heads, and keeps what its memory held."""

    name: ClassVar[str] = "told"
    needs_image_keys: ClassVar[bool] = False
    kept: ClassVar[list[dict[Any, Any]]] = []

    def first_pass(self, anatomy: Anatomy) -> FirstPass:
        return _Outputs(max(anatomy.attentions))

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if not self.kept or self.kept[-1]["layer"] >= call.layer:  # once a forward
            self.kept.append(dict(call.memory) | {"layer": call.layer})
        everyone = call.query.new_ones(call.query.shape[:2], dtype=torch.bool)
        call.tally.note(everyone)
        return AttentionPlan(head_gain=call.gains(everyone, 2.0))


class _Counting(Watcher):
    def __init__(self) -> None:
        self.calls = 0

    def see(self, call: AttentionCall) -> None:
        self.calls += call.layer == 0


@pytest.fixture
def told() -> _Told:
    _Told.kept.clear()
    return _Told()


def test_a_first_pass_is_the_plain_greedy_answer(told: _Told, llava: Tiny) -> None:
    seen: list[Tensor] = []
    hook = llava.projections()[2].register_forward_pre_hook(lambda _, args: seen.append(args[0][:, -1].clone()))
    llava.generate(4)
    hook.remove()
    with attach(llava.model, told, HeadReinforcement(gain=3.0)) as run:
        llava.generate(6, do_sample=True, temperature=3.0, repetition_penalty=2.0)
    found = told.kept[0]
    assert found["forwards"] == 4
    assert equal(found["outputs"].flatten(2)[0], torch.cat(seen))
    assert found["lengths"].tolist() == [4]
    assert run.receipt.first_passes == 1
    assert run.receipt.generations == 1


@dataclass(frozen=True)
class _Steered(Steering):
    """Doubles what leaves a layer, and counts how often."""

    name: ClassVar[str] = "steered"
    site: ClassVar[Literal["layer"]] = "layer"  # type: ignore[misc]  # a property of those that choose
    calls: ClassVar[list[int]] = []

    def steer(self, call: StreamCall) -> Tensor:
        self.calls.append(call.layer)
        call.tally.note_rows(call.state.key_map.has_image)
        return 2.0 * call.leaving


def test_steering_leaves_a_first_pass_plain(told: _Told, llava: Tiny) -> None:
    with attach(llava.model, told):
        llava.generate(3)
    plain = told.kept[0]["outputs"]
    told.kept.clear()
    _Steered.calls.clear()
    with attach(llava.model, told, _Steered()):
        llava.generate(3)
    assert equal(told.kept[0]["outputs"], plain)
    assert _Steered.calls == [0, 1, 2] * 3  # of the caller's own three forwards


def test_steering_leaves_a_first_forward_plain(llava: Tiny) -> None:
    _Steered.calls.clear()
    with attach(llava.model, "crg", _Steered(), allow_idle=True):
        llava.generate(3)
    assert _Steered.calls == [0, 1, 2] * 3


def test_sampling_draws_what_it_would_without_a_first_pass(llava: Tiny) -> None:
    with attach(llava.model, HeadReinforcement(gain=3.0)):
        expected = llava.generate(6, do_sample=True, temperature=2.0)
    with attach(llava.model, HeadReinforcement(gain=3.0), "ilvad:threshold=1e9", allow_idle=True):
        assert same_ids(expected, llava.generate(6, do_sample=True, temperature=2.0))


def test_watchers_and_streamers_see_the_caller_s_own_generation_alone(told: _Told, llava: Tiny) -> None:
    class Streamer:
        tokens = 0

        def put(self, value: Tensor) -> None:
            self.tokens += value.numel()

        def end(self) -> None:
            self.tokens += 1000

    watcher, streamer = _Counting(), Streamer()
    with attach(llava.model, told, watch=watcher):
        llava.generate(3, streamer=streamer)
    assert watcher.calls == 3
    assert streamer.tokens == llava.inputs["input_ids"].shape[1] + 3 + 1000


def test_several_answers_to_a_prompt_are_told_the_same(told: _Told, llava: Tiny) -> None:
    with attach(llava.model, told):
        llava.generate(2, do_sample=True, num_return_sequences=3)
    assert told.kept[0]["outputs"].shape[0] == 3
    assert all(torch.equal(told.kept[0]["outputs"][0], one) for one in told.kept[0]["outputs"])
    assert told.kept[0]["lengths"].tolist() == [4, 4, 4]


def test_a_later_turn_goes_on_with_what_was_found(told: _Told, llava: Tiny) -> None:
    cache = DynamicCache()
    with attach(llava.model, told) as run:
        first = llava.generate(2, past_key_values=cache).sequences
        more = torch.cat([first, torch.tensor([[11, 12, 13]])], dim=1)
        llava.model.generate(
            input_ids=more, attention_mask=torch.ones_like(more), past_key_values=cache, max_new_tokens=2
        )
    assert run.receipt.first_passes == 1
    assert len({id(one["outputs"]) for one in told.kept}) == 1


def test_a_second_image_in_a_later_turn_is_refused(told: _Told, llava: Tiny) -> None:
    cache = DynamicCache()
    with attach(llava.model, told):
        said = llava.generate(1, past_key_values=cache).sequences
        ids = torch.cat([said, llava.inputs["input_ids"]], dim=1)
        with pytest.raises(errors.UnsupportedGeneration, match="told makes a first pass"):
            llava.generate(1, input_ids=ids, past_key_values=cache)


def test_a_prompt_without_an_image_gets_none(told: _Told, llava: Tiny) -> None:
    with attach(llava.model, told, allow_idle=True) as run:
        llava.model.generate(input_ids=llava.text, max_new_tokens=2)
    assert run.receipt.first_passes == 0


def test_a_contrast_goes_beside(told: _Told, llava: Tiny) -> None:
    found = []
    for one_pass in (True, False):
        with attach(llava.model, told, "m3id:rate=1", one_pass=one_pass) as run:
            found.append(llava.generate(5))
        assert run.receipt.first_passes == 1
    assert same_ids(found[0], found[1])


class _Keeping(Watcher):
    def __init__(self) -> None:
        self.outputs: list[Tensor] = []

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset({max(anatomy.attentions)})

    def see(self, call: AttentionCall) -> None:
        assert call.output is not None
        self.outputs.append(call.output[:, -1])


def test_a_first_pass_reads_the_plain_answer_of_every_family(
    family: str, told: _Told, tiny: Build, support: FamilyTable
) -> None:
    model = tiny(family)
    if family in BYPASSING:
        with pytest.raises(errors.UnsupportedModel, match="first pass of told"):
            attach(model.model, told)
        support.states(family, "first pass", "refused: generates past its own forward")
        return
    with attach(model.model, watch=(watcher := _Keeping())):
        model.generate(4)
    with attach(model.model, told):
        model.generate(1)
    assert equal(told.kept[0]["outputs"][0], torch.cat(watcher.outputs))
    support.states(family, "first pass", "reads the plain answer")
