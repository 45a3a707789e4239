"""`vlm-heads score`: a score of every head, as a table, a picture, a list and a saved profile; or how scorers agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vlm_app.console import loading, print_json, print_table, progress, steps
from vlm_app.mistakes import UsageError, require_place
from vlm_app.options import (
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    DEFAULT_SEED,
    AllowMissing,
    Device,
    Json,
    Model,
    Prompt,
    Seed,
)

if TYPE_CHECKING:
    from vlm_app.scored_on.source import Samples
    from vlm_heads import HeadProfile
    from vlm_heads.scorers import Measured, Scorer

DEFAULT = "vhd"
LIST = "heads.jsonl"


def score(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE…]", help="Image files, or sample:kitchen and others; without, those of --data."),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--scorer",
            metavar="NAME[:OPTION=VALUE,…]",
            help="How heads are scored; several are compared. By default vhd.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A folder with COCO's pictures and annotations; by default the embedded world."),
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Pictures to take from the data.")] = 64,
    about: Annotated[
        Literal["captions", "questions"] | None,
        typer.Option("--about", help="What is judged: the model's own captions, or yes/no questions about objects."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the profile and the map.")] = Path("profile"),
    prompt: Prompt = DEFAULT_PROMPT,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads to print.")] = 10,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in one pass.")] = 8,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    allow_missing: AllowMissing = False,
    json: Json = False,
) -> None:
    """Score every head, by default by how far its output moves when the image is removed.

    A scorer that has to know what pictures show takes them from --data or the embedded world. Of several scorers, it is
    told how far they agree on the model's heads, and how stable each is over samples.
    """
    from vlm_evals.data.coco import CocoFolder

    from vlm_app.models import load_vlm, look_first
    from vlm_app.pictures import find_pictures
    from vlm_heads.names import require_scorers

    chosen = list(dict.fromkeys(words or [DEFAULT]))
    require_scorers(chosen)
    look_first(model=model, device=device)
    given = find_pictures(images or ())
    if given and data is not None:
        raise UsageError("images and --data were given: choose one of the two")
    if given and about is not None:
        raise UsageError(f"--about {about} is judged by what pictures show: leave the images out, or leave out --about")
    folder = None if data is None else CocoFolder.find(data)
    loading(model)
    from vlm_app.scored_on.source import Samples, shown_in
    from vlm_heads.scorers import parse_scorer

    require_place(out, "folder")
    scorers = [parse_scorer(word) for word in chosen]
    shown = [] if given else shown_in(folder, seed, pictures)
    samples = Samples(load_vlm(model, device, seed, allow_missing=allow_missing), prompt, given, shown, about, seed)
    found = {one.word(): _measured(one, samples, batch_size) for one in scorers}
    if len(scorers) == 1:
        _tell_one(scorers[0], found[scorers[0].word()], model, out, top, json)
    else:
        _compare(scorers, found, model, out, json)


def _measured(scorer: Scorer, samples: Samples, batch_size: int) -> Measured:
    given = samples.of(scorer)
    with progress(f"scoring heads, {scorer.name}", len(given)) as advance:
        return scorer.measure(
            samples.vlm.model, samples.vlm.processor, given, batch_size=batch_size, progress=steps(advance)
        )


def _tell_one(scorer: Scorer, found: Measured, model: str, out: Path, top: int, json: bool) -> None:
    profile, label = found.profile, scorer.label or scorer.name
    counted = f"{profile.samples} {'images' if scorer.needs == 'pictures' else 'samples'}"
    picture = _save(scorer, profile, model, out, counted)
    best, stability = profile.top(top), _stability(found)
    if json:
        key = "vhd" if scorer.name == DEFAULT else "score"
        rows = [{"layer": layer, "head": head, key: value} for layer, head, value in best]
        said = {"model": model, "scorer": scorer.word(), "images": profile.samples, "top": rows}
        print_json({**said, "scores": profile.scores.tolist(), "stability": stability, "out": str(out)})
        return
    middle = profile.scores.median(dim=1).values.tolist()
    lines = [(str(layer), str(head), f"{value:.3f}", _times(value, middle[layer])) for layer, head, value in best]
    kind = "Vision-aware heads" if scorer.name == DEFAULT else f"Heads by {label}"
    print_table(f"{kind} of {model}, {counted}", ("layer", "head", label, "layer median ×"), lines)
    if stability is not None:
        print(f"rank correlation of both halves of the samples: {_figure(stability['all'])}, "
              f"within layers {_figure(stability['within_layers'])}")  # fmt: skip
    print(f"profile: {out}; map: {picture}; list: {out / LIST}")


def _save(scorer: Scorer, profile: HeadProfile, model: str, out: Path, counted: str) -> Path:
    """Write a profile, its list in AllPath's format, and its map; return the map."""
    from vlm_app.plots import draw_head_map
    from vlm_heads.profiles import write_ranking

    profile.save_pretrained(out)
    write_ranking(profile.scores, out / LIST)
    label = scorer.label or scorer.name
    unit = "VHD: ‖output with image − without‖" if scorer.name == DEFAULT else f"{label}, {scorer.unit}"
    return draw_head_map(profile.scores.numpy(), out / "heads.png", title=f"{label} of {model}, {counted}", unit=unit)


