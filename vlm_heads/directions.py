"""Directions: one vector of the hidden state for each layer, saved as a safetensors file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as render_safetensors
from torch import Tensor

from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.stored import write_whole

_NAME = "directions"


@dataclass(frozen=True, eq=False)
class Directions:
    """Where the hidden state is to be turned, layer by layer.

    Attributes:
        vectors: float32 `[L, width]`, of what leaves each layer.
    """

    vectors: Tensor

    def __post_init__(self) -> None:
        if self.vectors.dim() != 2 or not self.vectors.is_floating_point():
            raise BadOption(f"directions must be floating point [layers, width], not {tuple(self.vectors.shape)}")
        object.__setattr__(self, "vectors", self.vectors.detach().float().cpu().contiguous())
        if not bool(torch.isfinite(self.vectors).all()):
            raise BadOption("directions hold values that are no numbers")

    @classmethod
    def random(cls, anatomy: Anatomy, seed: int = 0) -> Directions:
        """Return directions that know nothing, for a control."""
        return cls(torch.randn(anatomy.depth, anatomy.width, generator=torch.Generator().manual_seed(seed)))

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Directions:
        """Return the directions in a file.

        Raises:
            BadOption: if there is none, or it is damaged.
        """
        try:
            return cls(parse_safetensors(Path(file).read_bytes())[_NAME])
        except (OSError, SafetensorError, KeyError) as failure:
            raise BadOption(
                f"{file} holds no directions ({failure}); vlm_heads.profiles.find_directions makes them"
            ) from failure

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write them into a file, whole or not at all."""
        write_whole(Path(file), render_safetensors({_NAME: self.vectors}))

    def require(self, anatomy: Anatomy) -> None:
        """Raise `BadOption` unless they fit a model."""
        wanted = (anatomy.depth, anatomy.width)
        if tuple(self.vectors.shape) != wanted:
            raise BadOption(
                f"directions of {self.vectors.shape[0]} layers and width {self.vectors.shape[1]} do not fit "
                f"{anatomy.model_type} with {wanted[0]} layers and width {wanted[1]}: make them with this model"
            )
