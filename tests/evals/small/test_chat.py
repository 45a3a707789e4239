"""The processor of `small`: ChatML with a picture, the base's ids, and every special token in its place."""

import pytest
from PIL import Image
from vlm_evals.scenes.small.chat import BEFORE_ANSWER, BEFORE_IMAGE, build_processor, encode

from tests.support.small_base import tiny_tokenizer

PICTURE = Image.new("RGB", (112, 112), "red")


@pytest.fixture(scope="module")
def processor():
    return build_processor(tiny_tokenizer())


def turn(prompt, *parts):
    return {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}


def test_special_tokens_are_the_bases(processor):
    tokenizer, base = processor.tokenizer, tiny_tokenizer()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert (processor.image_token, processor.image_token_id) == ("<image>", 16)
    assert tokenizer.convert_ids_to_tokens(range(16)) == base.convert_ids_to_tokens(range(16))
    assert "<empty_output>" not in tokenizer.get_vocab()
    assert len(tokenizer) == len(base)


def test_a_turn_with_a_picture(processor):
    written = processor.apply_chat_template([turn("Describe.", {"type": "image"})], add_generation_prompt=True)
    assert written == "<|im_start|>user\n<image>\nDescribe.<|im_end|>\n<|im_start|>assistant\n"
    ids = processor(text=written, images=PICTURE, return_tensors="pt")["input_ids"][0].tolist()
    assert ids.count(16) == 49
    assert ids.count(1) == 2
    assert ids.count(2) == 1
    assert ids == [
        *encode(processor.tokenizer, BEFORE_IMAGE),
        *[16] * 49,
        *encode(processor.tokenizer, f"\nDescribe.{BEFORE_ANSWER}"),
    ]


def test_turns_without_a_picture_and_with_answers(processor):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]},
        turn("Bye"),
    ]
    assert processor.apply_chat_template(chat) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    )


def test_a_batch_is_padded_on_the_left_and_masked(processor):
    texts = [
        processor.apply_chat_template([turn(prompt, {"type": "image"})], add_generation_prompt=True)
        for prompt in ("Describe.", "Is there a dog in the image?")
    ]
    batch = processor(text=texts, images=[[PICTURE], [PICTURE]], padding=True, return_tensors="pt")
    first = batch["input_ids"][0]
    missing = int((batch["attention_mask"][0] == 0).sum())
    assert missing > 0
    assert (first[:missing] == 0).all()
    assert first[missing] == 1


def test_decoding_an_answer_leaves_marks_out(processor):
    ids = encode(processor.tokenizer, "A dog.<|im_end|>")
    assert ids[-1] == 2
    assert processor.decode(ids, skip_special_tokens=True) == "A dog."


def test_a_tokenizer_of_another_family_is_refused():
    from vlm_evals.scenes.tokens import build_tokenizer

    with pytest.raises(KeyError, match="empty_output"):
        build_processor(build_tokenizer())
