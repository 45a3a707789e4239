"""Which tokens of a prompt are attention sinks by what they carry: the paper's criterion, and one for other models.

The paper measures a token against itself: a sink's channel stands far above the root mean square of all its channels.
In some language models one channel is large at every token, so that all of them or the first alone pass. The other
criterion measures a token against the median token of its own prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Criterion = Literal["phi", "median"]

RELATIVE_THRESHOLD = 20 / 4096**0.5  # phi cannot exceed sqrt(width): the paper's 20 is 0.31 of that
# In two LLaVAs on SmolLM2-135M, early in training, tokens from 7 times the median on drew 26 to 64 % of the attention
# of later text on average; those below 2 times drew 0.7 %, those up to 3 times 3 %, and the few between 5 to 13 %.
MEDIAN_FACTOR = 7.0


@dataclass(frozen=True)
class SinkCriterion:
    """Tells a prompt's sinks from its other tokens, layer by layer.

    Attributes:
        channels: the massive ones; where there is none, no token is a sink.
        kind: "phi" is the paper's, see `sink_strength`; "median" is `times_median`.
        least: what a sink's value reaches.
    """

    channels: tuple[int, ...]
    kind: Criterion
    least: float

    def sinks(self, hidden: Tensor, padding: Tensor) -> Tensor:
        """Return bool `[B, T]`: the sinks.

        Args:
            hidden: `[B, T, width]`, what enters a layer, before its norm.
            padding: bool `[B, T]`, positions that are no tokens.
        """
        if not self.channels:
            return torch.zeros_like(padding)
        if self.kind == "phi":
            return sink_strength(hidden, self.channels) >= self.least
        return times_median(hidden, self.channels, padding) >= self.least


def sink_strength(hidden: Tensor, channels: Sequence[int]) -> Tensor:
    """Return `phi` `[..., T]`: the largest of the sink channels over the root mean square of all (Kang et al., Eq. 3).

    Args:
        hidden: `[..., T, width]`, what enters a layer, before its norm; the norm's weight is not applied.
        channels: the massive ones.
    """
    states = _precise(hidden)
    return _largest(states, channels) / root_mean_square(states)


def times_median(hidden: Tensor, channels: Sequence[int], padding: Tensor) -> Tensor:
    """Return `[..., T]`: how many times as large the sink channels are as at the median token of the same prompt.

    Of a token the largest of the sink channels counts. The median is taken over what every token has there, at least
    its root mean square: so a channel that is nearly 0 elsewhere does not make a sink of every small value.

    Args:
        hidden: `[..., T, width]`, what enters a layer, before its norm.
        channels: the massive ones.
        padding: bool `[..., T]`, positions that are no tokens.
    """
    states = _precise(hidden)
    largest = _largest(states, channels)
    usual = lower_median(torch.maximum(largest, root_mean_square(states)), padding)
    return largest / usual


def root_mean_square(states: Tensor) -> Tensor:
    """Return `[...]`, the root mean square over the last dimension, as VAR's paper takes it."""
    return (states.square().mean(dim=-1) + 1e-6).sqrt()


def lower_median(values: Tensor, padding: Tensor) -> Tensor:
    """Return `[..., 1]`: the lower median over the last dimension without padding; infinite where all is padding."""
    ordered = values.masked_fill(padding, torch.inf).sort(dim=-1).values
    middle = ((~padding).sum(dim=-1, keepdim=True) - 1) // 2
    return ordered.gather(-1, middle.clamp(min=0))


def _largest(states: Tensor, channels: Sequence[int]) -> Tensor:
    return states[..., list(channels)].abs().amax(dim=-1)


def _precise(hidden: Tensor) -> Tensor:
    return hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden
