"""The last query row of a call, written out: its logits and weights, and where edits of it begin.

For methods whose edit depends on what the row attends to. Reads the keys once more than attention does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vlm_kernels import KeyClass

from vlm_heads.errors import UnsupportedGeneration, UnsupportedModel
from vlm_heads.families import caps_logits

if TYPE_CHECKING:
    from vlm_heads.call import AttentionCall
    from vlm_heads.families import Anatomy


def last_row(call: AttentionCall) -> Tensor | None:
    """Return int64 `[B]` on the CPU: the row that predicts the next token; None where the call has no other row.

    Where a generation runs without cache, this is the prompt's last row: the rows after it were edited one by one.
    """
    rows = call.query.shape[2]
    if rows == 1:
        return None
    if _from_the_start(call):
        return _kept_on_cpu(call, "last_row", call.key_map.last_rows)
    return torch.full((call.query.shape[0],), rows - 1)


def text_after_image(call: AttentionCall) -> Tensor | None:
    """Return int64 `[B]` on the CPU: the first row after the image; None where all rows of the call come after it."""
    return _kept_on_cpu(call, "text_after_image", call.key_map.rows_after_image) if _from_the_start(call) else None


def row_logits(call: AttentionCall) -> Tensor:
    """Return `[B, Hq, Tk]`: the logits of the row that predicts the next token, `-inf` where a key is hidden.

    float32, or float64 where the query is.

    Raises:
        UnsupportedGeneration: if the generation runs without a cache.
    """
    refuse_uncached(call)
    return read_logits(call)


def read_logits(call: AttentionCall) -> Tensor:
    """Return what `row_logits` does, for a method that reads them and edits no row; a cache is not needed."""
    batch, heads, rows, size = call.query.shape
    last = call.key_map.last_rows if call.prefill else torch.full((batch,), rows - 1, device=call.query.device)
    query = call.query[:, :, 0] if rows == 1 else call.query[torch.arange(batch, device=last.device), :, last]
    packed = query.reshape(batch, call.key.shape[1], -1, size)  # query heads by the key head they share
    logits = (packed @ call.key.transpose(-1, -2)).reshape(batch, heads, -1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits * (size**-0.5 if call.scale is None else call.scale)
    logits = logits.masked_fill((call.key_class() < 0)[:, None], -torch.inf)
    return logits if call.mask is None else _masked(logits, call.mask, last)


def refuse_uncached(call: AttentionCall) -> None:
    """Raise `UnsupportedGeneration` at a later step of a generation without a cache."""
    if call.query.shape[2] > 1 and not call.prefill and _from_the_start(call):
        raise UnsupportedGeneration(
            "without a cache every step computes all rows again, and this method's edit of each depends on what it "
            "attended to when it was new; generate with use_cache=True"
        )


def row_weights(call: AttentionCall) -> Tensor:
    """Return `[B, Hq, Tk]`: the weights of the row that predicts the next token, each summing to 1."""
    return row_logits(call).softmax(dim=-1)


def seen_keys(call: AttentionCall) -> Tensor:
    """Return bool `[B, 1, Tq, Tk]`: the keys that each row of a call sees."""
    rows, keys = call.query.shape[2], call.key.shape[2]
    present = (call.key_class() >= 0)[:, None, None]
    if call.mask is None:
        # a static cache has room for keys to come
        before = torch.ones(rows, keys, dtype=torch.bool, device=call.key.device).tril(call.key_map.length - rows)
        return present & before
    mask = call.mask[..., :keys]
    return present & (mask if mask.dtype is torch.bool else mask > torch.finfo(mask.dtype).min / 2)


def kept_keys(call: AttentionCall) -> Tensor:
    """Return bool `[B, T]`: all keys so far that are neither padding nor taken back."""
    seen = seen_keys(call)[:, 0]
    last = call.key_map.last_rows if call.prefill else torch.full_like(call.key_map.last_rows, -1)
    of_last = seen[torch.arange(seen.shape[0], device=seen.device), last]
    no_longer_held = call.key_map.length - of_last.shape[1]
    return (call.key_map.classes >= 0) & torch.nn.functional.pad(of_last, (no_longer_held, 0), value=True)


def all_weights(call: AttentionCall) -> Tensor:
    """Return `[B, Hq, Tq, Tk]`: the weights of every row of a call; 0 all along a row that sees no key."""
    return rows_weights(call, 0)


def rows_weights(call: AttentionCall, first: int) -> Tensor:
    """Return `[B, Hq, R, Tk]`: the weights of the call's rows from `first` on; 0 all along a row that sees no key.

    float32, or float64 where the query is.
    """
    batch, heads, rows, size = call.query.shape
    keys = call.key.shape[2]
    packed = call.query[:, :, first:].reshape(batch, call.key.shape[1], -1, size)  # query heads by their key head
    logits = (packed @ call.key.transpose(-1, -2)).reshape(batch, heads, rows - first, keys)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits * (size**-0.5 if call.scale is None else call.scale)
    if call.mask is not None and call.mask.dtype is not torch.bool:
        logits = logits + call.mask[:, :, first:, :keys]
    return logits.masked_fill(~seen_keys(call)[:, :, first:], -torch.inf).softmax(dim=-1).nan_to_num(0.0)


def require_image_keys(anatomy: Anatomy) -> None:
    """Raise `UnsupportedModel` where the language model's self-attention has no image keys that can be weighed."""
    if anatomy.quirks.cross_attention:
        raise UnsupportedModel(
            f"{anatomy.model_type} reads the image in cross-attention layers of its own, so its self-attention has no "
            "image keys to act on; vhr works here"
        )
    if caps_logits(anatomy):
        raise UnsupportedModel(
            f"{anatomy.model_type} caps its attention logits or has learned sinks, which an edit of its weights would "
            "leave out; vhr works here"
        )


