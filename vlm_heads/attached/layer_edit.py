"""Combines the plans on a layer and applies them; reuses prepared work while the plan object is the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor
from vlm_kernels import AttentionPlan, PreparedDecode, StepMask, attend, prepare_decode

from vlm_heads.errors import BadOption

if TYPE_CHECKING:
    from vlm_heads.call import AttentionCall
    from vlm_heads.receipt import LayerTally

Backend = Literal["auto", "reference", "torch", "triton"]

_ALL_SEEN = StepMask(None, usable=True)


@dataclass
class GenerationEdits:
    """The last combined plan of every layer of one generation, and the mask of the step that is running.

    Where a plan is the same object as in the step before, its combination is reused.
    """

    _edits: dict[int, LayerEdit] = field(default_factory=dict)
    _pairs: dict[tuple[int, str], tuple[AttentionPlan, AttentionPlan, AttentionPlan]] = field(default_factory=dict)
    _mask: tuple[Tensor | None, tuple[int, int], StepMask] | None = None

    def combined(self, layer: int, plan: AttentionPlan, part: AttentionPlan, name: str) -> AttentionPlan:
        """Return two edits of one layer as one; `part` is the intervention's that is called `name`.

        Raises:
            BadOption: where they exclude each other.
        """
        known = self._pairs.get((layer, name))
        if known is None or known[0] is not plan or known[1] is not part:
            try:
                known = self._pairs[layer, name] = (plan, part, plan | part)
            except ValueError as conflict:
                raise BadOption(
                    f"{name} does not go together with what is attached before it: {conflict}"
                ) from conflict
        return known[2]

    def edit_for(self, layer: int, plan: AttentionPlan | None) -> LayerEdit:
        """Return the layer's edit, the one it had before where the plan is the same."""
        edit = self._edits.get(layer)
        if edit is None or edit.plan is not plan:
            edit = self._edits[layer] = LayerEdit(plan, self)
        return edit

    def mask(self, call: AttentionCall) -> StepMask:
        """Return what the call's mask adds to logits, made once for the layers that share it."""
        if call.mask is None and not call.key_map.any_padding:
            return _ALL_SEEN
        shape = (call.key.shape[1], call.key.shape[2])
        if self._mask is None or self._mask[0] is not call.mask or self._mask[1] != shape:
            made = StepMask.of(call.mask, call.key_map.seen_by(shape[1]), shape[0], call.query.dtype)
            self._mask = (call.mask, shape, made)
        return self._mask[2]


class LayerEdit:
    """One plan on one layer, and what of it can be laid out once.

    Attributes:
        plan: all interventions together; None where nothing is to be changed.
    """

    def __init__(self, plan: AttentionPlan | None, generation: GenerationEdits) -> None:
        self.plan = plan
        self._generation = generation
        self._gain: Tensor | None = None
        if plan is not None and plan.head_gain is not None and not plan.edits_weights:
            self._gain = plan.head_gain[:, None, :, None]
        self._ready: PreparedDecode | None = None
        self._ready_for: int | None = None

    def apply(self, call: AttentionCall, moving: LayerTally | None, backend: Backend) -> tuple[Tensor, Tensor | None]:
        """Return the call's edited output `[B, Tq, Hq, D]` and, where plain attention gives them, its weights.

        Args:
            call: the layer's.
            moving: where the redistributing intervention notes what it moved, if there is one.
            backend: who computes edited attention.
        """
        if self.plan is None:
            return call.plain_with_weights()
        call.state.touched = True
        if self._gain is not None and backend in ("auto", "torch"):
            output, weights = call.plain_with_weights()
            gained = output * self._gain
            return (gained if gained.dtype is output.dtype else gained.to(output.dtype)), weights
        if call.query.shape[2] > 1:
            return self._prompt(call, self.plan, moving, backend), None
        output, moved = self._decoded(call, self.plan, backend) or self._attended(call, self.plan, moving, backend)
        if moving is not None and moved is not None:
            moving.note_step(moved)
        return output, None

    def _prompt(self, call: AttentionCall, plan: AttentionPlan, moving: LayerTally | None, backend: Backend) -> Tensor:
        plain = call.plain().transpose(1, 2)
        output, moved = self._attended(call, plan, moving, backend, plain)
        if moving is not None and moved is not None:
            moving.note((moved > 0).any(dim=-1), moved)
        return output

    def _decoded(
        self, call: AttentionCall, plan: AttentionPlan, backend: Backend
    ) -> tuple[Tensor, Tensor | None] | None:
        """Return a decode step's output and moved mass from the plan made ready for it; None where it cannot be."""
        key_map, keys = call.key_map, call.key.shape[2]
        if call.prefill or keys != key_map.length:  # a sliding layer, or a static cache
            return None
        if self._ready_for != key_map.rewritten:
            states = (call.query, call.key, call.value)
            self._ready = prepare_decode(*states, plan=plan, key_class=call.key_class(), backend=backend)
            self._ready_for = key_map.rewritten
        if self._ready is None or call.query.shape[:2] != self._ready.shape or call.query.requires_grad:
            return None
        mask = self._generation.mask(call)
        return self._ready.attend(call.query, call.key, call.value, mask, call.scale) if mask.usable else None

    def _attended(
        self,
        call: AttentionCall,
        plan: AttentionPlan,
        moving: LayerTally | None,
        backend: Backend,
        plain_output: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        output, seen = attend(
            call.query,
            call.key,
            call.value,
            plan=plan,
            key_class=call.key_class(),
            mask=call.mask,
            scale=call.scale,
            backend=backend,
            want=() if moving is None else ("moved",),
            plain_output=plain_output,
        )
        return output.transpose(1, 2).contiguous(), seen.moved
