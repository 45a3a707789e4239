"""The channels in which a language model's attention sinks explode: a table with provenance, and discovery.

A sink is a token whose hidden state carries a massive activation. One to three fixed channels of the language model,
the same for every input, stand far above all others there (Kang et al., ICLR 2025, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_heads.blind import untouched
from vlm_heads.errors import BadOption, NoSinks
from vlm_heads.families import Anatomy
from vlm_heads.models.placement import input_device
from vlm_heads.toolkit.number_list import NumberListForm
from vlm_heads.toolkit.sink_criterion import (
    MEDIAN_FACTOR,
    RELATIVE_THRESHOLD,
    Criterion,
    SinkCriterion,
    lower_median,
    root_mean_square,
)

SinkDims = str | Sequence[int]

SINK_DIMS = NumberListForm("auto", "channel numbers", "1415+2533")
STANDING_OUT = 3.0  # times the fourth largest; massive activations stand 3-4 times above the rest
MOST_CHANNELS = 3
_PROBES, _PROBE_LENGTH = 4, 24


@dataclass(frozen=True)
class KnownChannels:
    """Sink channels of one language model, and how to recognise its shape.

    Attributes:
        model: what it is called.
        text_types: `model_type` of its text config.
        width: size of the hidden state.
        depth: decoder layers.
        key_heads: key and value heads.
        channels: the massive ones.
        provenance: where they are from.
    """

    model: str
    text_types: tuple[str, ...]
    width: int
    depth: int
    key_heads: int
    channels: tuple[int, ...]
    provenance: str


_AUTHORS = "Kang et al. 2025, paper and public program"
_SECOND_HAND = "second-hand, from programs that build on it"
KNOWN: tuple[KnownChannels, ...] = (
    KnownChannels("LLaMA-2-7B, Vicuna-7B", ("llama",), 4096, 32, 32, (1415, 2533), _AUTHORS),
    KnownChannels("LLaMA-2-13B, Vicuna-13B", ("llama",), 5120, 40, 40, (2100, 4743), _AUTHORS),
    KnownChannels("Llama-3.1-8B", ("llama",), 4096, 32, 8, (788, 1384, 4062), _SECOND_HAND),
    KnownChannels(
        "Qwen2-VL-7B, Qwen2.5-VL-7B", ("qwen2_vl_text", "qwen2_5_vl_text"), 3584, 28, 4, (458, 2570), _SECOND_HAND
    ),
    KnownChannels("InternVL2-8B", ("internlm2",), 4096, 32, 8, (3584,), _SECOND_HAND),
)


@dataclass(frozen=True)
class SinkChannels:
    """Channels found in a model.

    Attributes:
        channels: one to three, ascending; empty where none stands out.
        standing_out: how many times each stands above the fourth largest, at the first token in the middle layer.
        source: the table's entry that they confirm, or "discovery".
        elsewhere: how many times each stands above itself there: at other tokens as phi has them, or at the median
            token.
    """

    channels: tuple[int, ...]
    standing_out: tuple[float, ...]
    source: str
    elsewhere: tuple[float, ...] = ()


def find_sink_channels(
    anatomy: Anatomy, prompts: Tensor | None = None, *, criterion: Criterion = "phi", factor: float = MEDIAN_FACTOR
) -> SinkChannels:
    """Return the sink channels that the model itself shows on a few prompts, in one forward.

    Channels of what enters the middle layer are ranked by their mean magnitude at the first token. Of the first three,
    those that stand `STANDING_OUT` times above the fourth are kept. They must stand above themselves at other tokens
    too: a channel that is equally large everywhere tells no token from another.

    By "phi" hidden states are divided by their root mean square, and a channel has to stand `STANDING_OUT` times above
    it, and above its own mean elsewhere. By "median" they are taken as they are, and it has to stand `factor` times
    above its own value at the median token. The table is believed only where the model confirms it, because two
    checkpoints may share a shape.

    Args:
        anatomy: of the model, which must not be edited at the moment.
        prompts: int64 `[n, T]` token ids without padding; arbitrary ones where None, because massive activations at the
            first token do not depend on what follows.
        criterion: by what sinks are told from other tokens; see `SinkCriterion`.
        factor: of "median".
    """
    ids = _arbitrary_prompts(anatomy) if prompts is None else prompts
    states = _middle_states(anatomy, ids).float()
    first, elsewhere, passing = _by_phi(states) if criterion == "phi" else _by_median(states, factor)
    values, channels = (first * passing).topk(MOST_CHANNELS + 1)
    rest = torch.where(passing, 0.0, first).amax().clamp(min=1e-6)
    times = (values[:MOST_CHANNELS] / values[MOST_CHANNELS].clamp(min=float(rest))).tolist()
    found = {int(channel): ratio for channel, ratio in zip(channels, times, strict=False) if ratio >= STANDING_OUT}
    known = known_channels(anatomy)
    source = "discovery"
    if known is not None and found and set(known.channels) <= found.keys():
        found = {channel: found[channel] for channel in known.channels}
        source = f"{known.model} ({known.provenance}), confirmed here"
    listed = sorted(found)
    return SinkChannels(tuple(listed), tuple(found[one] for one in listed), source, tuple(elsewhere[listed].tolist()))


def find_sinks(anatomy: Anatomy) -> tuple[SinkChannels, SinkCriterion]:
    """Return the channels of a model and what tells its sinks: the paper's criterion, or "median" where it finds none.

    The threshold is the paper's in proportion to the width; without channels no token is a sink.

    Args:
        anatomy: of the model, which must not be edited at the moment.
    """
    found = find_sink_channels(anatomy)
    if found.channels:
        return found, SinkCriterion(found.channels, "phi", RELATIVE_THRESHOLD * anatomy.width**0.5)
    found = find_sink_channels(anatomy, criterion="median")
    return found, SinkCriterion(found.channels, "median", MEDIAN_FACTOR)


def _by_phi(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `[width]` each: magnitude at the first token, times that elsewhere, and whether a channel may be one."""
    states = states.abs() / root_mean_square(states)[..., None]
    first, elsewhere = states[:, 0].mean(dim=0), states[:, 1:].mean(dim=(0, 1))
    return first, first / elsewhere, (first >= STANDING_OUT) & (first >= STANDING_OUT * elsewhere)


