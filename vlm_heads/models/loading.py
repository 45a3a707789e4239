"""Loading a model and its processor by name: the embedded ones, a folder, or a Hugging Face id."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlm_heads.errors import UnknownModel, UnsupportedModel, suggest

EMBEDDED = ("mini", "planted", "planted-sinks")


def load(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return (model, processor); see `VLM.from_pretrained`.

    Raises:
        UnknownModel: if there is no such model.
        UnsupportedModel: if it is no vision-language model, or has no safetensors.
    """
    if name == "planted":
        from vlm_heads.models.planted import build_planted

        model, processor = build_planted()
        return model, processor
    if name == "planted-sinks":
        from vlm_heads.models.planted_sinks import build_planted_with_sinks

        model, processor = build_planted_with_sinks()
        return model, processor
    folder = _mini_folder() if name == "mini" else name
    return _model(folder, name, options), _processor(folder, name, options)


def checkpoint_folder(name: str) -> Path:
    """Return the folder with a model's checkpoint; what is on the hub alone is downloaded.

    Raises:
        UnknownModel: if there is no such model.
        UnsupportedModel: if it is made in memory and has no checkpoint.
    """
    if name in EMBEDDED and name != "mini":
        raise UnsupportedModel(f"{name} is made in memory and has no checkpoint; write one with model.save_pretrained")
    if name == "mini":
        return Path(_mini_folder())
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md"])
        )
    except (OSError, ValueError) as failure:  # the hub's own failures are both
        raise _unknown(name) from failure


def _mini_folder() -> str:
    """Return where the trained model of the embedded world lies; it ships with the evaluation package."""
    if find_spec("vlm_evals") is not None:
        folder = Path(str(files("vlm_evals.scenes"))) / "mini"
        if (folder / "config.json").is_file():
            return str(folder)
    raise UnknownModel("the embedded model 'mini' is not installed here; train it with `vlm-heads world train`")


def _model(folder: str, name: str, options: dict[str, Any]) -> Any:
    chosen = {"trust_remote_code": False, **options, "use_safetensors": True}
    try:
        return AutoModelForImageTextToText.from_pretrained(folder, **chosen)
    except OSError as failure:
        if Path(folder).is_dir():
            raise UnsupportedModel(f"{name} holds no model that can be read: {_first_line(failure)}") from failure
        raise _unknown(name) from failure
    except SafetensorError as failure:
        raise UnsupportedModel(f"the weights of {name} are damaged: {_first_line(failure)}") from failure
    except (ValueError, KeyError) as failure:
        raise UnsupportedModel(f"{name} is no vision-language model: {_first_line(failure)}") from failure


def _unknown(name: str) -> UnknownModel:
    hint = suggest(name, EMBEDDED)
    return UnknownModel(
        f"no model {name!r}{hint}; give {', '.join(EMBEDDED)}, a folder, or a Hugging Face id that can be reached"
    )


def _processor(folder: str, name: str, options: dict[str, Any]) -> Any:
    shared = {key: value for key, value in options.items() if key in ("revision", "token", "cache_dir")}
    try:
        return AutoProcessor.from_pretrained(
            folder, trust_remote_code=bool(options.get("trust_remote_code", False)), **shared
        )
    except (OSError, ValueError, KeyError) as failure:
        raise UnsupportedModel(f"{name} has no processor that can be read: {_first_line(failure)}") from failure


def _first_line(failure: BaseException) -> str:
    return str(failure).strip().split("\n")[0][:200]
