"""Second-stream decoding: what the next token would be with another image, none, or another prompt, and the difference.

    with attach(model, "vcd"):
        model.generate(**inputs)

Every contrast weighs streams of token logits, `a * z + b * z2`, among the tokens that the first stream finds
plausible. They differ in what the second stream sees, in what becomes of its attention, and in the weights; a few have
several streams beside the first. `contrasts/` has a file for each. Interventions edit the first stream only.
BranchContrast's second stream shares the layers below the one it begins in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.toolkit.options import require_number

Weights = Callable[[int], tuple[float, ...]]


class ContrastProcessor(LogitsProcessor):  # type: ignore[misc]
    """Weighs other streams of token logits against the first, for `generate(..., logits_processor=[...])`.

    Returns log-probabilities, so that beams compare. It may be used for several generations of the same inputs, one
    after the other; each starts clean.

    Attributes:
        streams: those beside the first.

    Args:
        stream: the second stream, or several.
        weights: of the first stream and each of the others at a step, counted from 0.
        bound: tokens less probable than this share of the most probable one are excluded; 0 excludes none.
        unsure_below: a row is contrasted where the first stream's most probable token is less probable than this, among
            the tokens that are not excluded; None contrasts every row.
        judge: the stream whose probabilities `bound` speaks of; 0 is the first.
    """

    def __init__(
        self,
        stream: SecondStream | Sequence[SecondStream],
        weights: Weights,
        bound: float,
        unsure_below: float | None = None,
        judge: int = 0,
    ) -> None:
        require_number("bound", bound, at_least=0.0, at_most=1.0)
        self._unsure_below = unsure_below
        self._judge = judge
        self.streams = (stream,) if isinstance(stream, SecondStream) else tuple(stream)
        self._weights = weights
        self._bound = bound
        self._prompt_length = 0
        self._seen: Tensor | None = None
        self._unsaid: Tensor | None = None
        self._rewound = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return log-probabilities `[R, V]` of the weighed streams.

        Raises:
            UnsupportedGeneration: if several tokens were added at once, or rows do not match the other streams'.
        """
        streams = [z.to(scores.dtype).log_softmax(dim=-1) for z in self._others(input_ids)]
        first = scores.log_softmax(dim=-1)
        of_first, *of_others = self._weights_at(input_ids.shape[1] - self._prompt_length, first)
        weighed = of_first * first
        for weight, stream in zip(of_others, streams, strict=True):
            weighed = weighed + weight * stream
        plausible = first > -torch.inf  # where the first stream weighs nothing, what it excludes would be undefined
        if self._bound > 0.0:
            judge = (first, *streams)[self._judge].masked_fill(~plausible, -torch.inf)
            plausible &= judge >= judge.amax(dim=-1, keepdim=True) + math.log(self._bound)
        weighed = weighed.masked_fill(~plausible, -torch.inf)
        if self._unsure_below is not None:
            alone = first.masked_fill(~plausible, -torch.inf).log_softmax(dim=-1)
            sure = alone.amax(dim=-1, keepdim=True).exp() >= self._unsure_below
            weighed = torch.where(sure, alone, weighed)
        return weighed.log_softmax(dim=-1)

    def rewind(self, ids: Tensor, said: Tensor) -> None:
        """Let the next call go on from tokens said earlier; later ones were taken back.

        Args:
            ids: int64 `[R, T]`, those that the next call brings, without their last.
            said: bool `[R, n]`, whether each column is still part of its row: the prompt's last one, and those after
                it.
        """
        for stream in self.streams:
            stream.rewind(said)
        self._seen, self._rewound = ids, True
        self._unsaid = said.shape[1] - said.sum(dim=1)

    def _weights_at(self, step: int, like: Tensor) -> Sequence[Tensor | float]:
        """Return all weights at a step; `[R, 1]` where rows have taken back different numbers of tokens."""
        if self._unsaid is None or not bool(self._unsaid.any()):
            return self._weights(step)
        by_row = [self._weights(step - unsaid) for unsaid in self._unsaid.tolist()]
        return [weight[:, None] for weight in like.new_tensor(by_row).T]

    def _others(self, ids: Tensor) -> list[Tensor]:
        """Return the other streams' logits for these tokens, `[R, V]` each."""
        rows, length = ids.shape
        own = self.streams[0].rows
        seen, self._seen = self._seen, ids
        rewound, self._rewound = self._rewound, False
        if seen is None or (length == self._prompt_length and not rewound):
            self._unsaid = None
            if rows % own:
                raise UnsupportedGeneration(f"{rows} rows are generated, but the second stream has {own}")
            copies = rows // own
            if not torch.equal(ids[::copies].repeat_interleave(copies, dim=0), ids):
                raise UnsupportedGeneration(f"{rows} different rows are generated, but the second stream has {own}")
            self._prompt_length = length
            return [stream.begin(copies) for stream in self.streams]
        if seen.shape != (rows, length - 1):
            raise UnsupportedGeneration(
                "a second stream takes one token after the other for one set of inputs: it cannot take back the "
                "candidates of assisted decoding, and other inputs need a processor of their own"
            )
        parents = None
        if rows > own and not self.streams[0].told:  # beams: each row goes on from a row with the same tokens so far
            parents = (ids[:, None, :-1] == seen[None]).all(dim=-1).long().argmax(dim=1)
        return [stream.step(ids[:, -1], parents) for stream in self.streams]
