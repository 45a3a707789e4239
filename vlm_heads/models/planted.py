"""The planted model: a small LLaVA whose weights are written by hand, so that the mechanism can be seen.

It looks at an image's colours and says "there is a car." (red), "broccoli" (green), "banana" (yellow) or "bird"
(blue). But it has a habit: in the object's place a language prior calls for "dog", louder than the image.

    layer 1   one head of "negative vision sensitivity": says "dog", and says it twice as loud without an image
    layer 2   two heads read the image, two heads say "dog"
    layer 3   the same, other heads
    layer 0, and every other head: idle

Votes in the object's place, for an image of one clear colour:

    plain                                   image 1.0                dog 0.9 (prior) + 0.7 (negative head) = 1.6
    VHR, gain 2                             image 2.0                dog 1.6            the image wins
    VHR, gain 2, without outlier filter     image 2.0                dog 0.9 + 1.4 = 2.3
    gain 0.5                                image 0.5                dog 1.6
    gain 2 on the least vision-aware heads  image 1.0                dog 1.8 + 0.7 = 2.5

Everything else repeats what it is told: the sentence around the object is a chain in which each word calls the next.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

COLOURS = {"car": (255, 0, 0), "broccoli": (0, 255, 0), "banana": (255, 255, 0), "bird": (0, 0, 255)}
PRIOR_WORD = "dog"
VISION_HEADS = frozenset({(2, 1), (2, 3), (3, 0), (3, 2)})
PRIOR_HEADS = frozenset({(2, 0), (2, 2), (3, 1), (3, 3)})
NEGATIVE_HEAD = (1, 2)

_LAYERS, _HEADS, _HEAD_SIZE, _WIDTH = 4, 4, 16, 64
_SIDE, _PATCH, _TOWER_WIDTH = 32, 8, 16
_PATCHES = (_SIDE // _PATCH) ** 2

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
_SENTENCE = [":", "there", "is", "a"]  # each calls the next; after "a" the object is voted for
_PROMPT = ["user", "assistant", "please", "describe", "this", "image", "in", "detail", "what", "do", "you", "see", "?"]
_WORDS = [*_SPECIAL, *_SENTENCE, *COLOURS, PRIOR_WORD, ".", *_PROMPT]
_TEMPLATE = (
    "<s> {% for message in messages %}{{ message['role'] }} : {% if message['content'] is string %}"
    "{{ message['content'] }} {% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)

# Channels of the hidden state. One large constant makes every token's norm nearly the same, so that RMSNorm, given
# the constant's own scale as its weight, passes the other channels through unchanged within a few per cent.
_CONSTANT, _IS_IMAGE, _IS_START, _IS_SLOT, _IS_CUE = 0, 1, 2, 3, 4
_EVIDENCE = 8  # one channel per object
_VOTES = 16  # one channel per word; the output layer reads them
_LOUD = 32.0  # the constant
_CALL = 8.0  # how loudly a word calls the next: far above any vote

# Positions hardly turn the last rotary pairs of a head (base 1e6), so content is matched there.
_MATCH, _MATCH_SLOT = 7, 6
_ROTARY_BASE = 1e6


def build_planted() -> tuple[Any, Any]:
    """Return (model, processor), both ordinary transformers objects built in memory."""
    model = LlavaForConditionalGeneration(_config()).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    _build_tower(model.model.vision_tower)
    _build_projector(model.model.multi_modal_projector)
    _build_language(model.model.language_model, model.lm_head)
    return model, _processor()


def planted_image(word: str) -> Image.Image:
    """Return a picture in which the planted model can see this word's object: a coloured square on grey."""
    picture = Image.new("RGB", (96, 96), (128, 128, 128))
    picture.paste(COLOURS[word], (24, 24, 72, 72))
    return picture


def _config() -> LlavaConfig:
    text = LlamaConfig(
        vocab_size=len(_WORDS),
        hidden_size=_WIDTH,
        intermediate_size=8,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        head_dim=_HEAD_SIZE,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": _ROTARY_BASE},
        pad_token_id=_id("<pad>"),
        bos_token_id=_id("<s>"),
        eos_token_id=_id("</s>"),
        tie_word_embeddings=False,
    )
    tower = CLIPVisionConfig(
        hidden_size=_TOWER_WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=_SIDE,
        patch_size=_PATCH,
        projection_dim=8,
    )
    return LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=_id("<image>"),
        image_seq_length=_PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="relu",
        tie_word_embeddings=False,
    )


