"""What both kernels' launches need: memory for results and parts, arguments in the layout a kernel takes."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor

from vlm_kernels.plan import KeyClass
from vlm_kernels.triton_edit import Edit

LOG2_E = 1.4426950408889634
INTERPRETED_PROCESSORS = 4  # few, so that the interpreter's small shapes still split their keys


def ceil_div(count: int, size: int) -> int:
    """Return how many pieces of a size hold a count; a launch asks often, and `triton.cdiv` takes microseconds."""
    return -(-count // size)


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is no less than a positive number."""
    return 1 << (least - 1).bit_length()


def empty_results(query: Tensor, edit: Edit) -> tuple[Tensor, Tensor, Tensor]:
    """Return unwritten memory for mass, blinded output and moved mass; what is not wanted is empty."""
    batch, heads, rows, size = query.shape
    mass = query.new_empty((batch, heads, rows, edit.classes) if edit.want_mass else (0,), dtype=torch.float32)
    blinded = query.new_empty((batch, heads, rows, size) if edit.want_blinded else (0,))
    moved = query.new_empty((batch, heads, rows) if edit.want_moved else (0,), dtype=torch.float32)
    return mass, blinded, moved


def operands(edit: Edit, query: Tensor, keys: int, results: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
    """Return what both kernels take of an edit, by the names of their parameters; pointers are None where none is.

    Args:
        edit: what to change and what to report.
        query: `[B, Hq, Tq, D]`, on the device of the launch.
        keys: how many there are.
        results: of `empty_results`.
    """
    batch, heads, rows, _ = query.shape
    key_class = None if edit.key_class is None else unit_stride(edit.key_class)
    mask = spread(edit.mask, (batch, heads, rows, keys))
    boost = spread(edit.logit_boost, (batch, heads, keys))
    factor = spread(edit.logit_factor, (batch, heads, keys))
    shift = spread(_log2(edit.key_weight), (batch, heads, keys))
    gain = spread(edit.value_gain, (batch, heads, keys))
    empty = spread(_log2(edit.empty_key), (batch, heads, rows))
    mass, blinded, moved = results
    return {
        "key_class": key_class,
        "class_batch": stride(key_class, 0),
        "mask": mask,
        "mask_batch": stride(mask, 0),
        "mask_head": stride(mask, 1),
        "boost": boost,
        "boost_batch": stride(boost, 0),
        "boost_head": stride(boost, 1),
        "factor": factor,
        "factor_batch": stride(factor, 0),
        "factor_head": stride(factor, 1),
        "shift": shift,
        "shift_batch": stride(shift, 0),
        "shift_head": stride(shift, 1),
        "gain": gain,
        "gain_batch": stride(gain, 0),
        "gain_head": stride(gain, 1),
        "empty": empty,
        "empty_batch": stride(empty, 0),
        "empty_head": stride(empty, 1),
        "head_gain": dense(edit.head_gain, query.device),
        "class_gain": dense(edit.class_gain, query.device),
        "gain_classes": 0 if edit.class_gain is None else edit.class_gain.shape[-1],
        "plan_rows": dense(edit.plan_rows, query.device),
        "rule_heads": dense(edit.rule_heads, query.device),
        "rule_rows": dense(edit.rule_rows, query.device),
        "extra_mass": dense(extra_image_mass(edit.key_class, edit.share_epsilon), query.device),
        "moved": edit.moved,
        "max_sink_share": edit.max_sink_share,
        "min_image_mass": edit.min_image_mass,
        "STRICT": edit.strict,
        "scale": edit.scale * LOG2_E,
        "mass_out": mass if edit.want_mass else None,
        "mass_classes": edit.classes,
        "blinded_out": blinded if edit.want_blinded else None,
        "moved_out": moved if edit.want_moved else None,
    }


def _log2(times: Tensor | None) -> Tensor | None:
    """Return float32 logarithms to base 2, in which the kernels count: what multiplies `e^z` is added to a logit."""
    return None if times is None else times.float().log2()


def arrival_counters(query: Tensor, tiles: int) -> Tensor:
    """Return int32 zeros, one per tile, that the kernel leaves at zero again.

    There is one buffer per device and stream, because blocks of two running kernels must not count each other. A
    captured graph gets one of its own, from its own memory.
    """
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        return torch.zeros(tiles, dtype=torch.int32, device=query.device)
    stream = torch.cuda.current_stream(query.device).cuda_stream if query.is_cuda else 0
    return _kept_counters(query.device, stream, power_of_two(max(tiles, 1024)))


@functools.lru_cache(maxsize=64)
def _kept_counters(device: torch.device, stream: int, length: int) -> Tensor:
    return torch.zeros(length, dtype=torch.int32, device=device)


@functools.cache
def processors(device: torch.device) -> int:
    """Return how many blocks the device runs side by side at least."""
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Return a context in which kernels are launched on the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def unit_stride(tensor: Tensor) -> Tensor:
    """Return the tensor with its last dimension dense in memory; a copy only where it is not."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def dense(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    """Return a contiguous tensor that a kernel on the device can read, bool as bytes."""
    if tensor is None:
        return None
    tensor = tensor.to(device, non_blocking=True).contiguous()
    return tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor


def spread(tensor: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """Return a mask or boost in full shape, its stride 0 where it is the same for all, its last 1; bool as bytes."""
    if tensor is None:
        return None
    tensor = unit_stride(tensor).expand(shape)
    return tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor


def stride(tensor: Tensor | None, dimension: int) -> int:
    """Return a tensor's stride, and 0 for none: a kernel takes the number and does not use it."""
    return 0 if tensor is None else tensor.stride(dimension)


def strides(**states: Tensor) -> dict[str, int]:
    """Return the strides of queries, keys or values `[B, H, T, D]` as `<name>_batch`, `<name>_head`, `<name>_row`."""
    return {
        f"{name}_{dimension}": state.stride(place)
        for name, state in states.items()
        for place, dimension in enumerate(("batch", "head", "row"))
    }


def extra_image_mass(key_class: Tensor | None, share_epsilon: float) -> Tensor | None:
    """Return `share_epsilon` times each batch row's count of image keys, float32 `[B]`; None where it is 0."""
    if key_class is None or share_epsilon == 0.0:
        return None
    image = (key_class == int(KeyClass.IMAGE_SINK)) | (key_class == int(KeyClass.IMAGE))
    return image.sum(-1, dtype=torch.float32) * share_epsilon
