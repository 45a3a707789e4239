"""A finished run directory and its scores: everything a report or a comparison needs, without data folder or model.

Beside what `runs` writes, a run directory keeps the truth that its metric scores against, and its answers in the
formats of the published evaluators.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_evals.errors import AnswerMismatch, FileFormatError, RunError
from vlm_evals.metric import Metric
from vlm_evals.protocol import Protocol
from vlm_evals.records import Score, read_own_json
from vlm_evals.registry import find_metric
from vlm_evals.report import paired_report, single_report
from vlm_evals.reports.examples import examples
from vlm_evals.reports.pairs import MITIGATED, PLAIN, Comparison, compare, derived_controls
from vlm_evals.runs import answers_hash, answers_in, kept_notes, read_identity, read_setting
from vlm_evals.tasks import asked_of
from vlm_evals.text.budget import Budget
from vlm_evals.text.objects import ObjectFinder

HARM = "harm.json"  # in a run directory: what its method does to neutral answers, see `harm`
FILE = "file"  # the entry of a setting that names saved answers, of which nothing else is known


@dataclass(frozen=True)
class ScoredRun:
    """The scores of one run.

    Attributes:
        protocol: what was asked.
        setting: who answered: `model`, `interventions`, `end_bias`; of saved answers the name of their `file`.
        scores: of every answer.
        failures: sample id -> why there is no answer.
        facts: what a report prints beside the protocol: truth, pipeline, notes.
        answers: the hash of what was said.
        harm: what its method does to neutral answers; None where that was not measured.
    """

    protocol: Protocol
    setting: Mapping[str, Any]
    scores: Sequence[Score]
    failures: Mapping[str, str]
    facts: Mapping[str, Any]
    answers: str = ""
    harm: Mapping[str, Any] | None = None

    @property
    def asked(self) -> bool:
        """Whether we know what was asked: saved answers state no protocol."""
        return bool(self.protocol.image_ids)

    @property
    def metric(self) -> Metric:
        """What was measured."""
        return find_metric(self.protocol.metric)

    def without(self, failed: Collection[str]) -> ScoredRun:
        """Return the run without the scores of some samples, or of their units where the metric counts units."""
        units = {score.unit for score in self.scores if self.metric.counts_units and score.key in failed}
        kept = [score for score in self.scores if score.key not in failed and score.unit not in units]
        return replace(self, scores=kept)


def score_run(folder: Path, budget: Budget | None = None) -> ScoredRun:
    """Return the scores of a finished run.

    Args:
        folder: the run directory.
        budget: how much of every answer counts; None for all of it.

    Raises:
        RunError: if the folder is no run directory, or has not been answered to the end.
        FileFormatError: if one of its files is damaged.
    """
    protocol = Protocol.from_json(read_identity(folder).get("protocol", {}), folder / "protocol.json")
    setting = read_setting(folder)
    answers = answers_in(folder)
    failures = {name: answer.error for name, answer in answers.items() if answer.error is not None}
    said = answers if budget is None else {name: budget.answer(one) for name, one in answers.items()}
    scored = asked_of(protocol.metric).score(folder, protocol, said)
    facts = dict(scored.facts)
    if notes := kept_notes(folder):
        facts["notes"] = [*facts.get("notes", ()), *notes]
    harm = read_own_json(folder / HARM) if (folder / HARM).is_file() else None
    if harm is not None and not isinstance(harm, dict):
        raise FileFormatError(folder / HARM, None, "is no JSON object; delete it, and it is measured anew")
    return ScoredRun(protocol, setting, scored.scores, failures, facts, answers_hash(answers), harm)


def run_report(run: ScoredRun) -> dict[str, Any]:
    """Return the report of one run."""
    found = single_report(
        run.metric, run.scores, settings=settings_of(run), failures=run.failures, seed=run.protocol.seed
    )
    return found | {"answers": run.answers}


def pair_report(
    plain: Sequence[ScoredRun],
    mitigated: Sequence[ScoredRun],
    *,
    curve: Mapping[float, ScoredRun] | None = None,
    controls: Mapping[str, ScoredRun] | None = None,
    seed: int,
) -> dict[str, Any]:
    """Return the paired report of runs on the same protocols: one pair, or a pair for each of several metrics.

    Args:
        plain, mitigated: one run a metric, in the same order of metrics.
        curve: end-of-text bias -> a plain run of the first pair's protocol.
        controls: name -> a run of the first pair's protocol.
        seed: of the bootstrap.

    Returns:
        What `paired_report` gives, with the hashes of the `answers`, `harm` where it was measured, and of captions
        some `examples`.

    Raises:
        AnswerMismatch: if the runs follow different protocols.
    """
    curve, controls = curve or {}, controls or {}
    for one, other in zip(plain, mitigated, strict=True):
        require_same_protocol(one.protocol, other.protocol)
    everyone = [*plain, *mitigated, *curve.values(), *controls.values()]
    failures = {name: reason for run in everyone for name, reason in run.failures.items()}
    comparisons = []
    notes = [note for name, run in controls.items() for note in _said_of_control(name, run.setting)]
    for index, (before, after) in enumerate(zip(plain, mitigated, strict=True)):
        others = {MITIGATED: after, **(controls if index == 0 else {})}
        base = before.without(failures).scores
        runs = {name: run.without(failures).scores for name, run in others.items()}
        derived = derived_controls(before.metric, base, runs[MITIGATED])
        notes += [one.said for one in derived.values()]
        if controls and not derived and asked_of(before.protocol.metric).controls.margin:
            notes.append("the output control is left out: the plain answers carry no margin of yes against no")
        comparisons.append(
            compare(
                before.metric,
                base,
                runs | {name: one.scores for name, one in derived.items()},
                curve={bias: run.without(failures).scores for bias, run in curve.items()} if index == 0 else None,
                seed=seed,
            )
        )
    settings = _paired_settings(plain, mitigated[0])
    settings |= {"notes": [*settings.get("notes", ()), *notes]} if notes else {}
    found = paired_report(comparisons, settings=settings, failures=failures)
    if harm := next((run.harm for run in mitigated if run.harm), None):
        found["harm"] = dict(harm)
    if shown := _examples(comparisons[0], mitigated[0].facts):
        found["examples"] = shown
    sides = {PLAIN: plain, MITIGATED: mitigated}
    return found | {"answers": {side: [run.answers for run in runs] for side, runs in sides.items()}}


def _examples(comparison: Comparison, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return captions of both runs, side by side; none where no captions were scored."""
    plain, mitigated = (comparison.runs[side] for side in (PLAIN, MITIGATED))
    if not any("caption" in score.evidence for score in plain):
        return []
    return examples(plain, mitigated, ObjectFinder(facts["pipeline"], facts["vocabulary"]))