def _compare(scorers: Sequence[Scorer], found: Mapping[str, Measured], model: str, out: Path, json: bool) -> None:
    """Tell how scorers agree on one model's heads; the stability of each stands on the diagonal."""
    import numpy as np

    from vlm_app.agreement import agreement
    from vlm_app.plots import draw_agreement

    for scorer, name in zip(scorers, _folders(scorers), strict=True):
        profile = found[scorer.word()].profile
        _save(scorer, profile, model, out / name, f"{profile.samples} samples")
    words = list(found)
    tables = {one: found[one].profile.scores.double().numpy() for one in words}
    pairs = {
        (one, other): _stability(found[one]) if one == other else agreement(tables[one], tables[other])
        for one in words
        for other in words
    }
    keys = {"all": "all heads", "within_layers": "within layers"}
    values = {
        title: np.array([[_number(pairs[one, other], key) for other in words] for one in words])
        for key, title in keys.items()
    }
    title = f"Rank correlation of head scores, {model}; on the diagonal both halves of the samples"
    picture = draw_agreement(values, words, out / "agreement.png", title=title)
    if json:
        rows = [
            {"scorers": [one, other], **(pairs[one, other] or {})}
            for at, one in enumerate(words)
            for other in words[at + 1 :]
        ]
        stability = {one: pairs[one, one] for one in words}
        counted = {one: found[one].profile.samples for one in words}
        print_json({"model": model, "samples": counted, "agreement": rows, "stability": stability, "out": str(out)})
        return
    for key, name in keys.items():
        rows_ = [(one, *(_figure((pairs[one, other] or {}).get(key)) for other in words)) for one in words]
        print_table(f"{title}: {name}", ("scorer", *words), rows_)
    print(f"profiles: {out}, one folder a scorer; picture: {picture}")


def _folders(scorers: Sequence[Scorer]) -> list[str]:
    """Return a folder for each scorer: its name, numbered where two have one."""
    names = [one.name for one in scorers]
    return [name if names.count(name) == 1 else f"{name}-{at}" for at, name in enumerate(names, 1)]


def _stability(found: Measured) -> dict[str, float | None] | None:
    """Return the rank correlations of both halves of the samples; None where there are no halves."""
    from vlm_app.agreement import agreement

    if found.halves is None:
        return None
    one, other = (half.double().numpy() for half in found.halves)
    return agreement(one, other)


def _number(value: Mapping[str, Any] | None, key: str) -> float:
    known = (value or {}).get(key)
    return float("nan") if known is None else float(known)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _times(value: float, median: float) -> str:
    return f"{value / median:.1f}" if median > 0 else "–"
