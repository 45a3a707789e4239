"""Every steering method against its formula, written down a second time over a plain, uncached loop in float64."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.compare import distance, rounding
from tests.support.families import Build, Inputs
from tests.support.layer_loop import vivid
from tests.support.steered_loop import Change, SteeredLoop, Weigh
from vlm_heads import ImageRefresh, ImageSteering, Method, TruthfulDirection, attach, examine
from vlm_heads.attach import Attachment
from vlm_heads.profiles import Directions, TowerDirections

CLOSE_SCORES = rounding(torch.float32, terms=64, size=40.0)
STEPS = 4
Edits = tuple[Mapping[int, Change], Mapping[int, Change], Weigh]  # of layers, of MLPs, and of token logits


def padded() -> Inputs:
    """Return a left-padded batch of two prompts, each with a picture of four positions."""
    torch.manual_seed(3)
    ids = torch.tensor([[1, 5, *[150] * 4, 7, 8, 9, 10, 11], [0, 0, 0, 1, *[150] * 4, 9, 12, 13]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(2, 3, 28, 28)}


def equals_the_loop(method: Method, model: PreTrainedModel, edits: Callable[[SteeredLoop], Edits]) -> Attachment:
    """Fail unless a padded batch says what each of its rows says in the loop, with the same log-probabilities."""
    inputs = padded()
    with attach(model, method) as run:
        got = model.generate(
            **inputs, max_new_tokens=STEPS, do_sample=False, eos_token_id=None, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
    assert run.receipt.fired
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        loop = SteeredLoop.of(model, inputs["input_ids"][row][mask], inputs["pixel_values"][row : row + 1])
        plain = loop.answer(1, layers={}, mlps={}, weigh=lambda z, _: z)[1]
        layers, mlps, weigh = edits(loop)
        answer, expected = loop.answer(STEPS, layers=layers, mlps=mlps, weigh=weigh)
        assert got.sequences[row, -STEPS:].tolist() == answer
        for step, scores in enumerate(expected):
            assert distance(scores.float(), got.scores[step][row].log_softmax(-1)) < CLOSE_SCORES
        assert distance(plain[0], expected[0]) > 10 * CLOSE_SCORES  # the comparison would be empty otherwise
    return run


class Edited:
    """VISTA's formula."""

    def __init__(self, mode: str, strength: float, mix: float, steered: tuple[int, ...]) -> None:
        self.mode, self.strength, self.mix, self.steered = mode, strength, mix, steered

    def __call__(self, loop: SteeredLoop) -> Edits:
        directions = loop.directions()

        def change(layer: int, _: Tensor, leaving: Tensor) -> Tensor:
            v, rows = directions[layer], []
            for x in leaving:
                if self.mode == "paper":
                    moved = x + self.strength * v
                else:
                    s = 1 + max(0.0, float(x @ -v / (x.norm() * v.norm())))
                    moved = x / x.norm() + self.strength * s * v / v.norm()
                rows.append(x.norm() * moved / moved.norm())
            return torch.stack(rows)

        def weigh(logits: Tensor, left: list[Tensor]) -> Tensor:
            late = [loop.model.get_output_embeddings()(state) for state in left[:-1]]  # three layers: all but the last
            return (1 - self.mix) * logits + self.mix * torch.stack(late).mean(0)

        changes = dict.fromkeys(self.steered, change)
        return (changes, {}, weigh) if self.mode == "paper" else ({}, changes, weigh)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("mode", ["paper", "code"])
def test_vista_equals_a_plain_loop(mode: str, heads: int, tiny: Build) -> None:
    model = vivid(tiny("llava", num_key_value_heads=heads))
    method = ImageSteering(strength=0.7, mix=0.4, mode=mode)  # type: ignore[arg-type]
    equals_the_loop(method, model, Edited(mode, 0.7, 0.4, (0, 1, 2)))


def test_vista_on_one_layer_and_without_late_layers(tiny: Build) -> None:
    method = ImageSteering(strength=2.0, mix=0.0, layers=1, mode="code")
    equals_the_loop(method, vivid(tiny("llava")), Edited("code", 2.0, 0.0, (1,)))


def test_the_comparison_sees_the_other_form(tiny: Build) -> None:
    with pytest.raises(AssertionError):
        equals_the_loop(ImageSteering(strength=0.7), vivid(tiny("llava")), Edited("code", 0.7, 0.3, (0, 1, 2)))


