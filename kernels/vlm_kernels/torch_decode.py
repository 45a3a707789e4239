"""One plan on one layer made ready for decoding on a CPU, where the number of tensor operations is the cost.

Generated keys take no part in a redistribution, so its tables never grow. A class gain is laid out over more keys than
there are. What is left for a step is two products with the cache, a softmax and a few small operations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm_kernels.plan import AttentionPlan, KeyClass
from vlm_kernels.torch_rule import RuleTables

ROOM = 256  # keys by which a class gain is laid out ahead


@dataclass(frozen=True)
class StepMask:
    """What one decode step adds to its logits, the same for all layers that are given the same mask.

    Attributes:
        added: `[B * Hkv, Hq / Hkv or 1, T]`, 0 where a key is seen and `-inf` where not; None where every key is.
        usable: whether every row sees a key; a row that sees none is for `attend` alone.
    """

    added: Tensor | None
    usable: bool

    @staticmethod
    def of(mask: Tensor | None, key_class: Tensor, kv_heads: int, dtype: torch.dtype) -> StepMask:
        """Return a step's mask; waits for the device.

        Args:
            mask: as `vlm_kernels.attend` takes it, of one query row.
            key_class: int8 `[B, T]`; keys below zero are hidden too.
            kv_heads: key heads of a layer.
            dtype: of the logits.
        """
        batch, keys = key_class.shape
        present = (key_class >= 0)[:, None, None]
        if mask is None:
            if bool(present.all()):
                return StepMask(None, True)
            mask = present
        added = torch.where(mask, 0.0, -torch.inf) if mask.dtype is torch.bool else mask
        added = added.to(torch.promote_types(dtype, torch.float32)).masked_fill(~present, -torch.inf)
        heads = kv_heads if added.shape[1] == 1 else added.shape[1]
        added = added.expand(batch, heads, 1, keys).reshape(batch * kv_heads, -1, keys)
        return StepMask(added, bool((added > -torch.inf).any(-1).all()))


class PreparedDecode:
    """A plan on the keys of one layer, ready for many single query rows; keys added meanwhile are generated text.

    `vlm_kernels.attend` returns the same for the same plan, mask and classes, up to rounding.

    Attributes:
        keys: how many there were; fewer are not taken.
        shape: batch rows and query heads.
    """

    def __init__(self, plan: AttentionPlan, key_class: Tensor, heads: int, dtype: torch.dtype) -> None:
        self.keys = key_class.shape[1]
        self.shape = (key_class.shape[0], heads)
        self._dtype = torch.float64 if dtype is torch.float64 else torch.float32
        self._plan = plan
        self._key_class = key_class
        self._nothing = torch.zeros(1, dtype=self._dtype, device=key_class.device)
        self._head_gain = None if plan.head_gain is None else plan.head_gain[:, None, :, None]
        self._tables = None if not plan.moves_weight else _tables(plan, key_class, heads, self._dtype)
        self._class_gain: Tensor | None = None
        if plan.class_gain is not None:
            self._class_gain = self._gain_by_key(self.keys + ROOM)

    @staticmethod
    def takes(plan: AttentionPlan, device: torch.device) -> bool:
        """Whether a plan can be made ready: what is stated key by key is made for the keys of one step."""
        made_anew = plan.changes_keys or plan.empty_key is not None or plan.head_source is not None
        return plan.edits_weights and not made_anew and device.type == "cpu"

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: StepMask, scale: float | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the edited output `[B, 1, Hq, D]`, and the mass moved `[B, Hq, 1]` where the plan redistributes.

        The output is laid out as a layer's, heads last but one, because turning it would be one more operation.

        Args:
            query: `[B, Hq, 1, D]`.
            key: `[B, Hkv, T, D]`, those that this was made for and generated ones after them.
            value: `[B, Hkv, T, D]`.
            mask: of this step, usable.
            scale: multiplies the logits; None is `D ** -0.5`.
        """
        batch, heads, _, size = query.shape
        keys, dtype = key.shape[2], query.dtype
        pairs = batch * key.shape[1]
        if dtype is not self._dtype:
            query, key, value = query.to(self._dtype), key.to(self._dtype), value.to(self._dtype)
        rows, columns = query.reshape(pairs, -1, size), key.reshape(pairs, keys, size).transpose(1, 2)
        scale = size**-0.5 if scale is None else scale
        if mask.added is None:
            logits = torch.baddbmm(self._nothing, rows, columns, beta=0, alpha=scale)
        else:
            logits = torch.baddbmm(mask.added, rows, columns, alpha=scale)
        weights = logits.softmax(-1)
        moved = self._edit(weights, batch, heads)
        output = torch.bmm(weights, value.reshape(pairs, keys, -1)).view(batch, 1, heads, -1)
        if self._head_gain is not None:
            output = output * self._head_gain
        return output if output.dtype is dtype else output.to(dtype), moved

    def _edit(self, weights: Tensor, batch: int, heads: int) -> Tensor | None:
        """Change the contiguous weights `[B * Hkv, Hq / Hkv, T]` in place; return the mass moved."""
        keys, moved = weights.shape[-1], None
        if self._tables is not None:
            known = weights.as_strided((batch, heads, self.keys), (heads * keys, keys, 1))
            moved = self._tables.redistribute(known)[1]
        if self._class_gain is not None:
            if keys > self._class_gain.shape[-1]:
                self._class_gain = self._gain_by_key(2 * keys)
            weights.view(batch, heads, keys).mul_(self._class_gain.narrow(-1, 0, keys))
        return moved

    def _gain_by_key(self, keys: int) -> Tensor:
        """Return the class gain of each key `[B, Hq, keys]`, generated ones following those known; 1 at padding."""
        assert self._plan.class_gain is not None
        gain = self._plan.class_gain.to(self._dtype)
        if self._plan.rows is not None:
            gain = torch.where((self._plan.rows.to(gain.device) <= 0)[:, None, None], gain, 1.0)
        gain = torch.nn.functional.pad(gain, (0, self._plan.classes + 1 - gain.shape[-1]), value=1.0)
        kinds = torch.nn.functional.pad(self._key_class, (0, keys - self.keys), value=int(KeyClass.GENERATED)).long()
        kinds = torch.where((kinds < 0) | (kinds >= self._plan.classes), self._plan.classes, kinds)
        return gain.gather(2, kinds[:, None].expand(-1, gain.shape[1], -1))


def _tables(plan: AttentionPlan, key_class: Tensor, heads: int, dtype: torch.dtype) -> RuleTables:
    """Return the rule's tables with the heads and batch rows that may be chosen in their offset."""
    rule = plan.redistribution
    assert rule is not None
    tables = RuleTables.of(rule, key_class, dtype)
    if rule.heads is None and rule.rows is None:
        return tables
    allowed = torch.ones(key_class.shape[0], heads, dtype=torch.bool, device=key_class.device)
    if rule.heads is not None:
        allowed = allowed & rule.heads
    if rule.rows is not None:
        allowed = allowed & (rule.rows.to(allowed.device) <= 0)[:, None]
    return replace(tables, offset=torch.where(allowed[..., None], tables.offset, -torch.inf))
