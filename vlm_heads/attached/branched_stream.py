"""A second stream that goes with the first up to a layer and sees no image key from there on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.utils import ModelOutput

from vlm_heads import attention
from vlm_heads.attached.hidden_image import without_image_keys
from vlm_heads.attached.layer_steps import SecondArguments
from vlm_heads.attached.second_stream import Noted, SecondStream
from vlm_heads.errors import BadOption, UnsupportedGeneration, UnsupportedModel
from vlm_heads.families import Anatomy, examine
from vlm_heads.key_map import KeyMap


class BranchedStream(SecondStream):
    """The first stream's own inputs, with the image's keys closed to text in the layers from `start` on.

    It keeps what the text has taken from the image below `start`, and loses the direct view above. In the first
    stream's forward it shares the layers below, what an intervention does there included. On its own it runs them
    again, plain.

    Args:
        model: a vision-language model of transformers.
        inputs: the first stream's.
        start: the first layer without the image's keys.

    Raises:
        BadOption: if no prompt has an image.
        UnsupportedModel: as `SecondStream`, and if the image cannot be hidden in a layer.
    """

    begins_with_the_first = True

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any], start: int) -> None:
        super().__init__(model, inputs)
        anatomy = examine(model)
        require_hideable(anatomy, start)
        self.start = start
        self._shares = False
        self._below = [module for layer, module in anatomy.attentions.items() if layer < start]
        self._layers = anatomy.layers[start:]
        self._vision = anatomy.vision_token_ids
        self._key_map = self._prompt(1)
        if not self._key_map.any_image:
            raise BadOption("no prompt has an image, so there is nothing to hide in a second stream; give an image")

    def begin(self, copies: int) -> Tensor:
        told, self._told = self._told, None
        if told is not None:
            return told
        self._require_own_prompt()
        self._shares, self._key_map = False, self._prompt(1)
        logits = super().begin(copies)
        self._key_map = self._prompt(copies)
        return logits

    def rewind(self, said: Tensor) -> None:
        super().rewind(said)
        self._key_map = self._prompt(len(said) // self.rows)
        self._key_map.grow(self._key_map.length, said.shape[1] - 1)

    def beside_prompt(self, rows: int) -> SecondArguments:
        self._shares, self._key_map = True, self._prompt(rows // self.rows)
        self._kwargs = {"past_key_values": DynamicCache(config=self._model.config.get_text_config())}
        return self._hidden_in_layers()

    def beside_token(self, tokens: Tensor, noted: Noted) -> SecondArguments:
        self._key_map.grow(self._key_map.length, 1)
        return self._hidden_in_layers()

    def tell(self, logits: Tensor, output: ModelOutput) -> None:
        self._told = logits.float()

    def _forward(self, ids: Tensor, kwargs: dict[str, Any], first: bool) -> Tensor:
        if self._shares:
            raise UnsupportedGeneration(
                "branch shares layers with the first stream, whose generation went a way that cannot be followed: it "
                "goes on with another cache, or with several tokens at once"
            )
        if not first:
            self._key_map.grow(self._key_map.length, 1)
        with self._hiding():
            return super()._forward(ids, kwargs, first)

    def _require_own_prompt(self) -> None:
        """Raise `UnsupportedGeneration` if a forward of its own would not begin as the first stream began."""
        if any(attention.is_edited(module) for module in self._below):
            raise UnsupportedGeneration(
                f"branch shares its first {self.start} layers with the first stream, an intervention acts there, and "
                "here the second stream runs forwards of its own: attach both, and generate with a dynamic cache"
            )
        if not any(name.startswith("pixel_values") for name in self._inputs):
            raise UnsupportedGeneration(
                "branch reads the image in its second stream too, and the conversation goes on from a cache without "
                "it: give the whole conversation with its image, and no cache"
            )

    def _hidden_in_layers(self) -> SecondArguments:
        """Return what the stream gives each layer: what the first is given, with its own keys and masks."""
        closed = self._closing()
        cache = self.cache

        def arguments(_: int, hidden: Tensor, kwargs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
            mask = closed(kwargs.get("attention_mask"), hidden.shape[1])
            return hidden, {**kwargs, "attention_mask": mask, "past_key_values": cache}

        return arguments

    def _prompt(self, copies: int) -> KeyMap:
        """Return the map of the prompt's keys, each row repeated for its beams."""
        mask = self._inputs.get("attention_mask")
        key_map = KeyMap.of_prompt(self._inputs["input_ids"], mask, *self._vision)
        return key_map if copies == 1 else KeyMap(key_map.classes.repeat_interleave(copies, dim=0))

    @contextmanager
    def _hiding(self) -> Iterator[None]:
        """Close the image's keys in the layers from `start` on, for the forwards of this thread."""
        thread, closed = threading.get_ident(), self._closing()

        def hide(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any] | None:
            if threading.get_ident() != thread:
                return None
            return args, {**kwargs, "attention_mask": closed(kwargs.get("attention_mask"), args[0].shape[1])}

        handles = [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _closing(self) -> Callable[[Tensor | None, int], Tensor]:
        """Return what closes the image's keys in a layer's mask; masks that layers share are made once."""
        made: dict[int, tuple[Tensor | None, Tensor]] = {}

        def closed(mask: Tensor | None, positions: int) -> Tensor:
            if id(mask) not in made:
                made[id(mask)] = (mask, without_image_keys(mask, self._key_map, positions))
            return made[id(mask)][1]

        return closed


def require_hideable(anatomy: Anatomy, start: int) -> None:
    """Raise `UnsupportedModel` if the image cannot be hidden in every layer from `start` on."""
    if anatomy.quirks.cross_attention:
        raise UnsupportedModel(
            f"{anatomy.model_type} reads the image through cross-attention and not as keys among the text's, so there "
            "is no key to hide: take m3id"
        )
    others = [layer for layer in range(start, anatomy.depth) if layer not in anatomy.attentions]
    if others:
        raise UnsupportedModel(
            f"layer {others[0]} of {anatomy.model_type} is no attention and carries the image in its state, so it "
            "cannot be hidden there: take m3id"
        )
    for layer in range(start, anatomy.depth):
        config = getattr(anatomy.attentions[layer], "config", None)
        own = str(getattr(config, "_attn_implementation", None))
        if attention.base_of(own) not in attention.MASKS:
            raise UnsupportedModel(
                f"the image's keys cannot be closed in the masks of {own}: load the model with "
                "attn_implementation='sdpa' or 'eager'"
            )
