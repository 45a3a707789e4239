"""Where image positions lie on the picture: found by moving a patch of tiny models, and by cropping."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as T
from PIL import Image
from torch import Tensor
from vlm_app.view.grid import _READING_ORDER, Grid, find_grid

from vlm_heads import VLM
from vlm_heads.errors import UnsupportedModel

SIDE, PATCH = 56, 14  # four by four patches
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
TEXT: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 199,
    "head_dim": 16,
}


def _llava() -> Any:
    return T.LlavaForConditionalGeneration(
        T.LlavaConfig(
            vision_config=T.CLIPVisionConfig(**TOWER), text_config=T.LlamaConfig(**TEXT), image_token_index=150
        )
    )


def _vipllava() -> Any:
    return T.VipLlavaForConditionalGeneration(
        T.VipLlavaConfig(
            vision_config=T.CLIPVisionConfig(**TOWER),
            text_config=T.LlamaConfig(**TEXT),
            image_token_index=150,
            vision_feature_layers=[-1, -2],
        )
    )


def _paligemma() -> Any:
    return T.PaliGemmaForConditionalGeneration(
        T.PaliGemmaConfig(
            vision_config=T.SiglipVisionConfig(**TOWER),
            text_config=T.GemmaConfig(**TEXT),
            image_token_index=150,
            projection_dim=32,
            hidden_size=32,
        )
    )


def _gemma3() -> Any:
    return T.Gemma3ForConditionalGeneration(
        T.Gemma3Config(
            vision_config=T.SiglipVisionConfig(**TOWER),
            text_config=T.Gemma3TextConfig(**TEXT),
            image_token_id=150,
            mm_tokens_per_image=4,
            boi_token_index=148,
            eoi_token_index=149,
        )
    )


def _janus() -> Any:
    vision = {name: value for name, value in TOWER.items() if name != "intermediate_size"}
    return T.JanusForConditionalGeneration(
        T.JanusConfig(
            text_config=T.LlamaConfig(**TEXT),
            vision_config=dict(**vision, projection_dim=32, mlp_ratio=2.0),
            vq_config={
                "embed_dim": 8,
                "num_embeddings": 32,
                "base_channels": 32,
                "channel_multiplier": [1],
                "num_res_blocks": 1,
                "projection_dim": 32,
                "image_token_embed_dim": 32,
                "latent_channels": 8,
            },
            image_token_id=150,
        )
    )


def _internvl() -> Any:
    vision = T.InternVLVisionConfig(**{**TOWER, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]})
    return T.InternVLForConditionalGeneration(
        T.InternVLConfig(
            vision_config=vision, text_config=T.Qwen2Config(**TEXT), image_token_id=150, downsample_ratio=0.5
        )
    )


def _idefics3() -> Any:
    config = T.Idefics3Config(
        vision_config=TOWER, text_config=T.LlamaConfig(**TEXT), image_token_id=150, scale_factor=2
    )
    return T.Idefics3ForConditionalGeneration(config)


def _smolvlm() -> Any:
    config = T.SmolVLMConfig(vision_config=TOWER, text_config=T.LlamaConfig(**TEXT), image_token_id=150, scale_factor=2)
    return T.SmolVLMForConditionalGeneration(config)


def _aya_vision() -> Any:
    vision = T.SiglipVisionConfig(**TOWER, vision_use_head=False)
    config = T.AyaVisionConfig(
        vision_config=vision, text_config=T.Cohere2Config(**TEXT), image_token_index=150, downsample_factor=2
    )
    return T.AyaVisionForConditionalGeneration(config)


def _cohere2_vision() -> Any:
    vision = T.SiglipVisionConfig(**TOWER, vision_use_head=False)
    config = T.Cohere2VisionConfig(
        vision_config=vision,
        text_config=T.Cohere2Config(**TEXT),
        image_token_id=150,
        downsample_factor=2,
        alignment_intermediate_size=32,
    )
    return T.Cohere2VisionForConditionalGeneration(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llava": _llava,
    "vipllava": _vipllava,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "janus": _janus,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "aya_vision": _aya_vision,
    "cohere2_vision": _cohere2_vision,
}


def _positions(model: Any, family: str, pixels: Tensor) -> Tensor:
    """Return what the language model is given for each image position, `[N, width]`."""
    given = pixels[None] if family in ("idefics3", "smolvlm") else pixels
    found = getattr(model, "model", model).get_image_features(pixel_values=given)
    found = getattr(found, "pooler_output", found)
    found = found[0] if isinstance(found, list | tuple) else found
    return found.reshape(-1, found.shape[-1])


def test_every_family_in_reading_order_is_looked_at() -> None:
    assert FAMILIES.keys() == set(_READING_ORDER)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_positions_are_in_reading_order(family: str) -> None:
    """A patch that changes moves the position that lies on it more than any other."""
    torch.manual_seed(1)
    model = FAMILIES[family]().eval()
    for name, parameter in model.named_parameters():
        if not parameter.any() and "projection_weight" in name:
            parameter.normal_()  # a projector that begins as zeros moves nothing
    plain = torch.randn(1, 3, SIDE, SIDE)
    before = _positions(model, family, plain)
    count = len(before)
    side = int(count**0.5)
    assert side in (2, 4)
    cell = SIDE // side
    for position in range(count):
        row, column = divmod(position, side)
        moved = plain.clone()
        moved[..., row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] += 3.0
        change = (_positions(model, family, moved) - before).norm(dim=-1)
        assert int(change.argmax()) == position, (family, position, change)


def test_the_embedded_models_see_the_whole_picture(untrained_mini: str) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    image = Image.new("RGB", (300, 200))
    found = find_grid(vlm, image, vlm.inputs([image], "what?"))
    assert (found.rows, found.columns) == (7, 7)
    assert [found.left, found.top, found.right, found.bottom] == pytest.approx([0, 0, 1, 1], abs=0.01)


def test_a_processor_that_crops_is_followed(untrained_mini: str) -> None:
    """200 × 100, the shorter side made 112, the middle 112 × 112 kept: a quarter is lost left and right."""
    vlm = VLM.from_pretrained(untrained_mini)
    vlm.processor.image_processor.size = {"shortest_edge": 112}
    vlm.processor.image_processor.do_center_crop = True
    image = Image.new("RGB", (200, 100))
    found = find_grid(vlm, image, vlm.inputs([image], "what?"))
    assert [found.left, found.top, found.right, found.bottom] == pytest.approx([0.25, 0, 0.75, 1], abs=0.01)
    assert found.box(0) == pytest.approx((0.25, 0, 0.5 / 7, 1 / 7), abs=0.01)


def test_where_the_places_are_unknown_nothing_is_drawn(untrained_mini: str) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    image = Image.new("RGB", (50, 50))
    inputs = vlm.inputs([image], "what?")
    tiles = {**inputs, "pixel_values": inputs["pixel_values"][None].expand(1, 5, -1, -1, -1)}
    with pytest.raises(UnsupportedModel, match="5 tiles"):
        find_grid(vlm, image, tiles)
    resampled = {**inputs, "input_ids": inputs["input_ids"][:, :20]}
    with pytest.raises(UnsupportedModel, match="do not tile"):
        find_grid(vlm, image, resampled)
    vlm.model.config.model_type = "perceiving"
    with pytest.raises(UnsupportedModel, match="not known"):
        find_grid(vlm, image, inputs)


def test_a_grid_covers_its_part() -> None:
    # two rows of three over the middle half: a box is 0.5 / 3 wide and 1 / 2 high
    grid = Grid(2, 3, left=0.25, right=0.75)
    assert grid.box(0) == pytest.approx((0.25, 0.0, 1 / 6, 0.5))
    assert grid.box(5) == pytest.approx((0.25 + 2 / 6, 0.5, 1 / 6, 0.5))
