"""Where the decoder layers, the output projections and the image token of a vision-language model are.

They are found by looking at the model. A row of `QUIRKS` states what looking does not tell about a family.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from vlm_heads.errors import UnsupportedModel

PROJECTION_NAMES = ("o_proj", "out_proj", "dense", "c_proj")
IMAGE_TOKEN_NAMES = ("image_token_id", "image_token_index")


@dataclass(frozen=True)
class Quirks:
    """What looking at a model of a family does not tell.

    Attributes:
        layers: dotted path from the model to its decoder layers, where looking does not find them.
        projection: name of the output projection inside an attention module, where it has an unusual one.
        image_token: name of the image token's id in the config, where it has an unusual one.
        cross_attention: names of attention modules inside a decoder layer that read the image directly. They have no
            text keys and are left alone.
        blind_from_decoder: the image-free pass starts at the decoder, because the model's own forward insists on an
            image.
        drops_processors: its own `generate` does not hand logits processors on, so a second stream would be ignored.
        positions: how image positions lie over the picture: one for each patch, or square of patches, in reading order;
            or in the rows and columns that the processor states as `image_grid_thw`; None where that is not known.
    """

    layers: str | None = None
    projection: str | None = None
    image_token: str | None = None
    cross_attention: tuple[str, ...] = ()
    blind_from_decoder: bool = False
    drops_processors: bool = False
    positions: Literal["patches", "stated"] | None = None


QUIRKS: Mapping[str, Quirks] = {
    "aya_vision": Quirks(positions="patches"),
    "blip-2": Quirks(blind_from_decoder=True),
    "cohere2_vision": Quirks(positions="patches"),
    "gemma3": Quirks(positions="patches"),
    "glm4v": Quirks(positions="stated"),
    "idefics3": Quirks(positions="patches"),
    "instructblip": Quirks(blind_from_decoder=True),
    "internvl": Quirks(positions="patches"),
    "janus": Quirks(drops_processors=True, positions="patches"),
    "llava": Quirks(positions="patches"),
    "mllama": Quirks(cross_attention=("cross_attn",)),
    "paligemma": Quirks(positions="patches"),
    "qwen2_5_vl": Quirks(positions="stated"),
    "qwen2_vl": Quirks(positions="stated"),
    "qwen3_vl": Quirks(positions="stated"),
    "smolvlm": Quirks(positions="patches"),
    "vipllava": Quirks(positions="patches"),
}


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model that an intervention deals with.

    Attributes:
        model_type: the family's name in the config.
        decoder: the module whose forward runs the decoder layers.
        layers: the decoder layers, in order.
        attentions: self-attention module by layer. Layers without one (cross attention only) are missing.
        projections: output projection by layer; its input is the concatenation of the heads' outputs.
        heads: query heads `Hq`.
        key_heads: key and value heads `Hkv`.
        width: size of the hidden state.
        image_token_id: the id that stands for one image position in `input_ids`.
        quirks: what looking does not tell.
    """

    model_type: str
    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    attentions: Mapping[int, nn.Module]
    projections: Mapping[int, nn.Module]
    heads: int
    key_heads: int
    width: int
    image_token_id: int
    quirks: Quirks

    @property
    def depth(self) -> int:
        """How many decoder layers there are."""
        return len(self.layers)


def examine(model: nn.Module) -> Anatomy:
    """Return where the parts of a vision-language model are.

    Raises:
        UnsupportedModel: if there is no image token, no decoder that can be found, or an attention that does not go
            through the attention interface of transformers.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise UnsupportedModel(f"{type(model).__name__} is no transformers model: it has no config")
    model_type = str(config.model_type)
    quirks = QUIRKS.get(model_type, Quirks())
    image_token_id = _image_token_id(config, quirks, model_type)
    text = config.get_text_config()
    if getattr(text, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{model_type} generates with an encoder-decoder; a decoder-only language model is needed"
        )
    decoder, layers = _decoder(model, quirks, int(text.num_hidden_layers), model_type)
    attentions = {index: found for index, layer in enumerate(layers) if (found := _attention(layer, quirks))}
    for attention in attentions.values():
        _require_interface(attention, model_type)
    return Anatomy(
        model_type=model_type,
        decoder=decoder,
        layers=layers,
        attentions=attentions,
        projections={index: _projection(attention, quirks) for index, attention in attentions.items()},
        heads=int(text.num_attention_heads),
        key_heads=int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        width=int(text.hidden_size),
        image_token_id=image_token_id,
        quirks=quirks,
    )


def _image_token_id(config: Any, quirks: Quirks, model_type: str) -> int:
    names = (quirks.image_token,) if quirks.image_token else IMAGE_TOKEN_NAMES
    for name in names:
        token_id = getattr(config, name, None)
        if token_id is not None:
            return int(token_id)
    raise UnsupportedModel(
        f"{model_type} is a text-only model: its config names no image token; give a vision-language model"
    )


def _decoder(model: nn.Module, quirks: Quirks, depth: int, model_type: str) -> tuple[nn.Module, tuple[nn.Module, ...]]:
    """Return the module that runs the decoder layers, and the layers."""
    if quirks.layers is not None:
        return model.get_submodule(quirks.layers.rpartition(".")[0]), tuple(
            model.get_submodule(quirks.layers).children()
        )
    for root in _likely_roots(model):
        for parent, children in _module_lists(root):
            if len(children) == depth and any(_attention(child, quirks) is not None for child in children):
                return parent, tuple(children)
    raise UnsupportedModel(
        f"{model_type}: no list of {depth} decoder layers with a self-attention that knows its layer was found; "
        "give the family a row in vlm_heads/families.py"
    )


def _likely_roots(model: nn.Module) -> Iterator[nn.Module]:
    find = getattr(model, "get_decoder", None)
    if callable(find) and isinstance(decoder := find(), nn.Module):
        yield decoder
    yield model


def _module_lists(root: nn.Module) -> Iterator[tuple[nn.Module, nn.ModuleList]]:
    for module in root.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                yield module, child


def _attention(layer: nn.Module, quirks: Quirks) -> nn.Module | None:
    """Return the self-attention inside a decoder layer: the module that knows its layer and projects its output."""
    names = (quirks.projection,) if quirks.projection else PROJECTION_NAMES
    modules: list[tuple[str, nn.Module]] = list(layer.named_modules())
    for path, module in modules:
        if path.split(".")[0] in quirks.cross_attention or getattr(module, "layer_idx", None) is None:
            continue
        if any(isinstance(getattr(module, name, None), nn.Module) for name in names):
            return module
    return None


def _projection(attention: nn.Module, quirks: Quirks) -> nn.Module:
    names = (quirks.projection,) if quirks.projection else PROJECTION_NAMES
    found = next(child for name in names if isinstance(child := getattr(attention, name, None), nn.Module))
    assert isinstance(found, nn.Module)
    return found


def _require_interface(attention: nn.Module, model_type: str) -> None:
    """Raise unless the attention looks its function up in transformers' attention interface."""
    source = sys.modules.get(type(attention).__module__)
    if source is None or not hasattr(source, "ALL_ATTENTION_FUNCTIONS"):
        raise UnsupportedModel(
            f"{model_type}: {type(attention).__name__} computes attention on its own and not through the attention "
            "interface of transformers, so nothing can be changed in it from outside"
        )
