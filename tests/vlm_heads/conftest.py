"""Tiny random models of every family, VHR written again with plain hooks (the oracle), and what families support."""

# Configurations are written as their classes take them, with keywords.
# ruff: noqa: C408

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from torch import Tensor, nn

IMAGE = 150
TEXT = dict(
    vocab_size=200, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=199,
)  # fmt: skip
TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=14)
MROPE = dict(rope_type="default", mrope_section=[2, 3, 3], rope_theta=1e4)
OPT = T.OPTConfig(ffn_dim=96, word_embed_proj_dim=64, **{k: v for k, v in TEXT.items() if "key_value" not in k})
QFORMER = dict(
    vocab_size=200, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    encoder_hidden_size=32, cross_attention_frequency=1,
)  # fmt: skip

Built = tuple[nn.Module, dict[str, Any]]


def _ids(count: int = 4, image: int = IMAGE) -> Tensor:
    return torch.tensor([[1, 5, 6, *([image] * count), 7, 8, 9, 10]])


def _pixels(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _plain(config: Any, model: type, size: int = 28, **inputs: Any) -> Built:
    return model(config), dict(input_ids=_ids(), pixel_values=_pixels(1, 3, size, size), **inputs)


def _llava(text: Any = None, **changes: Any) -> Built:
    config = T.LlavaConfig(
        vision_config=T.CLIPVisionConfig(image_size=28, projection_dim=16, **TOWER),
        text_config=text or T.LlamaConfig(**{**TEXT, **changes}), image_token_index=IMAGE, image_seq_length=4,
    )  # fmt: skip
    return _plain(config, T.LlavaForConditionalGeneration)


def _vipllava() -> Built:
    vision = T.CLIPVisionConfig(image_size=28, projection_dim=16, **TOWER)
    config = T.VipLlavaConfig(
        vision_config=vision, text_config=T.LlamaConfig(**TEXT), image_token_index=IMAGE,
        vision_feature_layers=[-1, -2], image_seq_length=4,
    )  # fmt: skip
    return _plain(config, T.VipLlavaForConditionalGeneration)


def _tiled(config: Any, model: type) -> Built:
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


def _qwen(config_class: type, model: type, vision: dict[str, Any], text: dict[str, Any], **tokens: int) -> Built:
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


def _internvl() -> Built:
    vision = T.InternVLVisionConfig(**{**TOWER, "patch_size": [14, 14]}, image_size=[56, 56])
    config = T.InternVLConfig(
        vision_config=vision, text_config=T.Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=4,
        downsample_ratio=0.5,
    )  # fmt: skip
    return _plain(config, T.InternVLForConditionalGeneration, 56)


def _idefics3(config_class: type = T.Idefics3Config, model: type = T.Idefics3ForConditionalGeneration) -> Built:
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


def _paligemma() -> Built:
    config = T.PaliGemmaConfig(
        vision_config=T.SiglipVisionConfig(image_size=28, **TOWER), text_config=T.GemmaConfig(**TEXT, head_dim=16),
        image_token_index=IMAGE, projection_dim=64, hidden_size=64,
    )  # fmt: skip
    return _plain(config, T.PaliGemmaForConditionalGeneration, token_type_ids=torch.zeros_like(_ids()))


def _gemma3() -> Built:
    text = T.Gemma3TextConfig(
        **TEXT, head_dim=16, sliding_window=8, query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    config = T.Gemma3Config(
        vision_config=T.SiglipVisionConfig(image_size=28, **TOWER), text_config=text, image_token_id=IMAGE,
        mm_tokens_per_image=4, boi_token_index=148, eoi_token_index=149,
    )  # fmt: skip
    return _plain(config, T.Gemma3ForConditionalGeneration, token_type_ids=(_ids() == IMAGE).long())


def _mistral3() -> Built:
    config = T.Mistral3Config(
        vision_config=T.PixtralVisionConfig(image_size=56, **TOWER), image_token_index=IMAGE, spatial_merge_size=2,
        text_config=T.MistralConfig(**TEXT, sliding_window=None, head_dim=16),
    )  # fmt: skip
    return _plain(config, T.Mistral3ForConditionalGeneration, 56, image_sizes=torch.tensor([[56, 56]]))


def _ayavision() -> Built:
    config = T.AyaVisionConfig(
        vision_config=T.SiglipVisionConfig(image_size=56, vision_use_head=False, **TOWER), image_token_index=IMAGE,
        text_config=T.Cohere2Config(**TEXT, sliding_window=8), downsample_factor=2,
    )  # fmt: skip
    return _plain(config, T.AyaVisionForConditionalGeneration, 56)


def _cohere2_vision() -> Built:
    config = T.Cohere2VisionConfig(
        vision_config=T.SiglipVisionConfig(image_size=56, vision_use_head=False, **TOWER), image_token_id=IMAGE,
        text_config=T.Cohere2Config(**TEXT, sliding_window=8), downsample_factor=2, alignment_intermediate_size=64,
    )  # fmt: skip
    return _plain(config, T.Cohere2VisionForConditionalGeneration, 56)


def _janus() -> Built:
    vision = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    codes = dict(embed_dim=8, num_embeddings=32, base_channels=32, channel_multiplier=[1], num_res_blocks=1)
    config = T.JanusConfig(
        text_config=T.LlamaConfig(**TEXT), vision_config=dict(projection_dim=64, mlp_ratio=2.0, **vision),
        vq_config=dict(projection_dim=64, image_token_embed_dim=64, latent_channels=8, **codes), image_token_id=IMAGE,
    )  # fmt: skip
    return _plain(config, T.JanusForConditionalGeneration)


def _blip(config_class: type, model: type, **inputs: Any) -> Built:
    config = config_class(
        vision_config=dict(image_size=28, **TOWER), qformer_config=QFORMER, text_config=OPT.to_dict(),
        num_query_tokens=4, image_token_index=IMAGE,
    )  # fmt: skip
    return _plain(config, model, **inputs)


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


FAMILIES: dict[str, Callable[[], Built]] = {
    "llava": _llava, "vipllava": _vipllava, "llava_next": _llava_next, "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl, "internvl": _internvl,
    "idefics2": _idefics2, "idefics3": _idefics3, "smolvlm": _smolvlm, "paligemma": _paligemma, "gemma3": _gemma3,
    "mistral3": _mistral3, "ayavision": _ayavision, "cohere2_vision": _cohere2_vision, "glm4v": _glm4v,
    "janus": _janus, "instructblip": _instructblip, "blip2": _blip2, "mllama": _mllama,
}  # fmt: skip
BYPASSING = ("instructblip", "blip2")  # their own forward insists on an image


@dataclass
class Tiny:
    """A tiny random model and inputs for one prompt with one image."""

    family: str
    model: Any
    inputs: dict[str, Any]

    @property
    def decoder_layers(self) -> list[Any]:
        """The decoder layers, found by path and not by the library."""
        root = self.model.language_model.model.decoder if self.family in BYPASSING else self.model.get_decoder()
        return list(root.layers)

    def projections(self) -> dict[int, nn.Module]:
        """Output projection by layer."""
        layers = enumerate(self.decoder_layers)
        own = {index: layer.self_attn for index, layer in layers if hasattr(layer, "self_attn")}
        return {index: getattr(module, "o_proj", None) or module.out_proj for index, module in own.items()}

    def generate(self, steps: int = 5, **changes: Any) -> Any:
        """Return generated sequences and token logits, greedy where nothing is said."""
        arguments = dict(max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_logits=True)
        torch.manual_seed(5)
        given = {**self.inputs, **arguments, **changes}
        return self.model.generate(**{name: value for name, value in given.items() if value is not None})


def build(family: str, seed: int = 0, **changes: Any) -> Tiny:
    """Return a tiny random model of a family; `changes` go into Llava's language config."""
    torch.manual_seed(seed)
    model, inputs = FAMILIES[family](**changes)
    return Tiny(family, model.eval(), inputs)


@dataclass
class HookedVhr:
    """VHR on one unpadded row, written with forward hooks on the output projections and nothing of the library.

    The prompt without its image tokens runs first and each projection's input at the last position is kept. With the
    image, heads whose input moved more than the lower median are scaled, layer by layer, and stay chosen.
    """

    tiny: Tiny
    gain: float
    layers: set[int]
    heads: int = 4
    outlier_filter: bool = True
    blind: dict[int, Tensor] = field(default_factory=dict)
    chosen: dict[int, Tensor] = field(default_factory=dict)

    def _split(self, flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:-1], self.heads, -1)

    def look_without_image(self) -> None:
        """Fill `blind` from the prompt with its image tokens deleted."""
        ids = self.tiny.inputs["input_ids"]
        image = self.tiny.model.config.image_token_id if self.tiny.family != "mllama" else 200
        text = ids[ids != image][None]
        handles = [
            projection.register_forward_pre_hook(
                lambda _, args, layer=layer: self.blind.__setitem__(layer, self._split(args[0])[0, -1].clone())
            )
            for layer, projection in self.tiny.projections().items()
        ]
        entry = self.tiny.model.language_model if self.tiny.family in BYPASSING else self.tiny.model
        with torch.no_grad():
            entry(input_ids=text, use_cache=False)
        for handle in handles:
            handle.remove()

    def _choose(self, layer: int, sighted: Tensor) -> Tensor:
        moved = (sighted - self.blind[layer]).norm(dim=-1)
        surge = self.blind[layer].norm(dim=-1)
        if self.outlier_filter:
            drop = (moved > moved.mean() + moved.std()) & (surge > surge.mean() + surge.std())
            moved = torch.where(drop, torch.zeros_like(moved), moved)
        return moved > moved.sort().values[(self.heads - 1) // 2]

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Scale the chosen heads while the context lasts."""
        if not self.blind:
            self.look_without_image()

        def scale(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                heads = self._split(args[0])
                if layer not in self.chosen:
                    self.chosen[layer] = self._choose(layer, heads[0, -1])
                factor = torch.where(self.chosen[layer], self.gain, 1.0)[:, None]
                return ((heads * factor).reshape(args[0].shape), *args[1:])

            return hook

        projections = self.tiny.projections()
        handles = [projections[layer].register_forward_pre_hook(scale(layer)) for layer in self.layers & {*projections}]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@pytest.fixture
def tiny() -> Callable[..., Tiny]:
    """Builds a tiny random model of a family."""
    return build


@pytest.fixture
def llava() -> Tiny:
    """A tiny random Llava with grouped keys."""
    return build("llava")


@pytest.fixture
def hooked_vhr() -> type[HookedVhr]:
    """The oracle."""
    return HookedVhr


class SupportTable:
    """docs/families.md: what each family supports, cell by cell as its test finds it.

    A test that runs over all families states its cell; a table that says something else is stale and fails it. With
    WRITE_FAMILIES=1 (and `-n 0`) the cell is written instead.
    """

    PAGE = Path(__file__).parents[2] / "docs" / "families.md"

    def read(self) -> tuple[list[str], dict[str, dict[str, str]]]:
        """Return the page's text before the table as lines, and family -> column -> cell."""
        lines = self.PAGE.read_text("utf-8").splitlines()
        start = next(at for at, line in enumerate(lines) if line.startswith("| family"))
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:] if line)
        return lines[:start], {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}

    def states(self, family: str, column: str, cell: str) -> None:
        """Fail where the page says otherwise, or write the cell where that was asked for."""
        before, cells = self.read()
        if os.environ.get("WRITE_FAMILIES") == "1":
            cells.setdefault(family, {})[column] = cell
            columns = list(dict.fromkeys(name for row in cells.values() for name in row))
            rows = [[name, *(cells.get(name, {}).get(one, "") for one in columns)] for name in FAMILIES]
            table = [["family", *columns], ["---"] * (1 + len(columns)), *rows]
            self.PAGE.write_text("\n".join([*before, *(f"| {' | '.join(row)} |" for row in table)]) + "\n", "utf-8")
            return
        said = cells.get(family, {}).get(column)
        assert said == cell, (
            f"docs/families.md is stale, {family}, {column}: {said!r} is now {cell!r}; WRITE_FAMILIES=1"
        )


@pytest.fixture
def support() -> SupportTable:
    """The committed table of what families support."""
    return SupportTable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `family` every family."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", list(FAMILIES))
