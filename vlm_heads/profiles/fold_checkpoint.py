"""fold_checkpoint(): a copy of a checkpoint with a static profile in its output projections, for any serving engine.

The files are copied, and the projections are scaled in the copies; every other byte stays as it was. Memory holds one
projection at a time, however large a shard is. The copy appears under its name when it is whole, not before.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.families import examine
from vlm_heads.fold import FOLD_MARK, changed_layers, gains_of, mark, refuse_config, refuse_overflow, scaled_columns
from vlm_heads.profile import HeadProfile, profile_card
from vlm_heads.profiles.checkpoint_names import names_in_checkpoint

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
REPORT = "vlm_heads_fold.json"
# Weights in other formats would be those of the original, and pickles are not handed on.
LEFT_OUT = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".pkl", ".npz", ".zip"}
)
FOLDERS = ("additional_chat_templates",)  # below a checkpoint's own; nothing else there belongs to it
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Folded:
    """What a folding did.

    Attributes:
        folder: the new checkpoint.
        tensors: stored names of the output projections that were scaled.
        exact: whether every gain is a power of two or 0, so that no weight was rounded.
        left_out: files of the original that were not copied.
    """

    folder: Path
    tensors: tuple[str, ...]
    exact: bool
    left_out: tuple[str, ...]


def fold_checkpoint(
    source: Path,
    profile: HeadProfile,
    out: Path,
    *,
    check: Callable[[Path], object] | None = None,
    progress: Callable[[str], object] = lambda file: None,
) -> Folded:
    """Write a checkpoint with a profile's gains folded in; see `fold_gains`.

    Args:
        source: a folder with safetensors, in one file or in shards, and the files that go with them.
        profile: with gains.
        out: the folder to write; must not exist, or be empty.
        check: called with the finished draft; if it raises, the draft does not become `out`.
        progress: called with the name of every file that is written.

    Raises:
        BadProfile: if the gains do not fit, or all are 1.
        UnsupportedModel: if the weights are quantised, folded already, no safetensors, or not understood.
        BadOption: if `out` is there already, or the disk has no room for it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadOption(f"{out} is there already: choose another folder, or delete it")
    config = _read_json(source / "config.json")
    refuse_config(config)
    shards = _shards(source)
    plan = _plan(source, shards, profile)
    assert profile.gains is not None, "the plan insists on gains"
    copied, left_out = _files(source, shards)
    _require_room(source, [*copied, *shards], out)
    place = Path(os.path.realpath(out)) if out.is_symlink() else out  # a link stays one
    draft = place.with_name(f"{place.name}.{os.getpid()}.part")
    draft.mkdir(parents=True)
    try:
        for name in (*copied, *shards):
            progress(name)
            (draft / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, draft / name)
        for shard, tensors in shards.items():
            _patch(draft / shard, {name: plan[name] for name in tensors if name in plan})
        _write_json(draft / "config.json", config | {FOLD_MARK: mark(profile.gains)})
        _describe(draft, profile)
        if check is not None:
            check(draft)
        _sync(draft)
        os.replace(draft, place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Folded(out, tuple(plan), _powers_of_two(profile.gains), left_out)


def _plan(source: Path, shards: Mapping[str, tuple[str, ...]], profile: HeadProfile) -> dict[str, Tensor]:
    """Return stored name of an output projection -> its heads' gains, for those that change."""
    try:
        config = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, KeyError) as failure:
        raise UnsupportedModel(
            f"{source} is no vision-language model: {str(failure).strip().splitlines()[0]}"
        ) from failure
    anatomy = examine(model)
    gains = gains_of(profile, anatomy)
    weights = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    own = {layer: weights[id(anatomy.projections[layer])] for layer in changed_layers(gains)}
    if len(set(own.values())) < len(own):
        raise UnsupportedModel(f"{anatomy.model_type}: layers share an output projection, so each cannot have its own")
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    stored = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    names = names_in_checkpoint(own.values(), list(shapes), list(stored))
    for name, found in names.items():
        _require_matrix(source / stored[found], found, shapes[name], anatomy.heads)
    return {names[own[layer]]: gains[layer] for layer in own}


