"""Every intervention of the folder in other ways of generating, and the sinks' and routes' edits on every family."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from tests.support.family_table import FamilyTable
from vlm_heads import AttentionCall, attach, known_interventions
from vlm_heads.errors import BadOption, UnsupportedGeneration, UnsupportedModel
from vlm_heads.interventions.base import Intervention
from vlm_heads.interventions.sink_redistribution import SinkRedistribution
from vlm_heads.methods import image_keys, text_after_image

NAMES = list(known_interventions())
BY_ROW = (
    "adaiat",
    "adavboost",
    "adhh",
    "crg",
    "devils",
    "eah",
    "ilvad",
    "memvr",
    "sparc",
    "spin",
)  # depends on what the row attends to

WITHOUT_BEAMS = ("ilvad",)  # what it keeps of each row would have to follow the beams


def _active(name: str) -> Intervention:
    if name == _WeighedKeys.name:
        return _WeighedKeys()
    kind = known_interventions()[name]
    made: Intervention = kind(**{"layers": "all", **kind.trial})
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_static_cache_gives_the_same(name: str, llava: Tiny) -> None:
    with attach(llava.model, [_active(name)]):
        assert distance(llava.generate(), llava.generate(cache_implementation="static", disable_compile=True)) < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_no_cache_gives_the_same_or_is_refused(name: str, llava: Tiny) -> None:
    if name == "farsight":
        pytest.skip("without a cache it is another form, which its own test holds against a plain loop")
    with attach(llava.model, [_active(name)]):
        cached = llava.generate()
        if name in BY_ROW:
            with pytest.raises(UnsupportedGeneration, match="use_cache=True"):
                llava.generate(use_cache=False)
        else:
            assert distance(cached, llava.generate(use_cache=False)) < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_beams_that_are_all_one_are_greedy(name: str, llava: Tiny) -> None:
    """Three beams of which the first token allows one path each give what greedy gives after that token."""
    if name in WITHOUT_BEAMS:
        with pytest.raises(UnsupportedGeneration, match="num_beams"), attach(llava.model, [_active(name)]):
            llava.generate(num_beams=3)
        return
    if known_interventions()[name].remembers_steps:
        pytest.skip("beams are refused, as its own test shows")
    with attach(llava.model, [_active(name)]):
        greedy = llava.generate(steps=3)
        beams = llava.generate(steps=3, num_beams=3, num_return_sequences=3)
        first = beams.logits[0]
    assert distance(first, greedy.logits[0].expand_as(first)) < CLOSE


def test_several_at_once_equal_the_specification(llava: Tiny) -> None:
    together = [_active(name) for name in ("vhr", "var", "route", "pai")]
    with attach(llava.model, together, backend="reference") as run:
        expected = llava.generate()
    assert all(one.fired for one in run.receipt.interventions)
    with attach(llava.model, together[::-1]):
        assert distance(expected, llava.generate()) < CLOSE


@pytest.mark.parametrize("names", [("pai", "vaf"), ("var", "var")])
def test_methods_that_exclude_each_other_are_refused(names: tuple[str, str], llava: Tiny) -> None:
    with (
        pytest.raises(BadOption, match=f"{names[1]} cannot be combined"),
        attach(llava.model, [_active(name) for name in names]),
    ):
        llava.generate()


@dataclass(frozen=True)
class _WeighedKeys(Intervention):
    """Counts every third key twice and drops the image's first one, in all rows after the image."""

    name: ClassVar[str] = "key weight"

    def plan(self, call: AttentionCall) -> AttentionPlan:
        call.note_all_heads()
        keys = call.key.shape[2]
        weight = 1.0 + (torch.arange(keys) % 3 == 0).float().expand(call.query.shape[0], 1, keys)
        image = image_keys(call)[:, None]
        weight = weight.masked_fill(image & (image.cumsum(dim=-1) == 1), 0.0)
        return AttentionPlan(key_weight=weight, rows=text_after_image(call))


# of each lever of a plan, a method that uses it
LEVERS = ["var", "route", "pai", "vaf", "key weight", "sparc", "farsight", "eah"]


@pytest.mark.parametrize("name", LEVERS)
def test_the_backend_agrees_with_the_specification_on_every_family(
    name: str, family: str, tiny: Build, support: FamilyTable
) -> None:
    model = tiny(family)
    if family == "gemma3":  # its projector begins as zeros, so that all image keys would be the same
        torch.nn.init.normal_(model.model.model.multi_modal_projector.mm_input_projection_weight)
    if family == "mllama":
        with pytest.raises(UnsupportedModel, match="cross-attention"), attach(model.model, [_active(name)]):
            pass
        support.states(family, name, "refused: the image is read through cross-attention")
        return
    active = _with_sinks(model) if name == "var" else _active(name)
    plain = model.generate(steps=3)
    with attach(model.model, [active], backend="reference"):
        expected = model.generate(steps=3)
    with attach(model.model, [active]):
        assert distance(expected, model.generate(steps=3)) < CLOSE
    assert any((a != b).any() for a, b in zip(plain.logits, expected.logits, strict=True))
    support.states(family, name, "equals the specification")


def _with_sinks(model: Tiny) -> Intervention:
    """Return VAR with the channel and threshold that best tell the image keys of the second layer apart."""
    states: list[Tensor] = []

    def hear(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    handle = model.decoder_layers[1].register_forward_pre_hook(hear, with_kwargs=True)
    model.generate(steps=1)
    handle.remove()
    image = states[0][0][model.inputs["input_ids"][0] == model.model.config.image_token_id]
    strength = image.abs() / image.square().mean(dim=-1, keepdim=True).sqrt()
    channel = int((strength.amax(0) - strength.amin(0)).argmax())
    threshold = float(strength[:, channel].amax() + strength[:, channel].amin()) / 2
    return SinkRedistribution(
        sink_dims=(channel,), threshold=threshold, layers=1, max_sink_share=1.0, min_image_mass=0.0
    )
