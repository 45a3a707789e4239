"""CRoPS against an image-free and an image stream whose keys are closed in attention written out in float64."""

import math

import pytest
from torch import Tensor

from tests.support.families import Build, Tiny
from tests.support.stream_oracle import Stream, Whole, padded, plainly
from tests.vlm_heads.contrasts.conftest import Holds
from tests.vlm_heads.contrasts.test_least_attended import Closing
from vlm_heads import attach
from vlm_heads.contrasts.prior_and_bias import PriorAndBias
from vlm_heads.errors import UnsupportedModel


def few(start: int, first: int, more: int) -> Stream:
    """Return the stream without image that keeps its least attended keys; a row that sees none sees itself."""
    closed: dict[int, list[int]] = {}

    def rule(call: Whole) -> Tensor:
        if call.layer == start - 1:
            weights = call.logits.softmax(-1).mean(0)
            for row in call.predicting:
                token = row - call.prompt + 2
                kept = math.floor(first + more * (1 - math.exp(-0.001 * token)))
                closed[row] = sorted(range(row + 1), key=lambda key: float(weights[row, key]))[kept:]
        if call.layer >= start:
            for row in range(call.logits.shape[1]):
                hidden = [key for key in closed[max(row, call.prompt - 1)] if key <= row]
                call.logits[:, row, [key for key in hidden if len(hidden) <= row or key != row]] = -math.inf
        return plainly(call)

    return Stream(rule, text_only=True)


@pytest.mark.parametrize(("first", "more"), [(3, 0), (2, 1000)])
def test_both_streams_are_taken_off(first: int, more: int, model: Tiny, holds: Holds) -> None:
    """alpha 0.5 and rate 0.3: at the first token g = e^0.3 - 1, so the weights are 1.5 (1 + g), -1.5 g and -0.5.

    With 1000 more keys in the end, the first token keeps two and the second three: 2 + 1000 (1 - e^-0.001) = 2.9995.
    """
    contrast = PriorAndBias(alpha=0.5, rate=0.3, text=first, text_more=more, share=0.5, start=1, sure=1.0)

    def weights(step: int) -> tuple[float, float, float]:
        g = math.exp(0.3 * (step + 1)) - 1
        return 1.5 * (1 + g), -1.5 * g, -0.5

    holds(contrast, model.model, padded(), [few(1, first, more), Closing(1, 2)], weights, 0.1)


def test_a_sure_row_is_left_alone(model: Tiny, holds: Holds) -> None:
    """Where two tokens are plausible, the more probable one has a little more than a half of what is left."""
    contrast = PriorAndBias(rate=0.3, text=3, text_more=0, share=0.5, start=1, sure=0.45, bound=0.9)

    def weights(step: int) -> tuple[float, float, float]:
        g = math.exp(0.3 * (step + 1)) - 1
        return 2.0 * (1 + g), -2.0 * g, -1.0

    holds(contrast, model.model, padded(), [few(1, 3, 0), Closing(1, 2)], weights, 0.9, sure=0.45)


def test_what_cannot_be_done_is_refused_by_name(tiny: Build) -> None:
    with pytest.raises(UnsupportedModel, match="is no attention"):
        attach(tiny("lfm2_vl").model, PriorAndBias())