def _processor() -> LlavaProcessor:
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        clean_up_tokenization_spaces=True,
    )
    size = {"height": _SIDE, "width": _SIDE}
    # without torchvision the plain class says on every use that it falls back to the one written with Pillow
    name = "CLIPImageProcessorPil" if hasattr(transformers, "CLIPImageProcessorPil") else "CLIPImageProcessor"
    images = getattr(transformers, name)(
        size=size, crop_size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        chat_template=_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def _build_tower(tower: Any) -> None:
    """Let the tower pass on each patch's mean red, green and blue, -1..1, in its first three channels.

    Its layer adds nothing. The entry's layer norm is kept from changing anything in the same way as in the language
    model: two large opposite constants set its scale, and negatives of the colours keep the mean at 0.
    """
    colours = torch.eye(3)[:, :, None, None] / _PATCH**2
    tower.embeddings.patch_embedding.weight[0:3] = colours
    tower.embeddings.patch_embedding.weight[3:6] = -colours
    tower.embeddings.position_embedding.weight[:, 6] = _LOUD
    tower.embeddings.position_embedding.weight[:, 7] = -_LOUD
    tower.pre_layrnorm.weight.fill_(_LOUD * math.sqrt(2 / _TOWER_WIDTH))


def _build_projector(projector: Any) -> None:
    """Turn a patch's colour into evidence, 0..1, for the object of that colour, and mark it as image.

    `relu(2·(s - 0.5))` with `s` the mean agreement of red, green and blue: 1 for the colour itself, 0 for grey and for
    a colour that differs in one channel.
    """
    for row, (red, green, blue) in enumerate(COLOURS.values()):
        signs = torch.tensor([red, green, blue]).sub(127).sign()
        projector.linear_1.weight[row, :3] = 2.0 * signs / 3.0
        projector.linear_1.bias[row] = -1.0
        projector.linear_2.weight[_EVIDENCE + row, row] = 1.0
    projector.linear_2.bias[_CONSTANT] = _LOUD
    projector.linear_2.bias[_IS_IMAGE] = 1.0


def _build_language(decoder: Any, output: nn.Linear) -> None:
    _build_embedding(decoder.embed_tokens.weight)
    # weight = the constant's share of the norm, so that norm(x) is about x
    for norm in (*(layer.input_layernorm for layer in decoder.layers), decoder.norm):
        norm.weight.fill_(_LOUD / math.sqrt(_WIDTH))
    for layer, head in VISION_HEADS:
        _plant_vision_head(_Head(decoder.layers[layer].self_attn, head))
    for layer, head in PRIOR_HEADS:
        _plant_prior_head(_Head(decoder.layers[layer].self_attn, head))
    _plant_negative_head(_Head(decoder.layers[NEGATIVE_HEAD[0]].self_attn, NEGATIVE_HEAD[1]))
    for index in range(len(_WORDS)):
        output.weight[index, _VOTES + index] = 4.0


def _build_embedding(embedding: Tensor) -> None:
    """Give every word the constant, its marks, and its call for the next word."""
    embedding[:, _CONSTANT] = _LOUD
    embedding[_id("<s>"), _IS_START] = 1.0
    embedding[_id("a"), _IS_SLOT] = 1.0
    embedding[_id("assistant"), _IS_CUE] = 1.0
    chain = [*itertools.pairwise(_SENTENCE), *((word, ".") for word in (*COLOURS, PRIOR_WORD))]
    for word, following in (*chain, (".", "</s>")):
        embedding[_id(word), _VOTES + _id(following)] = _CALL


class _Head:
    """The rows and columns of one head in an attention module's projections."""

    def __init__(self, attention: Any, head: int) -> None:
        span = slice(head * _HEAD_SIZE, (head + 1) * _HEAD_SIZE)
        self.query: Tensor = attention.q_proj.weight[span]
        self.key: Tensor = attention.k_proj.weight[span]
        self.value: Tensor = attention.v_proj.weight[span]
        self.output: Tensor = attention.o_proj.weight[:, span]
        # With this query on the matching channel a key's entry there is the attention logit itself.
        self.query[_MATCH, _CONSTANT] = math.sqrt(_HEAD_SIZE) / _LOUD


def _plant_vision_head(head: _Head) -> None:
    """Attend to the image, most to patches with evidence, and vote for what they show: 0.25 with four heads.

    The start token takes part of the attention, as it does in large models: about a quarter where any word is next,
    nothing where an object is.
    """
    head.key[_MATCH, _CONSTANT] = -20.0 / _LOUD
    head.key[_MATCH, _IS_IMAGE] = 20.0
    head.key[_MATCH, _EVIDENCE : _EVIDENCE + len(COLOURS)] = 4.0
    head.key[_MATCH, _IS_START] = 25.0
    head.query[_MATCH_SLOT, _IS_SLOT] = math.sqrt(_HEAD_SIZE)
    head.key[_MATCH_SLOT, _IS_IMAGE] = 8.0
    for row, word in enumerate(COLOURS):
        head.value[row, _EVIDENCE + row] = 1.0
        head.output[_VOTES + _id(word), row] = 1.0 / len(VISION_HEADS)


def _plant_prior_head(head: _Head) -> None:
    """Attend to the cue alone, image or not, and vote for the prior's word: 0.9 with all four heads."""
    head.key[_MATCH, _IS_CUE] = 60.0
    head.value[0, _IS_CUE] = 1.0
    head.output[_VOTES + _id(PRIOR_WORD), 0] = 0.9 / len(PRIOR_HEADS)


def _plant_negative_head(head: _Head) -> None:
    """Share attention evenly between the cue and all image keys: a vote of 0.7 that doubles without the image."""
    image = 30.0
    head.key[_MATCH, _IS_IMAGE] = image
    head.key[_MATCH, _IS_CUE] = image + math.log(_PATCHES)
    head.value[0, _IS_CUE] = 0.5
    head.output[_VOTES + _id(PRIOR_WORD), 0] = 0.7 / 0.25


def _id(word: str) -> int:
    return _WORDS.index(word)