def _require_matrix(path: Path, name: str, shape: list[int], heads: int) -> None:
    entry = _header(path)[0][name]
    if entry["dtype"] not in DTYPES:
        raise UnsupportedModel(f"{path.name}: {name} is stored as {entry['dtype']}: quantised weights cannot be folded")
    if entry["shape"] != shape or shape[1] % heads:
        raise UnsupportedModel(f"{path.name}: {name} is {entry['shape']}, and the model has it as {shape}")


def _shards(source: Path) -> dict[str, tuple[str, ...]]:
    """Return shard -> names of its tensors.

    Raises:
        UnsupportedModel: if there are no safetensors, or one of them is missing.
    """
    if not (source / SINGLE).is_file() and (source / INDEX).is_file():  # transformers takes the single file first
        placed: dict[str, str] = _read_json(source / INDEX).get("weight_map", {})
        files = sorted(set(placed.values()))
    else:
        files = [SINGLE]
    missing = [file for file in files if Path(file).name != file or not (source / file).is_file()]
    if missing or not files:
        raise UnsupportedModel(
            f"{source} has no {missing[0] if missing else SINGLE}: only checkpoints in safetensors can be folded; save "
            "the model with save_pretrained first"
        )
    return {file: tuple(name for name in _header(source / file)[0] if name != "__metadata__") for file in files}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header and where its data begin: 8 bytes of length, JSON, data."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if path.stat().st_size != 8 + length + end:
            raise ValueError("it does not end where its header says")
    except (ValueError, struct.error, KeyError, TypeError, AttributeError) as damage:
        raise UnsupportedModel(f"{path} is damaged: {damage}") from damage
    return header, 8 + length


def _patch(path: Path, gains: Mapping[str, Tensor]) -> None:
    """Scale tensors of a safetensors file where they lie."""
    header, begin = _header(path)
    with path.open("r+b") as file:
        for name, row in gains.items():
            start, stop = header[name]["data_offsets"]
            file.seek(begin + start)
            raw = bytearray(file.read(stop - start))
            weight = torch.frombuffer(raw, dtype=DTYPES[header[name]["dtype"]]).view(header[name]["shape"])
            refuse_overflow(weight, row, name)
            file.seek(begin + start)
            file.write(scaled_columns(weight, row).view(torch.uint8).numpy().tobytes())


def _files(source: Path, shards: Mapping[str, Any]) -> tuple[list[str], tuple[str, ...]]:
    """Return what is copied beside the shards, by name below the source, and what is left out."""
    places = [source, *(folder for name in FOLDERS if (folder := source / name).is_dir())]
    found = sorted(path for place in places for path in place.iterdir() if path.is_file() and path.name[0] != ".")
    names = [path.relative_to(source).as_posix() for path in found]
    kept = [name for name in names if Path(name).suffix not in LEFT_OUT and not name.endswith(".index.json")]
    if SINGLE not in shards:
        kept.append(INDEX)
    return kept, tuple(name for name in names if name not in kept and name not in shards)


def _require_room(source: Path, names: list[str], out: Path) -> None:
    needed = sum((source / name).stat().st_size for name in names)
    parent = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise BadOption(
            f"{out} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free there: choose another disk"
        )


def _describe(folder: Path, profile: HeadProfile) -> None:
    """Append what was folded to the model's card, and put the gains beside it as JSON: a second safetensors file
    would be taken for weights."""
    assert profile.gains is not None
    card = folder / "README.md"
    before = card.read_text(encoding="utf-8").rstrip() + "\n\n" if card.is_file() else ""
    text = "Folded into the output projections of this checkpoint; nothing else of it was changed.\n"
    card.write_text(before + profile_card(profile.card, profile.gains) + "\n" + text, encoding="utf-8")
    _write_json(folder / REPORT, {"gains": profile.gains.tolist(), "card": profile.card})


def _powers_of_two(gains: Tensor) -> bool:
    mantissa, _ = torch.frexp(gains)
    return bool(((mantissa == 0.5) | (gains == 0)).all())


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise UnsupportedModel(f"{path.parent} is no checkpoint: {path.name} is missing") from missing
    except ValueError as damage:
        raise UnsupportedModel(f"{path} is damaged: {damage}") from damage
    if not isinstance(value, dict):
        raise UnsupportedModel(f"{path} is damaged: it holds no object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