def _by_median(states: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return `[width]` each: magnitude at the first token, times the median token's, and whether a channel may be one.

    As in `times_median`, a token has at least its root mean square in every channel when the median is taken.
    """
    usual = torch.maximum(states.abs(), root_mean_square(states)[..., None]).transpose(1, 2)
    median = lower_median(usual, torch.zeros_like(usual, dtype=torch.bool))[..., 0]
    first = states[:, 0].abs()
    times = (first / median).mean(dim=0)
    return first.mean(dim=0), times, times >= factor


def known_channels(anatomy: Anatomy) -> KnownChannels | None:
    """Return the table's entry for a language model of this shape, or None."""
    text = _text_config(anatomy)
    shape = (anatomy.width, anatomy.depth, anatomy.key_heads)
    for one in KNOWN:
        if (one.width, one.depth, one.key_heads) == shape and getattr(text, "model_type", None) in one.text_types:
            return one
    return None


def resolve_sink_dims(
    dims: SinkDims, anatomy: Anatomy, *, criterion: Criterion = "phi", factor: float = MEDIAN_FACTOR
) -> tuple[int, ...]:
    """Return the channels that `dims` names: "auto" asks the model, a sequence says them.

    Args:
        dims: "auto", or channels.
        anatomy: of the model, which must not be edited at the moment.
        criterion: as in `find_sink_channels`, for "auto".
        factor: as in `find_sink_channels`.

    Raises:
        NoSinks: if "auto" finds none; the message names the other criterion where that one finds some.
        BadOption: if a channel is not in the model.
    """
    if dims == "auto":
        found = find_sink_channels(anatomy, criterion=criterion, factor=factor).channels
        if not found:
            raise NoSinks(f"{anatomy.model_type}: {_why_none(anatomy, criterion, factor)}")
        return found
    channels = SINK_DIMS.numbers(dims, "sink_dims")
    outside = [channel for channel in channels if not 0 <= channel < anatomy.width]
    if outside:
        raise BadOption(f"sink_dims={dims!r}: channel {outside[0]} is not in a hidden state of width {anatomy.width}")
    return channels


def _why_none(anatomy: Anatomy, criterion: Criterion, factor: float) -> str:
    """Return why discovery found no channel, and what to do about it."""
    if criterion == "median":
        return (
            f"no channel of the hidden state is {factor:g} times as large at the first token as at the median one, so "
            "by criterion=median this model has no attention sinks to take weight from; lower factor, or give "
            "sink_dims if you know better"
        )
    by_median = find_sink_channels(anatomy, criterion="median")
    if by_median.channels:
        listed = "+".join(map(str, by_median.channels))
        return (
            f"no channel of the hidden state stands {STANDING_OUT:g} times above the rest at the first token and above "
            f"itself at the others, but channel {listed} is {by_median.elsewhere[0]:.0f} times as large at the first "
            "token as at the median one: take criterion=median, and sinks=any where no image token is a sink"
        )
    return (
        f"no channel of the hidden state stands {STANDING_OUT:g} times above the rest at the first token, so this "
        "model has no attention sinks to take weight from; give sink_dims if you know better"
    )


def _middle_states(anatomy: Anatomy, ids: Tensor) -> Tensor:
    """Return `[n, T, width]`: what enters the middle layer."""
    recorded: list[Tensor] = []

    def record(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorded.append(args[0] if args else kwargs["hidden_states"])

    handle = anatomy.layers[anatomy.depth // 2].register_forward_pre_hook(record, with_kwargs=True)
    try:
        with untouched(anatomy.decoder):
            anatomy.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        handle.remove()
    return recorded[0]


def _arbitrary_prompts(anatomy: Anatomy) -> Tensor:
    """Return prompts of arbitrary tokens, beginning as the model's prompts do."""
    text = _text_config(anatomy)
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(text.vocab_size)
    ids = torch.randint(vocabulary // 10, vocabulary // 2, (_PROBES, _PROBE_LENGTH), generator=generator)
    for token_id in anatomy.vision_token_ids:
        ids[ids == token_id] = vocabulary // 10
    begin = getattr(text, "bos_token_id", None)
    if isinstance(begin, int):
        ids[:, 0] = begin
    return ids.to(input_device(anatomy.decoder))


def _text_config(anatomy: Anatomy) -> Any:
    config: Any = anatomy.decoder.config
    return config.get_text_config()
