"""End-to-end timing of a model: plain SDPA, eager attention and interventions, interleaved in one run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from vlm_kernels.bench import memory_bandwidth

from vlm_app.options import DEFAULT_PROMPT
from vlm_heads import VLM, attach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlm_heads import Mitigation

_MEMORY = Path("/proc/meminfo")
_CLEAR_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


Way = Callable[[], AbstractContextManager[Any]]
Clock = Callable[[], float]


def ways_to_generate(vlm: VLM, named: Mapping[str, Mitigation]) -> dict[str, Way]:
    """Return what is timed: plain, eager attention, and every mitigation; those with a second stream both ways."""
    ways: dict[str, Way] = {"plain": nullcontext, "eager": lambda: _eager(vlm.model)}
    for name, mitigation in named.items():
        ways[name] = lambda chosen=mitigation: attach(  # type: ignore[misc]
            vlm.model, chosen, allow_idle=True, processor=vlm.processor
        )
        if mitigation.contrast is not None:
            ways[f"{name}, two forwards"] = lambda chosen=mitigation: attach(  # type: ignore[misc]
                vlm.model, chosen, allow_idle=True, one_pass=False
            )
    return ways


def time_generation(
    vlm: VLM, named: Mapping[str, Mitigation], *, tokens: int, rounds: int, batch: int = 1
) -> dict[str, dict[str, float]]:
    """Return the prefill and decode time and the memory peak of every way to generate, and the floor of decoding.

    The ways take turns, so a machine that slows down slows all of them; ratios are taken within a turn.

    Args:
        vlm: the model; its own attention implementation is what "plain" uses.
        named: mitigations to attach, by name.
        tokens: generated after the first; at least 1.
        rounds: how often each way is timed, after one round that is thrown away.
        batch: prompts answered at once; times are of the whole batch.

    Returns:
        way -> `prefill_ms` (the prompt and the first token), `decode_ms` (per further token), `prefill_ratio` and
        `decode_ratio` (to plain, medians over turns), `prefill_least_ms` and `decode_least_ms` (of all turns),
        `peak_mb` (of the device, or of the process where the system tells it); `floor` has `decode_ms` alone: the
        language model's weights read once at the speed measured here.
    """
    from PIL import Image

    inputs = vlm.inputs([Image.new("RGB", (96, 96), (90, 120, 60))] * batch, DEFAULT_PROMPT)
    ways = ways_to_generate(vlm, named)
    clock = clock_of(vlm)
    found = time_ways(vlm, inputs, ways, tokens=tokens, rounds=rounds, clock=clock)
    floor = _language_bytes(vlm.model) / memory_bandwidth(vlm.device, clock)
    return found | {"floor": {"decode_ms": 1000 * floor}}


def clock_of(vlm: VLM) -> Clock:
    """Return the clock to time with: on a CPU with one thread the time this process had, whatever else runs there."""
    return process_time if vlm.device.type == "cpu" and torch.get_num_threads() == 1 else perf_counter


def time_ways(
    vlm: VLM, inputs: dict[str, Any], ways: Mapping[str, Way], *, tokens: int, rounds: int, clock: Clock = perf_counter
) -> dict[str, dict[str, float]]:
    """Return the times and memory peak of ways to generate from the same inputs; see `time_generation`.

    Args:
        vlm: the model.
        inputs: of `generate`.
        ways: name -> what is entered around a generation; one is called "plain".
        tokens: generated after the first.
        rounds: how often each way is timed, after one round that is thrown away.
        clock: what tells the seconds.
    """
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    peaks: dict[str, float] = {}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            _reset_peak(vlm.device)
            with way():
                first, rest = _generate(vlm.model, inputs, tokens, clock)
            if turn:
                seen[name].append((first, rest / tokens))
                peaks[name] = max(peaks.get(name, 0.0), _peak(vlm.device))
    return {name: _medians(pairs, seen["plain"]) | {"peak_mb": peaks[name]} for name, pairs in seen.items()}


def _medians(pairs: Sequence[tuple[float, float]], plain: Sequence[tuple[float, float]]) -> dict[str, float]:
    prefill, decode = zip(*pairs, strict=True)
    ratios = [(one[0] / base[0], one[1] / base[1]) for one, base in zip(pairs, plain, strict=True)]
    return {
        "prefill_ms": 1000 * statistics.median(prefill),
        "decode_ms": 1000 * statistics.median(decode),
        "prefill_ratio": statistics.median(ratio for ratio, _ in ratios),
        "decode_ratio": statistics.median(ratio for _, ratio in ratios),
        "prefill_least_ms": 1000 * min(prefill),
        "decode_least_ms": 1000 * min(decode),
    }


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_CLEAR_PEAK, os.W_OK):
        _CLEAR_PEAK.write_text("5")  # Linux: the peak of the resident memory starts again


def _peak(device: torch.device) -> float:
    """Return the memory peak since the last reset, in MB; NaN where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if not _STATUS.exists():
        return float("nan")
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


