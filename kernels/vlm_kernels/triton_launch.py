"""What both kernels' launches need: memory for results and parts, arguments in the layout a kernel takes."""

from __future__ import annotations

import contextlib
import functools

import torch
import triton
from torch import Tensor

from vlm_kernels.plan import KeyClass

LOG2_E = 1.4426950408889634
INTERPRETED_PROCESSORS = 4  # few, so that the interpreter's small shapes still split their keys

NO_MASK, BOOL_MASK, FLOAT_MASK = 0, 1, 2


def empty_results(
    query: Tensor, classes: int, want_mass: bool, want_blinded: bool, want_moved: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return unwritten memory for mass, blinded output and moved mass; what is not wanted is empty."""
    batch, heads, rows, size = query.shape
    mass = query.new_empty((batch, heads, rows, classes) if want_mass else (0,), dtype=torch.float32)
    blinded = query.new_empty((batch, heads, rows, size) if want_blinded else (0,))
    moved = query.new_empty((batch, heads, rows) if want_moved else (0,), dtype=torch.float32)
    return mass, blinded, moved


def arrival_counters(query: Tensor, tiles: int) -> Tensor:
    """Return int32 zeros, one per tile, that the kernel leaves at zero again.

    One buffer per device and stream, since blocks of two running kernels must not count each other; a captured graph
    gets its own from its own memory.
    """
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        return torch.zeros(tiles, dtype=torch.int32, device=query.device)
    stream = torch.cuda.current_stream(query.device).cuda_stream if query.is_cuda else 0
    return _kept_counters(query.device, stream, triton.next_power_of_2(max(tiles, 1024)))


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


def dense(tensor: Tensor | None, otherwise: Tensor) -> Tensor:
    """Return a contiguous tensor that a kernel can read; `otherwise` where there is none and none is read.

    Kernels read bool as bytes.
    """
    if tensor is None:
        return otherwise
    tensor = tensor.to(otherwise.device, non_blocking=True).contiguous()
    return tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor


def mask_kind(mask: Tensor | None) -> int:
    """Return how a kernel has to read the mask."""
    if mask is None:
        return NO_MASK
    return BOOL_MASK if mask.dtype is torch.bool else FLOAT_MASK


def spread(tensor: Tensor | None, shape: tuple[int, ...], otherwise: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a mask or boost for a kernel, and its strides with 0 where it is the same for all; last stride 1."""
    if tensor is None:
        return otherwise, (0,) * (len(shape) - 1)
    tensor = unit_stride(tensor).expand(shape)
    return tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor, tensor.stride()[:-1]


def extra_image_mass(key_class: Tensor | None, share_epsilon: float) -> Tensor | None:
    """Return `share_epsilon` times each batch row's count of image keys, float32 `[B]`; None where it is 0."""
    if key_class is None or share_epsilon == 0.0:
        return None
    image = (key_class == int(KeyClass.IMAGE_SINK)) | (key_class == int(KeyClass.IMAGE))
    return image.sum(-1, dtype=torch.float32) * share_epsilon
