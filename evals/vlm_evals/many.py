"""Any number of runs compared with one of them: `vlm-heads compare`, from directories and files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm_evals.compare import holm
from vlm_evals.errors import TaskError
from vlm_evals.gathered import Source, against, gather, require_alike
from vlm_evals.metric import Metric
from vlm_evals.reports.frontier import LINES, Entry, Field, frontier_report
from vlm_evals.reports.pairs import PLAIN, derived_controls
from vlm_evals.scored import ScoredRun, compare_runs, pair_report, settings_of
from vlm_evals.text.budget import BUDGETS, Budget, Unit

CUTS = (0.3, 0.45, 0.6, 0.75, 0.9)  # shares of the base's mean length that its answers are cut after


def compare_paths(
    paths: Sequence[Path],
    *,
    base: Path | None = None,
    options: Mapping[str, Any] | None = None,
    budgets: Sequence[int] = (),
    seed: int,
) -> dict[str, Any]:
    """Return the report of everything that some paths name.

    Args:
        paths: see `gathered.gather`.
        base: what the others are compared with; by default the first, of an evaluation its plain run and its curves.
        options: what saved answers are scored with.
        budgets: tokens, or words where answers carry no tokens, within which the runs are compared too.
        seed: of the bootstrap and of the tests.

    Returns:
        A paired report of two runs, where neither a base nor a budget is named; else one of many runs.

    Raises:
        RunError, TaskError, AnswerMismatch, FileFormatError: saying what cannot be compared.
    """
    given = options or {}
    sources = gather(paths, given)
    named = [] if base is None or _among(base, sources) else gather([base], given)
    first = against(sources, base, named)
    others = [one for one in sources if one is not first]
    others += [one for one in named if one.role in LINES]  # the base's own evaluation may bring its curves
    if not others:
        raise TaskError(f"{first.path} is one run alone: name what it is compared with")
    if len(sources) == 2 and base is None and not budgets and not any(one.role in LINES for one in sources):
        return _pair(first, others[0], seed=seed)
    return compare_many(first, others, budgets=budgets, seed=seed)


def _among(base: Path, sources: Sequence[Source]) -> bool:
    return any(one.path.absolute() == base.absolute() for one in sources)


def _pair(base: Source, other: Source, *, seed: int) -> dict[str, Any]:
    if base.path.is_dir() and other.path.is_dir():
        return compare_runs(base.path, other.path, seed=seed)
    notes = require_alike(base, [other])
    plain, mitigated = base.read(None), other.read(None)
    plain = replace(plain, facts={**plain.facts, "notes": [*plain.facts.get("notes", ()), *notes]})
    return pair_report([plain], [replace(mitigated, protocol=plain.protocol)], seed=seed)


def compare_many(base: Source, others: Sequence[Source], *, budgets: Sequence[int] = (), seed: int) -> dict[str, Any]:
    """Return the report of many runs against one.

    Args:
        base: what they are compared with.
        others: the runs, those of lines among them.
        budgets: see `compare_paths`.
        seed: of the bootstrap and of the tests.

    Raises:
        AnswerMismatch: naming what is not alike in two runs.
        TaskError: for a budget that answers cannot be cut after.
    """
    notes = require_alike(base, others)
    kept = _distinct(base, others)
    if base.plain and not any(one.name == PLAIN for one in kept):
        base = replace(base, name=PLAIN)
    metric = base.read(None).metric
    failures = {name: why for source in (base, *kept) for name, why in source.read(None).failures.items()}
    entries = [_entry(source, source.read(None), failures) for source in kept]
    derived, said = _derived(metric, base, entries, failures)
    entries += derived
    if not any(entry.role == "end-of-text" for entry in entries):
        entries += _cut_line(metric, base, failures)
    field = Field(metric, _entry(base, base.read(None), failures), entries, seed=seed)
    settings = settings_of(base.read(None))
    if more := [*settings.get("notes", ()), *notes, *said]:
        settings["notes"] = list(dict.fromkeys(more))
    report = frontier_report(field, settings=settings, failures=failures)
    if budgets:
        report["budgets"] = _within_budgets(metric, base, kept, budgets, failures, seed)
    return report | {"answers": {source.name: source.read(None).answers for source in (base, *kept)}}


def _distinct(base: Source, others: Sequence[Source]) -> list[Source]:
    """Return the runs without plain ones that say what the base says, and without points that are there already."""
    found: list[Source] = []
    for source in others:
        if source.plain and source.agrees(base):
            continue
        doubles = [one for one in found if (one.role, one.strength) == (source.role, source.strength)]
        if source.role in LINES and any(source.agrees(one) for one in doubles):
            continue
        found.append(source)
    return found


def _entry(source: Source, run: ScoredRun, failures: Mapping[str, str]) -> Entry:
    scores = run.without(failures).scores
    return Entry(source.name, scores, source.role, source.of, source.strength, source.said)


def _derived(
    metric: Metric, base: Source, entries: Sequence[Entry], failures: Mapping[str, str]
) -> tuple[list[Entry], list[str]]:
    """Return the controls that are made of the base's scores for every method, and a sentence on each."""
    plain = base.read(None).without(failures).scores
    found, said = [], []
    methods = [entry for entry in entries if entry.role == "method"]
    for method in methods:
        for name, one in derived_controls(metric, plain, method.scores).items():
            found.append(Entry(f"{method.name}: {name}", one.scores, "control", of=method.name))
            said.append(f"{one.said} (for {method.name})")
    return found, said


