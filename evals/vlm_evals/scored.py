"""A finished run directory and its scores: everything a report or a comparison needs, without data folder or model.

Beside what `runs` writes, a run directory keeps the truth about its own images (`truth.json`) or its questions
(`questions.jsonl`), and its answers in the formats of the published evaluators.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.formats import Caption, GivenAnswer, read_questions, write_answers, write_captions
from vlm_evals.data.truth import load_truth, save_truth
from vlm_evals.errors import AnswerMismatch
from vlm_evals.metrics import chair, pope
from vlm_evals.metrics.chair import CaptionScore
from vlm_evals.metrics.pope import QuestionScore
from vlm_evals.records import Answer, image_key, write_rows
from vlm_evals.report import chair_report, paired_report, pope_report
from vlm_evals.runs import RunError, answers_in, read_identity
from vlm_evals.tasks import Protocol, questions
from vlm_evals.text.objects import ObjectFinder

TRUTH, QUESTIONS = "truth.json", "questions.jsonl"


@dataclass(frozen=True)
class ScoredRun:
    """The scores of one run.

    Attributes:
        protocol: what was asked.
        setting: who answered: `model`, `interventions`, `end_bias`.
        captions: scores of captions; empty for POPE.
        answers: scores of yes-or-no answers; empty for CHAIR.
        failures: sample id -> why there is no answer.
        facts: what a report prints beside the protocol: truth, pipeline, notes.
    """

    protocol: Protocol
    setting: Mapping[str, Any]
    captions: Sequence[CaptionScore]
    answers: Sequence[QuestionScore]
    failures: Mapping[str, str]
    facts: Mapping[str, Any]

    def without(self, failed: Collection[str]) -> ScoredRun:
        """Return the run without the scores of some samples."""
        return replace(
            self,
            captions=[score for score in self.captions if image_key(score.image_id) not in failed],
            answers=[score for score in self.answers if _sample_id(score) not in failed],
        )


def keep_truth(folder: Path, protocol: Protocol, data: CocoFolder) -> None:
    """Write into a run directory what its answers will be scored against."""
    if protocol.metric == "pope":
        rows = [asdict(question) for question in questions(protocol, data)]
        write_rows(folder / QUESTIONS, ({"category": row.pop("split"), **row} for row in rows))
        return
    # human captions are read with chair-2018 whichever pipeline reads the model's, as in the published tables
    reader = ObjectFinder("chair-2018", protocol.vocabulary or "published")
    truth = load_truth([*data.instances, *data.captions], reader)
    own = {str(image): truth.of(image) for image in protocol.image_ids}
    save_truth(folder / TRUTH, replace(truth, objects=own))


def write_exchange(folder: Path, run: ScoredRun) -> None:
    """Write the answers as other evaluators read them: `captions.jsonl`, or POPE's answers as `pope_SPLIT.jsonl`."""
    if run.protocol.metric == "chair":
        said = answers_in(folder)
        named = [(image, said[str(image)]) for image in run.protocol.image_ids]
        write_captions(folder / "captions.jsonl", [Caption(image, one.text) for image, one in named if not one.error])
        return
    for split in run.protocol.strategies:
        scores = [score for score in run.answers if score.question.split == split]
        given = [GivenAnswer(one.question.question_id, one.answer, one.question.text) for one in scores]
        write_answers(folder / f"pope_{split}.jsonl", given)


def score_run(folder: Path) -> ScoredRun:
    """Return the scores of a finished run.

    Raises:
        RunError: if the folder is no run directory, or has not been answered to the end.
        FileFormatError: if one of its files is damaged.
    """
    identity = read_identity(folder)
    protocol = Protocol.from_json(identity.get("protocol", {}), folder / "protocol.json")
    setting = identity.get("setting", {})
    answers = answers_in(folder)
    failures = {name: answer.error for name, answer in answers.items() if answer.error is not None}
    if protocol.metric == "pope":
        scores, facts = _score_questions(folder, protocol, answers)
        return ScoredRun(protocol, setting, (), scores, failures, facts)
    captions, facts = _score_captions(folder, protocol, answers)
    return ScoredRun(protocol, setting, captions, (), failures, facts)


def run_report(run: ScoredRun) -> dict[str, Any]:
    """Return the report of one run."""
    if run.protocol.metric == "pope":
        return pope_report(run.answers, settings=_settings(run), failures=run.failures, seed=run.protocol.seed)
    return chair_report(run.captions, settings=_settings(run), failures=run.failures, seed=run.protocol.seed)


