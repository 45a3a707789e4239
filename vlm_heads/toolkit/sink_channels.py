"""The channels in which a language model's attention sinks explode: a table with provenance, and discovery.

A sink is a token whose hidden state carries a massive activation. One to three fixed channels of the language model,
the same for every input, stand far above all others there (Kang et al., ICLR 2025, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_heads.blind import untouched
from vlm_heads.errors import BadOption, NoSinks, brief
from vlm_heads.families import Anatomy
from vlm_heads.models.placement import input_device
from vlm_heads.toolkit.options import Kind, read_index

SinkDims = str | Sequence[int]

STANDING_OUT = 3.0  # times the fourth largest; massive activations stand 3-4 times above the rest
MOST_CHANNELS = 3
RELATIVE_THRESHOLD = 20 / 4096**0.5  # phi cannot exceed sqrt(width): the paper's 20 is 0.31 of that
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
    """

    channels: tuple[int, ...]
    standing_out: tuple[float, ...]
    source: str


def find_sink_channels(anatomy: Anatomy, prompts: Tensor | None = None) -> SinkChannels:
    """Return the sink channels that the model itself shows on a few prompts, in one forward.

    Hidden states that enter the middle layer are divided by their root mean square; channels are ranked by their mean
    magnitude at the first token. Of the first three, those that stand `STANDING_OUT` times above the fourth are kept.
    They must stand as far above the root mean square, and above themselves at other tokens: a channel that is large
    everywhere tells no token from another. The table is believed only where the model confirms it, because two
    checkpoints may share a shape.

    Args:
        anatomy: of the model, which must not be edited at the moment.
        prompts: int64 `[n, T]` token ids without padding; arbitrary ones where None, because massive activations at the
            first token do not depend on what follows.
    """
    ids = _arbitrary_prompts(anatomy) if prompts is None else prompts
    states = _normalised(_middle_states(anatomy, ids))
    magnitude, elsewhere = states[:, 0].mean(dim=0), states[:, 1:].mean(dim=(0, 1))
    magnitude = magnitude * (magnitude >= STANDING_OUT) * (magnitude >= STANDING_OUT * elsewhere)
    values, channels = magnitude.topk(MOST_CHANNELS + 1)
    rest = torch.where(magnitude == 0.0, states[:, 0].mean(dim=0), 0.0).amax().clamp(min=1e-6)
    times = (values[:MOST_CHANNELS] / values[MOST_CHANNELS].clamp(min=float(rest))).tolist()
    found = {int(channel): ratio for channel, ratio in zip(channels, times, strict=False) if ratio >= STANDING_OUT}
    known = known_channels(anatomy)
    if known is not None and found and set(known.channels) <= found.keys():
        found = {channel: found[channel] for channel in known.channels}
        source = f"{known.model} ({known.provenance}), confirmed here"
    else:
        source = "discovery"
    return SinkChannels(tuple(sorted(found)), tuple(found[channel] for channel in sorted(found)), source)


def known_channels(anatomy: Anatomy) -> KnownChannels | None:
    """Return the table's entry for a language model of this shape, or None."""
    text = _text_config(anatomy)
    shape = (anatomy.width, anatomy.depth, anatomy.key_heads)
    for one in KNOWN:
        if (one.width, one.depth, one.key_heads) == shape and getattr(text, "model_type", None) in one.text_types:
            return one
    return None


def resolve_sink_dims(dims: SinkDims, anatomy: Anatomy) -> tuple[int, ...]:
    """Return the channels that `dims` names: "auto" asks the model, a sequence says them.

    Raises:
        NoSinks: if "auto" finds none.
        BadOption: if a channel is not in the model.
    """
    if dims == "auto":
        found = find_sink_channels(anatomy).channels
        if not found:
            raise NoSinks(
                f"{anatomy.model_type}: no channel of the hidden state stands {STANDING_OUT:g} times above the rest at "
                "the first token, so this model has no attention sinks to take weight from; give sink_dims if you know "
                "better"
            )
        return found
    channels = SinkDimsForm().channels(dims, "sink_dims")
    outside = [channel for channel in channels if not 0 <= channel < anatomy.width]
    if outside:
        raise BadOption(f"sink_dims={dims!r}: channel {outside[0]} is not in a hidden state of width {anatomy.width}")
    return channels


class SinkDimsForm:
    """Channels as "1415+2533", or "auto"; kept as a tuple in ascending order."""

    kind: Kind = "list"

    def read(self, text: str, name: str) -> str | tuple[int, ...]:
        return self.checked(text, name)

    def write(self, value: Any) -> str:
        return value if isinstance(value, str) else "+".join(map(str, value))

    def checked(self, value: Any, name: str) -> str | tuple[int, ...]:
        return value if isinstance(value, str) and value == "auto" else self.channels(value, name)

    def channels(self, value: Any, name: str) -> tuple[int, ...]:
        """Return channels written as "1415+2533" or given as numbers.

        Raises:
            BadOption: if no channel is given, or one of them is no number.
        """
        listed: list[Any] = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []
        pieces = value.split("+") if isinstance(value, str) else listed
        if not pieces or not all(str(piece).strip().isdecimal() for piece in pieces):
            raise BadOption(f"{name}={brief(value)}: auto, or channel numbers as in 1415+2533, are needed")
        return tuple(sorted({read_index(str(piece).strip(), name) for piece in pieces}))


def sink_strength(hidden: Tensor, channels: Sequence[int]) -> Tensor:
    """Return `phi` `[..., T]`: the largest of the sink channels over the root mean square of all (Kang et al., Eq. 3).

    Args:
        hidden: `[..., T, width]`, what enters a layer, before its norm; the norm's weight is not applied.
        channels: the massive ones.
    """
    states = hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden
    size = (states.square().mean(dim=-1) + 1e-6).sqrt()
    return states[..., list(channels)].abs().amax(dim=-1) / size


def _normalised(states: Tensor) -> Tensor:
    states = states.float()
    return states.abs() / (states.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


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
