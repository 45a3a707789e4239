"""VLM: loading by name and folder, answers, batches, streams, and mistakes."""

import io
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from PIL import Image
from transformers import StoppingCriteria

import vlm_heads
from vlm_heads import VLM, Answer, HeadReinforcement, errors
from vlm_heads.generate_call import effective_config
from vlm_heads.models.planted import COLOURS, planted_image


@cache
def _planted() -> VLM:
    return VLM.from_pretrained("planted")


@pytest.fixture
def vlm() -> VLM:
    return _planted()


def test_the_public_list_is_what_is_there() -> None:
    assert sorted(vlm_heads.__all__, key=str.lower) == sorted(set(vlm_heads.__all__), key=str.lower)
    assert all(hasattr(vlm_heads, name) for name in vlm_heads.__all__)


def test_an_answer_says_what_happened(vlm: VLM) -> None:
    plain = vlm.answer(planted_image("car"), "what do you see?")
    assert (plain.text, plain.receipt) == ("there is a dog.", None)
    assert plain.seconds > 0
    assert plain.token_ids[-1] == vlm.processor.tokenizer.eos_token_id
    mended = vlm.answer(planted_image("car"), "what do you see?", [HeadReinforcement()])
    assert mended.text == "there is a car."
    assert mended.receipt is not None
    assert json.loads(json.dumps(mended.receipt)) == mended.receipt
    assert mended.receipt["interventions"][0]["layers"] == [2, 3]


def test_an_image_in_any_form(vlm: VLM, tmp_path: Path) -> None:
    picture = planted_image("banana")
    path = tmp_path / "banana.png"
    picture.save(path)
    for image in (path, str(path), path.read_bytes(), picture, np.asarray(picture)):
        assert vlm.answer(image, interventions=[HeadReinforcement()]).text == "there is a banana."


def test_a_batch_gives_what_its_rows_give_alone(vlm: VLM) -> None:
    images = [planted_image(word) for word in COLOURS]
    prompts = ["what ?", "please describe this image in detail", "see", "what do you see ?"]
    together = vlm.answer_batch(images, prompts, [HeadReinforcement()])
    for answer, image, prompt in zip(together, images, prompts, strict=True):
        assert answer.text == vlm.answer(image, prompt, [HeadReinforcement()]).text
    assert [answer.text for answer in together] == [f"there is a {word}." for word in COLOURS]


def test_one_prompt_serves_a_whole_batch(vlm: VLM) -> None:
    assert len(vlm.answer_batch([planted_image("car")] * 3, "what ?")) == 3
    with pytest.raises(errors.BadPrompt, match="2 prompts were given for 3 images"):
        vlm.answer_batch([planted_image("car")] * 3, ["what ?", "see"])
    with pytest.raises(errors.BadPrompt):
        vlm.answer_batch([], "what ?")


def test_a_stream_gives_the_same_text_piece_by_piece(vlm: VLM) -> None:
    pieces = vlm.stream(planted_image("bird"), "what ?", [HeadReinforcement()])
    collected = []
    try:
        while True:
            collected.append(next(pieces))
    except StopIteration as end:
        answer = end.value
    assert len(collected) > 1
    assert "".join(collected).strip() == answer.text == "there is a bird."
    assert answer.receipt["steps"] == 6


def test_a_stream_hands_out_its_receipt_while_the_answer_comes(vlm: VLM) -> None:
    given: list[vlm_heads.Receipt] = []
    pieces = vlm.stream(planted_image("bird"), "what ?", [HeadReinforcement()], follow=given.append)
    next(pieces)
    (receipt,) = given
    assert receipt.generations == 1

    def whole() -> Iterator[str]:
        answers.append((yield from pieces))

    answers: list[Answer] = []
    list(whole())
    assert receipt.to_dict(0) == answers[0].receipt  # the same receipt, filled in to the end


def test_a_stream_that_is_left_early_frees_the_model(vlm: VLM) -> None:
    pieces = vlm.stream(planted_image("bird"), "what ?", [HeadReinforcement()], max_new_tokens=200)
    next(pieces)
    pieces.close()
    assert vlm.answer(planted_image("bird"), "what ?", [HeadReinforcement()]).text == "there is a bird."


