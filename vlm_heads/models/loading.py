"""Loading a model and its processor by name: the embedded ones, a folder, or a Hugging Face id."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlm_heads.errors import UnsupportedModel
from vlm_heads.models.planted import build_planted
from vlm_heads.models.planted_sinks import build_planted_with_sinks
from vlm_heads.models.whole import require_whole, unreported
from vlm_heads.names import MODELS, PLANTED, unknown_model

_PACKAGES = {"pil": "pillow", "pytorch": "torch", "cv2": "opencv-python", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Embedded:
    """A model that comes with an installed package and is loaded by a word.

    Attributes:
        folder: returns the folder of its checkpoint, or raises `UnknownModel`; None where it has none.
        build: returns (model, processor) made in memory; None where it has a checkpoint.
    """

    folder: Callable[[], Path] | None = None
    build: Callable[[], tuple[Any, Any]] | None = None


@cache
def embedded_models() -> dict[str, Embedded]:
    """Return every embedded model by its name: those that packages bring, then the planted ones."""
    brought = {plug.name: plug.load()() for plug in entry_points(group=MODELS)}
    builders = (build_planted, build_planted_with_sinks)
    return brought | {name: Embedded(build=build) for name, build in zip(PLANTED, builders, strict=True)}


def load(name: str, options: dict[str, Any], allow_missing: bool = False) -> tuple[Any, Any]:
    """Return (model, processor); see `VLM.from_pretrained`.

    Raises:
        UnknownModel: if there is no such model.
        UnsupportedModel: if it is no vision-language model, has no safetensors, or misses weights.
    """
    embedded = embedded_models().get(name)
    if embedded is not None and embedded.build is not None:
        return embedded.build()
    folder = str(embedded.folder()) if embedded is not None and embedded.folder is not None else name
    return _model(folder, name, options, allow_missing), _processor(folder, name, options)


def checkpoint_folder(name: str) -> Path:
    """Return the folder with a model's checkpoint; what is on the hub alone is downloaded.

    Raises:
        UnknownModel: if there is no such model.
        UnsupportedModel: if it is made in memory and has no checkpoint.
    """
    embedded = embedded_models().get(name)
    if embedded is not None:
        if embedded.folder is None:
            raise UnsupportedModel(
                f"{name} is made in memory and has no checkpoint; write one with model.save_pretrained"
            )
        return embedded.folder()
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md"])
        )
    except (OSError, ValueError) as failure:  # the hub's own failures are both
        raise unknown_model(name) from failure


def _model(folder: str, name: str, options: dict[str, Any], allow_missing: bool) -> Any:
    chosen = {"trust_remote_code": False, **options, "use_safetensors": True}
    # what does not fit is named by us, and not replaced in silence
    chosen |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with nullcontext() if allow_missing else unreported():
            model, info = AutoModelForImageTextToText.from_pretrained(folder, **chosen)
    except OSError as failure:
        if Path(folder).is_dir():
            raise UnsupportedModel(f"{name} holds no model that can be read: {_first_line(failure)}") from failure
        raise unknown_model(name) from failure
    except SafetensorError as failure:
        raise UnsupportedModel(f"the weights of {name} are damaged: {_first_line(failure)}") from failure
    except ImportError as failure:
        raise _lacking(name, failure) from failure
    except (ValueError, KeyError) as failure:
        raise UnsupportedModel(f"{name} is no vision-language model: {_first_line(failure)}") from failure
    require_whole(name, model, info, allow_missing)
    return model


def _processor(folder: str, name: str, options: dict[str, Any]) -> Any:
    shared = {key: value for key, value in options.items() if key in ("revision", "token", "cache_dir")}
    try:
        return AutoProcessor.from_pretrained(
            folder, trust_remote_code=bool(options.get("trust_remote_code", False)), **shared
        )
    except ImportError as failure:
        raise _lacking(name, failure) from failure
    except (OSError, ValueError, KeyError) as failure:
        raise UnsupportedModel(f"{name} has no processor that can be read: {_first_line(failure)}") from failure


def _lacking(name: str, failure: ImportError) -> UnsupportedModel:
    """Return which packages a model's family needs beside ours, with the command that installs them."""
    said = str(failure)
    found = re.findall(r"pip install ([\w.\-\[\]]+)", said) or re.findall(r"requires the ([\w.\-]+) library", said)
    packages = dict.fromkeys(
        _PACKAGES.get(one.lower(), one.lower()) for one in found or ([failure.name] if failure.name else [])
    )
    if not packages:
        return UnsupportedModel(f"{name} needs a package that is not installed: {_first_line(failure)}")
    listed = list(packages)
    return UnsupportedModel(
        f"{name} needs {' and '.join(listed)}, which {'is' if len(listed) == 1 else 'are'} not installed: "
        f"pip install {' '.join(listed)}"
    )


def _first_line(failure: BaseException) -> str:
    return str(failure).strip().split("\n")[0][:200]
