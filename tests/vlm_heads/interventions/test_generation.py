"""Every intervention of the folder in other ways of generating, and the sinks' and routes' edits on every family."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from tests.support.family_table import FamilyTable
from vlm_heads import attach, known_interventions
from vlm_heads.errors import BadOption, UnsupportedGeneration, UnsupportedModel
from vlm_heads.interventions.base import Intervention
from vlm_heads.interventions.sink_redistribution import SinkRedistribution

NAMES = list(known_interventions())
BY_ROW = ("adhh", "crg", "devils", "ilvad", "spin")  # their edit depends on what the row attends to

WITHOUT_BEAMS = ("ilvad",)  # what it keeps of each row would have to follow the beams


def _active(name: str) -> Intervention:
    kind = known_interventions()[name]
    made: Intervention = kind(**{"layers": "all", **kind.trial})
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_static_cache_gives_the_same(name: str, llava: Tiny) -> None:
    with attach(llava.model, [_active(name)]):
        assert distance(llava.generate(), llava.generate(cache_implementation="static", disable_compile=True)) < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_no_cache_gives_the_same_or_is_refused(name: str, llava: Tiny) -> None:
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


@pytest.mark.parametrize("name", ["var", "route", "pai", "vaf"])
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
