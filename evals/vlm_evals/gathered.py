"""What is compared, wherever it lies: run directories, evaluations with their controls and curves, saved answers.

runs/chair                  an evaluation: its plain run, its method, its controls, the points of its lines
runs/chair/mitigated        a run
captions.jsonl              saved captions, with the truth they are scored against
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_evals.errors import AnswerMismatch, RunError, TaskError
from vlm_evals.metric import Metric
from vlm_evals.protocol import Protocol
from vlm_evals.registry import find_metric
from vlm_evals.reports.frontier import Role
from vlm_evals.reports.pairs import MITIGATED, PLAIN
from vlm_evals.runs import answers_in, read_setting
from vlm_evals.scored import FILE, ScoredRun, require_same_protocol, score_run, words_of
from vlm_evals.text.budget import BUDGETS, Budget

GIVEN_FOR = {"chair": "truth", "pope": "questions"}  # metric -> what saved answers are scored against


@dataclass(frozen=True)
class Source:
    """One run that is compared.

    Attributes:
        name: as reports call it.
        path: its directory or file.
        read: its scores within a budget; None for the whole answers.
        role: what it is there for.
        of: the method that a control belongs to.
        strength: of a point on a line.
        said: who answered, in words.
        in_tokens: whether its answers can be cut after tokens.
        plain: whether nothing is done to the model.
    """

    name: str
    path: Path
    read: Callable[[Budget | None], ScoredRun]
    role: Role = "method"
    of: str = ""
    strength: float = 0.0
    said: str = ""
    in_tokens: bool = False
    plain: bool = False

    def agrees(self, other: Source) -> bool:
        """Whether two runs said the same."""
        one, two = self.read(None), other.read(None)
        return one.answers == two.answers and bool(one.answers)


def gather(paths: Sequence[Path], options: Mapping[str, Any]) -> list[Source]:
    """Return everything that some paths name.

    Args:
        paths: run directories, folders of evaluations, and files of saved answers.
        options: what saved answers are scored with: those of the metric's `judge`, by name; entries that are None or
            empty were not given.

    Raises:
        RunError: if a folder holds no run, or nothing is there.
        TaskError: if it is not said what a file is scored against.
    """
    found: list[Source] = []
    names = short_names(paths)
    for path, name in zip(paths, names, strict=True):
        if not path.exists():
            raise RunError(
                f"nothing is at {path}: give what `vlm-heads eval --out` wrote, one of its runs, or a file of answers"
            )
        if path.is_file():
            found.append(_saved(path, name, options))
        elif (path / PLAIN / "protocol.json").is_file() and not (path / "protocol.json").is_file():
            found += _evaluation(path, name, alone=len(paths) == 1)
        else:
            found.append(_run(path, name))
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell them apart; the kind of a file is left out where nothing needs it."""
    parts = [path.absolute().parts for path in paths]
    stems = [path.stem if path.is_file() else path.name for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise TaskError(f"{paths[0]} is named twice: name every run once")


def _run(folder: Path, name: str) -> Source:
    """Return a run directory as what it is by its setting."""
    setting = read_setting(folder)
    role, strength = _role(setting)
    answers = answers_in(folder)
    return Source(
        name=name,
        path=folder,
        read=_remembered(lambda budget: score_run(folder, budget)),
        role=role,
        strength=strength,
        said=", ".join(words_of(setting)),
        in_tokens=all(len(one.token_ids) <= BUDGETS[0] or one.ends for one in answers.values()),
        plain=_does_nothing(setting) and role == "method",
    )


def _role(setting: Mapping[str, Any]) -> tuple[Role, float]:
    """Return what a run is there for, and the strength of a point on a line."""
    if not _does_nothing(setting):
        return "method", 0.0
    if setting.get("end_bias"):
        return "end-of-text", float(setting["end_bias"])
    if setting.get("first_word"):
        return "first-word", float(setting["first_word"]["bias"])
    return ("control" if setting.get("added_to_prompt") or setting.get("decoding") else "method"), 0.0


def _does_nothing(setting: Mapping[str, Any]) -> bool:
    return not (setting.get("interventions") or setting.get("contrast") or setting.get("check"))


def _evaluation(folder: Path, name: str, *, alone: bool) -> list[Source]:
    """Return the arms of an evaluation, the plain one first and its method second."""
    arms = sorted(path.parent for path in folder.glob("*/protocol.json"))
    order = {PLAIN: 0, MITIGATED: 1}
    found = []
    for arm in sorted(arms, key=lambda path: (order.get(path.name, 2), path.name)):
        own = _run(arm, arm.name if alone else f"{name}: {arm.name}")
        method = name if not alone else MITIGATED
        if arm.name == MITIGATED:
            own = replace(own, name=method)
        elif arm.name != PLAIN and own.role in ("method", "control"):
            own = replace(own, role="control", of=method, plain=False)
        found.append(own)
    return found


def _saved(path: Path, name: str, options: Mapping[str, Any]) -> Source:
    given = {key: value for key, value in options.items() if value not in (None, [], ())}
    metric = next((find_metric(one) for one, needed in GIVEN_FOR.items() if given.get(needed)), None)
    if metric is None:
        raise TaskError(
            f"{path} holds saved answers: say what they are scored against, with --truth for captions or --questions "
            "for yes-or-no answers"
        )
    known = {option.name for option in metric.judging.options}
    if strange := sorted(given.keys() - known):
        raise TaskError(f"{metric.name} has no option {strange[0]!r}: it takes {', '.join(sorted(known))}")
    for option in metric.judging.options:
        option.check(given.get(option.name))
    return Source(name=name, path=path, read=_remembered(lambda budget: _scored_file(metric, path, given, budget)))


def _scored_file(metric: Metric, path: Path, given: Mapping[str, Any], budget: Budget | None) -> ScoredRun:
    """Return the scores of a file as those of a run that states no protocol."""
    within = {} if budget is None else {"budget": budget.count}
    file: Any = [path] if metric.judging.file.several else path
    scored = metric.judging.read(file, **given, **within)
    hashes = scored.facts.get("hashes", {})
    facts = {name: value for name, value in scored.facts.items() if name in ("pipeline", "vocabulary", "parser")}
    digest = hashes.get("truth") or {name: one for name, one in hashes.items() if name != path.name}
    facts |= {"truth": digest} if digest else {}
    facts |= {"notes": list(scored.facts["notes"])} if scored.facts.get("notes") else {}
    said = str(hashes.get("captions") or hashes.get(path.name) or "")
    nothing_known = Protocol("", metric.name, {}, (), "", max_new_tokens=1, seed=0)
    return ScoredRun(nothing_known, {FILE: path.name}, scored.scores, {}, facts, said)


def _remembered(read: Callable[[Budget | None], ScoredRun]) -> Callable[[Budget | None], ScoredRun]:
    kept: dict[Budget | None, ScoredRun] = {}

    def once(budget: Budget | None) -> ScoredRun:
        if budget not in kept:
            kept[budget] = read(budget)
        return kept[budget]

    return once


def against(sources: Sequence[Source], named: Path | None, others: Sequence[Source]) -> Source:
    """Return the run that the others are compared with: the named one, or else the first.

    Args:
        sources: all that are compared.
        named: what `--against` says.
        others: what that names, where it is none of the sources.
    """
    if named is None:
        return sources[0]
    return next((one for one in sources if one.path.absolute() == named.absolute()), (others or sources)[0])


def require_alike(base: Source, sources: Sequence[Source]) -> list[str]:
    """Refuse runs of another metric or protocol, and return what a report says of those that state none.

    Raises:
        AnswerMismatch: naming what differs.
    """
    first = base.read(None)
    without = int(not first.asked)
    for source in sources:
        run = source.read(None)
        if run.metric.name != first.metric.name:
            raise AnswerMismatch(f"{base.name} is of {first.metric.title}, {source.name} of {run.metric.title}")
        if run.asked and first.asked:
            require_same_protocol(first.protocol, run.protocol)
        for name in ("pipeline", "vocabulary", "parser"):
            here, there = first.facts.get(name), run.facts.get(name)
            if here != there:
                raise AnswerMismatch(f"{base.name} was read with the {name} {here}, {source.name} with {there}")
        without += not run.asked
    notes = [f"{without} of the runs are saved answers, which do not tell how they were asked"] if without else []
    truths = {str(source.read(None).facts.get("truth")) for source in (base, *sources)}
    if len(truths) > 1:
        notes.append(f"the runs were scored against {len(truths)} files of the truth, which may differ")
    return notes
