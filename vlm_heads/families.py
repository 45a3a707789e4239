"""Where the decoder layers, the output projections and the image token of a vision-language model are.

They are found by looking at the model. A row of `QUIRKS` states what looking does not tell about a family.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from vlm_heads.errors import UnsupportedModel
from vlm_heads.wrappers import unwrapped

PROJECTION_NAMES = ("o_proj", "out_proj", "dense", "c_proj")
MLP_NAMES = ("mlp", "feed_forward", "ffn")
_SOFTMAX_KINDS = ("attention", "full_attention", "sliding_attention", "chunked_attention")  # in a config's layer_types
IMAGE_TOKEN_NAMES = ("image_token_id", "image_token_index")
VIDEO_TOKEN_NAMES = ("video_token_id", "video_token_index")
SOUND_TOKEN_NAMES = ("audio_token_id", "audio_token_index")


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
        picture_sees_text: image positions attend to the prompt's text behind them, so their keys serve one prompt.
    """

    layers: str | None = None
    projection: str | None = None
    image_token: str | None = None
    cross_attention: tuple[str, ...] = ()
    blind_from_decoder: bool = False
    drops_processors: bool = False
    positions: Literal["patches", "stated"] | None = None
    picture_sees_text: bool = False


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
    "paligemma": Quirks(positions="patches", picture_sees_text=True),
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
        attentions: self-attention module by layer. Layers without heads are missing: cross attention alone, linear
            attention, short convolutions.
        projections: output projection by layer; its input is the concatenation of the heads' outputs, gated in some
            families.
        heads: query heads `Hq`.
        key_heads: key and value heads `Hkv`.
        width: size of the hidden state.
        image_token_id: the id that stands for one image position in `input_ids`.
        quirks: what looking does not tell.
        video_token_id: the same for a video, None where the family takes none.
        sound_token_id: the same for sound, None where the family takes none.
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
    video_token_id: int | None = None
    sound_token_id: int | None = None

    @property
    def vision_token_ids(self) -> tuple[int, ...]:
        """The ids that stand for something seen; none of them is text, with the image or without it."""
        return (self.image_token_id,) if self.video_token_id is None else (self.image_token_id, self.video_token_id)

    @property
    def depth(self) -> int:
        """How many decoder layers there are."""
        return len(self.layers)


def examine(model: nn.Module) -> Anatomy:
    """Return where the parts of a vision-language model are, that inside a wrapper included.

    Raises:
        UnsupportedModel: if there is no image token, no decoder that can be found, or an attention that does not go
            through the attention interface of transformers.
    """
    model = unwrapped(model)
    config: Any = model.config
    model_type = str(config.model_type)
    quirks = QUIRKS.get(model_type, Quirks())
    image_token_id = _image_token_id(config, quirks, model_type)
    text = config.get_text_config()
    if getattr(text, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{model_type} generates with an encoder-decoder; a decoder-only language model is needed"
        )
    decoder, layers = _decoder(model, quirks, int(text.num_hidden_layers), model_type)
    attentions = _attentions(layers, quirks, text, model_type)
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
        video_token_id=_token_id(config, VIDEO_TOKEN_NAMES),
        sound_token_id=_token_id(config, SOUND_TOKEN_NAMES),
    )


def mlps(anatomy: Anatomy) -> dict[int, nn.Module]:
    """Return the MLP by layer, in layers that have it as a module of its own."""
    found = {
        index: next((module for name, module in layer.named_children() if name in MLP_NAMES), None)
        for index, layer in enumerate(anatomy.layers)
    }
    return {index: module for index, module in found.items() if module is not None}


def projects_gated(anatomy: Anatomy, layer: int) -> bool:
    """Whether an attention multiplies its heads' outputs by a gate before the output projection, as Qwen3.5 does.

    The gate is computed beside the query, so that its projection is twice as wide as what the output projection takes.
    """
    queries: Any = getattr(anatomy.attentions[layer], "q_proj", None)
    taken = getattr(anatomy.projections[layer], "in_features", None)
    return taken is not None and getattr(queries, "out_features", None) == 2 * taken


