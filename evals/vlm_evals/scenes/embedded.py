"""The trained models of the embedded world, made known to `vlm_heads` by an entry point."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from vlm_heads.errors import UnknownModel
from vlm_heads.models import Embedded


def mini() -> Embedded:
    """Return `mini`, whose checkpoint ships with this package."""
    return Embedded(folder=_mini_folder)


def _mini_folder() -> Path:
    """Return where the checkpoint lies.

    Raises:
        UnknownModel: if it is not there.
    """
    folder = Path(str(files("vlm_evals.scenes"))) / "mini"
    if (folder / "config.json").is_file():
        return folder
    raise UnknownModel("the embedded model 'mini' is not installed here; train it with `vlm-heads world train`")
