"""Directions: one vector of the hidden state for each layer, and one for each position of a vision tower's layers.

Each is saved as a safetensors file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as render_safetensors
from torch import Tensor

from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.stored import write_whole


@dataclass(frozen=True, eq=False)
class _Stored:
    """Vectors in a file."""

    name: ClassVar[str]
    maker: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]

    vectors: Tensor

    def __post_init__(self) -> None:
        if self.vectors.dim() != len(self.axes) or not self.vectors.is_floating_point():
            wanted = ", ".join(self.axes)
            raise BadOption(f"{self.name} must be floating point [{wanted}], not {tuple(self.vectors.shape)}")
        object.__setattr__(self, "vectors", self.vectors.detach().float().cpu().contiguous())
        if not bool(torch.isfinite(self.vectors).all()):
            raise BadOption(f"{self.name} hold values that are no numbers")

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Self:
        """Return the directions in a file.

        Raises:
            BadOption: if there is none, or it is damaged.
        """
        try:
            return cls(parse_safetensors(Path(file).read_bytes())[cls.name])
        except (OSError, SafetensorError, KeyError) as failure:
            raise BadOption(
                f"{file} holds no {cls.name} ({failure}); vlm_heads.profiles.{cls.maker} makes them"
            ) from failure

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write them into a file, whole or not at all."""
        write_whole(Path(file), render_safetensors({self.name: self.vectors}))


@dataclass(frozen=True, eq=False)
class Directions(_Stored):
    """Where the hidden state is to be turned, layer by layer.

    Attributes:
        vectors: float32 `[L, width]`, of what leaves each layer.
    """

    name: ClassVar[str] = "directions"
    maker: ClassVar[str] = "find_directions"
    axes: ClassVar[tuple[str, ...]] = ("layers", "width")

    @classmethod
    def random(cls, anatomy: Anatomy, seed: int = 0) -> Directions:
        """Return directions that know nothing, for a control."""
        return cls(torch.randn(anatomy.depth, anatomy.width, generator=torch.Generator().manual_seed(seed)))

    def require(self, anatomy: Anatomy) -> None:
        """Raise `BadOption` unless they fit a model."""
        wanted = (anatomy.depth, anatomy.width)
        if tuple(self.vectors.shape) != wanted:
            raise BadOption(
                f"directions of {self.vectors.shape[0]} layers and width {self.vectors.shape[1]} do not fit "
                f"{anatomy.model_type} with {wanted[0]} layers and width {wanted[1]}: make them with this model"
            )


@dataclass(frozen=True, eq=False)
class TowerDirections(_Stored):
    """Where the vision tower's hidden state is to be turned, layer by layer and position by position.

    Attributes:
        vectors: float32 `[L, T, width]`, of what leaves each of the tower's layers.
    """

    name: ClassVar[str] = "tower directions"
    maker: ClassVar[str] = "find_tower_directions"
    axes: ClassVar[tuple[str, ...]] = ("layers", "positions", "width")
