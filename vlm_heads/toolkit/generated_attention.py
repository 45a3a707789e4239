"""How much heads attend to the text written so far where a true object is said, and where one is invented; a file.

The authors of AdaIAT ship such a table as a torch file. It is read too, as numbers alone: nothing in it is run.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as render_safetensors
from torch import Tensor

from vlm_heads.errors import BadProfile
from vlm_heads.stored import write_whole

_AUTHORS = {"grounded": "AT_real", "invented": "AT_hul"}  # their names of the two tables
_ARRAYS = ("numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode")


@dataclass(frozen=True, eq=False)
class GeneratedAttention:
    """Mean weight on a key of generated text, by head.

    Attributes:
        grounded: float32 `[L, Hq]`, in rows that say an object which the picture shows.
        invented: float32 `[L, Hq]`, in rows that say one which it does not.

    Raises:
        BadProfile: if the tables differ in shape or hold something else than weights.
    """

    grounded: Tensor
    invented: Tensor

    def __post_init__(self) -> None:
        for name in ("grounded", "invented"):
            table = getattr(self, name).detach().float().cpu()
            if table.dim() != 2 or not bool((torch.isfinite(table) & (table >= 0)).all()):
                raise BadProfile(f"{name}: a table [layers, heads] of weights, none of them negative, is needed")
            object.__setattr__(self, name, table.contiguous())
        if self.grounded.shape != self.invented.shape:
            raise BadProfile(
                f"the tables of true and invented words are {list(self.grounded.shape)} and "
                f"{list(self.invented.shape)}; they must have the same layers and heads"
            )

    @property
    def ratio(self) -> Tensor:
        """float32 `[L, Hq]`: how many times as much true words attend; 1 where invented ones do not at all."""
        return torch.where(self.invented > 0, self.grounded / self.invented, 1.0)

    def threshold(self, between: float) -> Tensor:
        """Return `[L]`: sums over heads, 0 at that of invented words and 1 at that of true ones."""
        grounded, invented = self.grounded.sum(dim=-1), self.invented.sum(dim=-1)
        return invented + between * (grounded - invented)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as safetensors."""
        write_whole(Path(path), render_safetensors({"grounded": self.grounded, "invented": self.invented}))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> GeneratedAttention:
        """Return a table that `write` wrote, or the authors' own of a model (`*.pt`).

        Raises:
            BadProfile: if it is not there, or holds something else.
        """
        source = Path(path)
        try:
            content = source.read_bytes()
            tables = _authors(source) if content[:2] == b"PK" else parse_safetensors(content)
        except (OSError, SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, ValueError, TypeError) as failure:
            raise BadProfile(f"the table {source} cannot be read: {failure}") from failure
        missing = [name for name in ("grounded", "invented") if not isinstance(tables.get(name), Tensor)]
        if missing:
            raise BadProfile(f"the table {source} holds no {missing[0]!r}; it needs 'grounded' and 'invented'")
        return cls(tables["grounded"], tables["invented"])


class _Arrays(pickle.Unpickler):
    """Reads arrays of numpy and plain containers, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # its name before numpy 2
        if f"{module}.{name}" not in _ARRAYS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, and arrays alone are read")
        return super().find_class(module, name)


def _authors(source: Path) -> dict[str, Any]:
    """Return the tables of an archive of torch that holds a dictionary of arrays."""
    with zipfile.ZipFile(source) as archive:
        inside = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(inside) != 1:
            raise pickle.UnpicklingError("it is no archive that torch.save wrote")
        with archive.open(inside[0]) as stream:
            found = _Arrays(stream).load()
    found = found if isinstance(found, dict) else {}
    return {name: torch.as_tensor(found[theirs]) for name, theirs in _AUTHORS.items() if theirs in found}