def test_a_failure_inside_a_stream_reaches_the_listener(vlm: VLM) -> None:
    def failing(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise ValueError("no beam of light")

    pieces = vlm.stream(planted_image("bird"), "what ?", logits_processor=[failing])
    with pytest.raises(ValueError, match="beam"):
        list(pieces)


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
def test_only_one_sequence_is_streamed(vlm: VLM, name: str) -> None:
    with pytest.raises(errors.UnsupportedGeneration, match=f"{name}=2: .*pass {name}=1, or take .* VLM.answer") as said:
        vlm.stream(planted_image("bird"), "what ?", do_sample=True, **{name: 2})
    assert "\n" not in str(said.value)


def test_beams_that_a_checkpoint_states_are_not_streamed_either(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm.model.generation_config, "num_beams", 2)
    with pytest.raises(errors.UnsupportedGeneration, match="num_beams=2"):
        vlm.stream(planted_image("bird"), "what ?")
    assert "".join(vlm.stream(planted_image("bird"), "what ?", num_beams=1)).strip() == "there is a dog."


def test_arguments_of_generate_pass_through(vlm: VLM) -> None:
    assert vlm.answer(planted_image("car"), max_new_tokens=2).text == "there is"
    torch.manual_seed(0)
    sampled = vlm.answer(planted_image("car"), do_sample=True, temperature=5.0, max_new_tokens=20)
    assert sampled.text != "there is a dog."
    assert vlm.answer(planted_image("car"), num_beams=3, interventions=[HeadReinforcement()]).text == "there is a car."


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
def test_an_empty_prompt_is_refused(prompt: str, vlm: VLM) -> None:
    with pytest.raises(errors.BadPrompt, match="empty"):
        vlm.answer(planted_image("car"), prompt)


def test_the_image_token_in_a_prompt_is_refused(vlm: VLM) -> None:
    with pytest.raises(errors.BadPrompt, match="<image>"):
        vlm.answer(planted_image("car"), "what is in <image> ?")


def test_a_bad_image_leaves_the_model_as_it_was(vlm: VLM) -> None:
    with pytest.raises(errors.BadImage):
        vlm.answer("nowhere.png", interventions=[HeadReinforcement()])
    with pytest.raises(errors.BadImage):
        vlm.stream(b"", interventions=[HeadReinforcement()])
    assert vlm.model.config.text_config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("name", "said"), [("planed", "did you mean 'planted'"), ("no/such/model", "no model")])
def test_an_unknown_model_is_named(name: str, said: str) -> None:
    with pytest.raises(errors.UnknownModel, match=said):
        VLM.from_pretrained(name)


def test_a_text_only_model_is_refused(tmp_path: Path) -> None:
    config = T.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    T.LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(errors.UnsupportedModel, match="no vision-language model"):
        VLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["no weights", "pickled weights", "torn weights", "no processor", "torn config"])
def test_a_damaged_folder_is_refused(damage: str, vlm: VLM, tmp_path: Path) -> None:
    vlm.model.save_pretrained(tmp_path)
    if damage != "no processor":
        vlm.processor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "pickled weights":
        weights.unlink()
        stream = io.BytesIO()
        torch.save(vlm.model.state_dict(), stream)
        (tmp_path / "pytorch_model.bin").write_bytes(stream.getvalue())
    elif damage == "torn weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "torn config":
        (tmp_path / "config.json").write_text("{")
    with pytest.raises(errors.UnsupportedModel):
        VLM.from_pretrained(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModel, match="is no vision-language model"):
        VLM.from_pretrained(tmp_path)


def test_a_processor_without_a_chat_template_gets_the_image_token(vlm: VLM, tmp_path: Path) -> None:
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    loaded = VLM.from_pretrained(tmp_path)
    loaded.processor.chat_template = None
    inputs = loaded.inputs([planted_image("car")], "what do you see")
    assert int((inputs["input_ids"] == loaded.model.config.image_token_id).sum()) == 16