def image_keys(call: AttentionCall) -> Tensor:
    """Return bool `[B, Tk]`: image keys, sinks included. Made once per step, for all layers with as many keys."""
    keys = call.key.shape[2]
    known: tuple[int, Tensor] | None = call.memory.get("image_keys")
    if known is None or known[0] != keys:
        classes = call.key_map.seen_by(keys)
        known = (keys, (classes == KeyClass.IMAGE) | (classes == KeyClass.IMAGE_SINK))
        call.memory["image_keys"] = known
    return known[1]


def generated_keys(call: AttentionCall) -> Tensor:
    """Return bool `[B, Tk]`: keys of generated text in rows that have an image. Made once per step."""
    return call.once_per_step(_generated_keys)


def _generated_keys(call: AttentionCall) -> Tensor:
    classes = call.key_map.seen_by(call.key.shape[2])
    return (classes == KeyClass.GENERATED) & call.key_map.has_image[:, None]


def over_keys(call: AttentionCall, prompt: Tensor) -> Tensor:
    """Return values of the prompt's keys `[B, T]` at the keys this layer holds `[B, Tk]`, 0 at later ones."""
    keys, length = call.key.shape[2], call.key_map.length
    values = torch.nn.functional.pad(prompt, (0, max(keys, length) - prompt.shape[1]))
    return values if keys >= length else values[:, length - keys : length]


def over_prompt(call: AttentionCall, values: Tensor) -> Tensor:
    """Return values of this layer's keys `[..., Tk]` at the prompt's keys `[..., T]`, 0 at those it has lost."""
    keys, length = call.key.shape[2], call.key_map.length
    held = values if keys < length else values[..., :length]
    whole = torch.nn.functional.pad(held, (length - held.shape[-1], 0))
    return whole[..., : call.key_map.prompt_length]


def _from_the_start(call: AttentionCall) -> bool:
    """Whether the rows are the whole sequence so far: at prefill, and at every step without a cache."""
    return call.prefill or call.query.shape[2] == call.key_map.length


def _kept_on_cpu(call: AttentionCall, name: str, first: Tensor) -> Tensor:
    """Return the first edited row of each prompt on the CPU, read once per generation; none in a row without image.

    There it tells the kernel how many rows are edited without waiting for the device again.
    """
    known: Tensor | None = call.memory.get(name)
    if known is None:
        known = torch.where(call.key_map.has_image, first, call.key_map.prompt_length).cpu()
        call.memory[name] = known
    return known


def _masked(logits: Tensor, mask: Tensor, last: Tensor) -> Tensor:
    keys = logits.shape[-1]
    if mask.shape[2] == 1:
        seen = mask[:, :, 0, :keys]
    else:
        rows = torch.arange(last.shape[0], device=mask.device)
        seen = mask.expand(last.shape[0], -1, -1, -1)[rows, :, last, :keys]
    return logits.masked_fill(~seen, -torch.inf) if seen.dtype is torch.bool else logits + seen