def _said_of_control(name: str, setting: Mapping[str, Any]) -> list[str]:
    """Return a sentence on what a control changes in how the model is asked; nothing where it changes nothing."""
    if added := setting.get("added_to_prompt"):
        return [f"the control {name} adds {str(added).strip()!r} to every prompt of the plain model"]
    if first := setting.get("first_word"):
        bias = f"{first['bias']:+g} to the logits of {first['word']!r}"
        return [f"the control {name} adds {bias} wherever it is plausible, in the plain model"]
    if decoding := setting.get("decoding"):
        said = ", ".join(f"{key} {value}" for key, value in decoding.items())
        return [f"the control {name} decodes the plain model with {said}"]
    return []


def compare_runs(plain: Path, mitigated: Path, *, seed: int) -> dict[str, Any]:
    """Return the paired report of two run directories; of a paired evaluation the mitigated arm is taken.

    Raises:
        RunError: if a folder is no run directory.
        AnswerMismatch: if the runs follow different protocols.
    """
    return pair_report([score_run(_arm(plain))], [score_run(_arm(mitigated))], seed=seed)


def _arm(folder: Path) -> Path:
    if not (folder / "protocol.json").is_file() and (folder / MITIGATED / "protocol.json").is_file():
        return folder / MITIGATED
    if not folder.is_dir():
        raise RunError(f"no run directory {folder}: give what `vlm-heads eval --out` wrote")
    return folder


