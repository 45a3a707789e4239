"""Tokens that stand for pictures are no words of a prompt."""

import pytest
from PIL import Image

from vlm_heads import VLM
from vlm_heads.errors import BadPrompt
from vlm_heads.models.prompts import Conversation, Turn, chat_text, preceded


@pytest.fixture
def with_video(untrained_mini) -> VLM:
    """A model whose configuration names further tokens beside the image's, as Qwen's does."""
    vlm = VLM.from_pretrained(untrained_mini)
    vlm.processor.tokenizer.add_tokens(["<|video_pad|>", "<|vision_start|>"], special_tokens=True)
    ids = vlm.processor.tokenizer.convert_tokens_to_ids(["<|video_pad|>", "<|vision_start|>"])
    vlm.model.config.video_token_id, vlm.model.config.vision_start_token_id = ids
    return vlm


@pytest.mark.parametrize("token", ["<image>", "<|video_pad|>", "<|vision_start|>"])
def test_a_token_that_stands_for_pictures_is_refused(with_video: VLM, token: str) -> None:
    picture = Image.new("RGB", (20, 20))
    with pytest.raises(BadPrompt, match=r"the image token|which stands for pictures"):
        with_video.answer(picture, f"What is {token} here?")
    with pytest.raises(BadPrompt, match="leave it out"):
        with_video.answer_batch([picture, picture], ["Describe.", f"What is {token}?"])


@pytest.mark.parametrize("prompt", ["a </s> b", "What is <b>?", "a <pad> b"])
def test_other_words_in_brackets_are_words(with_video: VLM, prompt: str) -> None:
    assert with_video.answer(Image.new("RGB", (20, 20)), prompt, max_new_tokens=1).token_ids


SHOWN = Turn("user", "Please describe this image in detail.", image=True)


def test_one_turn_is_the_prompt_itself(untrained_mini) -> None:
    processor = VLM.from_pretrained(untrained_mini).processor
    assert chat_text(processor, Conversation((SHOWN,))) == chat_text(processor, SHOWN.text)


def test_several_turns_as_the_template_writes_them(untrained_mini) -> None:
    processor = VLM.from_pretrained(untrained_mini).processor
    turns = (SHOWN, Turn("assistant", "A park."), Turn("user", "Is there a dog?"))
    first = chat_text(processor, SHOWN.text)
    assert chat_text(processor, Conversation(turns)) == f"{first} A park.</s>USER: Is there a dog? ASSISTANT:"


def test_a_batch_of_prompts_and_conversations_says_what_each_says_alone(untrained_mini) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    talk = Conversation((SHOWN, Turn("assistant", "A park."), Turn("user", "Is there a dog in the image?")))
    picture = Image.new("RGB", (20, 20), "red")
    both = vlm.answer_batch([picture, picture], ["Describe.", talk], max_new_tokens=6)
    alone = [vlm.answer(picture, one, max_new_tokens=6) for one in ("Describe.", talk)]
    assert [one.token_ids for one in both] == [one.token_ids for one in alone]
    assert [one.prompt_tokens for one in both] == [one.prompt_tokens for one in alone]
    assert alone[0].prompt_tokens == vlm.inputs([picture], "Describe.")["input_ids"].shape[1] < alone[1].prompt_tokens


def test_what_is_put_before_a_conversation_stands_before_its_last_turn() -> None:
    talk = Conversation((SHOWN, Turn("assistant", "A park."), Turn("user", "And a dog?")))
    assert preceded(talk, "Look away.") == Conversation((*talk.turns[:2], Turn("user", "Look away. And a dog?")))
    assert preceded("And a dog?", "Look away.") == "Look away. And a dog?"


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ((), "nothing to answer"),
        ((SHOWN, Turn("assistant", "A park.")), "nothing to answer"),
        ((Turn("user", "Who?"),), "0 turns"),
        ((SHOWN, SHOWN), "2 turns"),
        ((Turn("system", "Be brief.", image=True), Turn("user", "Who?")), "one of the user's turns"),
    ],
)
def test_what_is_no_conversation_about_one_image(turns: tuple[Turn, ...], said: str) -> None:
    with pytest.raises(BadPrompt, match=said):
        Conversation(turns)


def test_a_template_that_refuses_and_a_processor_without_one(untrained_mini) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    talk = Conversation((Turn("system", "Be brief."), SHOWN))
    vlm.processor.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(BadPrompt, match="refuses these turns: System role not supported"):
        chat_text(vlm.processor, talk)
    vlm.processor.chat_template = None
    with pytest.raises(BadPrompt, match="no chat template"):
        chat_text(vlm.processor, talk)


def test_every_turn_is_held_to_what_a_prompt_is_held_to(with_video: VLM) -> None:
    picture = Image.new("RGB", (20, 20))
    for text in ("", "a <image> here", "a <|vision_start|> here"):
        with pytest.raises(BadPrompt):
            with_video.answer(picture, Conversation((SHOWN, Turn("assistant", text), Turn("user", "Why?"))))
