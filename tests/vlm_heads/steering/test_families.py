"""Steering on every family, against ordinary hooks on its layers and MLPs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.support.compare import Generated, distance, equal
from tests.support.families import CLOSE, Build, Tiny
from tests.support.family_table import FamilyTable
from vlm_heads import ImageSteering, Steering, TruthfulDirection, attach, errors
from vlm_heads.methods import StreamCall, turned
from vlm_heads.steering.truthful_direction import random_units

WITHOUT_MLP = ("instructblip", "blip2")  # OPT's two halves of it stand in the layer itself
CHANGED = (0, 2)


@dataclass(frozen=True)
class _Pushed(Steering):
    """Adds half of what enters, so that both are seen to be the right ones."""

    name: ClassVar[str] = "pushed"
    layers: Any = CHANGED
    where: Any = "layer"

    def __post_init__(self) -> None:
        return None

    @property
    def site(self) -> Any:
        return self.where

    def steer(self, call: StreamCall) -> Tensor | None:
        call.note()
        return call.leaving + call.entering / 2


def _hooked(model: Tiny, module_of: Callable[[nn.Module], nn.Module]) -> Generated:
    def push(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        entering = args[0] if args else kwargs["hidden_states"]
        if isinstance(output, tuple):
            return (output[0] + entering / 2, *output[1:])
        return output + entering / 2

    modules = [module_of(model.decoder_layers[layer]) for layer in CHANGED]
    handles = [one.register_forward_hook(push, with_kwargs=True) for one in modules]
    found = model.generate(steps=3)
    for handle in handles:
        handle.remove()
    return found


def test_every_family_is_steered_behind_its_layers(family: str, tiny: Build, support: FamilyTable) -> None:
    """And VISTA finds its direction, which needs the prompt without its image."""
    model = tiny(family)
    plain, expected = model.generate(steps=3), _hooked(model, lambda layer: layer)
    with attach(model.model, _Pushed()) as run:
        got = model.generate(steps=3)
    assert distance(expected, got) < CLOSE
    assert distance(plain.logits[0], got.logits[0]) > 1e-2
    assert run.receipt.interventions[0].layers == CHANGED
    assert (run.receipt.steps, run.receipt.interventions[0].rows) == (3, 1)
    support.states(family, "residual", "equals hooks")
    if family == "mllama":
        with pytest.raises(errors.UnsupportedModel, match="leaves out layers where there is no image"):
            attach(model.model, ImageSteering())
        return
    with attach(model.model, ImageSteering(strength=3.0, mix=0.0)) as run:
        assert distance(plain.logits[0], model.generate(steps=1).logits[0]) > 1e-4
    assert (run.receipt.blind_passes, run.receipt.extra_passes) == (1, 1)


def test_every_familys_mlps_are_steered_or_it_says_why_not(family: str, tiny: Build, support: FamilyTable) -> None:
    model = tiny(family)
    if family in WITHOUT_MLP:
        with pytest.raises(errors.UnsupportedModel, match=r"pushed changes what MLPs give, and layer 0 .* has none"):
            attach(model.model, _Pushed(where="mlp"))
        support.states(family, "mlp", "refused: no module of its own")
        return
    names = {"mlp", "feed_forward"}
    expected = _hooked(model, lambda layer: next(one for name, one in layer.named_children() if name in names))
    with attach(model.model, _Pushed(where="mlp")):
        got = model.generate(steps=3)
    assert distance(expected, got) < CLOSE
    support.states(family, "mlp", "equals hooks")


def test_a_second_stream_is_not_steered(llava: Tiny) -> None:
    """Under a contrast that takes no part of the second stream, the steered logits are those without a contrast."""
    with attach(llava.model, _Pushed()):
        expected = llava.generate(steps=3)
    for word in ("m3id:rate=0", "branch:weight=0"):
        with attach(llava.model, _Pushed(), word) as run:
            assert distance(expected, llava.generate(steps=3)) < CLOSE
        assert run.receipt.second_stream is not None
        assert "read or steered" in run.receipt.second_stream.why
    with attach(llava.model, "m3id:rate=0.5,bound=0", one_pass=False):
        plain = llava.generate(steps=1, output_scores=True)
    with attach(llava.model, _Pushed(), "m3id:rate=0.5,bound=0"):
        got = llava.generate(steps=1, output_scores=True)
    missing = torch.tensor(0.5).expm1()
    second = ((1 + missing) * plain.logits[0].log_softmax(-1) - plain.scores[0]) / missing
    other = ((1 + missing) * got.logits[0].log_softmax(-1) - got.scores[0]) / missing
    assert (second - other).std() < 1e-4  # the second stream's log-probabilities, up to a number for the row


def _tower_mlps(model: Tiny) -> list[nn.Module]:
    """Return the MLPs of the vision tower's layers, found by their paths."""
    found = {}
    for path, module in model.model.named_modules():
        parts = path.split(".")
        if parts[-1] in ("mlp", "feed_forward") and any("vis" in part for part in parts) and parts[-2].isdigit():
            found[path] = module
    lists = [path.rsplit(".", 2)[0] for path in found]
    return [found[path] for path in found if path.rsplit(".", 2)[0] == max(lists, key=lists.count)]


