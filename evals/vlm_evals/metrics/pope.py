"""POPE: yes-or-no questions about objects (Li et al. 2023).

Three published programs read answers differently; all three are here, and `strict-neither`, which says "unparsed"
where an answer is neither yes nor no instead of counting it as yes.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vlm_evals.data.formats import GivenAnswer, Question
from vlm_evals.errors import AnswerMismatch, EvaluationError
from vlm_evals.ratios import HarmonicMean, Metric, Ratio, evaluate, total
from vlm_evals.records import Label, Score

Parser = Literal["strict-neither", "pope", "opera", "vcd"]
Strategy = Literal["random", "popular", "adversarial"]
Reading = Literal["yes", "no", "unparsed"]
PARSERS: tuple[Parser, ...] = get_args(Parser)
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

_NO_QUESTION = "there is no question"
_PRECISION = Ratio("true_yes", "said_yes", "no answer is yes")
_RECALL = Ratio("true_yes", "label_yes", "no question has the label yes")
RATIOS: dict[str, Metric] = {
    "accuracy": Ratio("right", "questions", _NO_QUESTION),
    "precision": _PRECISION,
    "recall": _RECALL,
    "f1": HarmonicMean(_PRECISION, _RECALL, "precision or recall is undefined"),
    "false_yes_rate": Ratio("false_yes", "label_no", "no question has the label no"),
    "yes_ratio": Ratio("said_yes", "questions", _NO_QUESTION),
    "unparsed": Ratio("neither", "questions", _NO_QUESTION),
}


def parse_answer(answer: str, *, parser: Parser = "strict-neither", label: Label | None = None) -> Reading:
    """Return "yes", "no" or "unparsed" for an answer.

    Args:
        answer: what the model said.
        parser: "pope" (the original), "opera" (OPERA, PAI), "vcd", or ours, "strict-neither". Only ours can return
            "unparsed".
        label: the right answer. Only "vcd" needs it: it looks for the label's own word anywhere in the answer.

    Raises:
        EvaluationError: for an unknown parser, or "vcd" without a label.
    """
    if parser == "strict-neither":
        return _strict(answer)
    if parser == "pope":
        words = answer.split(".")[0].replace(",", "").split(" ")
        return "no" if {"No", "no", "not"}.intersection(words) else "yes"
    if parser == "opera":
        words = answer.replace(".", "").replace(",", "").split(" ")
        denied = {"No", "NO", "no", "not"}.intersection(words) or any(word.endswith("n't") for word in words)
        return "no" if denied else "yes"
    if parser == "vcd":
        if label is None:
            raise EvaluationError("the parser vcd depends on the label; pass label='yes' or label='no'")
        said = label in answer.lower()
        return label if said else ("no" if label == "yes" else "yes")
    raise EvaluationError(f"unknown parser {parser!r}; choose one of {', '.join(PARSERS)}")


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LEAD = re.compile(r"(?:the\s+)?(?:correct\s+|final\s+)?answer(?:\s+is|\s*:)?", re.IGNORECASE)
_LINKS = {"and", "or", "but"}


def _strict(answer: str) -> Reading:
    """Return yes or no where it is the first word, or follows "the answer is", and is not taken back at once."""
    text = answer.strip()
    lead = _LEAD.match(text)
    words = [word.lower() for word in _WORD.findall(text[lead.end() :] if lead else text)]
    while words and words[0].isdecimal():  # a list number: "1. No"
        words.pop(0)
    if not words or words[0] not in ("yes", "no"):
        return "unparsed"
    following = next((word for word in words[1:3] if word not in _LINKS), None)
    if following in ("yes", "no") and following != words[0]:
        return "unparsed"
    return "yes" if words[0] == "yes" else "no"


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """One question with its answer and how the answer was read."""

    question: Question
    answer: str
    reading: Reading

    def counts(self) -> dict[str, int]:
        """Return the counts that every metric of `RATIOS` is made of; an unparsed answer is never right."""
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

    def as_score(self) -> Score:
        """Return the counts with their evidence."""
        return Score(f"{self.question.split}/{self.question.question_id}", self.counts(), self.as_row())


def score_answers(
    questions: Sequence[Question], answers: Sequence[GivenAnswer], parser: Parser = "strict-neither"
) -> list[QuestionScore]:
    """Return the scores of answers, in the order of the questions.

    Answers are matched by question id (and split, where they name one). A file without any id is matched by the order
    of its lines, as the original program does, and must have one line a question.

    Raises:
        AnswerMismatch: naming the question whose answer is missing, doubled or belongs to none.
    """
    texts = _by_order(questions, answers) if _without_ids(answers) else _by_id(questions, answers)
    return [
        QuestionScore(question, text, parse_answer(text, parser=parser, label=question.label))
        for question, text in zip(questions, texts, strict=True)
    ]


def _without_ids(answers: Sequence[GivenAnswer]) -> bool:
    return bool(answers) and all(answer.question_id is None for answer in answers)


def _by_order(questions: Sequence[Question], answers: Sequence[GivenAnswer]) -> list[str]:
    if len(questions) != len(answers):
        raise AnswerMismatch(
            f"{len(answers)} answers without question ids for {len(questions)} questions; "
            "they can only be matched line by line if there are as many"
        )
    for question, answer in zip(questions, answers, strict=True):
        if answer.question is not None and answer.question.strip() != question.text.strip():
            raise AnswerMismatch(
                f"line {answer.line} answers {answer.question!r} where question {question.question_id} "
                f"is {question.text!r}"
            )
    return [answer.text for answer in answers]


def _by_id(questions: Sequence[Question], answers: Sequence[GivenAnswer]) -> list[str]:
    splits = {question.split for question in questions}
    given: dict[tuple[str | None, str], GivenAnswer] = {}
    for answer in answers:
        if answer.question_id is None:
            raise AnswerMismatch(f"the answer in line {answer.line} names no question id while others do")
        key = (answer.split if answer.split in splits else None), answer.question_id
        if key in given:
            raise AnswerMismatch(
                f"question {answer.question_id} is answered twice, in lines {given[key].line} and {answer.line}"
            )
        given[key] = answer
    texts = [_take(given, question) for question in questions]
    if given:
        stray = next(iter(given.values()))
        raise AnswerMismatch(f"the answer in line {stray.line} is to question {stray.question_id}, which is not asked")
    return texts


def _take(given: dict[tuple[str | None, str], GivenAnswer], question: Question) -> str:
    for key in ((question.split, question.question_id), (None, question.question_id)):
        if key in given:
            return given.pop(key).text
    raise AnswerMismatch(f"question {question.question_id} ({question.split}) has no answer")


def corpus_metrics(scores: Sequence[QuestionScore]) -> dict[str, Any]:
    """Return the metrics of every split and their mean over splits.

    Returns:
        `splits` (split -> metrics with `counts` and `undefined`) and, at the top, the mean of each metric over splits;
        None where a split has none.
    """
    splits: dict[str, dict[str, Any]] = {}
    for split in dict.fromkeys(score.question.split for score in scores):
        totals = total([score.counts() for score in scores if score.question.split == split])
        values, undefined = evaluate(RATIOS, totals)
        splits[split] = {**values, "counts": totals, "undefined": undefined}
    means: dict[str, Any] = {name: _mean([split[name] for split in splits.values()]) for name in RATIOS}
    return {**means, "splits": splits}


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined and len(defined) == len(values) else None


def build_questions(
    annotations: Sequence[Mapping[str, Any]],
    *,
    strategy: Strategy,
    per_image: int = 3,
    sample: int | None = 500,
    seed: int,
) -> list[dict[str, Any]]:
    """Return POPE questions: per image and i, the i-th object (yes), then an object that is not there (no).

    The absent object is uniform over all objects seen ("random"), the most frequent one ("popular"), or the one that
    stands most often beside the positive ("adversarial", then uniform); ties go to the object that was seen first, and
    none is used twice for an image. The published builder sets no seed; this one takes it.

    Args:
        annotations: {"image": name, "objects": names in annotation order} of every image; all of them count towards
            the frequencies.
        strategy: how absent objects are chosen.
        per_image: questions of each label an image gets; images with fewer objects are not asked about.
        sample: how many images are drawn; None keeps all, in order.
        seed: of the drawing.

    Returns:
        Dictionaries with question_id (from 1), image, object, text and label.

    Raises:
        EvaluationError: for an unknown strategy, too few images, or an image that leaves no absent object.
    """
    if strategy not in STRATEGIES:
        raise EvaluationError(f"unknown strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    generator = random.Random(seed)
    listed = [(str(one["image"]), list(dict.fromkeys(one["objects"]))) for one in annotations]
    images = [(image, objects) for image, objects in listed if len(objects) >= per_image]
    if sample is not None:
        if len(images) < sample:
            raise EvaluationError(
                f"{len(images)} images have {per_image} objects or more, fewer than the sample of {sample}; "
                "pass a smaller sample, or None for all of them"
            )
        images = generator.sample(images, sample)
    absent = _absent_chooser(strategy, [objects for _, objects in listed], generator)
    questions: list[dict[str, Any]] = []
    for image, objects in images:
        taken = set(objects)
        for present in objects[:per_image]:
            missing = absent(present, taken)
            taken.add(missing)
            for name, label in ((present, "yes"), (missing, "no")):
                row = {"question_id": len(questions) + 1, "image": image, "object": name}
                questions.append(row | {"text": question_text(name), "label": label})
    return questions


def question_text(name: str) -> str:
    """Return POPE's question about an object; `an` stands before a, e, i, o and u."""
    return f"Is there {'an' if name[:1] in tuple('aeiou') else 'a'} {name} in the image?"


