"""Holds a contrast against streams that are written out, in one pass and in forwards of their own."""

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from tests.support.compare import distance, rounding
from tests.support.families import Build, Inputs, Tiny
from tests.support.stream_oracle import Rule, Stream, streamed, weighed
from vlm_heads import Contrast, attach

CLOSE_SCORES = rounding(torch.float32, terms=64, size=10.0)
STEPS = 5

Holds = Callable[..., None]


@pytest.fixture(params=[4, 2], ids=["own keys", "grouped keys"])
def model(request: pytest.FixtureRequest, tiny: Build) -> Tiny:
    """A tiny random Llava with as many key heads as query heads, or half as many."""
    return tiny("llava", num_key_value_heads=request.param)


@pytest.fixture
def holds() -> Holds:
    """Fails unless a contrast's scores are those of streams written out in float64, and differ from the plain ones."""
    return _holds


def _holds(
    contrast: Contrast,
    model: PreTrainedModel,
    inputs: Inputs,
    others: Sequence[Stream | Rule],
    weights: Callable[[int], Sequence[float]],
    bound: float,
    least: float = 1e-3,
    sure: float | None = None,
) -> None:
    beside = [one if isinstance(one, Stream) else Stream(one) for one in others]
    torch.nn.init.zeros_(model.get_output_embeddings().weight[150:151])  # no image token in the answer
    gated: set[bool] = set()
    for one_pass in (True, False):
        with attach(model, contrast, one_pass=one_pass) as run:
            got = model.generate(
                **inputs, max_new_tokens=STEPS, do_sample=False, eos_token_id=None, return_dict_in_generate=True,
                output_scores=True, output_logits=True,
            )  # fmt: skip
        answer = got.sequences[:, -STEPS:]
        for step in range(STEPS):
            streams = [streamed(model, inputs, answer[:, :step], one) for one in (Stream(), *beside)]
            expected = weighed(streams, weights(step), bound)
            if sure is not None:
                alone = weighed(streams, [1.0, *[0.0] * len(beside)], bound)
                is_sure = alone.amax(-1, keepdim=True).exp() >= sure
                gated |= set(is_sure.flatten().tolist())
                expected = torch.where(is_sure, alone, expected)
            assert distance(expected, got.scores[step].double()) < CLOSE_SCORES, f"{one_pass=}, {step=}"
            for other in streams[1:]:
                assert distance(streams[0], other) > least, f"{step=}: a second stream that is the first shows nothing"
        second = run.receipt.second_stream
        assert second is not None
        assert (second.in_one_pass, second.in_two_forwards) == ((STEPS - 1, 0) if one_pass else (0, STEPS - 1))
        assert second.streams == len(beside)
    assert sure is None or gated == {True, False}, "rows on both sides of the gate show what it does"
