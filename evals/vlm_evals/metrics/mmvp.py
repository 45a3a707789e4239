"""MMVP: pairs of pictures that CLIP takes for one (Tong et al. 2024), with two choices a question, and no judge.

    accuracy of pairs = pairs with both answers right / pairs

The official program has GPT-4 read the answers. lmms-eval finds the letter, and so does `strict`, ours.
"""

from collections.abc import Sequence
from pathlib import Path

from vlm_evals.benchmark import Benchmark
from vlm_evals.data.items import Item, match
from vlm_evals.data.mmvp import MENDED, QUESTIONS, read_answers, read_folder, read_questions
from vlm_evals.metric import Judging, Metric, Option, Scored
from vlm_evals.protocol import Protocol
from vlm_evals.ratios import Formula, Ratio, total
from vlm_evals.records import Score, write_rows
from vlm_evals.text.choices import UNPARSED, choice_alerts, read_as_lmms_eval, read_strict
from vlm_evals.text.spoken import notes_on_thinking, spoken

READERS = ("strict", "lmms-eval")
LABELLED = ("published", "mended")
_NO_QUESTION = "there is no question"
RATIOS: dict[str, Formula] = {
    "pairs_right": Ratio("pairs_right", "pairs", _NO_QUESTION),
    "accuracy": Ratio("right", "questions", _NO_QUESTION),
    "first_ratio": Ratio("said_first", "questions", _NO_QUESTION),
    "unparsed": Ratio("neither", "questions", _NO_QUESTION),
}
LABELS = {
    "pairs_right": "pairs right",
    "accuracy": "accuracy",
    "first_ratio": "answers (a)",
    "unparsed": "unparsed",
}


def score_item(item: Item, answer: str, reader: str, label: str) -> Score:
    """Return what one answer is worth, with its evidence."""
    said = spoken(answer).text
    reading = read_as_lmms_eval(said) if reader == "lmms-eval" else read_strict(said, item.facts["options"])
    counts = {
        "questions": 1,
        "right": int(reading == label),
        "said_first": int(reading == "A"),
        "neither": int(reading == UNPARSED),
    }
    evidence = {
        "question_id": item.key,
        "pair": item.unit,
        "question": item.text,
        "label": label,
        "reading": reading,
        "answer": answer,
    }
    return Score(item.key, item.unit, counts, item.split, evidence)


def pair_counts(scores: Sequence[Score]) -> dict[str, int]:
    """Return the counts of a pair: it counts as right when both answers are."""
    counts = total([score.counts for score in scores])
    return counts | {"pairs": 1, "pairs_right": int(counts["right"] == 2)}


def _scored(items: Sequence[Item], texts: Sequence[str], reader: str, labels: str) -> Scored:
    mended = MENDED if labels == "mended" else {}
    scores = [
        score_item(item, text, reader, mended.get(item.key, item.label))
        for item, text in zip(items, texts, strict=True)
    ]
    return Scored(scores, {"reader": reader, "labels": labels, "notes": notes_on_thinking(texts)})


def read_saved(
    answers: Path | str,
    questions: Path | str,
    *,
    reader: str = "strict",
    labels: str = "published",
    per_question: Path | str | None = None,
) -> Scored:
    """Return the scores of a file of answers.

    Args:
        answers: rows of `question_id` and `response`, or an lmms-eval log.
        questions: MMVP's Questions.csv.
        reader: "strict" or "lmms-eval".
        labels: "published", or "mended" for the four that are known to be wrong.
        per_question: JSON lines to write: question_id, pair, question, label, reading, answer.

    Raises:
        FileFormatError: naming file and line.
        AnswerMismatch: naming the question whose answer is missing or doubled.
    """
    items = read_questions(Path(questions))
    texts = match(items, read_answers(Path(answers)), lambda answer: answer.question_id or "", Path(answers))
    found = _scored(items, texts, reader, labels)
    if per_question is not None:
        write_rows(Path(per_question), (score.evidence for score in found.scores))
    return found


def _score(folder: Path, items: Sequence[Item], texts: Sequence[str], protocol: Protocol) -> Scored:
    return _scored(items, texts, protocol.option("reader"), protocol.option("labels"))


def _write(folder: Path, items: Sequence[Item], texts: Sequence[str]) -> None:
    rows = (
        {"question_id": int(item.key), "prompt": item.text, "answer": f"({item.label.lower()})", "response": text}
        for item, text in zip(items, texts, strict=True)
    )
    write_rows(folder / "mmvp_answers.jsonl", rows)


_READER = Option("reader", "strict, or lmms-eval's way to find the letter.", default="strict", choices=READERS)
_LABELS = Option("labels", "published, or mended: four are known to be wrong.", default="published", choices=LABELLED)

MMVP = Metric(
    name="mmvp",
    title="MMVP",
    items="answers",
    ratios=RATIOS,
    labels=LABELS,
    headline="pairs_right",
    units="pairs",
    higher_is_better=True,
    accuracy="accuracy",
    tested=("pairs_right", "pairs with both answers right"),
    unit_counts=pair_counts,
    counted="questions",
    called=lambda score: f"question {score.key}",
    alerts=choice_alerts,
    summary=("pairs_right", "accuracy", "unparsed"),
    judging=Judging(
        help="Score answers with MMVP.",
        file=Option("answers", "Answers: question_id and response.", Path),
        read=read_saved,
        options=(
            Option("questions", f"MMVP's {QUESTIONS}.", Path, required=True, short="-q"),
            _READER,
            _LABELS,
            Option("per_question", "JSON lines to write.", Path, written=True),
        ),
    ),
    asked=Benchmark(
        name="mmvp",
        help="Ask MMVP's questions with two choices, two a pair of pictures.",
        data_is=f"MMVP's {QUESTIONS} and its `MMVP Images`",
        find=read_folder,
        score=_score,
        write=_write,
        prompt="{question}\nAnswer with the option's letter from the given choices directly.",
        options=(_READER, _LABELS),
    ).asked(),
)
