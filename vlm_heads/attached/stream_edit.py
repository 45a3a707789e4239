"""What becomes of the attention in a second stream: an edit of its own, which never touches the first stream.

A head gain, a boost or any other plan is a `PlannedEdit`. What no plan can say, as keys that are closed or weights that
are replaced, is a `StreamEdit` that computes the layer's output itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan

from vlm_heads.attached.generations import TrackedGeneration, rows_of
from vlm_heads.attached.layer_edit import GenerationEdits
from vlm_heads.attention import PlainAttention
from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.key_map import KeyMap
from vlm_heads.models.placement import require_one_device
from vlm_heads.receipt import LayerTally
from vlm_heads.toolkit.row_attention import require_image_keys


@dataclass(slots=True)
class SecondStreamCall(AttentionCall):
    """One layer's attention in one forward of a second stream.

    Attributes:
        state: of the second stream's generation.
        under: plain attention `[B, Tq, Hq, D]` of this call under another mask.
    """

    state: TrackedGeneration
    under: Callable[[Tensor | None], Tensor] | None = None

    def plain_under(self, mask: Tensor | None) -> Tensor:
        """Return plain attention `[B, Tq, Hq, D]` under another mask, of a kind that the layer takes."""
        assert self.under is not None, "the second stream states how its attention is computed"
        return self.under(mask)


class StreamEdit(ABC):
    """Says layer by layer what a second stream's attention gives.

    It holds options and no state. What it learns of a generation it keeps in `call.memory`; a tensor there whose first
    axis is as long as the batch holds a value for each row, and these values may depend on the prompt alone.
    """

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        """Return the layers whose attention it computes; all where an edit says nothing else."""
        return frozenset(anatomy.attentions)

    def check(self, anatomy: Anatomy) -> None:
        """Raise `UnsupportedModel` or `BadOption` if it cannot act on the model."""
        require_image_keys(anatomy)
        require_one_device(anatomy.attentions.values())

    def learnt(self, model: nn.Module, inputs: Mapping[str, Any]) -> Mapping[Any, Any]:
        """Return what the memory of a generation starts with; asked before the prompt runs."""
        return {}

    @abstractmethod
    def attend(self, call: SecondStreamCall) -> Tensor:
        """Return the layer's output `[B, Tq, Hq, D]`."""
        ...


class PlannedEdit(StreamEdit):
    """Gives what a plan makes of a layer's attention, as an intervention does in the first stream."""

    @abstractmethod
    def plan(self, call: SecondStreamCall) -> AttentionPlan | None:
        """Return what to change in this call, or None for nothing."""
        ...

    def attend(self, call: SecondStreamCall) -> Tensor:
        output, _ = call.state.edits.edit_for(call.layer, self.plan(call)).apply(call, None, "auto")
        return output


class EditedAttention:
    """Computes the attention of one second stream, and keeps what belongs to its generation.

    Args:
        edit: what becomes of it.
        model: that generates.
        anatomy: of it.
        inputs: the second stream's.
    """

    def __init__(self, edit: StreamEdit, model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Any]) -> None:
        edit.check(anatomy)
        acting = edit.layers_in(anatomy)
        self._edit = edit
        self._model = model
        self._inputs = inputs
        self._vision = anatomy.vision_token_ids
        self._layer_of = {id(module): layer for layer, module in anatomy.attentions.items() if layer in acting}
        self._tally = LayerTally()  # nobody reads it
        self._state = TrackedGeneration(self._prompt(1), memories=[{}])

    def begin(self) -> None:
        """Start clean, with what the edit learns of the prompt."""
        known = dict(self._edit.learnt(self._model, self._inputs))
        self._state = TrackedGeneration(self._prompt(1), memories=[known])

    def repeat(self, copies: int) -> None:
        """Go on with each row `copies` times."""
        count = self._state.key_map.rows
        rows = torch.arange(count, device=self._state.key_map.classes.device).repeat_interleave(copies)
        self._state.memories = [rows_of(memory, rows, count) for memory in self._state.memories]
        self._state.edits = GenerationEdits()
        self._state.key_map = self._prompt(copies)

    def grow(self) -> None:
        """Take one more token of every row."""
        key_map = self._state.key_map
        key_map.grow(key_map.length, 1)
        self._state.prefill = False

    def rewind(self, said: Tensor) -> None:
        """Go back to where the last of these columns ends, bool `[R, n]`; see `SecondStream.rewind`."""
        key_map = self._prompt(len(said) // len(self._inputs["input_ids"]))
        key_map.grow(key_map.length, said.shape[1] - 1)
        self._state.key_map = key_map
        self._state.edits = GenerationEdits()

    def run(
        self,
        plain: PlainAttention,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        settings: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Return one attention call's output `[B, Tq, Hq, D]`; no weights."""
        layer = self._layer_of.get(id(module))
        if layer is None:
            return plain(module, query, key, value, mask, **settings)

        def under(other: Tensor | None) -> Tensor:
            return plain(module, query, key, value, other, **settings)[0]

        compute = partial(plain, module, query, key, value, mask, **settings)
        state = self._state
        call = SecondStreamCall(
            layer, module, query, key, value, mask, state, None, compute, state.memories[0], self._tally,
            scale=settings.get("scaling"), under=under,
        )  # fmt: skip
        return self._edit.attend(call), None

    def _prompt(self, copies: int) -> KeyMap:
        """Return the map of the prompt's keys, each row repeated for its beams."""
        ids, mask = self._inputs["input_ids"], self._inputs.get("attention_mask")
        key_map = KeyMap.of_prompt(ids, mask, *self._vision)
        return key_map if copies == 1 else KeyMap(key_map.classes.repeat_interleave(copies, dim=0))