class Refreshed:
    """MemVR's formula. What was decided when a position was new is decided for good, as a cache has it."""

    def __init__(self, ratio: float, threshold: float, layers: tuple[int, ...]) -> None:
        self.ratio, self.threshold, self.layers = ratio, threshold, layers
        self.decided: list[int | None] = []  # of each step of the last row
        self.steps: list[list[int | None]] = []

    def __call__(self, loop: SteeredLoop) -> Edits:
        self.decided = []
        self.steps.append(self.decided)
        image = torch.nonzero(loop.ids == 150)[:, 0]

        def change(layer: int, entering: Tensor, leaving: Tensor) -> Tensor:
            if len(self.decided) == loop.step:
                self.decided.append(None)
            if self.decided[loop.step] is None and self._unsure(loop, layer):
                self.decided[loop.step] = layer
            v, rows = loop.states[0][image], []
            for position, (x, f) in enumerate(zip(entering, leaving, strict=True)):
                if self.decided[max(0, position - len(loop.ids) + 1)] != layer:
                    rows.append(f)
                    continue
                a = sum(((x @ one) * one for one in v), torch.zeros_like(x))
                rows.append((1 - self.ratio) * f + self.ratio * f.abs().mean() / a.abs().mean() * a)
            return torch.stack(rows)

        return {}, dict.fromkeys(self.layers, change), lambda logits, _: logits

    def _unsure(self, loop: SteeredLoop, layer: int) -> bool:
        state = loop.model.get_decoder().norm(loop.states[layer][-1])
        likely = loop.model.get_output_embeddings()(state).sort(descending=True).values[:10].softmax(-1)
        return -sum(p * math.log(p) for p in likely.tolist()) / math.log(10) > self.threshold


@pytest.mark.parametrize("heads", [2, 4])
def test_memvr_equals_a_plain_loop(heads: int, tiny: Build) -> None:
    """A threshold between what the layers say: some steps refresh one layer, some another."""
    refreshed, model = Refreshed(0.6, 0.978, (0, 1, 2)), vivid(tiny("llava", num_key_value_heads=heads))
    with torch.no_grad():
        model.get_output_embeddings().weight *= 6
    equals_the_loop(ImageRefresh(ratio=0.6, threshold=0.978, layers="all"), model, refreshed)
    assert len({layer for steps in refreshed.steps for layer in steps}) > 1, refreshed.steps


def test_memvr_refreshes_one_layer_alone(tiny: Build) -> None:
    equals_the_loop(
        ImageRefresh(ratio=1.0, threshold=0.0, layers=(1, 2)), vivid(tiny("llava")), Refreshed(1.0, 0.0, (1, 2))
    )


def test_vti_equals_a_plain_loop(tiny: Build) -> None:
    """Directions drawn at random, on two of the three layers."""
    model = vivid(tiny("llava"))
    directions = Directions.random(examine(model)).vectors.double()

    def change(layer: int, _: Tensor, leaving: Tensor) -> Tensor:
        d = directions[layer]
        moved = [x / x.norm() + 0.1 * 7.0 * d / d.norm() for x in leaving]
        return torch.stack([x.norm() * y / y.norm() for x, y in zip(leaving, moved, strict=True)])

    method = TruthfulDirection(strength=7.0, directions="random", layers=(0, 2))
    equals_the_loop(method, model, lambda _: ({}, {0: change, 2: change}, lambda logits, _: logits))


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("both", [True, False])
def test_vti_in_the_vision_tower_equals_a_plain_loop(both: bool, heads: int, tiny: Build, tmp_path: Path) -> None:
    """Directions of their own for each layer and position of the tower, beside those of the language model or alone."""
    model = vivid(tiny("llava", num_key_value_heads=heads))
    found = torch.randn(2, 5, 32)  # two layers; a class token and four patches
    TowerDirections(found).save(tmp_path / "tower")
    text = Directions.random(examine(model)).vectors.double()

    def turned(x: Tensor, d: Tensor, strength: float) -> Tensor:
        y = x / x.norm() + 0.1 * strength * d / d.norm()
        return x.norm() * y / y.norm()

    def edits(loop: SteeredLoop) -> Edits:
        def hook(directions: Tensor) -> Callable[[Any, Any, Tensor], Tensor]:
            return lambda _, __, output: torch.stack([
                torch.stack([turned(x, d, 8.0) for x, d in zip(picture, directions, strict=True)])
                for picture in output
            ])  # fmt: skip

        for layer, directions in zip(loop.model.model.vision_tower.encoder.layers, found.double(), strict=True):
            layer.mlp.register_forward_hook(hook(directions))

        def change(layer: int, _: Tensor, leaving: Tensor) -> Tensor:
            return torch.stack([turned(x, text[layer], 7.0) for x in leaving])

        return {}, dict.fromkeys(range(3), change) if both else {}, lambda logits, _: logits

    method = TruthfulDirection(
        strength=7.0, directions="random" if both else "none", vision=8.0, tower=str(tmp_path / "tower")
    )
    run = equals_the_loop(method, model, edits)
    assert run.receipt.interventions[0].pictures == 2
    assert run.receipt.interventions[0].layers == ((0, 1, 2) if both else ())
    assert "2 pictures in the vision tower" in str(run.receipt)
