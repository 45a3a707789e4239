"""HeadProfile: scores per layer and head, saved as safetensors and JSON."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as render_safetensors
from torch import Tensor

from vlm_heads.errors import BadProfile
from vlm_heads.families import Anatomy

WEIGHTS_NAME = "head_profile.safetensors"
CONFIG_NAME = "head_profile.json"


@dataclass(frozen=True, eq=False)
class HeadProfile:
    """How much each head looks at the image, averaged over samples.

    Attributes:
        scores: float32 `[L, Hq]`, VHD, not normalised and not filtered. Layers without self-attention are 0.
        surges: float32 `[L, Hq]`, mean norm of each head's output without the image, for the outlier filter.
        samples: how many samples it is the mean of.
        model_type: the family it was taken from.
        notes: anything worth keeping beside it, JSON-serialisable.
    """

    scores: Tensor
    surges: Tensor | None = None
    samples: int = 0
    model_type: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scores.dim() != 2 or not self.scores.is_floating_point():
            raise BadProfile(f"scores must be floating point [layers, heads], not {_described(self.scores)}")
        object.__setattr__(self, "scores", self.scores.detach().float().cpu().contiguous())
        if not bool(torch.isfinite(self.scores).all()):
            raise BadProfile("scores must be finite")
        if self.surges is not None:
            if self.surges.shape != self.scores.shape:
                raise BadProfile(f"surges must have the shape of the scores, not {_described(self.surges)}")
            object.__setattr__(self, "surges", self.surges.detach().float().cpu().contiguous())

    def top(self, count: int) -> list[tuple[int, int, float]]:
        """Return the `count` highest (layer, head, score), highest first."""
        heads = self.scores.shape[1]
        best = self.scores.flatten().topk(min(count, self.scores.numel()))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(index // heads, index % heads, score) for index, score in pairs]

    def check(self, anatomy: Anatomy) -> None:
        """Raise `BadProfile` unless the profile is of this family and has this model's layers and heads."""
        if self.model_type and self.model_type != anatomy.model_type:
            raise BadProfile(
                f"the profile was taken from a {self.model_type} and the model is a {anatomy.model_type}; score this "
                "model's heads first"
            )
        expected = (anatomy.depth, anatomy.heads)
        if tuple(self.scores.shape) != expected:
            raise BadProfile(
                f"the profile has {self.scores.shape[0]} layers of {self.scores.shape[1]} heads, the model "
                f"({anatomy.model_type}) has {expected[0]} of {expected[1]}; score this model's heads first"
            )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the profile into a folder, made where missing. Each file is complete or not there at all."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        tensors = {"scores": self.scores} | ({} if self.surges is None else {"surges": self.surges})
        layers, heads = self.scores.shape
        described = {
            "format": 1,
            "layers": layers,
            "heads": heads,
            "samples": self.samples,
            "model_type": self.model_type,
            "notes": self.notes,
        }
        _write_whole(target / WEIGHTS_NAME, render_safetensors(tensors))
        _write_whole(target / CONFIG_NAME, (json.dumps(described, indent=2, sort_keys=True) + "\n").encode())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> HeadProfile:
        """Return the profile in a folder.

        Raises:
            BadProfile: if a file is missing or damaged.
        """
        source = Path(folder)
        try:
            tensors = parse_safetensors((source / WEIGHTS_NAME).read_bytes())
            described = json.loads((source / CONFIG_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError as missing:
            raise BadProfile(f"{source} holds no head profile: {missing.filename} is missing") from missing
        except (SafetensorError, ValueError, OSError) as damage:
            raise BadProfile(f"the head profile in {source} is damaged: {damage}") from damage
        if not isinstance(described, dict) or "scores" not in tensors:
            raise BadProfile(f"the head profile in {source} is damaged: it holds no scores")
        return cls(
            scores=tensors["scores"],
            surges=tensors.get("surges"),
            samples=int(described.get("samples", 0)),
            model_type=str(described.get("model_type", "")),
            notes=dict(described.get("notes", {})),
        )


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: to a neighbour first, then renamed over it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as stream:
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            os.unlink(stream.name)
            raise
    os.chmod(stream.name, 0o644)
    os.replace(stream.name, path)


def _described(value: Tensor) -> str:
    return f"{value.dtype} {list(value.shape)}"
