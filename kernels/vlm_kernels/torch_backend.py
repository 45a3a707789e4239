"""Exact and fast without Triton: stock attention for the bulk, and the few edited rows done here.

A head gain is a multiply after stock attention. Edits of the weights touch the rows after the image, a short tail at
prefill and the only row at decode. Those rows are computed in chunks. One small matrix product with the class
indicators sums the weights of a chunk per class, and the changes are written over the same memory. On small models the
number of tensor operations is the cost, so every one that a plan does not need is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vlm_kernels.plan import PER_KEY, AttentionPlan, Aux, KeyClass, Redistribution
from vlm_kernels.torch_decode import PreparedDecode, StepMask
from vlm_kernels.torch_rule import RuleTables

CHUNK_WEIGHTS = 1 << 22  # weights held at a time: 16 MiB in float32


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    plan: AttentionPlan,
    key_class: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    want: Collection[str] = (),
    plain_output: Tensor | None = None,
) -> tuple[Tensor, Aux]:
    """Return the edited output `[B, Hq, Tq, D]` and what was asked for of `Aux`; see `vlm_kernels.attend`.

    Half precision is computed in float32 on the edited rows. Rows of a given `plain_output` that turn out not to be
    edited keep its bits. At prefill with `rows` on a GPU this waits for the device once.
    """
    if not plan.edits_weights and not want:
        return gained(query, key, value, plan, mask, scale, plain_output), Aux()
    if query.shape[2] == 1 and PreparedDecode.takes(plan, query.device) and set(want) <= {"moved"}:
        assert key_class is not None
        step = StepMask.of(mask, key_class, key.shape[1], query.dtype)
        if step.usable:
            prepared = PreparedDecode(plan, key_class, query.shape[1], query.dtype)
            output, moved = prepared.attend(query, key, value, step, scale)
            return output.transpose(1, 2), Aux(moved=_or_nothing(moved, query) if "moved" in want else None)
    call = _Call.of(query, key, value, plan, key_class, mask, scale)
    if query.shape[2] == 1:
        rows = call.edited(0, 1, want)
        output = rows.output if plan.head_gain is None else rows.output.mul_(plan.head_gain[:, :, None, None])
        return output.to(query.dtype), Aux(mass=rows.mass, blinded=rows.blinded, moved=rows.moved)
    if query.shape[0] > 1 and not query.is_cuda:
        return _prefill_row_by_row(call, key, value, want, plain_output)
    return _prefill(call, key, value, want, plain_output)


def _or_nothing(moved: Tensor | None, query: Tensor) -> Tensor:
    if moved is not None:
        return moved
    return query.new_zeros(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))


def gained(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    mask: Tensor | None,
    scale: float | None,
    plain_output: Tensor | None,
) -> Tensor:
    """Return stock attention times the head gain, rounded once to the query's dtype; without a gain, unchanged."""
    if plan.head_gain is None:
        return plain_attention(query, key, value, mask, scale) if plain_output is None else plain_output
    gain = plan.head_gain[:, :, None, None]
    if plain_output is not None:
        return (plain_output * gain).to(plain_output.dtype)
    return plain_attention(query, key, value, mask, scale).mul_(gain)  # nobody else holds it


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Return stock scaled-dot-product attention, calling it as transformers does so that the bits are the same."""
    batch, heads, rows, size = query.shape
    groups = heads // key.shape[1]
    grouped = groups > 1 and mask is None and size == value.shape[-1] <= 256
    causal = mask is None and rows > 1
    if groups > 1 and not grouped:
        if rows == 1 and (mask is None or mask.shape[1] == 1):
            packed = query.reshape(batch, key.shape[1], groups, size)
            output = scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
            return output.reshape(batch, heads, 1, value.shape[-1])
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def bulk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    first: int,
    plain_output: Tensor | None,
) -> Tensor:
    """Return new memory with stock attention in the rows before `first`; the others are yet to be written.

    A causal row sees no later key, so that the rows before need the keys before only.
    """
    if plain_output is not None:
        return plain_output.clone(memory_format=torch.contiguous_format)
    output = query.new_empty((*query.shape[:3], value.shape[-1]))
    if first > 0:
        if mask is None:
            key, value = key[:, :, :first], value[:, :, :first]
        else:
            mask = _rows_of(mask, 0, first)
        output[:, :, :first] = plain_attention(query[:, :, :first], key, value, mask, scale)
    return output


def first_edited_row(plan: AttentionPlan) -> int:
    """Return the first query row of any batch row that the plan edits beyond a head gain."""
    firsts = [plan.rows] if plan.uses_rows else []
    if plan.moves_weight and plan.redistribution is not None:
        firsts.append(plan.redistribution.rows)
    return min((0 if first is None else max(0, int(first.min())) for first in firsts), default=0)


@dataclass
class _Rows:
    """The rows of one chunk; `chosen` bool `[B, Hq, rows, 1]` marks those whose sinks handed weight on."""

    output: Tensor
    chosen: Tensor | None
    mass: Tensor | None
    blinded: Tensor | None
    moved: Tensor | None


@dataclass
class _Call:
    """One call's operands, keys and values in the dtype it is computed in."""

    query: Tensor
    key: Tensor
    value: Tensor
    plan: AttentionPlan
    key_class: Tensor | None
    mask: Tensor | None
    scale: float

    @staticmethod
    def of(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: AttentionPlan,
        key_class: Tensor | None,
        mask: Tensor | None,
        scale: float | None,
    ) -> _Call:
        if query.dtype is not torch.float64 and query.dtype is not torch.float32:
            key, value = key.float(), value.float()
        return _Call(query, key, value, plan, key_class, mask, query.shape[-1] ** -0.5 if scale is None else scale)

    def only(self, batch: slice) -> _Call:
        """Return the call of some batch rows alone."""

        def own(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or tensor.shape[0] == 1 else tensor[batch]

        plan, rule = self.plan, self.plan.redistribution
        plan = AttentionPlan(
            head_gain=own(plan.head_gain),
            class_gain=own(plan.class_gain),
            redistribution=None if rule is None else replace(rule, heads=own(rule.heads), rows=own(rule.rows)),
            rows=own(plan.rows),
            empty_key=own(plan.empty_key),
            **{name: own(getattr(plan, name)) for name in PER_KEY},
        )
        states = (self.query[batch], self.key[batch], self.value[batch])
        return _Call(*states, plan, own(self.key_class), own(self.mask), self.scale)

    def edited(self, start: int, stop: int, want: Collection[str]) -> _Rows:
        """Return query rows `start:stop` with every edit but the head gain."""
        seen = stop if self.mask is None and self.query.shape[2] > 1 else self.key.shape[2]
        key_class = self.key_class
        if key_class is not None and seen < self.key.shape[2]:
            key_class = key_class[:, :seen]
        weights, alive = self._weights(start, stop, key_class, seen)
        if alive is not None:
            weights *= alive
        mass = blind = chosen = moved = None
        value_gain = self._by_key("value_gain", start, stop, seen, weights.dtype)
        if key_class is not None:
            if "mass" in want:
                mass = _per_class(weights, _indicators(key_class, self.plan.classes, weights.dtype))
            if "blinded" in want:
                blind = _blinded(weights, self.value, key_class, value_gain).to(self.query.dtype)
            if self.plan.moves_weight and self.plan.redistribution is not None:
                chosen, moved = _redistribute(weights, self.tables, self.plan.redistribution, start)
            if self.plan.class_gain is not None:
                self._gain_classes(weights, key_class, start, stop)
        if "moved" in want and moved is None:
            moved = weights.new_zeros(weights.shape[:3])
        if value_gain is not None:
            weights *= value_gain
        return _Rows(_weighted(weights, self.value), chosen, mass, blind, moved if "moved" in want else None)

    @functools.cached_property
    def tables(self) -> RuleTables:
        """The rule laid out over all keys, once for all chunks."""
        assert self.plan.redistribution is not None
        assert self.key_class is not None
        return RuleTables.of(self.plan.redistribution, self.key_class, self.key.dtype)

    def _weights(self, start: int, stop: int, key_class: Tensor | None, seen: int) -> tuple[Tensor, Tensor | None]:
        """Return softmax weights `[B, Hq, rows, seen]`, and 0 or 1 per row: whether it sees any key, None if all do.

        A row that sees none has even weights here, so that nothing is ever not a number.
        """
        batch, heads, rows, size = self.query.shape
        query = self.query if stop - start == rows else self.query[:, :, start:stop]
        query = (query.to(self.key.dtype) * self.scale).reshape(batch * self.key.shape[1], -1, size)
        logits = torch.bmm(query, _flat(self.key, seen).transpose(1, 2)).view(batch, heads, stop - start, seen)
        factor = self._by_key("logit_factor", start, stop, seen, logits.dtype)
        if factor is not None:
            logits *= factor
        if self.plan.logit_boost is not None:
            boost = self.plan.logit_boost[:, :, None, :seen].to(logits.dtype)
            if self.plan.rows is not None:
                boost = boost * _rows_from(self.plan.rows, start, stop, logits.device)
            logits.addcmul_(boost, logits.abs())
        visible = self._visible(start, stop, key_class, seen)
        if visible is None:
            return self._softmax(logits, start, stop), None
        alive = visible.any(-1, keepdim=True)
        hidden = torch.where(alive, -torch.inf, 0.0).to(logits.dtype)
        added = 0.0 if self.mask is None or self.mask.dtype is torch.bool else _rows_of(self.mask, start, stop)
        return self._softmax(logits.add_(torch.where(visible, added, hidden)), start, stop), alive.to(logits.dtype)

    def _softmax(self, logits: Tensor, start: int, stop: int) -> Tensor:
        """Return softmax weights in which keys count as often as the plan says, and an empty key takes its share."""
        weights, total, empty = logits.softmax(-1), None, self.plan.empty_key
        counts = self._by_key("key_weight", start, stop, logits.shape[-1], logits.dtype)
        if counts is not None:
            weights *= counts
            total = weights.sum(-1, keepdim=True)
        if empty is not None:
            empty = (empty if empty.shape[2] == 1 else empty[:, :, start:stop]).to(logits.dtype)[..., None]
            if self.plan.rows is not None:
                empty = empty * _rows_from(self.plan.rows, start, stop, logits.device)
            share = (empty.log() - logits.logsumexp(-1, keepdim=True)).exp()  # beside weights that sum to 1
            total = share + (1.0 if total is None else total)
        return weights if total is None else weights.div_(torch.where(total > 0, total, 1.0))

    def _by_key(self, name: str, start: int, stop: int, seen: int, dtype: torch.dtype) -> Tensor | None:
        """Return what a field of the plan multiplies with, `[B or 1, Hq or 1, rows or 1, seen]`; 1 above its rows."""
        given: Tensor | None = getattr(self.plan, name)
        if given is None:
            return None
        given = given[:, :, None, :seen].to(dtype)
        if self.plan.rows is None:
            return given
        return torch.where(_rows_from(self.plan.rows, start, stop, given.device), given, 1.0)

    def _visible(self, start: int, stop: int, key_class: Tensor | None, seen: int) -> Tensor | None:
        """Return which keys each row sees, bool and broadcast over heads; None where every row sees every key."""
        visible = None
        if self.mask is not None:
            mask = _rows_of(self.mask, start, stop)
            visible = mask if mask.dtype is torch.bool else mask > -torch.inf
        elif self.query.shape[2] > 1:
            visible = torch.ones(stop - start, seen, dtype=torch.bool, device=self.key.device).tril(start)
        if key_class is None:
            return visible
        if visible is None and not key_class.is_cuda and int(key_class.min()) >= 0:
            return None
        present = (key_class >= 0)[:, None, None, :]
        return present if visible is None else visible & present

    def _gain_classes(self, weights: Tensor, key_class: Tensor, start: int, stop: int) -> None:
        """Multiply the weights by their class's gain, in place, on the plan's rows."""
        assert self.plan.class_gain is not None
        batch, heads, rows, _ = weights.shape
        gain = self.plan.class_gain
        above = (gain[:, :, None, :] - 1.0).to(weights.dtype)
        if self.plan.rows is not None:
            above = above * _rows_from(self.plan.rows, start, stop, above.device)
        above = above.expand(batch, heads, rows, -1).reshape(batch, heads * rows, -1)
        spread = torch.bmm(above, _indicators(key_class, gain.shape[-1], weights.dtype))
        weights.addcmul_(weights, spread.view_as(weights))


def _redistribute(weights: Tensor, tables: RuleTables, rule: Redistribution, start: int) -> tuple[Tensor, Tensor]:
    """Let sinks hand weight to image keys, in place; return which rows did `[..., 1]`, and what they handed on."""
    batch, heads, rows, seen = weights.shape
    allowed = None if rule.heads is None else rule.heads[:, :, None, None]
    if rule.rows is not None:
        late = _rows_from(rule.rows, start, start + rows, weights.device)
        allowed = late if allowed is None else allowed & late
    if allowed is not None:
        allowed = allowed.expand(batch, heads, rows, 1).reshape(batch, heads * rows, 1)
    chosen, moved = tables.upto(seen).redistribute(weights.view(batch, heads * rows, seen), allowed)
    return chosen.view(batch, heads, rows, 1), moved.reshape(batch, heads, rows)


def _indicators(key_class: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return 1 where a key is of a class and 0 elsewhere, `[B, classes, Tk]`."""
    return (key_class[:, None, :] == _class_numbers(classes, key_class.device)).to(dtype)


@functools.lru_cache(maxsize=32)
def _class_numbers(classes: int, device: torch.device) -> Tensor:
    return torch.arange(classes, dtype=torch.int8, device=device)[:, None]


def _prefill(
    call: _Call, key: Tensor, value: Tensor, want: Collection[str], plain_output: Tensor | None
) -> tuple[Tensor, Aux]:
    batch, heads, rows, _ = call.query.shape
    first = 0 if {"mass", "blinded"} & set(want) else first_edited_row(call.plan)
    output = bulk_attention(call.query, key, value, call.mask, call.scale, first, plain_output)
    masses = output.new_zeros((batch, heads, rows, call.plan.classes), dtype=call.key.dtype)
    aux = Aux(
        mass=masses if "mass" in want else None,
        blinded=torch.zeros_like(output) if "blinded" in want else None,
        moved=torch.zeros_like(masses[..., 0]) if "moved" in want else None,
    )
    step = max(1, CHUNK_WEIGHTS // (batch * heads * key.shape[2]))
    for start in range(first, rows, step):
        here = slice(start, min(start + step, rows))
        chunk = call.edited(here.start, here.stop, want)
        new = chunk.output.to(output.dtype)
        if plain_output is not None and not call.plan.uses_rows and chunk.chosen is not None:
            new = torch.where(chunk.chosen, new, output[:, :, here])
        output[:, :, here] = new
        for seen, chunk_seen in ((aux.mass, chunk.mass), (aux.blinded, chunk.blinded), (aux.moved, chunk.moved)):
            if seen is not None and chunk_seen is not None:
                seen[:, :, here] = chunk_seen
    if call.plan.head_gain is not None:
        output *= call.plan.head_gain[:, :, None, None]
    return output, aux


def _prefill_row_by_row(
    call: _Call, key: Tensor, value: Tensor, want: Collection[str], plain_output: Tensor | None
) -> tuple[Tensor, Aux]:
    """Return the batch's rows one after the other: what one of them needs stays in a CPU's caches."""
    output = call.query.new_empty((*call.query.shape[:3], value.shape[-1]))
    seen = []
    for number in range(call.query.shape[0]):
        here = slice(number, number + 1)
        plain = None if plain_output is None else plain_output[here]
        output[here], aux = _prefill(call.only(here), key[here], value[here], want, plain)
        seen.append(aux)
    wanted = {name: torch.cat([getattr(aux, name) for aux in seen]) for name in want}
    return output, Aux(**wanted)


def _per_class(weights: Tensor, indicators: Tensor) -> Tensor:
    """Return the weights' sum over each class `[B, Hq, rows, classes]`."""
    batch, heads, rows, seen = weights.shape
    return torch.bmm(weights.view(batch, heads * rows, seen), indicators.transpose(1, 2)).view(batch, heads, rows, -1)


def _blinded(weights: Tensor, value: Tensor, key_class: Tensor, gain: Tensor | None) -> Tensor:
    """Return the output over the keys that are no image, renormalised; 0 where there are none."""
    rest = weights * ((key_class != KeyClass.IMAGE_SINK) & (key_class != KeyClass.IMAGE))[:, None, None, :]
    total = rest.sum(-1, keepdim=True)
    if gain is not None:
        rest *= gain
    return _weighted(rest, value) / torch.where(total > 0, total, 1.0)


def _weighted(weights: Tensor, value: Tensor) -> Tensor:
    """Return weights times values, query heads sharing their group's values without repeating them."""
    batch, heads, rows, seen = weights.shape
    flat = _flat(value, seen)
    return torch.bmm(weights.view(flat.shape[0], -1, seen), flat).view(batch, heads, rows, -1)


def _flat(states: Tensor, seen: int) -> Tensor:
    """Return the first keys or values of every batch row and head as `[B * Hkv, seen, D]`."""
    batch, heads, keys, size = states.shape
    states = states if seen == keys else states[:, :, :seen]
    return states.reshape(batch * heads, seen, size)


def _rows_of(mask: Tensor, start: int, stop: int) -> Tensor:
    return mask if mask.shape[2] == 1 else mask[:, :, start:stop]


def _rows_from(first: Tensor, start: int, stop: int, device: torch.device) -> Tensor:
    """Return bool `[B, 1, rows, 1]`: the rows from each batch row's first one on."""
    return (torch.arange(start, stop, device=device) >= first.to(device)[:, None])[:, None, :, None]
