"""Second-stream decoding against a plain loop over two uncached models, alone, in batches, with beams, under attach."""

import math
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

from tests.support.compare import distance, equal, rounding, same_ids
from tests.support.families import Build, Inputs
from tests.support.family_table import FamilyTable
from tests.support.uncached import uncached
from vlm_heads import ChangedImage, Contrast, DisturbedPrompt, FadingImage, ImageFree, NoisedImage, attach
from vlm_heads.errors import BadOption, UnsupportedGeneration, UnsupportedModel
from vlm_heads.interventions.route_gain import RouteGain
from vlm_heads.methods import Asked, ContrastProcessor
from vlm_heads.toolkit.image_changes import CHANGES, diffused, random_change

Weights = Callable[[int], tuple[float, float]]  # generated tokens so far -> weights of the two streams
Processor = Callable[[Tensor, Tensor], Tensor]
CLOSE_SCORES = rounding(torch.float32, terms=64, size=10.0)


def _combined(first: Tensor, second: Tensor, weights: tuple[float, float], bound: float) -> Tensor:
    z = weights[0] * first.log_softmax(-1) + weights[1] * second.log_softmax(-1)
    z[first.softmax(-1) < bound * first.softmax(-1).max(-1, keepdim=True).values] = -math.inf
    return z.log_softmax(-1)


def _loop(
    model: PreTrainedModel,
    first: Inputs,
    second: Inputs,
    weights: Weights,
    bound: float,
) -> tuple[Tensor, list[Tensor]]:
    """Return the greedy answer `[B, 5]` of a plain two-model loop, and its scores."""
    answer = first["input_ids"].new_empty(first["input_ids"].shape[0], 0)
    scores = []
    for step in range(5):
        z = _combined(uncached(model, first, answer), uncached(model, second, answer), weights(step), bound)
        scores.append(z)
        answer = torch.cat([answer, z.argmax(-1, keepdim=True)], 1)
    return answer, scores


def generated(
    model: PreTrainedModel, inputs: Inputs, processor: Processor, **changes: object
) -> GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput:
    arguments = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    return model.generate(
        **inputs, **{**arguments, "output_scores": True, "output_logits": True, **changes}, logits_processor=[processor]
    )


def _batch() -> tuple[Inputs, Inputs]:
    """Return a left-padded batch of two prompts with an image each, and the same without image."""
    torch.manual_seed(3)
    rows = [[1, 5, *[150] * 4, 7, 8, 9, 10, 11], [0, 0, 0, 1, *[150] * 4, 9, 12, 13]]
    texts = [[1, 5, 7, 8, 9, 10, 11], [0, 0, 0, 1, 9, 12, 13]]
    pixels = {"pixel_values": torch.randn(2, 3, 28, 28)}
    first, text = (
        {"input_ids": torch.tensor(ids), "attention_mask": (torch.tensor(ids) != 0).long()} for ids in (rows, texts)
    )
    return first | pixels, text


def made(contrast: Contrast, model: PreTrainedModel, inputs: Inputs, other: Inputs | None = None) -> ContrastProcessor:
    """Return a contrast's processor; `other` is what the second stream gets where it is built from image and prompt."""
    if other is None:
        return contrast.processor(Asked(model, inputs))
    return contrast.processor(Asked(model, inputs, (), ("asked",), lambda _, __: other))


def _forgetting(step: int) -> tuple[float, float]:
    """Return M3ID's weights at rate 0.5; its tokens count from 1."""
    g = math.exp(-(step + 1) / 2)
    return 1 + (1 - g) / g, -(1 - g) / g


def _cases(model: PreTrainedModel, inputs: Inputs, text: Inputs) -> dict[str, tuple[Processor, Inputs, Weights, float]]:
    """Return processor, second inputs, weights and bound of every method."""
    noised = {**inputs, "pixel_values": diffused(inputs["pixel_values"], 700, 1)}
    changed = {**inputs, "pixel_values": inputs["pixel_values"].flip(-1)}
    disturbed = {**inputs, "input_ids": inputs["input_ids"].where(inputs["input_ids"] != 9, 42)}
    return {
        "VCD": (made(NoisedImage(noise_step=700, seed=1), model, inputs), noised, lambda _: (2.0, -1.0), 0.1),
        "ICD": (made(DisturbedPrompt(alpha=0.5), model, inputs, disturbed), disturbed, lambda _: (1.5, -0.5), 0.1),
        "PAI": (made(ImageFree(gamma=1.5, bound=0.3), model, inputs), text, lambda _: (1.5, -0.5), 0.3),
        "M3ID": (made(FadingImage(rate=0.5), model, inputs), text, _forgetting, 0.1),
        "M3ID, paper": (
            made(FadingImage(rate=0.5, mode="paper", unsure_below=1.0), model, inputs), text, _forgetting, 0.0
        ),
        "RITUAL": (made(ChangedImage(), model, inputs, changed), changed, lambda _: (1.0, 3.0), 0.1),
    }  # fmt: skip


