"""Time the edited attention on shapes of real models, beside stock attention, other ways to the same numbers, a floor.

Every way is checked against the float64 specification first, and a way that is wrong gets no ratio. The ways take
turns, so a machine that slows down slows all of them; a ratio is the median of ratios within turns. On a CPU the
process time of one thread is read, on a GPU events on its stream.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm_kernels import reference
from vlm_kernels.dispatch import attend, prepare_decode
from vlm_kernels.materialised import flex_attention_twice, materialised_attention
from vlm_kernels.plan import AttentionPlan, KeyClass, Redistribution
from vlm_kernels.torch_backend import plain_attention
from vlm_kernels.torch_decode import StepMask

EDITED_ROWS = 64
MOST_MATERIALISED_BYTES = 1 << 30
Clock = Callable[[], float]
BLOCK_FLOATS = 1 << 26  # 256 MB, more than caches hold


@dataclass(frozen=True)
class ModelShape:
    """One attention layer of a model with a usual prompt: an image, some text before it and more after."""

    name: str
    heads: int
    kv_heads: int
    size: int
    image_keys: int
    keys: int
    batch: int = 1


SHAPES = (
    ModelShape("LLaVA-1.5-7B", 32, 32, 128, 576, 640),
    ModelShape("LLaVA-1.5-13B", 40, 40, 128, 576, 640),
    ModelShape("LLaVA-1.5-7B, batch 8", 32, 32, 128, 576, 640, batch=8),
    ModelShape("LLaVA-NeXT-7B", 32, 32, 128, 2880, 3008),
    ModelShape("Qwen2.5-VL-7B", 28, 4, 128, 1900, 2048),
    ModelShape("mini", 8, 8, 16, 49, 96),
)


@dataclass(frozen=True)
class Timing:
    """One way on one shape: milliseconds a call, the ratio to stock attention, and the floor beside them.

    Attributes:
        way: "stock", "edited" (redistribution and head gain), "prepared" (the same from a plan made ready once, as it
            is for the steps of an attached generation on a CPU), "head gain" alone, or another way to the same.
        spread: half the distance between the quartiles, as a share of the median.
        ratio: median ratio to stock attention in the same turn; None where the result was wrong.
        floor_share: time that reading keys and values (decode) or multiplying (prefill) takes at least, over `ms`.
        first_ms: wall time of the first call, compilation included.
        wrong: what the check against the specification found; empty where it agreed.
    """

    shape: str
    phase: str
    way: str
    ms: float | None
    spread: float | None
    ratio: float | None
    floor_share: float | None
    first_ms: float
    wrong: str


def measure(
    shapes: Iterable[ModelShape] = SHAPES,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seconds: float = 4.0,
    phases: tuple[str, ...] = ("decode", "prefill"),
) -> Iterator[Timing]:
    """Yield the timings of every way on every shape, shape by shape.

    Args:
        shapes: which; `SHAPES` has those of real models.
        device: where.
        dtype: of queries, keys and values.
        seconds: how long each shape's ways are timed together; they get five turns at least.
        phases: "decode" (one query row over all keys) and "prefill" (all rows, the last 64 of them edited).
    """
    device = torch.device(device)
    with _one_thread(device):
        bandwidth, flops = memory_bandwidth(device), _flops(device, dtype)
        for shape in shapes:
            for phase in phases:
                call = _Timed.of(shape, phase, device, dtype)
                yield from call.timings(seconds, call.floor_seconds(bandwidth, flops))


def summary(timings: Iterable[Timing]) -> str:
    """Return the timings as a Markdown table."""
    lines = [
        "| shape | phase | way | ms | ± | × stock | share of floor | first call, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in timings:
        if row.ms is None or row.spread is None or row.ratio is None or row.floor_share is None:
            cells = [f"wrong: {row.wrong}", "", "", ""]
        else:
            cells = [f"{row.ms:.3f}", f"{row.spread:.0%}", f"{row.ratio:.2f}", f"{row.floor_share:.0%}"]
        lines.append(f"| {' | '.join([row.shape, row.phase, row.way, *cells, f'{row.first_ms:.0f}'])} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Timed:
    """The operands of one shape and phase, and the ways to compute it."""

    shape: ModelShape
    phase: str
    query: Tensor
    key: Tensor
    value: Tensor
    key_class: Tensor
    plan: AttentionPlan

    @staticmethod
    def of(shape: ModelShape, phase: str, device: torch.device, dtype: torch.dtype) -> _Timed:
        generator = torch.Generator().manual_seed(0)
        rows = 1 if phase == "decode" else shape.keys
        edited = min(EDITED_ROWS, shape.keys - shape.image_keys)

        def states(heads: int, length: int) -> Tensor:
            return torch.randn((shape.batch, heads, length, shape.size), generator=generator).to(device, dtype)

        key_class = torch.full((shape.batch, shape.keys), int(KeyClass.TEXT), dtype=torch.int8)
        after = shape.keys - edited
        key_class[:, after - shape.image_keys : after] = int(KeyClass.IMAGE)
        key_class[:, after - shape.image_keys : after : 32] = int(KeyClass.IMAGE_SINK)
        key_class[:, 0] = int(KeyClass.TEXT_SINK)
        first = None if rows == 1 else torch.full((shape.batch,), after)
        return _Timed(
            shape=shape,
            phase=phase,
            query=states(shape.heads, rows),
            key=states(shape.kv_heads, shape.keys),
            value=states(shape.kv_heads, shape.keys),
            key_class=key_class.to(device),
            plan=AttentionPlan(
                head_gain=torch.where(torch.arange(shape.heads) % 2 == 0, 2.0, 1.0).repeat(shape.batch, 1).to(device),
                redistribution=Redistribution(rows=first),
            ),
        )

    def ways(self) -> dict[str, Callable[[], Tensor]]:
        """Return what to time by name; those that this device or shape rules out are left out."""
        states = (self.query, self.key, self.value)
        gain_only = AttentionPlan(head_gain=self.plan.head_gain)
        ways: dict[str, Callable[[], Tensor]] = {
            "stock": lambda: plain_attention(*states, None, None),
            "edited": lambda: attend(*states, plan=self.plan, key_class=self.key_class)[0],
            "head gain": lambda: attend(*states, plan=gain_only)[0],
        }
        if self.query.shape[2] == 1 and (ready := prepare_decode(*states, plan=self.plan, key_class=self.key_class)):
            every_key = StepMask(None, usable=True)
            ways["prepared"] = lambda: ready.attend(*states, every_key, None)[0].transpose(1, 2)
        if self.query.shape[:3].numel() * self.shape.keys * 4 <= MOST_MATERIALISED_BYTES:
            ways["materialised"] = lambda: materialised_attention(*states, self.plan, self.key_class)
        if self.query.is_cuda:
            ways["FlexAttention twice"] = lambda: flex_attention_twice(*states, self.plan, self.key_class)
        return ways

    def timings(self, seconds: float, floor: float) -> Iterator[Timing]:
        ways = self.ways()
        if self.query.is_cuda:
            torch.compiler.reset()  # after a few shapes torch compiles no more, and FlexAttention would run unfused
        first, wrong = {}, {}
        for name, way in ways.items():
            start = time.perf_counter()
            output = way()
            _wait(output.device)
            first[name] = 1000 * (time.perf_counter() - start)
            wrong[name] = self.complaint(name, output)
        turns = _take_turns(ways, seconds, self.query.device)
        for name, taken in turns.items():
            ratio = statistics.median(mine / stock for mine, stock in zip(taken, turns["stock"], strict=True))
            low, middle, high = statistics.quantiles(taken, n=4)
            spread = (high - low) / 2 / middle
            right = not wrong[name]
            yield Timing(
                shape=self.shape.name,
                phase=self.phase,
                way=name,
                ms=1000 * middle if right else None,
                spread=spread if right else None,
                ratio=ratio if right else None,
                floor_share=floor / middle if right else None,
                first_ms=first[name],
                wrong=wrong[name],
            )

    def complaint(self, way: str, output: Tensor) -> str:
        """Return how far the last rows are from the specification, or an empty string where that is allowed.

        In half precision a way may be four times as far off as it is without any edit: gains go up to 2, and an edit
        may round as much as attention itself. The materialised way rounds logits and weights too, others do not.
        """
        plan = {"stock": AttentionPlan(), "head gain": replace(self.plan, redistribution=None)}.get(way, self.plan)
        error = (output[:, :, -EDITED_ROWS:].double() - self.specified(plan)).abs().max().item()
        allowed = 1e-5
        if output.dtype is not torch.float32:
            unedited = self.unedited(way)[:, :, -EDITED_ROWS:].double()
            allowed = 4.0 * (unedited - self.specified(AttentionPlan())).abs().max().item() + 1e-3
        return "" if error <= allowed else f"off by {error:.1e}, allowed {allowed:.1e}"

    def unedited(self, way: str) -> Tensor:
        """Return plain attention, computed the way it is there."""
        states = (self.query, self.key, self.value)
        if way == "materialised":
            return materialised_attention(*states, AttentionPlan(), self.key_class)
        return plain_attention(*states, None, None)

    def specified(self, plan: AttentionPlan) -> Tensor:
        """Return the specification's last rows, on which every rule of this benchmark's plans acts."""
        rows = min(EDITED_ROWS, self.query.shape[2])
        mask = None
        if rows > 1:
            mask = torch.ones(rows, self.shape.keys, dtype=torch.bool, device=self.key.device)
            mask = mask.tril(self.shape.keys - rows)[None, None]
        rule = plan.redistribution
        if rule is not None and rule.rows is not None:
            plan = replace(plan, redistribution=replace(rule, rows=rule.rows - (self.shape.keys - rows)))
        states = (self.query[:, :, -rows:].double(), self.key, self.value)
        return reference.attend(*states, plan=plan, key_class=self.key_class, mask=mask)[0]

    def floor_seconds(self, bandwidth: float, flops: float) -> float:
        if self.phase == "decode":
            return 2 * self.key.numel() * self.key.element_size() / bandwidth
        return 2 * self.query.numel() * self.shape.keys / flops  # two products, half of the rows by keys


def _take_turns(ways: dict[str, Callable[[], Tensor]], seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Return each way's seconds per call, one entry a turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken["stock"]) < 5:
        for name, way in ways.items():
            taken[name].append(_seconds(way, device))
    return taken


def _seconds(way: Callable[[], Tensor], device: torch.device, clock: Clock = time.process_time) -> float:
    if device.type != "cuda":
        start = clock()
        way()
        return clock() - start
    begin, end = torch.Event(device, enable_timing=True), torch.Event(device, enable_timing=True)
    begin.record()
    way()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """One thread on a CPU, since process time counts all of them."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def memory_bandwidth(device: torch.device, clock: Clock = time.process_time) -> float:
    """Return bytes read per second, the best of a few sums over memory that no cache holds.

    Args:
        device: where.
        clock: of a CPU; process time counts all threads, so it is for one thread. A GPU has its own.
    """
    block = torch.ones(BLOCK_FLOATS, device=device)
    block.sum()
    return block.numel() * 4 / min(_seconds(block.sum, device, clock) for _ in range(5))


@functools.cache
def _flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return floating point operations per second of a matrix product, the best of a few."""
    side = 4096 if device.type == "cuda" else 1024
    left = torch.ones((side, side), dtype=dtype, device=device)
    _ = left @ left
    return 2 * side**3 / min(_seconds(lambda: left @ left, device) for _ in range(5))
