"""POPE: yes-or-no questions about objects (Li et al. 2023), asked in splits; figures are means over splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm_evals.data.formats import GivenAnswer, Question, read_answers, read_questions, write_answers
from vlm_evals.data.image_names import told_apart
from vlm_evals.data.labels import read_question_files
from vlm_evals.data.other_labels import LABEL_SETS, OtherLabels, label_files_for, said_of
from vlm_evals.data.pairing import pair_answers, require_file_order
from vlm_evals.data.pope_folder import PopeFolder, labels_given
from vlm_evals.data.pope_questions import STRATEGIES
from vlm_evals.errors import AnswerMismatch, MissingAnswer, TaskError
from vlm_evals.metric import Asked, Controls, Judging, Metric, Option, Plane, Scored
from vlm_evals.protocol import Protocol
from vlm_evals.ratios import Formula, HarmonicMean, Ratio
from vlm_evals.records import Answer, Label, Score, file_hash, image_key, write_rows
from vlm_evals.runs import require_complete
from vlm_evals.text.spoken import notes_on_thinking, spoken
from vlm_evals.text.yes_no import PARSERS, Parser, Reading, parse_answer, unparsed_alerts
from vlm_evals.yes_no.controls import ADDED, output_controls
from vlm_evals.yes_no.questions import QUESTIONS, bound, eligible, keep_questions, kept_labels, sample_id, samples
from vlm_evals.yes_no.relabelled import UNDER, counts_of_answer, relabelled
from vlm_evals.yes_no.turned import transition

_NO_QUESTION = "there is no question"
_PRECISION = Ratio("true_yes", "said_yes", "no answer is yes")
_RECALL = Ratio("true_yes", "label_yes", "no question has the label yes")
RATIOS: dict[str, Formula] = {
    "accuracy": Ratio("right", "questions", _NO_QUESTION),
    "precision": _PRECISION,
    "recall": _RECALL,
    "f1": HarmonicMean(_PRECISION, _RECALL, "precision or recall is undefined"),
    "false_yes_rate": Ratio("false_yes", "label_no", "no question has the label no"),
    "yes_ratio": Ratio("said_yes", "questions", _NO_QUESTION),
    "unparsed": Ratio("neither", "questions", _NO_QUESTION),
}
LABELS = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "accuracy": "accuracy",
    "false_yes_rate": "false yes",
    "yes_ratio": "yes ratio",
    "unparsed": "unparsed",
}

MEANINGS = {
    "accuracy": "questions that are answered rightly",
    "recall": "objects in the pictures that are answered with yes",
    "precision": "answers of yes that are right",
    "f1": "the harmonic mean of precision and recall",
    "false_yes_rate": "objects which are not in the picture and are answered with yes",
    "yes_ratio": "answers of yes among all; half of the questions have that label",
    "unparsed": "answers that are neither yes nor no; they count as wrong and not as yes",
}


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """One question with its answer and how the answer was read.

    Attributes:
        question: with the label that counts.
        answer: what was said.
        reading: how it was read.
        margin: of yes against no at the answer's first token, where it was recorded.
        either: probability of yes or no there, likewise.
        under: source of other labels -> the label and the reading there, or None where it removed the question.
    """

    question: Question
    answer: str
    reading: Reading
    under: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict)
    margin: float | None = None
    either: float | None = None

    def counts(self) -> dict[str, int]:
        """Return the counts that every figure of `RATIOS` is made of; an unparsed answer is never right."""
        return counts_of_answer(self.reading, self.question.label)

    def as_row(self) -> dict[str, Any]:
        """Return what a per-question file holds."""
        question = self.question
        return {
            "question_id": question.question_id,
            "split": question.split,
            "label": question.label,
            "reading": self.reading,
            "answer": self.answer,
            **({"labels": {name: one and one["label"] for name, one in self.under.items()}} if self.under else {}),
        }

    def as_score(self, image: str | None = None) -> Score:
        """Return the counts with their evidence, under the image's key, by default its name's."""
        asked = self.question
        evidence: dict[str, Any] = self.as_row() | {"question": asked.text}
        evidence |= {UNDER: dict(self.under)} if self.under else {}
        evidence |= {} if self.margin is None else {"margin": self.margin}
        evidence |= {} if self.either is None else {"either": self.either}
        return Score(sample_id(asked), image or image_key(asked.image), self.counts(), asked.split, evidence)


def score_answers(
    questions: Sequence[Question], answers: Sequence[GivenAnswer], parser: Parser = "strict-neither"
) -> list[QuestionScore]:
    """Return the scores of answers, in the order of the questions; see `pair_answers` for what belongs together.

    Raises:
        AnswerMismatch: naming the question whose answer is missing, doubled or belongs to another.
    """
    return _scores(questions, pair_answers(questions, answers)[0], parser)


def _scores(questions: Sequence[Question], texts: Sequence[str], parser: Parser) -> list[QuestionScore]:
    return [
        QuestionScore(question, text, _reading(text, parser, question.label))
        for question, text in zip(questions, texts, strict=True)
    ]


def _reading(text: str, parser: Parser, label: Label) -> Reading:
    return parse_answer(spoken(text).text, parser=parser, label=label)


def _under(
    scores: Sequence[QuestionScore], name: str, labels: Sequence[Label | None], parser: Parser
) -> list[QuestionScore]:
    """Return scores that carry other labels too."""
    return [
        replace(score, under={name: label and {"label": label, "reading": _reading(score.answer, parser, label)}})
        for score, label in zip(scores, labels, strict=True)
    ]


def read_saved(
    answers: Path | str | Sequence[Path | str],
    questions: Path | str | Sequence[Path | str] | None = None,
    *,
    labels: str | None = None,
    labels_from: Path | str | None = None,
    parser: Any = "strict-neither",
    subset: bool = False,
    per_question: Path | str | None = None,
) -> Scored:
    """Return the scores of a file of answers, or of one file a split.

    Args:
        answers: POPE or LLaVA answers or an lmms-eval log; one file for each file of questions, or one for all.
        questions: POPE question files, each a split; any edition, read as it is. Questions without labels take those of
            the other files. Without any, the files of other labels are the questions, and theirs the only labels.
        labels: whose other labels the answers are scored with too; see `other_labels.LABEL_SETS`.
        labels_from: the folder of their files.
        parser: see `yes_no.parse_answer`.
        subset: whether answers to questions that are not asked are passed over, as with RePOPE's corrected labels.
        per_question: JSON lines to write: question_id, split, label, reading, answer, and other labels by source.

    Returns:
        The scores, and as facts `questions`, `parser`, `files` (`answers`: names; `questions`: name with counts of
        questions, labels and images) and `hashes` (name -> SHA-256).

    Raises:
        FileFormatError: naming file and line.
        AnswerMismatch: naming the question whose answer is missing or doubled.
    """
    given, other = _several(answers), labels_given(labels, labels_from)
    asked_in = _several(questions) if questions else []
    if not asked_in and other is None:
        raise TaskError("say what was asked, with --questions: POPE's files, one for each split")
    beside = other if asked_in else None
    files = read_question_files(asked_in or (label_files_for(given, other.files) if other else []))
    try:
        found, over = _scored(given, files, parser, subset or not asked_in)
    except MissingAnswer as error:
        if beside is None:
            raise
        hint = f"where only the questions that {labels} keeps were asked, leave out --questions"
        raise MissingAnswer(f"{error}; {hint}") from error
    found, notes = _with_labels(found, beside, parser)
    if not asked_in:
        notes = [f"scored with the labels of {labels} alone: give POPE's files with --questions to see both"]
    if per_question is not None:
        write_rows(Path(per_question), (one.as_row() for one in found))
    facts = {
        "questions": len(found),
        "parser": parser,
        "files": {
            "answers": [path.name for path in given],
            "questions": [_edition(path, asked) for path, asked in files.items()],
            **({"labels": beside.facts()} if beside else {}),
        },
        "hashes": {path.name: file_hash(path) for path in (*given, *(asked_in or files))}
        | (beside.hashes() if beside else {}),
        **_noted(found, over, notes),
    }
    return Scored(_by_image(found), facts)


def _with_labels(
    scores: list[QuestionScore], labels: OtherLabels | None, parser: Parser
) -> tuple[list[QuestionScore], list[str]]:
    """Return scores that carry other labels too, and what a report says of them."""
    if labels is None:
        return scores, []
    asked = [score.question for score in scores]
    found = labels.of(asked)
    return _under(scores, labels.name, found, parser), [said_of(labels.name, asked, found)]


def _several(source: Path | str | Sequence[Path | str]) -> list[Path]:
    return [Path(source)] if isinstance(source, Path | str) else [Path(one) for one in source]


def _scored(
    given: Sequence[Path], files: Mapping[Path, Sequence[Question]], parser: Parser, subset: bool
) -> tuple[list[QuestionScore], int]:
    """Return the scores of all files, and how many answers were passed over."""
    if len(given) == len(files):
        splits = {path.name: question.split for path, asked in files.items() for question in asked[:1]}
        require_file_order([path.name for path in given], splits)
        scored = [_score(path, asked, parser, subset) for path, asked in zip(given, files.values(), strict=True)]
        return [score for scores, _ in scored for score in scores], sum(over for _, over in scored)
    if len(given) == 1:
        return _score(given[0], [question for asked in files.values() for question in asked], parser, subset)
    raise AnswerMismatch(
        f"{len(given)} files of answers for {len(files)} files of questions; give one for each, or one for all"
    )


def _score(path: Path, questions: Sequence[Question], parser: Parser, subset: bool) -> tuple[list[QuestionScore], int]:
    try:
        texts, over = pair_answers(questions, read_answers(path), subset=subset)
    except AnswerMismatch as error:
        raise type(error)(f"{path}: {error}") from error
    return _scores(questions, texts, parser), over


def _edition(path: Path, questions: Sequence[Question]) -> dict[str, Any]:
    labels = Counter(question.label for question in questions)
    return {
        "name": path.name,
        "questions": len(questions),
        "yes": labels["yes"],
        "no": labels["no"],
        "images": len(set(told_apart(question.image for question in questions).values())),
    }


def _answered(folder: Path, answers: Mapping[str, Answer]) -> list[tuple[Question, GivenAnswer]]:
    """Return the questions of a run with their answers, in order, without those that failed."""
    named = {sample_id(question): question for question in read_questions(folder / QUESTIONS)}
    require_complete(folder, list(named), answers)
    return [
        (question, GivenAnswer(question.question_id, answers[name].text, question.text, question.split))
        for name, question in named.items()
        if not answers[name].error
    ]


def _score_run(folder: Path, protocol: Protocol, answers: Mapping[str, Answer]) -> Scored:
    pairs = _answered(folder, answers)
    parser: Any = protocol.parser or "strict-neither"
    found = score_answers([question for question, _ in pairs], [given for _, given in pairs], parser)
    said = [answers[sample_id(score.question)] for score in found]
    found = [replace(one, margin=own.margin, either=own.either) for one, own in zip(found, said, strict=True)]
    notes: list[str] = []
    if name := protocol.option("labels"):
        kept = kept_labels(folder, name)
        other = [kept.get((score.question.split, score.question.question_id)) for score in found]
        found = _under(found, name, other, parser)
        notes = [said_of(name, [score.question for score in found], other)]
    return Scored(_by_image(found), {"parser": parser, **_noted(found, notes=notes)})


def _by_image(scores: Sequence[QuestionScore]) -> list[Score]:
    keys = told_apart(score.question.image for score in scores)
    return [score.as_score(keys[score.question.image]) for score in scores]


def _noted(scores: Sequence[QuestionScore], passed_over: int = 0, notes: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the notes of a report, where there are any."""
    notes = [*notes, *notes_on_thinking(score.answer for score in scores)]
    if dropped := sum(score.reading == "dropped" for score in scores):
        notes.append(f"{dropped} answers say neither yes nor no and count nowhere, as in RePOPE's program")
    if passed_over:
        notes.append(f"{passed_over} answers are to questions that are not asked here, and are passed over")
    return {"notes": notes} if notes else {}