@pytest.mark.parametrize("method", ["VCD", "ICD", "PAI", "M3ID", "M3ID, paper", "RITUAL"])
def test_equals_a_plain_loop_over_two_models(method: str, tiny: Build) -> None:
    model = tiny("llava").model
    inputs, text = _batch()
    processor, second, weights, bound = _cases(model, inputs, text)[method]
    answer, scores = _loop(model, inputs, second, weights, bound)
    for _ in range(2):  # the second generation starts clean
        got = generated(model, inputs, processor)
        assert equal(got.sequences[:, -5:], answer)
        assert distance(scores, got.scores) < CLOSE_SCORES  # a token excluded in one is excluded in the other
    assert distance(got.logits[1].log_softmax(-1), got.scores[1]) > 2e-2  # empty otherwise


def test_the_papers_gate_leaves_a_sure_row_alone(tiny: Build) -> None:
    """The first row's largest probability is 0.6, the second's 0.4; the gate stands at 0.5."""
    model = tiny("llava").model
    inputs, _ = _batch()
    others = torch.tensor([[0.4], [0.6]]).expand(2, 199) / 199
    first = torch.cat([torch.tensor([[0.6], [0.4]]), others], dim=1).log()
    got = made(FadingImage(rate=0.5, mode="paper", unsure_below=0.5), model, inputs)(inputs["input_ids"], first)
    assert distance(got[:1], first[:1]) < rounding(torch.float32, 200)
    assert distance(got[1:], first[1:]) > 0.1
    ungated = made(FadingImage(rate=0.5, bound=0.0), model, inputs)(inputs["input_ids"], first)
    assert distance(got[1:], ungated[1:]) < rounding(torch.float32, 200)


def test_m3id_acts_on_the_first_token(tiny: Build) -> None:
    """At rate 0.5 the image-free stream is weighed with 1 - e^0.5 there: a yes or no can change."""
    model = tiny("llava").model
    inputs, _ = _batch()
    got = generated(model, inputs, made(FadingImage(rate=0.5, bound=0.0), model, inputs))
    assert distance(got.scores[0], got.logits[0].log_softmax(-1)) > 1e-2


def test_the_comparison_sees_wrong_weights(tiny: Build) -> None:
    model = tiny("llava").model
    inputs, text = _batch()
    processor, _, _, _ = _cases(model, inputs, text)["PAI"]
    _, scores = _loop(model, inputs, text, lambda _: (1.4, -0.4), 0.3)
    assert distance(scores[:1], generated(model, inputs, processor).scores[:1]) > 2e-4


REFUSED = {
    "instructblip": "generates past its own forward",
    "blip2": "generates past its own forward",
    "janus": "drops logits processors",
}


def test_every_family_runs_a_second_stream_or_says_why_not(family: str, tiny: Build, support: FamilyTable) -> None:
    built = tiny(family)
    changed = {**built.inputs, "pixel_values": built.inputs["pixel_values"].flip(0, -1)}
    if family in REFUSED:
        with pytest.raises(UnsupportedModel, match=REFUSED[family]):
            made(DisturbedPrompt(), built.model, built.inputs, changed)
        support.states(family, "contrasts", f"refused: {REFUSED[family]}")
        return
    torch.nn.init.zeros_(built.model.get_output_embeddings().weight[150:151])  # no image token in the answer
    answer, scores = _loop(built.model, built.inputs, changed, lambda _: (2.0, -1.0), 0.1)
    got = generated(built.model, built.inputs, made(DisturbedPrompt(), built.model, built.inputs, changed))
    assert equal(got.sequences[:, -5:], answer)
    assert distance(scores, got.scores) < CLOSE_SCORES
    assert generated(built.model, built.inputs, made(ImageFree(), built.model, built.inputs)).sequences.shape[0] == 1
    support.states(family, "contrasts", "equal a plain loop")