def evaluation_report(out: Path, names: Mapping[str, float], *, seed: int) -> dict[str, Any]:
    """Return the report of an evaluation from its arms, and write their answers as other evaluators read them.

    Args:
        out: the evaluation's folder.
        names: arm name -> end-of-text bias, in the order they were asked; the empty name alone for a single run.
        seed: of the bootstrap.
    """
    runs = {name: score_run(out / name) for name in names}
    for name, run in runs.items():
        asked_of(run.protocol.metric).exchange(out / name, run.protocol, answers_in(out / name))
    if "" in runs:
        return run_report(runs[""])
    curve = {bias: runs[name] for name, bias in names.items() if bias}
    controls = {name: run for name, run in runs.items() if name not in (PLAIN, MITIGATED) and not names[name]}
    return pair_report([runs[PLAIN]], [runs[MITIGATED]], curve=curve, controls=controls, seed=seed)


def require_same_protocol(one: Protocol, other: Protocol) -> None:
    """Raise unless two runs were asked the same things in the same way.

    Raises:
        AnswerMismatch: naming what differs.
    """
    here, there = one.as_json(), other.as_json()
    names = sorted((here.keys() | there.keys()) - {"hash"})
    if differing := [name for name in names if here.get(name) != there.get(name)]:
        raise AnswerMismatch(
            f"the two runs differ in {', '.join(differing)}: compare runs on the same samples, asked in the same way"
        )


def settings_of(run: ScoredRun) -> dict[str, Any]:
    """Return what a report says of a run beside its figures."""
    stated = {"protocol": run.protocol.as_json()} if run.asked else {}
    return {**stated, **_readable(run.setting), **run.facts}


def _readable(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return who answered with each intervention as one word of the command line, and without what was not used.

    A second stream and a check stand among the interventions, as they do on the command line.
    """
    used = {name: value for name, value in setting.items() if value and name not in ("contrast", "check")}
    return used if FILE in setting else used | {"interventions": words_of(setting) or ["none"]}


def words_of(setting: Mapping[str, Any]) -> list[str]:
    """Return what was done to the model, each as one word of the command line; nothing for the plain model."""
    words = []
    others = [setting[name] for name in ("contrast", "check") if setting.get(name)]
    for one in [*setting.get("interventions", ()), *others]:
        options = ",".join(f"{name}={_written(value)}" for name, value in one.items() if name != "name")
        words.append(f"{one['name']}:{options}" if options else one["name"])
    return words


def _written(value: Any) -> str:
    """Return an option's value as the command line reads it: lists joined by +, as 14.3:2+17.0:0.5 for gains."""
    if not isinstance(value, list | tuple):
        return str(value)
    places = (f"{one[0]}.{one[1]}" + "".join(f":{gain}" for gain in one[2:]) if _is_list(one) else one for one in value)
    return "+".join(map(str, places))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _paired_settings(plain: Sequence[ScoredRun], mitigated: ScoredRun) -> dict[str, Any]:
    base = settings_of(plain[0]) | {"compared_with": _readable(plain[0].setting)} | _readable(mitigated.setting)
    for run in plain[1:]:
        base[f"protocol_{run.protocol.metric}"] = run.protocol.hash
        base |= {name: value for name, value in run.facts.items() if name not in base}
    notes = [note for run in (*plain, mitigated) for note in run.facts.get("notes", ())]
    return base | ({"notes": list(dict.fromkeys(notes))} if notes else {})