def caps_logits(anatomy: Anatomy) -> bool:
    """Whether the language model changes its attention logits or their sum by more than a mask, as Gemma 2 does."""
    capped = getattr(anatomy.decoder.config, "attn_logit_softcapping", None) is not None
    return capped or any(getattr(module, "sinks", None) is not None for module in anatomy.attentions.values())


def _image_token_id(config: Any, quirks: Quirks, model_type: str) -> int:
    token_id = _token_id(config, (quirks.image_token,) if quirks.image_token else IMAGE_TOKEN_NAMES)
    if token_id is not None:
        return token_id
    if _token_id(config, VIDEO_TOKEN_NAMES) is not None:
        raise UnsupportedModel(
            f"{model_type} takes videos and no images: its config names no image token, and videos alone are not "
            "looked at; give a model that takes images"
        )
    raise UnsupportedModel(
        f"{model_type} is a text-only model: its config names no image token; give a vision-language model"
    )


def _token_id(config: Any, names: Sequence[str]) -> int | None:
    found = (getattr(config, name, None) for name in names)
    return next((int(token_id) for token_id in found if token_id is not None), None)


def _decoder(model: nn.Module, quirks: Quirks, depth: int, model_type: str) -> tuple[nn.Module, tuple[nn.Module, ...]]:
    """Return the module that runs the decoder layers, and the layers."""
    if quirks.layers is not None:
        return model.get_submodule(quirks.layers.rpartition(".")[0]), tuple(
            model.get_submodule(quirks.layers).children()
        )
    for root in _likely_roots(model):
        for parent, children in _module_lists(root):
            if len(children) == depth and any(_mixers(child, quirks) for child in children):
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


def _attentions(layers: Sequence[nn.Module], quirks: Quirks, text: Any, model_type: str) -> dict[int, nn.Module]:
    """Return each layer's softmax attention.

    Raises:
        UnsupportedModel: if one computes attention on its own, and not through transformers' attention interface.
    """
    kinds: Sequence[str] = getattr(text, "layer_types", None) or ()
    mixers = {index: found for index, layer in enumerate(layers) if (found := _mixers(layer, quirks))}
    asking = {index: [one for one in found if _asks_the_interface(one)] for index, found in mixers.items()}
    attentions = {index: found[0] for index, found in asking.items() if found}
    # a mixer beside attentions is taken for none of them, unless the config calls it one
    named = [index for index in mixers if index < len(kinds) and kinds[index] in _SOFTMAX_KINDS]
    own = [index for index in (named if attentions else mixers) if index not in attentions]
    if own:
        raise UnsupportedModel(
            f"{model_type}: {type(mixers[own[0]][0]).__name__} computes attention on its own and not through the "
            "attention interface of transformers, so nothing can be changed in it from outside"
        )
    return attentions


def _mixers(layer: nn.Module, quirks: Quirks) -> list[nn.Module]:
    """Return what mixes positions in a decoder layer: modules that know their layer and project their output.

    A linear attention or a short convolution is one too.
    """
    names = (quirks.projection,) if quirks.projection else PROJECTION_NAMES
    return [
        module
        for path, module in layer.named_modules()
        if path.split(".")[0] not in quirks.cross_attention
        and getattr(module, "layer_idx", None) is not None
        and any(isinstance(getattr(module, name, None), nn.Module) for name in names)
    ]


def _asks_the_interface(mixer: nn.Module) -> bool:
    """Whether a module looks its attention function up in transformers' attention interface."""
    for kind in type(mixer).__mro__:
        for method in vars(kind).values():
            code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
            if code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names:
                return True
    return False


def _projection(attention: nn.Module, quirks: Quirks) -> nn.Module:
    names = (quirks.projection,) if quirks.projection else PROJECTION_NAMES
    found = next(child for name in names if isinstance(child := getattr(attention, name, None), nn.Module))
    assert isinstance(found, nn.Module)
    return found