TOWER_REFUSED = {
    "instructblip": "generates past its own forward",
    "blip2": "generates past its own forward",
    "qwen2_vl": "in one row",
    "qwen2_5_vl": "in one row",
    "qwen3_vl": "in one row",
    "qwen3_5": "in one row",
    "glm4v": "in one row",
}


def test_every_familys_vision_tower_is_steered_or_it_says_why_not(
    family: str, tiny: Build, support: FamilyTable
) -> None:
    """VTI's other half alone, in directions that know nothing, against ordinary hooks on the tower's MLPs."""
    model, method = tiny(family), TruthfulDirection(tower="random", vision=9.0)
    if family in TOWER_REFUSED:
        with (
            pytest.raises(errors.UnsupportedModel, match=TOWER_REFUSED[family]),
            attach(model.model, method),
        ):
            model.generate(steps=1)
        support.states(family, "tower", f"refused: {TOWER_REFUSED[family]}")
        return
    mlps, seen = _tower_mlps(model), []
    heard = mlps[-1].register_forward_hook(lambda _, __, output: seen.append(output))
    plain = model.generate(steps=3)
    heard.remove()

    def turn(layer: int) -> Callable[..., Tensor]:
        return lambda _, __, output: turned(output, 0.9 * random_units(layer, output.shape[1:]))

    handles = [one.register_forward_hook(turn(layer)) for layer, one in enumerate(mlps)]
    handles.append(mlps[-1].register_forward_hook(lambda _, __, output: seen.append(output)))
    expected = model.generate(steps=3)
    for handle in handles:
        handle.remove()
    with attach(model.model, method) as run:
        heard = mlps[-1].register_forward_hook(lambda _, __, output: seen.append(output))
        got = model.generate(steps=3)
        heard.remove()
    assert len(mlps) == 2
    assert distance(expected, got) < CLOSE
    assert distance(seen[1], seen[2]) < CLOSE
    # some tiny models make nothing of a picture, so that their words would not tell
    assert distance(seen[0], seen[2]) > 10 * CLOSE
    assert family in ("gemma3", "mllama") or not equal(plain, got)
    assert run.receipt.interventions[0].pictures == len(seen[2])
    support.states(family, "tower", "equals hooks")


def test_a_second_stream_sees_the_picture_as_the_plain_tower_does(llava: Tiny) -> None:
    method, noised = TruthfulDirection(tower="random", vision=9.0), "vcd:alpha=1,bound=0"
    with attach(llava.model, noised, one_pass=False):
        plain = llava.generate(steps=1, output_scores=True)
    with attach(llava.model, method, noised):
        got = llava.generate(steps=1, output_scores=True)
    assert distance(plain.logits[0], got.logits[0]) > 1e-3
    others = [2 * one.logits[0].log_softmax(-1) - one.scores[0] for one in (plain, got)]
    assert (others[0] - others[1]).std() < 1e-4  # the second stream's log-probabilities, up to a number for the row


def test_a_first_pass_reads_the_picture_as_the_plain_tower_does(llava: Tiny) -> None:
    """ILVAD reads an answer of the model's own before the caller's: its words are the plain model's."""
    plain = llava.generate(steps=3)
    with attach(llava.model, TruthfulDirection(tower="random", vision=9.0), "ilvad:layers=all", allow_idle=True) as run:
        llava.generate(steps=3)
        encoded = run.receipt.interventions[0].pictures
    assert encoded == 1  # by the caller's answer alone
    assert run.receipt.first_passes == 1
    assert equal(plain, llava.generate(steps=3))
