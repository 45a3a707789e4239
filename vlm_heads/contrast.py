"""Second-stream decoding: what the next token would be with another image, none, or another prompt, and the difference.

    with attach(model, "vcd"):
        model.generate(**inputs)

Every contrast weighs two streams of token logits, `a * z + b * z2`, among the tokens that the first stream finds
plausible. They differ in what the second stream sees and in the weights; `contrasts/` has a file for each.
Interventions edit the first stream only. BranchContrast's second stream shares the layers below the one it begins in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.toolkit.options import require_number

Weights = Callable[[int], tuple[float, float]]


class ContrastProcessor(LogitsProcessor):  # type: ignore[misc]
    """Weighs a second stream of token logits against the first, for `generate(..., logits_processor=[...])`.

    Returns log-probabilities, so that beams compare. It may be used for several generations of the same inputs, one
    after the other; each starts clean.

    Attributes:
        stream: the second stream.

    Args:
        stream: the second stream.
        weights: of the first and the second stream at a step, counted from 0.
        bound: tokens less probable than this share of the first stream's most probable one are excluded; 0 excludes
            none.
        unsure_below: a row is contrasted where the first stream's most probable token is less probable than this; None
            contrasts every row.
    """

    def __init__(self, stream: SecondStream, weights: Weights, bound: float, unsure_below: float | None = None) -> None:
        require_number("bound", bound, at_least=0.0, at_most=1.0)
        self._unsure_below = unsure_below
        self.stream = stream
        self._weights = weights
        self._bound = bound
        self._prompt_length = 0
        self._seen: Tensor | None = None
        self._unsaid: Tensor | None = None
        self._rewound = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return log-probabilities `[R, V]` of the weighed streams.

        Raises:
            UnsupportedGeneration: if several tokens were added at once, or rows do not match the second stream's.
        """
        second = self._second(input_ids)
        first, second = scores.log_softmax(dim=-1), second.to(scores.dtype).log_softmax(dim=-1)
        of_first, of_second = self._weights_at(input_ids.shape[1] - self._prompt_length, first)
        weighed = of_first * first + of_second * second
        if self._bound > 0.0:
            least = first.amax(dim=-1, keepdim=True) + math.log(self._bound)
            weighed = weighed.masked_fill(first < least, -torch.inf)
        if self._unsure_below is not None:
            sure = first.amax(dim=-1, keepdim=True).exp() >= self._unsure_below
            weighed = torch.where(sure, first, weighed)
        return weighed.log_softmax(dim=-1)

    def rewind(self, ids: Tensor, said: Tensor) -> None:
        """Let the next call go on from tokens said earlier; later ones were taken back.

        Args:
            ids: int64 `[R, T]`, those that the next call brings, without their last.
            said: bool `[R, n]`, whether each column is still part of its row: the prompt's last one, and those after
                it.
        """
        self.stream.rewind(said)
        self._seen, self._rewound = ids, True
        self._unsaid = said.shape[1] - said.sum(dim=1)

    def _weights_at(self, step: int, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return both weights at a step; `[R, 1]` where rows have taken back different numbers of tokens."""
        if self._unsaid is None or not bool(self._unsaid.any()):
            return self._weights(step)
        pairs = [self._weights(step - unsaid) for unsaid in self._unsaid.tolist()]
        of_first, of_second = like.new_tensor(pairs).T
        return of_first[:, None], of_second[:, None]

    def _second(self, ids: Tensor) -> Tensor:
        """Return the second stream's logits for these tokens, `[R, V]`."""
        rows, length = ids.shape
        seen, self._seen = self._seen, ids
        rewound, self._rewound = self._rewound, False
        if seen is None or (length == self._prompt_length and not rewound):
            self._unsaid = None
            if rows % self.stream.rows:
                raise UnsupportedGeneration(f"{rows} rows are generated, but the second stream has {self.stream.rows}")
            copies = rows // self.stream.rows
            if not torch.equal(ids[::copies].repeat_interleave(copies, dim=0), ids):
                raise UnsupportedGeneration(
                    f"{rows} different rows are generated, but the second stream has {self.stream.rows}"
                )
            self._prompt_length = length
            return self.stream.begin(copies)
        if seen.shape != (rows, length - 1):
            raise UnsupportedGeneration(
                "a second stream takes one token after the other for one set of inputs: it cannot take back the "
                "candidates of assisted decoding, and other inputs need a processor of their own"
            )
        parents = None
        if (
            rows > self.stream.rows and not self.stream.told
        ):  # beams: each row goes on from a row with the same tokens so far
            parents = (ids[:, None, :-1] == seen[None]).all(dim=-1).long().argmax(dim=1)
        return self.stream.step(ids[:, -1], parents)
