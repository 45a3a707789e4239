"""HallusionBench without a judge: yes-or-no questions about figures and edited figures (Guan et al. 2024).

    aAcc = right answers / questions
    fAcc = figures all of whose questions are right / figures
    qAcc = questions that are right of every figure they are asked of / such groups

The official program has GPT-4 read the answers. Two programs read them without: VLMEvalKit by `words`, lmms-eval by
`substring`. Both take the questions that have a picture. Their figures for one file of answers differ.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.benchmark import Benchmark
from vlm_evals.data.hallusion import QUESTIONS, read_answers, read_folder, read_questions
from vlm_evals.data.items import Item, match
from vlm_evals.metric import Judging, Metric, Option, Scored
from vlm_evals.protocol import Protocol
from vlm_evals.ratios import Formula, Ratio, total
from vlm_evals.records import Score, write_json, write_rows
from vlm_evals.text.spoken import notes_on_thinking, spoken
from vlm_evals.text.yes_no import Reading, read_words, unparsed_alerts

READERS = ("words", "substring")
_NO_QUESTION = "there is no question"
RATIOS: dict[str, Formula] = {
    "accuracy": Ratio("right", "questions", _NO_QUESTION),
    "figures_right": Ratio("figures_right", "figures", _NO_QUESTION),
    "groups_right": Ratio("groups_right", "groups", _NO_QUESTION),
    "original_accuracy": Ratio("original_right", "original", "there is no question about an original figure"),
    "edited_accuracy": Ratio("edited_right", "edited", "there is no question about an edited figure"),
    "yes_ratio": Ratio("said_yes", "questions", _NO_QUESTION),
    "unparsed": Ratio("neither", "questions", _NO_QUESTION),
}
LABELS = {
    "accuracy": "aAcc",
    "figures_right": "fAcc",
    "groups_right": "qAcc",
    "original_accuracy": "aAcc, original figures",
    "edited_accuracy": "aAcc, edited figures",
    "yes_ratio": "yes ratio",
    "unparsed": "unparsed",
}


def read_answer(answer: str, reader: str) -> Reading:
    """Return how an answer is read: by VLMEvalKit's words, or by lmms-eval's search for "yes"."""
    if reader == "substring":
        return "yes" if "yes" in answer.lower() else "no"
    return read_words(answer)


def score_item(item: Item, answer: str, reader: str) -> Score:
    """Return what one answer is worth, with its evidence."""
    reading = read_answer(spoken(answer).text, reader)
    right, edited = reading == item.label, item.facts["visual_input"] == "2"
    counts = {
        "questions": 1,
        "right": int(right),
        "original": int(not edited),
        "original_right": int(right and not edited),
        "edited": int(edited),
        "edited_right": int(right and edited),
        "said_yes": int(reading == "yes"),
        "neither": int(reading == "unparsed"),
    }
    evidence = {
        "question_id": item.key,
        "figure": item.facts["figure_id"],
        "group": item.facts["question_id"],
        "question": item.text,
        "label": item.label,
        "reading": reading,
        "answer": answer,
    }
    return Score(item.key, item.unit, counts, item.split, evidence)


def set_counts(scores: Sequence[Score]) -> dict[str, int]:
    """Return the counts of a set of figures with its questions, which are asked of several figures each."""
    counts = total([score.counts for score in scores])
    for name, places in (("figures", "figure"), ("groups", "group")):
        parts: dict[str, list[bool]] = defaultdict(list)
        for score in scores:
            parts[score.evidence[places]].append(bool(score.counts["right"]))
        counts |= {name: len(parts), f"{name}_right": sum(map(all, parts.values()))}
    return counts


def read_saved(
    answers: Path | str,
    questions: Path | str,
    *,
    reader: str = "words",
    per_question: Path | str | None = None,
) -> Scored:
    """Return the scores of a file of answers.

    Args:
        answers: rows with HallusionBench's fields and `model_prediction` or `prediction`, or an lmms-eval log.
        questions: HallusionBench.json.
        reader: "words" or "substring"; see `read_answer`.
        per_question: JSON lines to write: question_id, figure, group, question, label, reading, answer.

    Raises:
        FileFormatError: naming file and line.
        AnswerMismatch: naming the question whose answer is missing or doubled, or another question's.
    """
    items, blind = read_questions(Path(questions))
    given = read_answers(Path(answers))
    passed = [answer for answer in given if answer.question_id in set(blind)]
    kept = [answer for answer in given if answer.question_id not in set(blind)]
    texts = match(items, kept, lambda answer: answer.question_id or "", Path(answers), texts=True)
    found = _scored(items, texts, reader)
    if per_question is not None:
        write_rows(Path(per_question), (score.evidence for score in found.scores))
    notes = [*found.facts["notes"], *([_blind_note(len(passed))] if passed else [])]
    return Scored(found.scores, {**found.facts, "questions": len(items), "notes": notes})


def _blind_note(count: int) -> str:
    return f"{count} answers are to questions without a picture, which only the official judge scores: passed over"


def _scored(items: Sequence[Item], texts: Sequence[str], reader: str) -> Scored:
    scores = [score_item(item, text, reader) for item, text in zip(items, texts, strict=True)]
    return Scored(scores, {"reader": reader, "notes": notes_on_thinking(texts)})


def _score(folder: Path, items: Sequence[Item], texts: Sequence[str], protocol: Protocol) -> Scored:
    return _scored(items, texts, protocol.option("reader"))


def _write(folder: Path, items: Sequence[Item], texts: Sequence[str]) -> None:
    """Write questions and answers as the official program reads them."""
    rows: list[Mapping[str, Any]] = []
    for item, text in zip(items, texts, strict=True):
        category, subcategory, group, figure, question = item.key.split("/")
        rows.append(
            {
                "category": category,
                "subcategory": subcategory,
                "visual_input": item.facts["visual_input"],
                "set_id": group,
                "figure_id": figure,
                "question_id": question,
                "question": item.text,
                "gt_answer": "1" if item.label == "yes" else "0",
                "filename": item.image,
                "model_prediction": text,
            }
        )
    write_json(folder / "HallusionBench_result.json", rows)


_READER = Option("reader", "words (VLMEvalKit) or substring (lmms-eval).", default="words", choices=READERS)

HALLUSION = Metric(
    name="hallusion",
    title="HallusionBench without a judge",
    items="answers",
    ratios=RATIOS,
    labels=LABELS,
    headline="accuracy",
    units="sets of figures",
    higher_is_better=True,
    accuracy="accuracy",
    tested=("accuracy", "questions answered rightly"),
    over_splits="pooled",
    unit_counts=set_counts,
    counted="questions",
    called=lambda score: f"question {score.key}",
    alerts=unparsed_alerts,
    in_splits=tuple(RATIOS),
    summary=("accuracy", "figures_right", "groups_right", "yes_ratio"),
    judging=Judging(
        help="Score answers with HallusionBench, without a judge.",
        file=Option("answers", "Answers with HallusionBench's fields and `model_prediction`.", Path),
        read=read_saved,
        options=(
            Option("questions", f"{QUESTIONS}.", Path, required=True, short="-q"),
            _READER,
            Option("per_question", "JSON lines to write.", Path, written=True),
        ),
    ),
    asked=Benchmark(
        name="hallusion",
        help="Ask HallusionBench's yes-or-no questions that have a picture.",
        data_is=f"{QUESTIONS} and the pictures, in VD and VS or in hallusion_bench",
        find=read_folder,
        score=_score,
        write=_write,
        options=(_READER,),
    ).asked(),
)
