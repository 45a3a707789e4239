"""One run as files: one HTML file that answers by itself, every view as PNG and SVG, the run as data and as code."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlm_app.plots import draw_answers, draw_head_map, draw_patches, draw_tokens
from vlm_app.view import words
from vlm_app.view.facts import Column, Patches
from vlm_app.view.inside import Inside
from vlm_app.view.recipe import Recipe
from vlm_app.view.standalone import standalone
from vlm_app.view.truth import Truth

_LIBRARIES = ("vlm-heads", "torch", "transformers")


def write_run(
    folder: Path,
    recipe: Recipe,
    model: str,
    objects: Collection[str] | None,
    columns: Sequence[Column],
    inside: Inside,
    truth: Truth | None = None,
) -> list[Path]:
    """Write a run's files into a folder and return them.

    Args:
        folder: that exists.
        recipe: of the run.
        model: by name.
        objects: what the picture shows; None where that is not known.
        columns: the answers.
        inside: what was looked at, all answers watched.
        truth: of the answers; None where nobody knows.
    """
    written = [_text(folder / "run.html", standalone(recipe, model, columns, truth, inside))]
    for kind in ("png", "svg"):
        written += _drawn(folder, kind, f"VHD of {model} on {recipe.image}", columns, inside)
    written += [_text(folder / "run.py", recipe.python(model)), _text(folder / "run.sh", recipe.command(model) + "\n")]
    run = folder / "run.json"
    run.write_text(
        json.dumps(_run(recipe, model, objects, columns, inside), indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    return [*written, run, _profile(folder, inside)]


def _drawn(folder: Path, kind: str, title: str, columns: Sequence[Column], inside: Inside) -> list[Path]:
    """Draw every view as PNG or SVG."""
    written = [
        draw_answers(columns, folder / f"answers.{kind}"),
        draw_tokens(inside.strips(), folder / f"tokens.{kind}"),
        draw_head_map(inside.profile.scores.numpy(), folder / f"heads.{kind}", title=title),
    ]
    patches = inside.patches()
    return [*written, *([draw_patches(patches, folder / f"patches.{kind}")] if isinstance(patches, Patches) else [])]


def _text(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def _run(
    recipe: Recipe, model: str, objects: Collection[str] | None, columns: Sequence[Column], inside: Inside
) -> dict[str, Any]:
    return {
        "model": model,
        "recipe": asdict(recipe),
        "picture_shows": None if objects is None else sorted(objects),
        "answers": [_answer(column) for column in columns],
        "t_vhd": {side: [asdict(token) for token in said.tokens] for side, said in inside.said.items()},
        "vhd": inside.profile.scores.tolist(),
        "sink_channels": list(inside.criterion.channels),
        "sink_share_moved": inside.shares,
        "looked_at": asdict(inside.looked_at()) | {"title": words.looked_at(inside.looked_at())},
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _answer(column: Column) -> dict[str, Any]:
    side = column.side
    return {
        "title": column.title,
        "text": side.text,
        "token_ids": [] if side.answer is None else list(side.answer.token_ids),
        "seconds": side.seconds,
        "seconds_to_first_token": side.first,
        "tokens": side.tokens,
        "failure": side.failure or None,
        "objects": [asdict(one) for one in column.named],
        "receipt": None if side.answer is None else side.answer.receipt,
    }


def _profile(folder: Path, inside: Inside) -> Path:
    """Write the head profile, two files for `HeadProfile.from_pretrained`, as one archive."""
    target = folder / "head_profile.zip"
    with tempfile.TemporaryDirectory(dir=folder) as loose, zipfile.ZipFile(target, "w") as archive:
        inside.profile.save_pretrained(loose)
        for path in sorted(Path(loose).iterdir()):
            archive.write(path, path.name)
    return target
