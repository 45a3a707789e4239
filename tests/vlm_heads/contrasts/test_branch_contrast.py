"""BranchContrast against a stream that is recomputed with its image positions deleted above the layer."""

import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.branch_oracle import branched
from tests.support.compare import distance, equal, rounding
from tests.support.families import Build, Inputs
from tests.support.family_table import FamilyTable
from tests.support.uncached import uncached
from vlm_heads import BranchContrast, attach
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.methods import Asked

CLOSE_SCORES = rounding(torch.float32, terms=64, size=10.0)
REFUSED = {
    "instructblip": "generates past its own forward",
    "blip2": "generates past its own forward",
    "janus": "drops logits processors",
    "mllama": "reads the image through cross-attention",
    "qwen3_5": "is no attention",
    "lfm2_vl": "is no attention",
}


def padded() -> Inputs:
    """Return a left-padded batch of two prompts, each with a picture of four positions."""
    torch.manual_seed(3)
    ids = torch.tensor([[1, 5, *[150] * 4, 7, 8, 9, 10, 11], [0, 0, 0, 1, *[150] * 4, 9, 12, 13]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(2, 3, 28, 28)}


def _streams(model: PreTrainedModel, inputs: Inputs, answer: Tensor, start: int) -> list[tuple[Tensor, Tensor]]:
    """Return the log-probabilities of both streams before each token of an answer `[B, t]`."""
    return [
        tuple(z.log_softmax(-1) for z in (uncached(model, inputs, so_far), branched(model, inputs, so_far, start)))
        for so_far in (answer[:, :step] for step in range(answer.shape[1]))
    ]


def _followed(model: PreTrainedModel, inputs: Inputs, start: int, answer: Tensor) -> list[Tensor]:
    """Return the second stream's token logits before each token of a given answer `[B, t]`."""
    stream = BranchContrast(start=start / len(model.get_decoder().layers)).second_stream(Asked(model, inputs))
    return [stream.begin(1), *(stream.step(answer[:, at]) for at in range(answer.shape[1] - 1))]


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_second_stream_has_no_image_above_its_layer(start: int, implementation: str, tiny: Build) -> None:
    model, inputs = tiny("llava").model, padded()
    model.set_attn_implementation(implementation)
    answer = torch.randint(2, 140, (2, 5), generator=torch.Generator().manual_seed(0))
    got = _followed(model, inputs, start, answer)
    for step, logits in enumerate(got):
        assert distance(logits, branched(model, inputs, answer[:, :step], start)) < CLOSE_SCORES
        assert distance(logits, uncached(model, inputs, answer[:, :step])) > 1e-3  # the image told something


def test_the_comparison_sees_another_layer(tiny: Build) -> None:
    model, inputs = tiny("llava").model, padded()
    answer = torch.full((2, 3), 7)
    for one, other in zip(_followed(model, inputs, 1, answer), _followed(model, inputs, 2, answer), strict=True):
        assert distance(one, other) > 2e-4


def test_every_family_branches_or_says_why_not(family: str, tiny: Build, support: FamilyTable) -> None:
    built = tiny(family)
    if family in REFUSED:
        with pytest.raises(UnsupportedModel, match=REFUSED[family]):
            attach(built.model, BranchContrast())
        support.states(family, "branch", f"refused: {REFUSED[family]}")
        return
    answer = torch.randint(2, 140, (1, 12), generator=torch.Generator().manual_seed(0))
    for step, logits in enumerate(_followed(built.model, built.inputs, 1, answer)):
        assert distance(logits, branched(built.model, built.inputs, answer[:, :step], 1)) < CLOSE_SCORES
    support.states(family, "branch", "equals deleted positions")


def test_the_contrast_is_taken_among_plausible_tokens(tiny: Build) -> None:
    """Fixed: z + 0.5 (z - z2). Growing: g = exp(0.3 t) - 1 in place of 0.5, t = 1, 2, ... at each token."""
    model, inputs = tiny("llava").model, padded()
    schedules = {
        BranchContrast(start=1 / 3, weight=0.5, bound=0.3): lambda _: 0.5,
        BranchContrast(start=1 / 3, schedule="growing", rate=0.3, bound=0.3): lambda step: math.exp(0.3 * step) - 1,
    }
    for contrast, weight in schedules.items():
        with attach(model, contrast):
            got = model.generate(
                **inputs, max_new_tokens=4, do_sample=False, eos_token_id=None, return_dict_in_generate=True,
                output_scores=True,
            )  # fmt: skip
        answer = got.sequences[:, -4:]
        for step, (first, second) in enumerate(_streams(model, inputs, answer, 1)):
            expected = first + weight(step + 1) * (first - second)
            expected[first.exp() < 0.3 * first.exp().amax(-1, keepdim=True)] = -math.inf
            assert distance(expected.log_softmax(-1), got.scores[step]) < CLOSE_SCORES
            assert equal(expected.argmax(-1), answer[:, step])


@pytest.mark.parametrize(
    ("start", "depth", "first"), [(0.25, 8, 2), (0.25, 24, 6), (0.25, 32, 8), (1.0, 8, 7), (0, 8, 0)]
)
def test_the_first_layer_is_a_share_of_the_depth(start: float, depth: int, first: int) -> None:
    assert BranchContrast(start=start).first_layer(depth) == first


def test_without_an_image_there_is_nothing_to_hide(tiny: Build) -> None:
    built = tiny("llava")
    with pytest.raises(BadOption, match="nothing to hide"):
        BranchContrast().second_stream(Asked(built.model, {"input_ids": built.text}))
