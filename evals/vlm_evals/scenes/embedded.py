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


def small() -> Embedded:
    """Return `small`: the trained parts ship with this package, its language model comes from another."""
    return Embedded(folder=_small_folder)


def _small_folder() -> Path:
    """Return where the checkpoint lies; put together at the first call.

    Raises:
        UnknownModel: if it is not trained yet, or its language model is not installed.
    """
    from vlm_evals.scenes.small.build import small_folder  # transformers is imported for those who use the model

    return small_folder()
