"""Other prompts about the same pictures, as whole inputs: for families that can go on from no cached picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_KINDS = ("token_type_ids", "mm_token_type_ids")


class WholePrompts:
    """Makes inputs of other token ids from the inputs of one batch; pictures stay as they are.

    Args:
        inputs: of the batch, `input_ids` `[B, T]` among them.
        picture: ids of picture positions.
    """

    def __init__(self, inputs: Mapping[str, Any], picture: Collection[int]) -> None:
        self._inputs, self._picture = inputs, picture

    def of(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return inputs of these token ids, one sequence a row, left-padded.

        What tells a token's kind is taken from where the same token stood; a new token is of the last one's kind.
        """
        given: Tensor = self._inputs["input_ids"]
        width = max(map(len, rows))
        filled = [[int(given[row, 0])] * (width - len(ids)) + list(ids) for row, ids in enumerate(rows)]
        ids = torch.tensor(filled, dtype=given.dtype, device=given.device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in rows], device=given.device)
        whole = {**self._inputs, "input_ids": ids, "attention_mask": mask}
        for name in _KINDS:
            if isinstance(kinds := self._inputs.get(name), Tensor):
                whole[name] = self._kinds(kinds, ids)
        tiles = self._inputs.get("cross_attention_mask")
        if isinstance(tiles, Tensor):
            whole["cross_attention_mask"] = self._tiles(tiles, ids)
        whole.pop("position_ids", None)
        return whole

    def _kinds(self, kinds: Tensor, ids: Tensor) -> Tensor:
        given = self._inputs["input_ids"]
        rows = []
        for old, kind, new in zip(given.tolist(), kinds.tolist(), ids.tolist(), strict=True):
            known = dict(zip(old, kind, strict=True))
            rows.append([known.get(token, kind[-1]) for token in new])
        return torch.tensor(rows, dtype=kinds.dtype, device=kinds.device)

    def _tiles(self, tiles: Tensor, ids: Tensor) -> Tensor:
        """Return which tiles each position reads: as the one that stood as far from the row's picture."""
        given: Tensor = self._inputs["input_ids"]
        moved = self._first_picture(ids) - self._first_picture(given)
        places = (torch.arange(ids.shape[1], device=ids.device) - moved[:, None]).clamp(0, given.shape[1] - 1)
        return tiles[torch.arange(len(ids), device=ids.device)[:, None], places]

    def _first_picture(self, ids: Tensor) -> Tensor:
        return torch.isin(ids, torch.tensor(sorted(self._picture), device=ids.device)).int().argmax(dim=1)
