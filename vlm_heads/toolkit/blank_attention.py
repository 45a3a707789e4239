"""How much heads attend to each image position where the picture shows nothing; a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as render_safetensors
from torch import Tensor

from vlm_heads.errors import BadProfile
from vlm_heads.families import Anatomy
from vlm_heads.stored import write_whole

_NAME = "blank_attention"
_RANDOM_POSITIONS = 64
_LEAST = 1e-6  # of the mean; a position with less is left alone, as one that a sliding layer hides


@dataclass(frozen=True, eq=False)
class BlankAttention:
    """Weight on each image position of a blank picture, by head.

    Attributes:
        weights: float32 `[L, Hq, N]`, in the row that predicts the first token; a layer without self-attention is 0.

    Raises:
        BadProfile: if the table has another shape or holds something else than weights.
    """

    weights: Tensor

    def __post_init__(self) -> None:
        table = self.weights.detach().float().cpu()
        if table.dim() != 3 or not table.numel() or not bool((torch.isfinite(table) & (table >= 0)).all()):
            raise BadProfile(
                "attention to a blank picture is a table [layers, heads, positions] of weights, none of them negative; "
                f"given was {list(table.shape)}"
            )
        object.__setattr__(self, "weights", table.contiguous())

    @property
    def positions(self) -> int:
        """How many image positions the blank picture had."""
        return self.weights.shape[2]

    @property
    def calibration(self) -> Tensor:
        """float32 `[L, Hq, N]`: the mean over positions by each one's own weight, 1 where there is next to none."""
        mean = self.weights.mean(dim=-1, keepdim=True)
        return torch.where(self.weights > _LEAST * mean, mean / self.weights, 1.0)

    @classmethod
    def random(cls, anatomy: Anatomy, seed: int = 0) -> BlankAttention:
        """Return a table that knows nothing, for a control."""
        shape = (anatomy.depth, anatomy.heads, _RANDOM_POSITIONS)
        return cls(torch.randn(shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as safetensors."""
        write_whole(Path(path), render_safetensors({_NAME: self.weights}))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> BlankAttention:
        """Return a table that `write` wrote.

        Raises:
            BadProfile: if it is not there, or holds something else.
        """
        try:
            return cls(parse_safetensors(Path(path).read_bytes())[_NAME])
        except (OSError, SafetensorError, KeyError) as failure:
            raise BadProfile(
                f"{path} holds no attention to a blank picture ({failure}); vlm_heads.profiles.blank_attention makes it"
            ) from failure