def _absent_chooser(
    strategy: Strategy, images: Sequence[Sequence[str]], generator: random.Random
) -> Callable[[str, set[str]], str]:
    """Return what chooses an absent object for a positive, given the objects already taken for that image."""
    frequency = Counter(name for objects in images for name in objects)
    seen = list(frequency)
    by_frequency = _descending(frequency, seen)
    beside = _neighbours(images, seen) if strategy == "adversarial" else {}

    def choose(present: str, taken: set[str]) -> str:
        ranked = {"random": [], "popular": by_frequency, "adversarial": beside.get(present, [])}[strategy]
        for name in ranked:
            if name not in taken:
                return name
        free = [name for name in seen if name not in taken]
        if not free:
            raise EvaluationError("an image leaves no absent object to ask about: it holds every object seen")
        return generator.choice(free)

    return choose


def _descending(counts: Mapping[str, int], order: Iterable[str]) -> list[str]:
    return sorted((name for name in order if counts.get(name)), key=lambda name: -counts[name])


def _neighbours(images: Sequence[Sequence[str]], seen: Sequence[str]) -> dict[str, list[str]]:
    """Return, for every object, the others by how many images they share with it, descending."""
    shared: dict[str, Counter[str]] = {name: Counter() for name in seen}
    for objects in images:
        for name in objects:
            shared[name].update(other for other in objects if other != name)
    return {name: _descending(counts, seen) for name, counts in shared.items()}
