"""The embedded model's tokenizer and processor: one token per word of the world, one per punctuation mark."""

from __future__ import annotations

import re
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from . import text
from .catalog import CATEGORIES, SCENES
from .world import IMAGE_SIZE

PATCH = 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH) ** 2
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% else %} ASSISTANT: {% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{{ message['content'][0]['text'] }}{% endif %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Return token -> id: special tokens, then the words (`▁dog`) and marks of everything the world can say, sorted."""
    said = [*text.DESCRIBE_PROMPTS, text.LIST, *text.OPENERS, *text.FOLLOW_UPS, *text.CLOSINGS, *text.MASS.values()]
    said += [word for category in CATEGORIES for pair in category.words for word in pair]
    said += [kind.name for kind in SCENES] + [*text.NUMBERS.values(), "several", "and", "a", "an"]
    said += ["Is there a dog in the image? Yes. No.", "Are there any objects in this picture?"]
    words = {word for line in said for word in re.findall(r"[\w]+", re.sub(r"\{\w+\}", "", line))}
    return {token: i for i, token in enumerate([*SPECIAL, ".", ",", "?", *sorted("▁" + word for word in words)])}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer; a word it does not know becomes `<unk>`."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(token, lstrip=True, rstrip=True, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    """Return the processor: images to 112 × 112, prompts through the chat template."""
    return with_images(build_tokenizer(), CHAT_TEMPLATE)


def with_images(tokenizer: PreTrainedTokenizerFast, chat_template: str) -> LlavaProcessor:
    """Return a tokenizer made a processor for the world's pictures: 112 × 112 pixels, 49 image tokens."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(
        do_resize=True, size=size, do_center_crop=False, crop_size=size, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def encode(line: str) -> list[int]:
    """Return the token ids of a line of the world's own text (a fast equal of the tokenizer, for training)."""
    ids = vocabulary()
    return [ids["▁" + piece if piece[0].isalnum() else piece] for piece in re.findall(r"\w+|[.,?]", line)]
