"""Measures what is true of a model on the embedded world: its sinks, its vision-aware heads, whether T-VHD tells
inventions apart, whether other scores name the same heads, and what it would recall without looking.

vlm-heads study findings --model mini --write docs/findings.md
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from vlm_evals.answer import fingerprint
from vlm_evals.records import write_json
from vlm_evals.scenes.world import Scene, scenes

from vlm_app.agreement import Scores, agreement, agreements
from vlm_app.console import progress
from vlm_app.models import load_vlm
from vlm_app.studies.findings.captions import Caption, greedy_captions, recalls
from vlm_app.studies.findings.heads import awareness, head_spread, other_scores
from vlm_app.studies.findings.looking import Looks, look
from vlm_app.studies.findings.mentions import FirstMention, aucs, first_mentions
from vlm_app.studies.findings.sinks import position_sinks, sinks_by_layer, var_for
from vlm_heads import VLM, examine
from vlm_heads.profiles import MEDIAN_FACTOR, find_sinks

FILE = "findings.json"
SCORED = 128  # scenes that heads are scored on
LOOKED_AT = 64  # scenes whose attention is looked at
DIGITS = 5  # of every number that is written


def find(
    out: Path, *, model: str, images: int, seed: int, device: str | None, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure what is true of a model on held-out scenes, write findings.json and return what it holds.

    Args:
        out: folder for findings.json.
        model: what `load_vlm` takes.
        images: held-out scenes to caption.
        seed: draws the scenes and the resamples.
        device: of the models; a GPU by default if there is one.
        also: other trainings of the same model, whose heads are scored too.
    """
    vlm = load_vlm(model, device, seed)
    pictures = list(scenes("held-out", seed, images))
    with progress("captions", images) as advance:
        captions = greedy_captions(vlm, pictures, advance)
    with progress("tokens traced back to the image", images) as advance:
        mentions = list(first_mentions(vlm, captions, pictures, advance))
    vhd = awareness(vlm, pictures[:SCORED])
    others = {name: awareness(load_vlm(name, device, seed), pictures[:SCORED]) for name in also}
    found: dict[str, Any] = {"about": about(vlm, model, pictures, seed), "images": images}
    found |= _said(mentions, seed) | {"recall": recalls(captions, pictures), "heads": head_spread(vhd.whole)}
    found |= _looked(vlm, pictures[:LOOKED_AT], captions[:LOOKED_AT], vhd.whole)
    found["stability"] = {
        "halves": agreement(*vhd.halves),
        "trainings": [{"model": Path(name).name} | agreement(vhd.whole, other.whole) for name, other in others.items()],
    }
    found = rounded(found)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, found)
    return found


def about(vlm: VLM, model: str, pictures: Sequence[Scene], seed: int) -> dict[str, Any]:
    """Return when and on what it was measured, without a path of this machine."""
    anatomy = examine(vlm.model)
    count = len(pictures)
    return {
        "model": Path(model).name,
        "weights": fingerprint(vlm.model)[:8],
        "date": datetime.now(UTC).date().isoformat(),
        "seed": seed,
        "scenes": {"captioned": count, "scored": min(count, SCORED), "looked_at": min(count, LOOKED_AT)},
        "layers": anatomy.depth,
        "heads": anatomy.heads,
        "width": anatomy.width,
    }


def rounded(value: Any) -> Any:
    """Return plain data with numbers of `DIGITS` significant digits, so that a file of them can be read."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _said(mentions: Sequence[FirstMention], seed: int) -> dict[str, Any]:
    """Return what first mentions of objects tell."""
    return {
        "first_mentions": len(mentions),
        "invented": sum(mention.invented for mention in mentions),
        "auc": aucs(mentions, seed),
        "mean_position": {
            word: float(np.mean([mention.position for mention in mentions if mention.invented is invented]))
            for word, invented in (("faithful", False), ("invented", True))
        },
    }


def _looked(vlm: VLM, pictures: Sequence[Scene], captions: Sequence[Caption], vhd: Scores) -> dict[str, Any]:
    """Return what is seen where the model reads scenes and its captions of them."""
    channels, criterion = find_sinks(examine(vlm.model))
    with progress("attention", len(pictures)) as advance:
        looks = look(vlm, pictures, captions, criterion, advance)
    rows = sinks_by_layer(looks, pictures, _names(vlm, looks))
    positions = position_sinks(rows)
    tables = other_scores(vlm, pictures, vhd)
    return {
        "criterion": {"kind": criterion.kind, "channels": list(channels.channels), "factor": MEDIAN_FACTOR},
        "sinks": rows,
        "position_sinks": positions,
        "var": var_for(criterion, rows, positions),
        "scores": {name: table.tolist() for name, table in tables.items()},
        "agreement": agreements(tables),
    }


def _names(vlm: VLM, looks: Looks) -> dict[int, str]:
    tokenizer = vlm.processor.tokenizer
    return {token: tokenizer.decode([token]) for token in set(looks.prompt_ids)}
