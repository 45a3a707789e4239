"""Scores of the tokens after the image, each from rows of the model, summed over its layers as they run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad
from vlm_kernels import KeyClass

from vlm_heads.toolkit.row_attention import over_keys

if TYPE_CHECKING:
    from vlm_heads.call import AttentionCall


@dataclass(frozen=True)
class TextScores:
    """The scores in one forward. A token has that of the row that predicted it, a prompt's token that of its own row.

    Attributes:
        values: float32 `[B, end + 1]`, by key column; the last one is that of the token to come.
        known: bool `[B, end + 1]`, whether a column has a score, be it of the layers so far.
        first: the first row of the forward that is read.
        begin: key column of the forward's row 0.
        fresh: whether no row before predicted the token of the last row.
    """

    values: Tensor
    known: Tensor
    first: int
    begin: int
    fresh: bool

    @classmethod
    def of_forward(cls, call: AttentionCall, before: TextScores | None) -> TextScores:
        """Return the scores with which a forward begins.

        Args:
            call: of its first layer.
            before: those with which the forward before it ended; None at the prompt.
        """
        rows, end = call.query.shape[2], call.key_map.length
        begin = end - rows
        fresh = before is None or rows > 1 or before.values.shape[1] != end
        first = int(call.key_map.rows_after_image.min()) if call.prefill else 0
        shape = (call.query.shape[0], end + 1)
        values = torch.zeros(shape, device=call.query.device)
        known = torch.zeros(shape, dtype=torch.bool, device=call.query.device)
        if before is not None:
            kept = begin if fresh else end
            values[:, :kept], known[:, :kept] = before.values[:, :kept], before.known[:, :kept]
        return cls(values, known, first, begin, fresh)

    def plus(self, call: AttentionCall, looked: Tensor, *, own: bool) -> TextScores:
        """Return the scores with those of one layer's rows added.

        Args:
            call: the layer's.
            looked: `[B, R]`, of the rows from the first that is read.
            own: whether a fresh token in the last row has its row's score, and not 0.
        """
        end, start = self.values.shape[1] - 1, self.begin + self.first
        columns = torch.arange(end + 1, device=looked.device)
        # where the prompt is padded on the right, its last row is not the forward's
        place = call.key_map.last_positions[:, None] if call.prefill else columns[None, end - 1 : end]
        before, here = (columns >= start) & (columns < place), (columns == place) & self.fresh
        added = torch.where(before | (here & own), pad(looked, (start, 1)), 0.0)
        added[:, end:] = looked.gather(1, (place - start).expand(len(looked), 1))
        return replace(self, values=self.values + added, known=self.known | before | here | (columns == end))

    def of_keys(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Return the scores of the keys that a layer holds, `[B, Tk]`, and which of them are text with a score."""
        values, known = (over_keys(call, one[:, :-1]) for one in (self.values, self.known))
        return values, known & text_after_image(call)

    def with_values(self, call: AttentionCall, values: Tensor) -> TextScores:
        """Return the scores with other values `[B, Tk]` at the keys that a layer holds."""
        end = self.values.shape[1] - 1
        held = values[:, :end]
        return replace(
            self, values=torch.cat([self.values[:, : end - held.shape[1]], held, self.values[:, end:]], dim=1)
        )


def text_after_image(call: AttentionCall) -> Tensor:
    """Return bool `[B, Tk]`: the keys behind a row's image that are text of the prompt or generated."""
    classes, length = call.key_class(), call.key_map.length
    columns = torch.arange(length, device=classes.device)
    behind = over_keys(call, (columns >= call.key_map.after_image[:, None]) & call.key_map.has_image[:, None])
    return behind & ((classes == KeyClass.TEXT) | (classes == KeyClass.TEXT_SINK) | (classes == KeyClass.GENERATED))
