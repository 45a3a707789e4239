"""MCQ-POPE: POPE's objects in questions with four choices (AllPath, 2025); figures are means over splits.

Half of the questions ask which object appears, half which does not. AllPath's program takes the first character of an
answer; `strict`, ours, takes a letter or the words of a choice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_evals.benchmark import Benchmark
from vlm_evals.data.formats import read_answers
from vlm_evals.data.items import Item, match
from vlm_evals.data.mcq import read_folder, read_questions
from vlm_evals.data.pairing import require_file_order
from vlm_evals.errors import AnswerMismatch, FileFormatError
from vlm_evals.metric import Judging, Metric, Option, Scored
from vlm_evals.protocol import Protocol
from vlm_evals.ratios import Formula, Ratio
from vlm_evals.records import Score, write_rows
from vlm_evals.text.choices import UNPARSED, choice_alerts, read_first_character, read_strict
from vlm_evals.text.spoken import notes_on_thinking, spoken

READERS = ("strict", "allpath")
_NO_QUESTION = "there is no question"
RATIOS: dict[str, Formula] = {
    "accuracy": Ratio("right", "questions", _NO_QUESTION),
    "present_accuracy": Ratio("present_right", "present", "no question asks what appears"),
    "absent_accuracy": Ratio("absent_right", "absent", "no question asks what does not appear"),
    "first_ratio": Ratio("said_first", "questions", _NO_QUESTION),
    "unparsed": Ratio("neither", "questions", _NO_QUESTION),
}
LABELS = {
    "accuracy": "accuracy",
    "present_accuracy": "accuracy, what appears",
    "absent_accuracy": "accuracy, what does not",
    "first_ratio": "answers A",
    "unparsed": "unparsed",
}


def score_item(item: Item, answer: str, reader: str) -> Score:
    """Return what one answer is worth, with its evidence."""
    said, options = spoken(answer).text, item.facts["options"]
    reading = read_first_character(said) if reader == "allpath" else read_strict(said, options)
    right, asks = int(reading == item.label), item.facts["asks"]
    counts = {
        "questions": 1,
        "right": right,
        "present": int(asks == "present"),
        "present_right": right * (asks == "present"),
        "absent": int(asks == "absent"),
        "absent_right": right * (asks == "absent"),
        "said_first": int(reading == "A"),
        "neither": int(reading == UNPARSED or reading not in options),
    }
    evidence = {
        "question_id": item.key,
        "question": item.text,
        "label": item.label,
        "reading": reading,
        "chosen": options.get(reading),
        "answer": answer,
    }
    return Score(item.key, item.unit, counts, item.split, evidence)


def _scored(items: Sequence[Item], texts: Sequence[str], reader: str) -> Scored:
    scores = [score_item(item, text, reader) for item, text in zip(items, texts, strict=True)]
    return Scored(scores, {"reader": reader, "notes": notes_on_thinking(texts)})


def read_saved(
    answers: Sequence[Path | str],
    questions: Sequence[Path | str],
    *,
    reader: str = "strict",
    per_question: Path | str | None = None,
) -> Scored:
    """Return the scores of files of answers, one for each file of questions.

    Args:
        answers: rows of `question_id` and `response`, `answer` or `text`, or lmms-eval logs.
        questions: MCQ-POPE's files, each a split.
        reader: "strict" or "allpath".
        per_question: JSON lines to write: question_id, question, label, reading, chosen, answer.

    Raises:
        FileFormatError: naming file and line.
        AnswerMismatch: naming the question whose answer is missing or doubled.
    """
    given, asked = [Path(one) for one in answers], [Path(one) for one in questions]
    if len(given) != len(asked):
        raise AnswerMismatch(f"{len(given)} files of answers for {len(asked)} files of questions; give one for each")
    items: list[Item] = []
    texts: list[str] = []
    splits: dict[str, str] = {}
    for said, path in zip(given, asked, strict=True):
        own = read_questions(path)
        splits[path.name] = own[0].split
        texts += _paired(own, said)
        items += own
    if len(splits) != len(asked):
        raise AnswerMismatch(f"the questions {asked[0].name} are given twice; give a file for each split")
    require_file_order([path.name for path in given], splits)
    found = _scored(items, texts, reader)
    if per_question is not None:
        write_rows(Path(per_question), (score.evidence for score in found.scores))
    return Scored(found.scores, {**found.facts, "questions": len(items)})


def _paired(items: Sequence[Item], path: Path) -> list[str]:
    """Return the texts that answer the questions of a split."""
    split = items[0].split
    texts = match(items, read_answers(path), lambda answer: f"{split}/{answer.question_id}", path, texts=True)
    if texts[0] == items[0].text:
        raise FileFormatError(path, 1, "is a question with its label; give the file of what the model said")
    return texts


def _score(folder: Path, items: Sequence[Item], texts: Sequence[str], protocol: Protocol) -> Scored:
    return _scored(items, texts, protocol.option("reader"))


def _write(folder: Path, items: Sequence[Item], texts: Sequence[str]) -> None:
    """Write a file of answers a split, in the questions' layout and AllPath's log's."""
    for split in dict.fromkeys(item.split for item in items):
        rows: list[dict[str, Any]] = [
            {"question_id": int(item.key.partition("/")[2]), "pope_split": split, "response": text}
            for item, text in zip(items, texts, strict=True)
            if item.split == split
        ]
        write_rows(folder / f"mcq_pope_{split}.jsonl", rows)


_READER = Option("reader", "strict, or allpath: the first character.", default="strict", choices=READERS)

MCQ_POPE = Metric(
    name="mcq-pope",
    title="MCQ-POPE",
    items="answers",
    ratios=RATIOS,
    labels=LABELS,
    headline="accuracy",
    higher_is_better=True,
    accuracy="accuracy",
    tested=("accuracy", "questions answered rightly"),
    over_splits="mean",
    counted="questions",
    called=lambda score: f"question {score.key}",
    alerts=choice_alerts,
    in_splits=("accuracy", "present_accuracy", "absent_accuracy", "unparsed"),
    summary=("accuracy", "present_accuracy", "absent_accuracy"),
    judging=Judging(
        help="Score answers with MCQ-POPE.",
        file=Option("answers", "Answers, one file for each file of questions.", Path, several=True),
        read=read_saved,
        options=(
            Option("questions", "MCQ-POPE's questions, a file a split.", Path, required=True, several=True, short="-q"),
            _READER,
            Option("per_question", "JSON lines to write.", Path, written=True),
        ),
    ),
    asked=Benchmark(
        name="mcq-pope",
        help="Ask which of four objects is in images, or is not.",
        data_is="MCQ-POPE's questions, coco_mcq_random.jsonl and so on, and COCO's pictures in val2014",
        find=read_folder,
        score=_score,
        write=_write,
        prompt="{question}Please answer this question with one word.",
        options=(_READER,),
    ).asked(),
)
