"""MME: two yes-or-no questions an image in fourteen categories (Fu et al. 2023).

    score of a category = 100 * right answers / questions + 100 * images with both answers right / images
    perception, cognition, hallucination subset = sums of such scores

The figures are those of the official `calculation.py`, to the last digit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_evals.benchmark import Benchmark
from vlm_evals.data.formats import read_answers
from vlm_evals.data.items import Item, match
from vlm_evals.data.mme import (
    CATEGORIES,
    COGNITION,
    HALLUCINATION,
    PERCEPTION,
    key_of,
    key_of_answer,
    read_release,
    read_text_of,
    texts_of,
)
from vlm_evals.errors import FileFormatError
from vlm_evals.metric import Judging, Metric, Option, Scored
from vlm_evals.protocol import Protocol
from vlm_evals.ratios import Formula, Ratio, Sum, total
from vlm_evals.records import Score, file_hash, write_rows, write_text
from vlm_evals.text.spoken import notes_on_thinking, spoken
from vlm_evals.text.yes_no import Reading, unparsed_alerts

_NO_QUESTION = "there is no question"
_ACCURACY = Ratio("right", "questions", _NO_QUESTION)
_PLUS = Ratio("pairs_right", "pairs", _NO_QUESTION)
_SCORE = Sum((Sum((_ACCURACY,), _NO_QUESTION, 100), Sum((_PLUS,), _NO_QUESTION, 100)), _NO_QUESTION)
RATIOS: dict[str, Formula] = {
    "score": _SCORE,
    "accuracy": _ACCURACY,
    "accuracy_plus": _PLUS,
    "yes_ratio": Ratio("said_yes", "questions", _NO_QUESTION),
    "unparsed": Ratio("neither", "questions", _NO_QUESTION),
}
SUBSETS = {"perception": PERCEPTION, "cognition": COGNITION, "hallucination": HALLUCINATION}
LABELS = {
    "score": "score",
    "perception": "perception",
    "cognition": "cognition",
    "hallucination": "hallucination subset",
    "accuracy": "accuracy",
    "accuracy_plus": "accuracy+",
    "yes_ratio": "yes ratio",
    "unparsed": "unparsed",
}


def whole(splits: Sequence[str]) -> dict[str, Formula]:
    """Return the sums over categories; one that is not there leaves its sums undefined."""
    summed: dict[str, Formula] = {"score": _sum([name for name in CATEGORIES if name in splits], _NO_QUESTION)}
    for subset, names in SUBSETS.items():
        lacking = [name for name in names if name not in splits]
        summed[subset] = _sum(names, f"there is no answer in {', '.join(lacking[:4])}")
    return summed


def _sum(names: Sequence[str], undefined: str) -> Sum:
    return Sum(tuple(_SCORE.within(name) for name in names), undefined)


def read_answer(answer: str) -> Reading:
    """Return how the official program reads an answer: exactly yes or no, or by its first four characters."""
    lowered = answer.lower()
    start = lowered if lowered in ("yes", "no") else lowered[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "unparsed"


def score_item(item: Item, answer: str) -> Score:
    """Return what one answer is worth, with its evidence."""
    reading = read_answer(spoken(answer).text)
    counts = {
        "questions": 1,
        "right": int(reading == item.label),
        "said_yes": int(reading == "yes"),
        "neither": int(reading == "unparsed"),
    }
    evidence = {
        "question_id": item.key,
        "question": item.text,
        "label": item.label,
        "reading": reading,
        "answer": answer,
    }
    return Score(item.key, item.unit, counts, item.split, evidence)


def pair_counts(scores: Sequence[Score]) -> dict[str, int]:
    """Return the counts of an image: it counts as right when both answers are."""
    counts = total([score.counts for score in scores])
    return counts | {"pairs": 1, "pairs_right": int(counts["right"] == 2)}


def read_saved(
    answers: Sequence[Path | str],
    questions: Sequence[Path | str] | None = None,
    *,
    per_question: Path | str | None = None,
) -> Scored:
    """Return the scores of MME's own texts, or of answers in LLaVA's layout.

    Args:
        answers: texts named for their categories with an answer in every line, or a folder of them; or one file of
            answers with `question_id` (category/image), `prompt` and `text`.
        questions: for such a file the texts with the right answers, a folder of them, or MME's release.
        per_question: JSON lines to write: question_id, category, question, label, reading, answer.

    Raises:
        FileFormatError: naming file and line.
        AnswerMismatch: naming the question whose answer is missing or doubled.
    """
    given = [Path(one) for one in answers]
    asked = [Path(one) for one in questions or ()]
    items, texts = _from_answers(given, asked) if asked else _from_texts(texts_of(given))
    scores = [score_item(item, text) for item, text in zip(items, texts, strict=True)]
    if per_question is not None:
        write_rows(Path(per_question), ({"category": score.split, **score.evidence} for score in scores))
    files = {"answers": given, "questions": asked}
    listed = {
        name: texts_of(paths) if any(map(Path.is_dir, paths)) else paths for name, paths in files.items() if paths
    }
    facts: dict[str, Any] = {
        "questions": len(items),
        "files": {name: [path.name for path in paths] for name, paths in listed.items()},
        "hashes": {name: {path.name: file_hash(path) for path in paths} for name, paths in listed.items()},
    }
    return Scored(scores, facts | _noted(texts))


def _noted(texts: Sequence[str]) -> dict[str, list[str]]:
    notes = notes_on_thinking(texts)
    return {"notes": notes} if notes else {}


def _from_texts(paths: Sequence[Path]) -> tuple[list[Item], list[str]]:
    """Return the questions and answers of texts that have both."""
    found = [read_text_of(path) for path in paths]
    for path, (_, answers) in zip(paths, found, strict=True):
        if not any(answers):
            raise FileFormatError(path, None, "holds questions without answers; give what the model said")
    if doubled := {path.stem for path in paths if [one.stem for one in paths].count(path.stem) > 1}:
        raise FileFormatError(paths[0], None, f"the category {min(doubled)} is given twice")
    return [item for items, _ in found for item in items], [answer for _, said in found for answer in said]


def _from_answers(given: Sequence[Path], asked: Sequence[Path]) -> tuple[list[Item], list[str]]:
    """Return the questions of texts or of a release, with the answers of a file."""
    if len(given) != 1:
        raise FileFormatError(given[0], None, f"{len(given)} files of answers stand beside --questions; give one")
    items = _asked_in(asked)
    known = key_of(items, asked[0])
    path = given[0]
    return items, match(items, read_answers(path), lambda answer: key_of_answer(known, answer, path), path)


def _asked_in(paths: Sequence[Path]) -> list[Item]:
    if len(paths) == 1 and paths[0].is_dir() and not any((paths[0] / f"{name}.txt").is_file() for name in CATEGORIES):
        return list(read_release(paths[0]).items)
    return [item for path in texts_of(paths) for item in read_text_of(path)[0]]


def _write(folder: Path, items: Sequence[Item], texts: Sequence[str]) -> None:
    """Write a text a category, as `calculation.py` reads them."""
    for category in dict.fromkeys(item.split for item in items):
        rows = [
            "\t".join((item.image.rpartition("/")[2], item.text, item.label.capitalize(), " ".join(text.split())))
            for item, text in zip(items, texts, strict=True)
            if item.split == category
        ]
        write_text(folder / f"{category}.txt", "\n".join(rows) + "\n")


def _score(folder: Path, items: Sequence[Item], texts: Sequence[str], protocol: Protocol) -> Scored:
    scores = [score_item(item, text) for item, text in zip(items, texts, strict=True)]
    return Scored(scores, _noted(texts))


def _wanted(item: Item, protocol: Protocol) -> bool:
    part = protocol.option("part")
    return part == "all" or item.split in SUBSETS[part]


MME = Metric(
    name="mme",
    title="MME",
    items="answers",
    ratios=RATIOS,
    labels=LABELS,
    numbers=frozenset({"score", *SUBSETS}),
    headline="score",
    higher_is_better=True,
    accuracy="accuracy",
    tested=("accuracy_plus", "images with both answers right"),
    over_splits="pooled",
    whole_only=whole,
    unit_counts=pair_counts,
    counted="questions",
    called=lambda score: f"question {score.key}",
    alerts=unparsed_alerts,
    in_splits=("score", "accuracy", "accuracy_plus", "yes_ratio", "unparsed"),
    summary=("score", "accuracy", "accuracy_plus", "yes_ratio"),
    judging=Judging(
        help="Score answers with MME.",
        file=Option(
            "answers", "MME's texts with answers, a folder of them, or one file of answers.", Path, several=True
        ),
        read=read_saved,
        options=(
            Option(
                "questions",
                "For a file of answers: MME's texts, a folder of them, or its release.",
                Path,
                several=True,
                short="-q",
            ),
            Option("per_question", "JSON lines to write.", Path, written=True),
        ),
    ),
    asked=Benchmark(
        name="mme",
        help="Ask MME's yes-or-no questions, two an image.",
        data_is="MME's release: a folder for each category with its pictures and texts",
        find=read_release,
        score=_score,
        write=_write,
        wanted=_wanted,
        options=(
            Option("part", "all, perception, cognition or hallucination.", default="all", choices=("all", *SUBSETS)),
        ),
    ).asked(),
)