def _write_exchange(folder: Path, protocol: Protocol, answers: Mapping[str, Answer]) -> None:
    pairs = _answered(folder, answers)
    for split in protocol.strategies:
        write_answers(folder / f"pope_{split}.jsonl", [given for question, given in pairs if question.split == split])


_PARSER = Option("parser", "strict-neither, pope, opera, vcd or repope.", choices=PARSERS)
_LABELS = Option("labels", "Score with other labels too: repope.", choices=tuple(LABEL_SETS))
_LABELS_FROM = Option("labels_from", "The folder of their files, such as coco_repope_random.json.", Path)

POPE = Metric(
    name="pope",
    title="POPE",
    items="answers",
    ratios=RATIOS,
    labels=LABELS,
    meanings=MEANINGS,
    headline="false_yes_rate",
    recall="recall",
    accuracy="accuracy",
    tested=("accuracy", "questions answered rightly"),
    over_splits="mean",
    plane=Plane("recall", "false_yes_rate"),
    counted="questions",
    called=lambda score: f"question {score.evidence['question_id']} ({score.split})",
    alerts=unparsed_alerts,
    relabelled=relabelled,
    relabelling="POPE's questions under corrected labels (`--labels repope`)",
    transition=transition,
    derived=output_controls,
    controls=("accuracy", "f1", "yes_ratio", "unparsed"),
    in_splits=("accuracy", "f1", "yes_ratio", "unparsed"),
    summary=("accuracy", "f1", "false_yes_rate", "yes_ratio"),
    judging=Judging(
        help="Score answers with POPE.",
        file=Option("answers", "Answers, one file for all questions or one for each split.", Path, several=True),
        read=read_saved,
        options=(
            Option("questions", "POPE's questions, a file a split.", Path, several=True, short="-q"),
            _LABELS,
            _LABELS_FROM,
            replace(_PARSER, default="strict-neither"),
            Option(
                "subset", "Pass over answers to questions that are not asked, as with RePOPE's.", bool, default=False
            ),
            Option("per_question", "JSON lines to write.", Path, written=True),
        ),
    ),
    asked=Asked(
        help="Ask whether objects are in images, half of them not there.",
        max_new_tokens=16,
        defaults={"prompt": "{question}", "parser": "strict-neither", "strategies": STRATEGIES},
        options=(_PARSER, _LABELS),
        files=(
            Option("questions", "Published questions, a file a split; else they are made.", Path, several=True),
            _LABELS_FROM,
        ),
        beside=PopeFolder.beside,
        controls=Controls(added=ADDED, margin=("yes", "no")),
        batch_size=32,
        eligible=eligible,
        bound=bound,
        samples=samples,
        keep=keep_questions,
        score=_score_run,
        exchange=_write_exchange,
    ),
)
