"""POPE: yes-or-no questions about objects (Li et al. 2023), asked in splits; figures are means over splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.formats import GivenAnswer, Question, read_answers, read_questions, write_answers
from vlm_evals.data.image_names import told_apart
from vlm_evals.data.labels import read_question_files
from vlm_evals.data.pairing import pair_answers, require_file_order
from vlm_evals.data.pope_questions import PER_IMAGE, STRATEGIES, build_questions
from vlm_evals.errors import AnswerMismatch, TaskError
from vlm_evals.metric import Asked, Judging, Metric, Option, Scored
from vlm_evals.protocol import Protocol
from vlm_evals.ratios import Formula, HarmonicMean, Ratio
from vlm_evals.records import Answer, Sample, Score, file_hash, image_key, write_rows
from vlm_evals.runs import content_hash, require_complete
from vlm_evals.text.spoken import notes_on_thinking, spoken
from vlm_evals.text.yes_no import PARSERS, Parser, Reading, parse_answer, unparsed_alerts

QUESTIONS = "questions.jsonl"
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


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """One question with its answer and how the answer was read."""

    question: Question
    answer: str
    reading: Reading

    def counts(self) -> dict[str, int]:
        """Return the counts that every figure of `RATIOS` is made of; an unparsed answer is never right."""
        said, label = self.reading == "yes", self.question.label == "yes"
        return {
            "questions": 1,
            "right": int(self.reading == self.question.label),
            "true_yes": int(said and label),
            "false_yes": int(said and not label),
            "true_no": int(self.reading == "no" and not label),
            "false_no": int(self.reading == "no" and label),
            "neither": int(self.reading == "unparsed"),
            "said_yes": int(said),
            "label_yes": int(label),
            "label_no": int(not label),
        }

    def as_row(self) -> dict[str, Any]:
        """Return what a per-question file holds."""
        question = self.question
        return {
            "question_id": question.question_id,
            "split": question.split,
            "label": question.label,
            "reading": self.reading,
            "answer": self.answer,
        }

    def as_score(self, image: str | None = None) -> Score:
        """Return the counts with their evidence, under the image's key, by default its name's."""
        asked = self.question
        evidence = self.as_row() | {"question": asked.text}
        return Score(sample_id(asked), image or image_key(asked.image), self.counts(), asked.split, evidence)


def sample_id(question: Question) -> str:
    """Return the name under which a question is asked and its score is paired."""
    return f"{question.split}/{question.question_id}"


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
        QuestionScore(question, text, parse_answer(spoken(text).text, parser=parser, label=question.label))
        for question, text in zip(questions, texts, strict=True)
    ]


def read_saved(
    answers: Path | str | Sequence[Path | str],
    questions: Path | str | Sequence[Path | str],
    *,
    parser: Any = "strict-neither",
    subset: bool = False,
    per_question: Path | str | None = None,
) -> Scored:
    """Return the scores of a file of answers, or of one file a split.

    Args:
        answers: POPE or LLaVA answers or an lmms-eval log; one file for each file of questions, or one for all.
        questions: POPE question files, each a split; any edition, read as it is. Questions without labels take those of
            the other files.
        parser: see `yes_no.parse_answer`.
        subset: whether answers to questions that are not asked are passed over, as with RePOPE's corrected labels.
        per_question: JSON lines to write: question_id, split, label, reading, answer.

    Returns:
        The scores, and as facts `questions`, `parser`, `files` (`answers`: names; `questions`: name with counts of
        questions, labels and images) and `hashes` (name -> SHA-256).

    Raises:
        FileFormatError: naming file and line.
        AnswerMismatch: naming the question whose answer is missing or doubled.
    """
    given = _several(answers)
    files = read_question_files(_several(questions))
    found, over = _scored(given, files, parser, subset)
    if per_question is not None:
        write_rows(Path(per_question), (one.as_row() for one in found))
    facts = {
        "questions": len(found),
        "parser": parser,
        "files": {
            "answers": [path.name for path in given],
            "questions": [_edition(path, asked) for path, asked in files.items()],
        },
        "hashes": {path.name: file_hash(path) for path in (*given, *_several(questions))},
        **_noted(found, over),
    }
    return Scored(_by_image(found), facts)


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
        raise AnswerMismatch(f"{path}: {error}") from error
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


def questions(protocol: Protocol, data: CocoFolder) -> list[Question]:
    """Return the questions of every strategy, built from the annotations of the folder with the protocol's seed.

    Every strategy asks about the same images. The frequency of an object is counted over these.
    """
    annotations = [{"image": str(image), "objects": data.objects[image]} for image in sorted(data.images)]
    count = len(protocol.image_ids)
    sample = None if count == len(eligible(data)) else count
    strategies: tuple[Any, ...] = protocol.strategies
    return [
        Question(str(row["question_id"]), row["image"], row["text"], row["label"], strategy)
        for strategy in strategies
        for row in build_questions(annotations, strategy=strategy, sample=sample, seed=protocol.seed)
    ]


def eligible(data: CocoFolder) -> list[int]:
    """Return the images with enough objects to ask about."""
    return sorted(image for image, objects in data.objects.items() if len(objects) >= PER_IMAGE)


def _bound(protocol: Protocol, data: CocoFolder) -> Protocol:
    asked = questions(protocol, data)
    drawn = tuple(dict.fromkeys(int(question.image) for question in asked))
    return replace(protocol, image_ids=drawn, questions=_hash(asked))


def _hash(asked: Sequence[Question]) -> str:
    return content_hash([asdict(question) for question in asked])


def _samples(protocol: Protocol, data: CocoFolder) -> list[Sample]:
    asked = questions(protocol, data)
    if _hash(asked) != protocol.questions:
        raise TaskError(f"the protocol {protocol.name!r} asks other questions than its seed and data give here")
    if "{question}" not in protocol.prompt:
        raise TaskError(f"the prompt {protocol.prompt!r} of {protocol.name!r} has no place {{question}}")
    return [
        Sample(
            sample_id=sample_id(question),
            image=str(data.images[int(question.image)]),
            prompt=protocol.prompt.replace("{question}", question.text),
            image_id=question.image,
            label=question.label,
            split=question.split,
        )
        for question in asked
    ]


def _keep_questions(folder: Path, protocol: Protocol, data: CocoFolder) -> None:
    rows = [asdict(question) for question in questions(protocol, data)]
    write_rows(folder / QUESTIONS, ({"category": row.pop("split"), **row} for row in rows))


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
    return Scored(_by_image(found), {"parser": parser, **_noted(found)})


def _by_image(scores: Sequence[QuestionScore]) -> list[Score]:
    keys = told_apart(score.question.image for score in scores)
    return [score.as_score(keys[score.question.image]) for score in scores]


def _noted(scores: Sequence[QuestionScore], passed_over: int = 0) -> dict[str, list[str]]:
    """Return the notes of a report, where there are any."""
    notes = notes_on_thinking(score.answer for score in scores)
    if passed_over:
        notes.append(f"{passed_over} answers are to questions that are not asked here, and are passed over")
    return {"notes": notes} if notes else {}


def _write_exchange(folder: Path, protocol: Protocol, answers: Mapping[str, Answer]) -> None:
    pairs = _answered(folder, answers)
    for split in protocol.strategies:
        write_answers(folder / f"pope_{split}.jsonl", [given for question, given in pairs if question.split == split])


_PARSER = Option("parser", "strict-neither, pope, opera or vcd.", choices=PARSERS)

POPE = Metric(
    name="pope",
    title="POPE",
    items="answers",
    ratios=RATIOS,
    labels=LABELS,
    headline="false_yes_rate",
    recall="recall",
    accuracy="accuracy",
    tested=("accuracy", "questions answered rightly"),
    over_splits="mean",
    counted="questions",
    called=lambda score: f"question {score.evidence['question_id']} ({score.split})",
    alerts=unparsed_alerts,
    in_splits=("accuracy", "f1", "yes_ratio", "unparsed"),
    summary=("accuracy", "f1", "false_yes_rate", "yes_ratio"),
    judging=Judging(
        help="Score answers with POPE.",
        file=Option("answers", "Answers, one file for all questions or one for each split.", Path, several=True),
        read=read_saved,
        options=(
            Option("questions", "POPE's questions, a file a split.", Path, required=True, several=True, short="-q"),
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
        options=(_PARSER,),
        batch_size=32,
        eligible=eligible,
        bound=_bound,
        samples=_samples,
        keep=_keep_questions,
        score=_score_run,
        exchange=_write_exchange,
    ),
)
