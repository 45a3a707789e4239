"""score_heads and token_grounding against two bare forwards under recording hooks."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Build, Inputs
from tests.support.oracle import HookedVhr
from vlm_heads import HeadReinforcement, attach, errors, score_heads, token_grounding
from vlm_heads.models.planted import COLOURS, build_planted, planted_image
from vlm_heads.models.prompts import model_inputs

Planted = tuple[PreTrainedModel, ProcessorMixin]
PROMPTS = ["what ?", "please describe this image", "what do you see", "see"]


@pytest.fixture
def planted() -> Planted:
    return build_planted()


@contextmanager
def _recorded(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Give the inputs of the output projections as heads `[T, Hq, D]` by layer."""
    found: dict[int, Tensor] = {}
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, args, index=index: found.__setitem__(index, args[0][0].view(-1, 4, 16).clone())
        )
        for index, layer in enumerate(model.model.language_model.layers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _both(model: PreTrainedModel, inputs: Inputs) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    text = inputs["input_ids"][inputs["input_ids"] != model.config.image_token_id][None]
    with torch.no_grad(), _recorded(model) as sighted:
        model(**inputs)
    with torch.no_grad(), _recorded(model) as blind:
        model(input_ids=text)
    return sighted, blind


def test_scores_are_the_mean_distance_at_the_last_prompt_position(planted: Planted) -> None:
    model, processor = planted
    samples = [(planted_image(word), prompt) for word, prompt in zip(COLOURS, PROMPTS, strict=True)]
    expected = torch.zeros(4, 4)
    for image, prompt in samples:
        sighted, blind = _both(model, model_inputs(model, processor, [image], [prompt]))
        expected += torch.stack([(sighted[i][-1] - blind[i][-1]).norm(dim=-1) for i in range(4)]) / len(samples)
    for size in (1, 3, 8):
        profile = score_heads(model, processor, samples, batch_size=size)
        assert distance(profile.scores, expected) < CLOSE
        assert (profile.samples, profile.model_type) == (4, "llava")


def test_progress_is_told_after_each_batch(planted: Planted) -> None:
    told: list[int] = []
    score_heads(*planted, [planted_image("car")] * 5, batch_size=2, progress=told.append)
    assert told == [2, 4, 5]


def test_scoring_needs_a_sample_and_leaves_the_model(planted: Planted) -> None:
    with pytest.raises(errors.BadOption, match="no sample"):
        score_heads(*planted, [])
    with pytest.raises(errors.BadImage):
        score_heads(*planted, [planted_image("car"), b""])
    config = planted[0].model.language_model.config
    assert config._attn_implementation == "sdpa"


def test_a_generator_of_samples_is_read_once(planted: Planted) -> None:
    assert score_heads(*planted, (planted_image(word) for word in COLOURS)).samples == 4


def test_t_vhd_is_the_sum_over_layers_of_the_largest(planted: Planted) -> None:
    model, processor = planted
    prompt, text = "what do you see ?", "there is a car."
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    inputs = dict(model_inputs(model, processor, [planted_image("car")], [prompt]))
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    inputs.pop("attention_mask")
    sighted, blind = _both(model, inputs)
    for top in (1, 2):
        expected = sum(
            (sighted[i][-len(ids) - 1 : -1] - blind[i][-len(ids) - 1 : -1]).norm(dim=-1).topk(top).values.sum(-1)
            for i in range(4)
        )
        tokens = token_grounding(model, processor, planted_image("car"), prompt, text, top=top)
        assert [token.token_id for token in tokens] == ids
        assert torch.tensor([token.t_vhd for token in tokens]) == pytest.approx(expected, abs=1e-5)


def test_pieces_join_to_the_text(planted: Planted) -> None:
    tokens = token_grounding(*planted, planted_image("car"), "what ?", "there is a car.")
    assert "".join(token.text for token in tokens) == "there is a car."
    assert all(token.end - token.start == len(token.text) for token in tokens)
    assert tokens[-1].end == len("there is a car.")


def test_generated_ids_and_their_text_give_the_same(planted: Planted) -> None:
    model, processor = planted
    text = "there is a bird."
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert token_grounding(*planted, planted_image("bird"), "what ?", ids) == token_grounding(
        model, processor, planted_image("bird"), "what ?", text
    )


def test_two_passes_and_no_more(planted: Planted) -> None:
    model, processor = planted
    calls: list[int] = []
    handle = model.model.language_model.register_forward_pre_hook(lambda _, __: calls.append(1))
    token_grounding(model, processor, planted_image("bird"), "what ?", "there is a bird.")
    handle.remove()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("text", "top", "said"), [("", None, "empty"), ("a <image>", None, "image token"), ("a", 0, "top")]
)
def test_what_cannot_be_traced_is_refused(text: str, top: int | None, said: str, planted: Planted) -> None:
    with pytest.raises(errors.VlmHeadsError, match=said):
        token_grounding(*planted, planted_image("bird"), "what ?", text, top=top)


def test_scoring_inside_an_attach_is_refused(planted: Planted) -> None:
    with attach(planted[0], [HeadReinforcement()], allow_idle=True), pytest.raises(errors.AlreadyAttached):
        score_heads(*planted, [planted_image("car")])


def test_every_family_can_be_scored(family: str, tiny: Build) -> None:
    from vlm_heads.attached.two_streams import both_streams
    from vlm_heads.families import examine

    model = tiny(family)
    oracle = HookedVhr(model, gain=1.0, layers=set())
    oracle.look_without_image()
    with torch.no_grad():
        sighted, blind = both_streams(model.model, examine(model.model), model.inputs)
    for layer, heads in oracle.blind.items():
        assert distance(blind.outputs[layer][0, -1], heads) < CLOSE
        assert not equal(sighted.outputs[layer], blind.outputs[layer])