class Uncached(LogitsProcessor):
    """VCD's weights with a second stream that remembers nothing."""

    def __init__(self, model: PreTrainedModel, second: Inputs) -> None:
        self.model, self.second = model, second

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = len(self.second["input_ids"])
        copies = len(input_ids) // rows
        second = {  # of one prompt, whatever its picture is cut into
            name: torch.cat([value] * copies) if rows == 1 else value.repeat_interleave(copies, 0)
            for name, value in self.second.items()
        }
        answer = input_ids[:, self.second["input_ids"].shape[1] :]
        return _combined(scores, uncached(self.model, second, answer), (2.0, -1.0), 0.0)


def test_the_second_stream_follows_its_beams(tiny: Build) -> None:
    model = tiny("llava").model
    inputs, _ = _batch()
    noised = {**inputs, "pixel_values": diffused(inputs["pixel_values"], 999, 0)}
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 8, "suppress_tokens": [150]}
    expected = generated(model, inputs, Uncached(model, noised), **options)
    got = generated(model, inputs, made(NoisedImage(noise_step=999, bound=0.0), model, inputs), **options)
    assert same_ids(expected, got)
    assert distance(expected.sequences_scores, got.sequences_scores) < CLOSE_SCORES


def test_attach_edits_the_first_stream_only(tiny: Build) -> None:
    model = tiny("llava").model
    inputs, text = _batch()
    with attach(model, [RouteGain(image=3.0, layers="all")]) as alone:
        edited = generated(model, inputs, lambda _, scores: scores)
    with attach(model, [RouteGain(image=3.0, layers="all")]) as run:
        got = generated(model, inputs, made(ImageFree(gamma=2.0), model, inputs))
    assert equal(edited.logits[0], got.logits[0])
    assert run.receipt.generations == 1
    assert run.receipt.interventions[0].heads() == alone.receipt.interventions[0].heads()
    answer = got.sequences[:, -5:]
    second = [uncached(model, text, answer[:, :step]) for step in range(5)]
    expected = [_combined(first, z, (2.0, -1.0), 0.1) for first, z in zip(got.logits, second, strict=True)]
    assert distance(expected, got.scores) < CLOSE_SCORES


def test_no_contrast_is_the_first_stream(tiny: Build) -> None:
    model = tiny("llava").model
    inputs, _ = _batch()
    plain = generated(model, inputs, lambda _, scores: scores)
    got = generated(model, inputs, made(NoisedImage(alpha=0.0, bound=0.0), model, inputs))
    assert same_ids(plain, got)
    assert distance([logits.log_softmax(-1) for logits in plain.logits], got.scores) < CLOSE_SCORES


def test_what_cannot_be_done_is_refused_by_name(tiny: Build) -> None:
    model = tiny("llava").model
    inputs, text = _batch()
    with pytest.raises(UnsupportedGeneration, match="3 rows"):
        made(ImageFree(), model, inputs)(torch.ones(3, 4).long(), torch.zeros(3, 200))
    with pytest.raises(UnsupportedGeneration, match="4 different rows"):
        made(ImageFree(), model, inputs)(torch.arange(16).view(4, 4), torch.zeros(4, 200))
    processor = made(ImageFree(), model, inputs)
    processor(torch.ones(2, 13).long(), torch.zeros(2, 200))
    with pytest.raises(UnsupportedGeneration, match="one token after the other"):
        processor(torch.ones(2, 16).long(), torch.zeros(2, 200))
    with pytest.raises(BadOption, match="pixel_values"):
        made(NoisedImage(), model, text)
    with pytest.raises(BadOption, match="gamma"):
        made(ImageFree(gamma=0.5), model, inputs)
    blip = tiny("blip2")
    with pytest.raises(UnsupportedModel, match="past its own forward"):
        made(ImageFree(), blip.model, blip.inputs)


def test_noise_grows_with_the_step_and_is_the_same_for_every_image() -> None:
    pixels = torch.zeros(2, 3, 4, 4)
    assert equal(diffused(pixels, 0, seed=0), pixels)
    some, more = diffused(pixels, 100, seed=0), diffused(pixels, 1000, seed=0)
    assert equal(some[0], some[1])
    assert 0 < some.std() < more.std()
    with pytest.raises(BadOption, match="noise_step"):
        diffused(pixels, 1001, seed=0)


def test_changes_keep_the_size_and_follow_the_seed() -> None:
    image = Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    changed = [random_change(image, seed) for seed in range(12)]
    assert {one.size for one in changed} == {(40, 30)}
    assert len({one.tobytes() for one in changed}) >= len(CHANGES)
    assert random_change(image, 5).tobytes() == changed[5].tobytes()