class _FirstToken(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing; notes when the first token is there, which cuts one `generate` into prefill and decode."""

    def __init__(self, clock: Clock) -> None:
        self.at: float | None = None
        self._clock = clock

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        if self.at is None:
            wait(input_ids.device)
            self.at = self._clock()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _generate(model: Any, inputs: dict[str, Any], tokens: int, clock: Clock) -> tuple[float, float]:
    """Return the seconds until the first token, and those that exactly `tokens` more take."""
    first = _FirstToken(clock)
    wait(model.device)
    start = clock()
    with torch.inference_mode():
        model.generate(
            **inputs, do_sample=False, min_new_tokens=tokens + 1, max_new_tokens=tokens + 1,
            stopping_criteria=[first],
        )  # fmt: skip
    wait(model.device)
    end = clock()
    assert first.at is not None
    return first.at - start, end - first.at


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def wait(device: torch.device) -> None:
    """Return when everything that was started on a device has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _language_bytes(model: Any) -> int:
    """Return how many bytes of weights one decoded token reads: the language model's, embeddings left out."""
    language = model.get_decoder() if hasattr(model, "get_decoder") else model
    embeddings = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    weights = [one for one in (*language.parameters(), *model.lm_head.parameters()) if id(one) not in embeddings]
    unique = {id(one): one.numel() * one.element_size() for one in weights}
    return sum(unique.values())


def free_memory() -> float:
    """Return the bytes of memory that can be had without swapping; infinity where the system does not tell."""
    if not _MEMORY.exists():
        return float("inf")
    line = next(line for line in _MEMORY.read_text().splitlines() if line.startswith("MemAvailable"))
    return float(line.split()[1]) * 1024


@dataclass(frozen=True)
class Size:
    """The language model of a random LLaVA; the tower stays small, since it is not what is timed.

    Attributes:
        layers, width, heads, mlp: of the language model.
        key_heads: fewer than heads for grouped queries.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    key_heads: int


CONFIGS = {
    "300m": Size(24, 1024, 16, 2816, 16),
    "llava-1.5-7b": Size(32, 4096, 32, 11008, 32),
    "llava-1.5-13b": Size(40, 5120, 40, 13824, 40),
    "qwen2.5-vl-7b": Size(28, 3584, 28, 18944, 4),
}


def random_llava(config: str, dtype: torch.dtype = torch.float32) -> VLM:
    """Return a LLaVA of a real model's size with random weights, which reads the embedded world's words.

    Raises:
        BadOption: for an unknown config, or one whose weights are larger than the free memory.
    """
    from transformers import LlavaForConditionalGeneration
    from vlm_evals.scenes.model import mini_config
    from vlm_evals.scenes.tokens import build_processor

    from vlm_heads.errors import BadOption

    if config not in CONFIGS:
        raise BadOption(f"unknown config {config!r}: choose one of {', '.join(CONFIGS)}")
    size, whole = CONFIGS[config], mini_config()
    whole.text_config.update(
        {"hidden_size": size.width, "intermediate_size": size.mlp, "num_hidden_layers": size.layers}
        | {"num_attention_heads": size.heads, "num_key_value_heads": size.key_heads, "layer_types": None}
        | {"head_dim": size.width // size.heads}
    )
    with torch.device("meta"):
        count = sum(one.numel() for one in LlavaForConditionalGeneration(whole).parameters())
    needed, free = count * dtype.itemsize, free_memory()
    if needed > free:
        raise BadOption(
            f"random {config} takes {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} and {free / 1e9:.1f} "
            f"GB of memory are free: say --dtype bfloat16 ({2 * count / 1e9:.1f} GB), or a smaller --config"
        )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = LlavaForConditionalGeneration(whole).eval()
    finally:
        torch.set_default_dtype(before)
    return VLM(model, build_processor(), f"random {config}")
