"""The image-free pass: the same prompt with its image tokens deleted, and each layer's head outputs at its end.

Deleting equals masking the image out when positions follow the attention mask, as they do in `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from vlm_kernels import KeyClass

from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.families import Anatomy

BlindMode = Literal["plain", "lockstep", "two-pass"]

# Prompt-shaped inputs that travel with the text when the image tokens are deleted.
_ALIGNED_INPUTS = ("token_type_ids",)


@dataclass
class Recording:
    """Head outputs of one pass at the last positions of each row, by layer.

    Attributes:
        positions: how many positions are kept, counted back from each row's end.
        ends: int64 `[B]`, each row's last position; None means the last column.
        outputs: `[B, positions, Hq, D]` by layer, before the output projection.
        entering: `[B, width]` by layer, what entered it at each row's end; only where steering compares two passes.
    """

    positions: int = 1
    ends: Tensor | None = None
    outputs: dict[int, Tensor] = field(default_factory=dict)
    entering: dict[int, Tensor] = field(default_factory=dict)

    def keep(self, layer: int, output: Tensor) -> None:
        """Keep the last positions of a layer's output `[B, T, Hq, D]`."""
        self.outputs[layer] = last_positions(output, self.ends, self.positions)


def last_positions(output: Tensor, ends: Tensor | None, count: int = 1) -> Tensor:
    """Return the `count` positions of `[B, T, Hq, D]` up to each row's end, as `[B, count, Hq, D]`."""
    if output.shape[1] < count:
        raise UnsupportedGeneration(
            f"{count} positions are compared with and without the image, but without it {output.shape[1]} are left"
        )
    if ends is None:
        return output[:, -count:].clone()
    back = torch.arange(count - 1, -1, -1, device=output.device)
    rows = torch.arange(output.shape[0], device=output.device)
    return output[rows[:, None], ends[:, None] - back]