def test_options_of_from_pretrained_pass_through(vlm: VLM, tmp_path: Path) -> None:
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    loaded = VLM.from_pretrained(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert next(loaded.model.parameters()).dtype is torch.bfloat16
    assert loaded.answer(Image.new("RGB", (32, 32), "red"), interventions=[HeadReinforcement()]).text


def test_a_picture_of_one_row_of_pixels_is_read(vlm: VLM) -> None:
    assert vlm.answer(Image.new("RGB", (200, 2), "blue")).text
    assert vlm.answer(Image.new("L", (3, 500))).text


def test_the_embedded_model_is_there_or_said_to_be_missing() -> None:
    folder = Path(__file__).parents[2] / "evals" / "vlm_evals" / "scenes" / "mini"
    if (folder / "config.json").is_file():
        pytest.skip("it is there; its own tests use it")
    with pytest.raises(errors.UnknownModel, match="world train"):
        VLM.from_pretrained("mini")


def _rows(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


def test_several_sequences_per_image_keep_to_their_image(vlm: VLM) -> None:
    answers = vlm.answer_batch(
        [planted_image("car"), planted_image("bird")],
        "what ?",
        [HeadReinforcement()],
        num_beams=2,
        num_return_sequences=2,
    )
    assert _rows(answers)[0::2] == ["there is a car.", "there is a bird."]


def test_a_row_that_ends_early_carries_no_padding(vlm: VLM) -> None:
    """One row says "there is a bird" and ends there, the other goes on to "." and the end of text."""
    end = vlm.processor.tokenizer.convert_tokens_to_ids("bird")
    pictures = [planted_image("bird"), planted_image("car")]
    rows = vlm.answer_batch(pictures, "what do you see?", [HeadReinforcement()], eos_token_id=[2, end])
    assert [len(row.token_ids) for row in rows] == [4, 6]
    assert rows[0].token_ids[-1] == end


class _Stops(StoppingCriteria):  # type: ignore[misc]
    """Ends a row as soon as it says a token, which is no end token."""

    def __init__(self, token: int) -> None:
        self._token = token

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return input_ids[:, -1] == self._token


def test_a_row_that_ends_early_without_an_end_token_carries_no_padding(vlm: VLM) -> None:
    """One row says "there is a bird" and is stopped there; what fills it up to the other's length is not its own."""
    bird = vlm.processor.tokenizer.convert_tokens_to_ids("bird")
    pictures = [planted_image("bird"), planted_image("car")]
    asked: dict[str, Any] = {"interventions": [HeadReinforcement()], "stopping_criteria": [_Stops(bird)]}
    rows = vlm.answer_batch(pictures, "what do you see?", **asked)
    assert [len(row.token_ids) for row in rows] == [4, 6]
    assert [row.token_ids for row in rows] == [
        vlm.answer(picture, "what do you see?", **asked).token_ids for picture in pictures
    ]


def test_a_config_that_is_given_decides_and_is_left_as_it_was(vlm: VLM) -> None:
    """What it leaves open is greedy, 256 tokens, and what the model's own config says."""
    picture, asked = planted_image("bird"), T.GenerationConfig(num_beams=2, eos_token_id=[2, 9])
    before = asked.to_dict()
    calls = []
    generate = vlm.model.generate
    vlm.model.generate = lambda **given: calls.append(effective_config(vlm.model, given)) or generate(**given)
    try:
        vlm.answer(picture, generation_config=asked)
        vlm.answer(picture, generation_config=T.GenerationConfig(do_sample=True, max_length=40, top_k=1))
        vlm.answer(picture, max_new_tokens=3)
    finally:
        del vlm.model.generate
    assert [(one.do_sample, one.max_new_tokens, one.max_length, one.num_beams) for one in calls] == [
        (False, 256, 20, 2),
        (True, None, 40, 1),
        (False, 3, 20, 1),
    ]
    assert calls[0].eos_token_id == [2, 9]
    assert asked.to_dict() == before


def test_an_answer_ends_where_the_config_says(vlm: VLM) -> None:
    """A row that ended is padded; its end comes from the config that `generate` goes by."""
    end = vlm.processor.tokenizer.convert_tokens_to_ids("bird")
    pictures = [planted_image("bird"), planted_image("car")]
    own = vlm.model.generation_config.eos_token_id
    vlm.model.generation_config.eos_token_id = [2, end]
    try:
        config = T.GenerationConfig(max_new_tokens=12)
        rows = vlm.answer_batch(pictures, "what do you see?", [HeadReinforcement()], generation_config=config)
    finally:
        vlm.model.generation_config.eos_token_id = own
    assert [len(row.token_ids) for row in rows] == [4, 6]
