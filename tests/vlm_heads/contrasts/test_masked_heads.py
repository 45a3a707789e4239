"""MaskCD against a stream whose image heads are set to zero in attention written out in float64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.families import Build, Tiny
from tests.support.stream_oracle import Rule, Stream, Whole, padded, plainly, streamed
from tests.vlm_heads.contrasts.conftest import Holds
from vlm_heads import attach
from vlm_heads.contrasts.masked_heads import MaskedHeads
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.methods import Asked


def without(*heads: tuple[int, int]) -> Rule:
    """Return the rule of a model without these (layer, head) pairs."""

    def rule(call: Whole) -> Tensor:
        output = plainly(call)
        output[[head for layer, head in heads if layer == call.layer]] = 0.0
        return output

    return rule


def test_listed_heads_give_nothing_in_the_second_stream(model: Tiny, holds: Holds) -> None:
    heads = ((0, 1), (0, 3), (2, 0))
    contrast = MaskedHeads(alpha=0.5, heads=((0, 1), (0, 3), (-1, 0)), bound=0.2)
    holds(contrast, model.model, padded(), [without(*heads)], lambda _: (1.5, -0.5), 0.2)


def test_each_prompt_masks_the_heads_that_look_at_its_picture_most(model: Tiny, holds: Holds) -> None:
    """A quarter of 3 layers of 4 heads is 3 heads; the two rows have heads of their own."""
    mass = torch.zeros(3, 4, dtype=torch.float64)
    chosen: list[tuple[tuple[int, int], ...]] = []

    def look(call: Whole) -> Tensor:
        mass[call.layer] = call.logits.softmax(-1)[:, -1, call.image].sum(-1)
        return plainly(call)

    inputs = padded()
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        streamed(model.model, one, torch.empty(1, 0).long(), Stream(look))
        chosen.append(tuple((int(at) // 4, int(at) % 4) for at in mass.flatten().argsort(descending=True)[:3]))
    assert set(chosen[0]) != set(chosen[1])
    lengths = {int(inputs["attention_mask"][row].sum()): chosen[row] for row in range(2)}
    holds(
        MaskedHeads(share=0.25),
        model.model,
        inputs,
        [lambda call: without(*lengths[call.prompt])(call)],
        lambda _: (2.0, -1.0),
        0.1,
    )


def test_a_ranking_masks_its_highest_heads(tmp_path: Path, model: Tiny, holds: Holds) -> None:
    """A sixth of 12 heads is two: the last two lines."""
    lines = [f"[[{at // 4}, {at % 4}], {at / 10}]" for at in range(12)]
    (tmp_path / "heads.jsonl").write_text("\n".join(lines))
    contrast = MaskedHeads(ranking=str(tmp_path / "heads.jsonl"), share=1 / 6)
    holds(contrast, model.model, padded(), [without((2, 2), (2, 3))], lambda _: (2.0, -1.0), 0.1)


def test_what_cannot_be_done_is_refused_by_name(llava: Tiny, tiny: Build) -> None:
    with pytest.raises(BadOption, match="layer 7, head 0"):
        attach(llava.model, MaskedHeads(heads=((7, 0),)))
    with pytest.raises(BadOption, match="no prompt has an image"):
        MaskedHeads().second_stream(Asked(llava.model, {"input_ids": llava.text}))
    with pytest.raises(UnsupportedModel, match="reads the image in cross-attention"):
        attach(tiny("mllama").model, MaskedHeads())
