"""The planted model with attention sinks: black patches explode in one channel and drain attention from the evidence.

Votes in the object's place, for an image of one clear colour with two black corners. Of their weight, vision heads
put 0.35 on the black patches, 0.07 on the first token, 0.55 on the evidence, and the rest on grey.

    plain                                      image 0.55    dog 0.70    the prior wins
    VAR, moved 0.6                             image 0.79    dog 0.70    the image wins
    VAR, moved 0.1                             image 0.59    dog 0.70
    VAR that allows sinks 0.3 of image mass    image 0.55    dog 0.70    vision heads hold 0.38 and are not selected
    VAR on another channel                     image 0.55    dog 0.70    nothing is a sink there
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from vlm_heads.models.planted import (
    _MATCH,
    COLOURS,
    NEGATIVE_HEAD,
    PRIOR_HEADS,
    VISION_HEADS,
    _Head,
    build_planted,
    planted_image,
)

SINK_CHANNEL = 60
_MASSIVE = 100.0  # three times the constant that sets every other token's norm
_DRAIN = 0.315  # of the sink channel, as RMSNorm leaves it, in the attention logit of vision heads
_PRIOR = 0.7


def build_planted_with_sinks() -> tuple[Any, Any]:
    """Return (model, processor): the planted model, its negative head idle, its prior softer, with sinks."""
    model, processor = build_planted()
    projector, decoder = model.model.multi_modal_projector, model.model.language_model
    row = len(COLOURS)  # the next free unit: full agreement with black is 1, with any other colour 0
    projector.linear_1.weight[row, :3] = -2.0 / 3.0
    projector.linear_1.bias[row] = -1.0
    projector.linear_2.weight[SINK_CHANNEL, row] = _MASSIVE
    start = processor.tokenizer.bos_token_id
    decoder.embed_tokens.weight[start, SINK_CHANNEL] = _MASSIVE
    for layer, head in VISION_HEADS:
        _Head(decoder.layers[layer].self_attn, head).key[_MATCH, SINK_CHANNEL] = _DRAIN
    for layer, head in PRIOR_HEADS:
        _Head(decoder.layers[layer].self_attn, head).output.mul_(_PRIOR / 0.9)
    _Head(decoder.layers[NEGATIVE_HEAD[0]].self_attn, NEGATIVE_HEAD[1]).output.zero_()
    return model, processor


def image_with_sinks(word: str) -> Image.Image:
    """Return a picture of a word's object with two black corners, which become sinks."""
    picture = planted_image(word)
    side = picture.width // 4
    for corner in (0, picture.width - side):
        picture.paste((0, 0, 0), (corner, corner, corner + side, corner + side))
    return picture