@dataclass(frozen=True)
class TextOnly:
    """A prompt without its image tokens and padding, moved to the right edge.

    Attributes:
        columns: int64 `[B, T']`, the column of the original prompt that each position came from.
        attention_mask: int64 `[B, T']`, 0 where a shorter row is padded on the left.
        position_ids: int64 `[B, T']`, counted from 0 at each row's first token.
    """

    columns: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    @classmethod
    def of_classes(cls, classes: Tensor) -> TextOnly:
        """Return the text of a prompt with these key classes, int8 `[B, T]`.

        Raises:
            UnsupportedGeneration: if a row consists of image tokens alone.
        """
        kept = (classes != KeyClass.PADDING) & (classes != KeyClass.IMAGE)
        length = int(kept.sum(dim=1).amax())
        if not bool(kept.any(dim=1).all()):
            raise UnsupportedGeneration("a prompt has no text beside its image, so nothing is left without the image")
        columns = kept.to(torch.int8).argsort(dim=1, stable=True)[:, -length:]
        mask = kept.gather(1, columns).long()
        return cls(columns, mask, (mask.cumsum(dim=1) - 1).clamp(min=0))

    def of_inputs(self, inputs: Mapping[str, Any], accepted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of a model's forward without the image, and without what the forward does not accept."""
        aligned = {name: inputs[name] for name in _ALIGNED_INPUTS if isinstance(inputs.get(name), Tensor)}
        chosen = {"input_ids": inputs["input_ids"], **aligned}
        text: dict[str, Any] = {name: value.gather(1, self.columns) for name, value in chosen.items()}
        text |= {"attention_mask": self.attention_mask, "position_ids": self.position_ids, "use_cache": False}
        if "logits_to_keep" in accepted:
            text["logits_to_keep"] = 1
        return text

    def after(self, seen: Tensor) -> dict[str, Any]:
        """Return the mask and positions of this text after cached keys, `seen` bool `[B, past]`: none is an image."""
        return {
            "attention_mask": torch.cat([seen.long(), self.attention_mask], dim=1),
            "position_ids": self.position_ids + seen.sum(dim=1, keepdim=True),
        }

    def of_embeddings(self, embeddings: Tensor) -> dict[str, Any]:
        """Return the inputs of a decoder's forward from the prompt's embeddings `[B, T, width]`."""
        chosen = embeddings.gather(1, self.columns[..., None].expand(-1, -1, embeddings.shape[-1]))
        return {
            "inputs_embeds": chosen,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "use_cache": False,
        }


def refuse_sound(ids: Tensor, anatomy: Anatomy) -> None:
    """Raise `UnsupportedGeneration` if a prompt `[B, T]` has sound, which a pass without image would lose too."""
    if anatomy.sound_token_id is not None and bool((ids == anatomy.sound_token_id).any()):
        raise UnsupportedGeneration(
            "the prompt has sound, and a pass without its image would be one without its sound too: leave the sound "
            "out, or take a method without an image-free pass, as pai"
        )


def remembering(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the modules on which a family remembers something between steps."""
    # Qwen-VL keeps the offset between cache slots and positions on the model.
    return tuple(module for module in model.modules() if hasattr(module, "rope_deltas"))


@contextmanager
def untouched(model: nn.Module, modules: tuple[nn.Module, ...] | None = None) -> Iterator[None]:
    """Run an extra pass without gradient and put back what a family remembers on the model between steps.

    Args:
        model: that runs.
        modules: `remembering(model)`, where it is known already.
    """
    kept = [(module, module.rope_deltas) for module in (remembering(model) if modules is None else modules)]
    try:
        with torch.no_grad():
            yield
    finally:
        for module, deltas in kept:
            module.rope_deltas = deltas


@dataclass
class LayerInputs:
    """The arguments that each decoder layer received in the image-free pass."""

    received: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)

    @contextmanager
    def recording(self, layers: tuple[nn.Module, ...]) -> Iterator[None]:
        """Note what every layer receives while the context lasts."""
        handles = [
            layer.register_forward_pre_hook(self._note(index), with_kwargs=True) for index, layer in enumerate(layers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.received[index] = (args, kwargs)

        return note


GainRule = Callable[[Tensor], Tensor | None]


class LockstepStream:
    """The image-free stream, run layer by layer beside the image's and reinforced on the same heads.

    Attributes:
        walking: whether a layer of this stream is running.
        rule: returns the gain of the running layer's heads; None leaves them as they are.
    """

    def __init__(self, layers: tuple[nn.Module, ...], inputs: LayerInputs) -> None:
        self._layers = layers
        self._received = inputs.received
        self._hidden: Tensor | None = None
        self._next = 0
        self.walking = False
        self.rule: GainRule | None = None

    def advance(self, layer: int, rule: GainRule) -> None:
        """Run up to and through `layer`; there `rule` sees the heads `[B, Hq, D]` and returns their gain `[B, Hq]`."""
        self.walking = True
        try:
            while self._next <= layer:
                self.rule = rule if self._next == layer else None
                self._step(self._next)
                self._next += 1
        finally:
            self.walking, self.rule = False, None

    def _step(self, index: int) -> None:
        if index not in self._received:  # a cross-attention layer is skipped where there is no image
            return
        args, kwargs = self._received[index]
        if self._hidden is not None:
            args, kwargs = (self._hidden, *args[1:]), {k: v for k, v in kwargs.items() if k != "hidden_states"}
        with torch.no_grad():
            # forward, not call: hooks that collect hidden states belong to the image's stream
            output = self._layers[index].forward(*args, **kwargs)
        self._hidden = output[0] if isinstance(output, tuple) else output

    def reinforced(self, output: Tensor) -> Tensor:
        """Return a layer's output `[B, T, Hq, D]` times what the rule says."""
        gain = self.rule(output[:, -1]) if self.rule is not None else None
        return output if gain is None else output * gain[:, None, :, None].to(output.dtype)
