"""Tokens that stand for pictures are no words of a prompt."""

import pytest
from PIL import Image

from vlm_heads import VLM
from vlm_heads.errors import BadPrompt


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