def pair_report(
    plain: Sequence[ScoredRun],
    mitigated: Sequence[ScoredRun],
    *,
    curve: Mapping[float, ScoredRun] | None = None,
    controls: Mapping[str, ScoredRun] | None = None,
    seed: int,
) -> dict[str, Any]:
    """Return the paired report of runs on the same protocol: one pair, or a pair of captions and a pair of answers.

    Args:
        plain, mitigated: one run a metric, in the same order of metrics.
        curve: end-of-text bias -> a plain run of captions.
        controls: name -> a run of the first pair's protocol.
        seed: of the bootstrap.

    Raises:
        AnswerMismatch: if the runs follow different protocols.
    """
    curve, controls = curve or {}, controls or {}
    for one, other in zip(plain, mitigated, strict=True):
        require_same_protocol(one.protocol, other.protocol)
    everyone = [*plain, *mitigated, *curve.values(), *controls.values()]
    failures = {name: reason for run in everyone for name, reason in run.failures.items()}
    clean = {id(run): run.without(failures) for run in everyone}
    before, after = [clean[id(run)] for run in plain], [clean[id(run)] for run in mitigated]
    asked_answers = plain[0].protocol.metric == "pope"
    return paired_report(
        settings=_paired_settings(plain, mitigated[0]),
        plain_captions=[score for run in before for score in run.captions],
        mitigated_captions=[score for run in after for score in run.captions],
        plain_answers=[score for run in before for score in run.answers],
        mitigated_answers=[score for run in after for score in run.answers],
        curve={bias: clean[id(run)].captions for bias, run in curve.items()} or None,
        controls={} if asked_answers else {name: clean[id(run)].captions for name, run in controls.items()},
        answer_controls={name: clean[id(run)].answers for name, run in controls.items()} if asked_answers else {},
        failures=failures,
        seed=seed,
    )


def require_same_protocol(one: Protocol, other: Protocol) -> None:
    """Raise unless two runs were asked the same things in the same way.

    Raises:
        AnswerMismatch: naming what differs.
    """
    here, there = one.as_json(), other.as_json()
    if differing := sorted(name for name in here if name != "hash" and here[name] != there[name]):
        raise AnswerMismatch(
            f"the two runs differ in {', '.join(differing)}: compare runs on the same samples, asked in the same way"
        )


def _settings(run: ScoredRun) -> dict[str, Any]:
    return {"protocol": run.protocol.as_json(), **_readable(run.setting), **run.facts}


def _readable(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return who answered with each intervention as one word of the command line, and without what was not used.

    A second stream stands among the interventions, as it does on the command line.
    """
    words = []
    second = setting.get("contrast")
    for one in [*setting.get("interventions", ()), *([second] if second else [])]:
        options = ",".join(f"{name}={value}" for name, value in one.items() if name != "name")
        words.append(f"{one['name']}:{options}" if options else one["name"])
    used = {name: value for name, value in setting.items() if value and name != "contrast"}
    return used | {"interventions": words or ["none"]}


def _paired_settings(plain: Sequence[ScoredRun], mitigated: ScoredRun) -> dict[str, Any]:
    base = _settings(plain[0]) | {"compared_with": _readable(plain[0].setting)} | _readable(mitigated.setting)
    for run in plain[1:]:
        base[f"protocol_{run.protocol.metric}"] = run.protocol.hash
        base |= {name: value for name, value in run.facts.items() if name not in base}
    return base


def _score_captions(
    folder: Path, protocol: Protocol, answers: Mapping[str, Answer]
) -> tuple[list[CaptionScore], dict[str, Any]]:
    finder = ObjectFinder(protocol.pipeline or "chair-2018", protocol.vocabulary or "published")
    truth = load_truth(folder / TRUTH)
    _require_complete(folder, [str(image) for image in protocol.image_ids], answers)
    said = [Caption(image, answers[str(image)].text) for image in protocol.image_ids if not answers[str(image)].error]
    facts = {"pipeline": finder.pipeline, "vocabulary": finder.vocabulary_name, "truth": truth.digest}
    return chair.score_captions(said, truth, finder), facts | {"notes": list(finder.notes)}


def _score_questions(
    folder: Path, protocol: Protocol, answers: Mapping[str, Answer]
) -> tuple[list[QuestionScore], dict[str, Any]]:
    asked = read_questions(folder / QUESTIONS)
    named = {f"{question.split}/{question.question_id}": question for question in asked}
    _require_complete(folder, list(named), answers)
    answered = {name: question for name, question in named.items() if not answers[name].error}
    given = [
        GivenAnswer(question.question_id, answers[name].text, question.text, question.split)
        for name, question in answered.items()
    ]
    parser = protocol.parser or "strict-neither"
    return pope.score_answers(list(answered.values()), given, parser), {"parser": parser}


def _sample_id(score: QuestionScore) -> str:
    return f"{score.question.split}/{score.question.question_id}"


def _require_complete(folder: Path, names: Sequence[str], answers: Mapping[str, Answer]) -> None:
    if missing := sum(name not in answers for name in names):
        raise RunError(f"{folder}: {missing} of {len(names)} samples have no answer yet: start the same eval again")
