"""Tiny random models of every family, with inputs for one prompt with one image."""

# Configurations are written as their classes take them, with keywords.
# ruff: noqa: C408

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import transformers as T
from torch import Tensor, nn

from tests.support.compare import Generated, rounding

IMAGE = 150
SIDE, PATCH = 28, 14  # pixels
TEXT = dict(
    vocab_size=200, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=199,
)  # fmt: skip
TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=PATCH)
MROPE = dict(rope_type="default", mrope_section=[2, 3, 3], rope_theta=1e4)
OPT = T.OPTConfig(ffn_dim=96, word_embed_proj_dim=64, **{k: v for k, v in TEXT.items() if "key_value" not in k})
QFORMER = dict(
    vocab_size=200, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    encoder_hidden_size=32, cross_attention_frequency=1,
)  # fmt: skip

Inputs = dict[str, Tensor]
Built = tuple[T.PreTrainedModel, Inputs]
ConfigClass = type[T.PreTrainedConfig]
ModelClass = type[T.PreTrainedModel]
Options = Mapping[str, object]


def _ids(count: int = 4, image: int = IMAGE) -> Tensor:
    return torch.tensor([[1, 5, 6, *([image] * count), 7, 8, 9, 10]])


def _pixels(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _patches(side: int) -> int:
    return (side // PATCH) ** 2


def _plain(
    config: T.PreTrainedConfig, model: ModelClass, side: int = SIDE, image: int | None = None, **inputs: Tensor
) -> Built:
    """Return a model and a prompt with one picture, `image` tokens for it or one for each patch."""
    ids = _ids(_patches(side) if image is None else image)
    return model(config), dict(input_ids=ids, pixel_values=_pixels(1, 3, side, side), **inputs)


def _llava(side: int = SIDE, **changes: int) -> Built:
    config = T.LlavaConfig(
        vision_config=T.CLIPVisionConfig(image_size=side, projection_dim=16, **TOWER),
        text_config=T.LlamaConfig(**{**TEXT, **changes}), image_token_index=IMAGE, image_seq_length=_patches(side),
    )  # fmt: skip
    return _plain(config, T.LlavaForConditionalGeneration, side)


def _vipllava(side: int = SIDE) -> Built:
    vision = T.CLIPVisionConfig(image_size=side, projection_dim=16, **TOWER)
    config = T.VipLlavaConfig(
        vision_config=vision, text_config=T.LlamaConfig(**TEXT), image_token_index=IMAGE,
        vision_feature_layers=[-1, -2], image_seq_length=_patches(side),
    )  # fmt: skip
    return _plain(config, T.VipLlavaForConditionalGeneration, side)


def _tiled(config: T.PreTrainedConfig, model: ModelClass) -> Built:
    inputs = dict(pixel_values=_pixels(1, 2, 3, 28, 28), image_sizes=torch.tensor([[28, 28]]))
    return model(config), dict(input_ids=_ids(10), **inputs)


def _llava_next() -> Built:
    config = T.LlavaNextConfig(
        vision_config=T.CLIPVisionConfig(image_size=28, projection_dim=16, **TOWER),
        text_config=T.MistralConfig(**TEXT, sliding_window=None), image_token_index=IMAGE,
        image_grid_pinpoints=[[28, 28]], image_seq_length=4,
    )  # fmt: skip
    return _tiled(config, T.LlavaNextForConditionalGeneration)


def _llava_onevision() -> Built:
    config = T.LlavaOnevisionConfig(
        vision_config=T.SiglipVisionConfig(image_size=28, **TOWER), text_config=T.Qwen2Config(**TEXT),
        image_token_index=IMAGE, video_token_index=151, image_grid_pinpoints=[[28, 28]], vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    return _tiled(config, T.LlavaOnevisionForConditionalGeneration)


def _qwen(config_class: ConfigClass, model: ModelClass, vision: Options, text: Options, **tokens: int) -> Built:
    small = {k: v for k, v in TEXT.items() if k != "max_position_embeddings"}
    config = config_class(
        text_config={**small, "rope_parameters": MROPE, **text},
        vision_config=dict(depth=2, num_heads=2, patch_size=14, **vision),
        image_token_id=IMAGE, video_token_id=151, **tokens,
    )  # fmt: skip
    ids = torch.tensor([[1, 5, 152, *[IMAGE] * 4, 153, 7, 8, 9]])
    inputs = dict(pixel_values=_pixels(16, 3 * 2 * 14 * 14), image_grid_thw=torch.tensor([[1, 4, 4]]))
    return model(config), dict(input_ids=ids, mm_token_type_ids=(ids == IMAGE).int(), **inputs)


_VISION = dict(hidden_size=32, intermediate_size=48, out_hidden_size=64)
_SPAN = dict(vision_start_token_id=152, vision_end_token_id=153)


def _qwen2_vl() -> Built:
    vision = dict(embed_dim=32, hidden_size=64, mlp_ratio=2)
    return _qwen(T.Qwen2VLConfig, T.Qwen2VLForConditionalGeneration, vision, {}, **_SPAN)


def _qwen2_5_vl() -> Built:
    vision = dict(window_size=56, fullatt_block_indexes=[1], **_VISION)
    return _qwen(T.Qwen2_5_VLConfig, T.Qwen2_5_VLForConditionalGeneration, vision, {}, **_SPAN)


def _qwen3_vl() -> Built:
    vision = dict(num_position_embeddings=16, deepstack_visual_indexes=[0], **_VISION)
    text = dict(head_dim=16, rope_parameters={**MROPE, "mrope_interleaved": True})
    return _qwen(T.Qwen3VLConfig, T.Qwen3VLForConditionalGeneration, vision, text, **_SPAN)


def _glm4v() -> Built:
    text = dict(rope_parameters={**MROPE, "partial_rotary_factor": 1.0})
    tokens = dict(image_start_token_id=152, image_end_token_id=153)
    tokens |= dict(video_start_token_id=154, video_end_token_id=155)
    return _qwen(T.Glm4vConfig, T.Glm4vForConditionalGeneration, dict(image_size=56, **_VISION), text, **tokens)


def _qwen3_5() -> Built:
    """One softmax attention between two linear ones; its heads' outputs are gated before the output projection."""
    rope = dict(rope_type="default", rope_theta=1e4, mrope_interleaved=True, mrope_section=[1, 1, 0])
    text = dict(
        head_dim=16, rope_parameters={**rope, "partial_rotary_factor": 0.25}, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    )  # fmt: skip
    vision = dict(num_position_embeddings=16, **_VISION)
    return _qwen(T.Qwen3_5Config, T.Qwen3_5ForConditionalGeneration, vision, text, **_SPAN)


def _lfm2_vl() -> Built:
    """One softmax attention between two short convolutions."""
    config = T.Lfm2VlConfig(
        text_config=T.Lfm2Config(**TEXT, layer_types=["conv", "full_attention", "conv"]), image_token_id=IMAGE,
        downsample_factor=2, vision_config=dict(model_type="siglip2_vision_model", num_patches=16, **TOWER),
    )  # fmt: skip
    shown = dict(pixel_values=_pixels(1, 16, 3 * PATCH * PATCH), spatial_shapes=torch.tensor([[4, 4]]))
    shown |= dict(pixel_attention_mask=torch.ones(1, 16).long())
    return T.Lfm2VlForConditionalGeneration(config), dict(input_ids=_ids(), **shown)


def _internvl() -> Built:
    vision = T.InternVLVisionConfig(**{**TOWER, "patch_size": [PATCH, PATCH]}, image_size=[56, 56])
    config = T.InternVLConfig(
        vision_config=vision, text_config=T.Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=4,
        downsample_ratio=0.5,
    )  # fmt: skip
    return _plain(config, T.InternVLForConditionalGeneration, 56, image=4)


def _idefics3(
    config_class: ConfigClass = T.Idefics3Config, model: ModelClass = T.Idefics3ForConditionalGeneration
) -> Built:
    config = config_class(
        vision_config=dict(image_size=56, **TOWER), text_config=T.LlamaConfig(**TEXT), image_token_id=IMAGE,
        scale_factor=2, pad_token_id=0,
    )  # fmt: skip
    return model(config), dict(input_ids=_ids(), pixel_values=_pixels(1, 1, 3, 56, 56))


def _smolvlm() -> Built:
    return _idefics3(T.SmolVLMConfig, T.SmolVLMForConditionalGeneration)


def _idefics2() -> Built:
    perceiver = dict(resampler_n_latents=4, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=16)
    config = T.Idefics2Config(
        vision_config=dict(image_size=56, **TOWER), image_token_id=IMAGE,
        perceiver_config=dict(hidden_size=64, num_key_value_heads=2, **perceiver),
        text_config=T.MistralConfig(**TEXT, sliding_window=8),
    )  # fmt: skip
    return T.Idefics2ForConditionalGeneration(config), dict(input_ids=_ids(), pixel_values=_pixels(1, 1, 3, 56, 56))


def _paligemma(side: int = SIDE) -> Built:
    config = T.PaliGemmaConfig(
        vision_config=T.SiglipVisionConfig(image_size=side, **TOWER), text_config=T.GemmaConfig(**TEXT, head_dim=16),
        image_token_index=IMAGE, projection_dim=64, hidden_size=64,
    )  # fmt: skip
    kinds = torch.zeros_like(_ids(_patches(side)))
    return _plain(config, T.PaliGemmaForConditionalGeneration, side, token_type_ids=kinds)


def _gemma3(side: int = SIDE) -> Built:
    text = T.Gemma3TextConfig(
        **TEXT, head_dim=16, sliding_window=8, query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    config = T.Gemma3Config(
        vision_config=T.SiglipVisionConfig(image_size=side, **TOWER), text_config=text, image_token_id=IMAGE,
        mm_tokens_per_image=4, boi_token_index=148, eoi_token_index=149,
    )  # fmt: skip
    kinds = (_ids() == IMAGE).long()
    return _plain(config, T.Gemma3ForConditionalGeneration, side, image=4, token_type_ids=kinds)


def _mistral3() -> Built:
    config = T.Mistral3Config(
        vision_config=T.PixtralVisionConfig(image_size=56, **TOWER), image_token_index=IMAGE, spatial_merge_size=2,
        text_config=T.MistralConfig(**TEXT, sliding_window=None, head_dim=16),
    )  # fmt: skip
    return _plain(config, T.Mistral3ForConditionalGeneration, 56, image=4, image_sizes=torch.tensor([[56, 56]]))


def _ayavision() -> Built:
    config = T.AyaVisionConfig(
        vision_config=T.SiglipVisionConfig(image_size=56, vision_use_head=False, **TOWER), image_token_index=IMAGE,
        text_config=T.Cohere2Config(**TEXT, sliding_window=8), downsample_factor=2,
    )  # fmt: skip
    return _plain(config, T.AyaVisionForConditionalGeneration, 56, image=4)


def _cohere2_vision() -> Built:
    config = T.Cohere2VisionConfig(
        vision_config=T.SiglipVisionConfig(image_size=56, vision_use_head=False, **TOWER), image_token_id=IMAGE,
        text_config=T.Cohere2Config(**TEXT, sliding_window=8), downsample_factor=2, alignment_intermediate_size=64,
    )  # fmt: skip
    return _plain(config, T.Cohere2VisionForConditionalGeneration, 56, image=4)


def _janus(side: int = SIDE) -> Built:
    vision = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=side, patch_size=PATCH)
    codes = dict(embed_dim=8, num_embeddings=32, base_channels=32, channel_multiplier=[1], num_res_blocks=1)
    config = T.JanusConfig(
        text_config=T.LlamaConfig(**TEXT), vision_config=dict(projection_dim=64, mlp_ratio=2.0, **vision),
        vq_config=dict(projection_dim=64, image_token_embed_dim=64, latent_channels=8, **codes), image_token_id=IMAGE,
    )  # fmt: skip
    return _plain(config, T.JanusForConditionalGeneration, side)


def _blip(config_class: ConfigClass, kind: ModelClass, **inputs: Tensor) -> Built:
    config = config_class(
        vision_config=dict(image_size=28, **TOWER), qformer_config=QFORMER, text_config=OPT.to_dict(),
        num_query_tokens=4, image_token_index=IMAGE,
    )  # fmt: skip
    model, given = _plain(config, kind)
    return model, given | inputs


def _instructblip() -> Built:
    inputs = dict(qformer_input_ids=torch.tensor([[1, 2, 3]]), qformer_attention_mask=torch.ones(1, 3).long())
    return _blip(T.InstructBlipConfig, T.InstructBlipForConditionalGeneration, **inputs)


def _blip2() -> Built:
    return _blip(T.Blip2Config, T.Blip2ForConditionalGeneration)


def _mllama() -> Built:
    vision = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_global_layers=1, attention_heads=2,
        image_size=28, patch_size=14, max_num_tiles=1, vision_output_dim=64, intermediate_layers_indices=[0],
        supported_aspect_ratios=[[1, 1]],
    )  # fmt: skip
    text = dict(cross_attention_layers=[1], rope_parameters=dict(rope_type="default", rope_theta=1e4))
    config = T.MllamaConfig(vision_config=vision, text_config={**TEXT, **text}, image_token_index=200)
    inputs = dict(aspect_ratio_ids=torch.tensor([[1]]), aspect_ratio_mask=torch.tensor([[[1]]]))
    inputs |= dict(cross_attention_mask=torch.ones(1, 6, 1, 1).long(), pixel_values=_pixels(1, 1, 1, 3, 28, 28))
    return T.MllamaForConditionalGeneration(config), dict(input_ids=torch.tensor([[1, 200, 5, 6, 7, 8]]), **inputs)


FAMILIES: dict[str, Callable[..., Built]] = {
    "llava": _llava, "vipllava": _vipllava, "llava_next": _llava_next, "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl, "qwen3_5": _qwen3_5,
    "lfm2_vl": _lfm2_vl, "internvl": _internvl,
    "idefics2": _idefics2, "idefics3": _idefics3, "smolvlm": _smolvlm, "paligemma": _paligemma, "gemma3": _gemma3,
    "mistral3": _mistral3, "ayavision": _ayavision, "cohere2_vision": _cohere2_vision, "glm4v": _glm4v,
    "janus": _janus, "instructblip": _instructblip, "blip2": _blip2, "mllama": _mllama,
}  # fmt: skip
BYPASSING = ("instructblip", "blip2")  # their own forward insists on an image
CLOSE = rounding(torch.float32, terms=TEXT["hidden_size"])  # of token logits, which are below 2


@dataclass
class Tiny:
    """A tiny random model and inputs for one prompt with one image."""

    family: str
    model: T.PreTrainedModel
    inputs: Inputs

    @property
    def text(self) -> Tensor:
        """The prompt without its image tokens, `[1, T]`."""
        ids = self.inputs["input_ids"]
        image = self.model.config.image_token_id if self.family != "mllama" else 200
        return ids[ids != image][None]

    @property
    def decoder_layers(self) -> list[nn.Module]:
        """The decoder layers, found by path and not by the library."""
        root = self.model.language_model.model.decoder if self.family in BYPASSING else self.model.get_decoder()
        return list(root.layers)

    def projections(self) -> dict[int, nn.Module]:
        """Output projection by layer."""
        found = {}
        for index, layer in enumerate(self.decoder_layers):
            if hasattr(layer, "self_attn"):
                attention = layer.get_submodule("self_attn")
                found[index] = attention.get_submodule("o_proj" if hasattr(attention, "o_proj") else "out_proj")
        return found

    def gates(self) -> dict[int, nn.Module]:
        """What computes a gate for each head's output beside its query, by layer; empty where nothing does."""
        found: dict[int, nn.Module] = {}
        for index, projection in self.projections().items():
            queries = getattr(self.decoder_layers[index].self_attn, "q_proj", None)
            if not (isinstance(queries, nn.Linear) and isinstance(projection, nn.Linear)):
                continue
            if queries.out_features == 2 * projection.in_features:
                found[index] = queries
        return found

    def generate(self, steps: int = 5, **changes: object) -> Generated:
        """Return generated sequences and token logits, greedy where nothing is said."""
        arguments = dict(max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_logits=True)
        torch.manual_seed(5)
        given = {**self.inputs, **arguments, **changes}
        output: Generated = self.model.generate(**{name: value for name, value in given.items() if value is not None})
        return output


def build(family: str, seed: int = 0, **changes: int) -> Tiny:
    """Return a tiny random model of a family.

    Args:
        family: a key of `FAMILIES`.
        seed: of weights and picture.
        changes: `side` of the picture in pixels, where the family takes any; of Llava also its text config's sizes.
    """
    torch.manual_seed(seed)
    model, inputs = FAMILIES[family](**changes)
    return Tiny(family, model.eval(), inputs)


Build = Callable[..., Tiny]
