"""Every steering method against its formula, written down a second time over a plain, uncached loop in float64."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.compare import distance, rounding
from tests.support.families import Build, Inputs
from tests.support.layer_loop import vivid
from tests.support.steered_loop import Change, SteeredLoop, Weigh
from vlm_heads import ImageSteering, Method, attach

CLOSE_SCORES = rounding(torch.float32, terms=64, size=40.0)
STEPS = 4
Edits = tuple[Mapping[int, Change], Mapping[int, Change], Weigh]  # of layers, of MLPs, and of token logits


def padded() -> Inputs:
    """Return a left-padded batch of two prompts, each with a picture of four positions."""
    torch.manual_seed(3)
    ids = torch.tensor([[1, 5, *[150] * 4, 7, 8, 9, 10, 11], [0, 0, 0, 1, *[150] * 4, 9, 12, 13]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(2, 3, 28, 28)}


def equals_the_loop(method: Method, model: PreTrainedModel, edits: "Edited") -> None:
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
        layers, mlps, weigh = edits(loop)
        answer, expected = loop.answer(STEPS, layers=layers, mlps=mlps, weigh=weigh)
        assert got.sequences[row, -STEPS:].tolist() == answer
        for step, scores in enumerate(expected):
            assert distance(scores.float(), got.scores[step][row].log_softmax(-1)) < CLOSE_SCORES
        plain = loop.answer(1, layers={}, mlps={}, weigh=lambda z, _: z)[1]
        assert distance(plain[0], expected[0]) > 10 * CLOSE_SCORES  # the comparison would be empty otherwise


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
