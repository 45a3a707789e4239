"""Scores somebody's saved answers: the whole of `vlm-heads judge`, as plain data and without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_evals.metric import Judging
from vlm_evals.records import file_hash
from vlm_evals.registry import find_metric
from vlm_evals.reports.labels import under_labels


def judge(metric: str, answers: Any, **options: Any) -> dict[str, Any]:
    """Return what a metric makes of a file of answers.

    Args:
        metric: its name.
        answers: the file, or several where the metric takes several.
        options: the metric's own, as `vlm-heads judge NAME --help` lists them, with `_` for `-`.

    Returns:
        Every figure (None where undefined) with what it was made of, and the facts the metric tells: how answers were
        read; `labels` (source -> the figures under its labels) where there are others; `alerts`, where the figures
        mean little; `files` (option -> name) and `hashes` (name -> SHA-256) of what was read.

    Raises:
        UnknownMetric: if there is no such metric.
        EvaluationError: naming what cannot be read or scored.
    """
    found = find_metric(metric)
    for option in found.judging.options:
        option.check(options.get(option.name))
    scored = found.judging.read(answers, **options)
    facts = scored.facts if "files" in scored.facts else {**scored.facts, **_files(found.judging, answers, options)}
    alerts = found.alerts(scored.scores)
    labels = under_labels(found, scored.scores)
    return {**found.corpus(scored.scores), **labels, **facts, **({"alerts": alerts} if alerts else {})}


def _files(judging: Judging, answers: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return names and hashes of the files that were given, for metrics that do not tell them."""
    given = {judging.file.name: answers}
    read = [one.name for one in judging.options if one.kind is Path and not one.written]
    given |= {name: options[name] for name in read if options.get(name)}
    listed = {name: _several(value) for name, value in given.items()}
    files = {name: [path.name for path in paths] for name, paths in listed.items()}
    hashes = {path.name: file_hash(path) for paths in listed.values() for path in paths if path.is_file()}
    return {"files": files, "hashes": hashes}


def _several(value: Any) -> list[Path]:
    return [Path(one) for one in value] if isinstance(value, list | tuple) else [Path(value)]