def _cut_line(metric: Metric, base: Source, failures: Mapping[str, str]) -> list[Entry]:
    """Return the base's own answers cut after shares of their mean length; nothing where length means nothing."""
    if metric.plane is None or metric.plane.length is None:
        return []
    length = metric.corpus(base.read(None).without(failures).scores)[metric.plane.length]
    counts = dict.fromkeys(max(round(share * length), 1) for share in CUTS) if length else {}
    budgets = [Budget(count) for count in counts]
    return [
        Entry(f"cut after {budget}", base.read(budget).without(failures).scores, "cut", strength=budget.count)
        for budget in budgets
    ]


def _within_budgets(
    metric: Metric,
    base: Source,
    others: Sequence[Source],
    budgets: Sequence[int],
    failures: Mapping[str, str],
    seed: int,
) -> list[dict[str, Any]]:
    """Return for every budget the base and every other run within it; Holm's correction goes over all of them."""
    unit = _unit(metric, (base, *others), budgets)
    compared = [source for source in others if source.role not in LINES]
    found = []
    for count in dict.fromkeys(budgets):
        budget = Budget(count, unit)
        entries = [_entry(source, source.read(budget), failures) for source in compared]
        field = Field(metric, _entry(base, base.read(budget), failures), entries, seed=seed)
        report = frontier_report(field, settings={}, failures={})
        found.append({"budget": str(budget), **{name: report[name] for name in ("plain", "rows", "tests")}})
    for name in found[0]["tests"]["figures"]:
        rows = {f"{place}/{one['name']}": one for place, part in enumerate(found) for one in part["rows"]}
        for key, p in holm({key: one["p"][name] for key, one in rows.items()}).items():
            rows[key]["holm"][name] = p
    for part in found:
        part["tests"]["comparisons"] = len(compared) * len(found)
    return found


def _unit(metric: Metric, sources: Sequence[Source], budgets: Sequence[int]) -> Unit:
    """Return what budgets count: tokens where every run knows where they end in its texts, and else words.

    Raises:
        TaskError: if answers have no length to speak of, or tokens of a budget were not remembered.
    """
    if metric.plane is None or metric.plane.length is None:
        raise TaskError(f"--budget cuts long answers, and those of {metric.title} are short: leave it out")
    if not all(source.in_tokens for source in sources):
        return "words"
    if strange := [count for count in budgets if count not in BUDGETS]:
        known = ", ".join(map(str, BUDGETS))
        raise TaskError(f"--budget {strange[0]}: runs remember where {known} tokens end; choose among these")
    return "tokens"
