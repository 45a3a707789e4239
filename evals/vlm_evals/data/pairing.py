"""Which answer belongs to which question: by id, and by the text and the image where both sides carry them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vlm_evals.data.formats import GivenAnswer, Question
from vlm_evals.errors import AnswerMismatch, EvaluationError, MissingAnswer
from vlm_evals.records import image_key

LLAVA_SPLITS = ("adversarial", "random", "popular")  # in LLaVA's one file ids of the n-th start at n times ten million
LLAVA_STEP = 10_000_000
_POPE_QUESTION = re.compile(r"is there an? .+? in the image\?")


def same_question(text: str) -> str:
    """Return a question as it is compared: in small letters, with the typing error of POPE's first edition mended.

    Of a prompt around one of POPE's questions, the question alone.
    """
    plain = " ".join(text.lower().split()).replace("imange", "image")
    found = _POPE_QUESTION.findall(plain)
    return found[-1] if found else plain


def pair_answers(
    questions: Sequence[Question], answers: Sequence[GivenAnswer], *, subset: bool = False
) -> tuple[list[str], int]:
    """Return the answers' texts in the order of the questions, and how many answers were passed over.

    Answers are matched by question id (and split, where they name one). A file without any id is matched by the order
    of its lines, as the original program does, and must have one line a question. Where an answer carries its question
    or its image, they must be those of the question.

    Args:
        questions: what was asked.
        answers: what was said.
        subset: whether answers to other questions are passed over.

    Raises:
        AnswerMismatch: naming the question whose answer is missing, doubled or belongs to another.
    """
    if answers and all(answer.question_id is None for answer in answers):
        paired, over = _by_order(questions, answers), 0
    else:
        paired, over = _by_id(questions, answers, subset)
    return [answer.text for answer in paired], over


def _compare(question: Question, answer: GivenAnswer) -> None:
    """Refuse an answer that carries another question or another image."""
    asked, wanted = same_question(answer.question or ""), same_question(question.text)
    if asked and wanted not in asked and not _begins(asked, wanted):
        raise AnswerMismatch(
            f"line {answer.line} answers {(answer.question or '').strip()[:80]!r} where question "
            f"{question.question_id} ({question.split}) is {question.text[:80]!r}; give the edition of the questions "
            "that was asked"
        )
    if answer.image is not None and _other_image(answer.image, question.image):
        raise AnswerMismatch(
            f"line {answer.line} is about the image {answer.image} where question {question.question_id} "
            f"({question.split}) is about {question.image}"
        )


def _begins(asked: str, wanted: str) -> bool:
    """Whether what was asked is a question without the instruction that follows it in the file of questions."""
    return wanted.startswith(asked) and len(asked.split()) > 2


def _other_image(one: str, other: str) -> bool:
    try:
        return image_key(one) != image_key(other)  # folders differ from machine to machine
    except EvaluationError:
        return False


def _by_order(questions: Sequence[Question], answers: Sequence[GivenAnswer]) -> Sequence[GivenAnswer]:
    if len(questions) != len(answers):
        raise AnswerMismatch(
            f"{len(answers)} answers without question ids for {len(questions)} questions; "
            "they can only be matched line by line if there are as many"
        )
    for question, answer in zip(questions, answers, strict=True):
        _compare(question, answer)
    return answers


def _by_id(
    questions: Sequence[Question], answers: Sequence[GivenAnswer], subset: bool
) -> tuple[list[GivenAnswer], int]:
    splits = {question.split for question in questions}
    given: dict[tuple[str | None, str], GivenAnswer] = {}
    for answer in _with_llava_splits(questions, answers):
        if answer.question_id is None:
            raise AnswerMismatch(f"the answer in line {answer.line} names no question id while others do")
        key = (answer.split if answer.split in splits else None), answer.question_id
        if key in given:
            raise AnswerMismatch(
                f"question {answer.question_id} is answered twice, in lines {given[key].line} and {answer.line}"
            )
        given[key] = answer
    paired = [_take(given, question) for question in questions]
    if given and not subset:
        stray = next(iter(given.values()))
        raise AnswerMismatch(
            f"the answer in line {stray.line} is to question {stray.question_id}, which is not asked; there are "
            f"{len(given)} such answers: where the questions are a subset on purpose, as RePOPE's are, say --subset"
        )
    return paired, len(given)


def _take(given: dict[tuple[str | None, str], GivenAnswer], question: Question) -> GivenAnswer:
    for key in ((question.split, question.question_id), (None, question.question_id)):
        if key in given:
            _compare(question, given[key])
            return given.pop(key)
    raise MissingAnswer(f"question {question.question_id} ({question.split}) has no answer")


def _with_llava_splits(questions: Sequence[Question], answers: Sequence[GivenAnswer]) -> list[GivenAnswer]:
    """Return answers of LLaVA's one file with the splits and ids of POPE's three; other answers as they are."""
    splits = {question.split for question in questions}
    numbers = [_number(answer.question_id) for answer in answers]
    shifted = any(number >= LLAVA_STEP for number in numbers)
    if not shifted or any(_number(question.question_id) >= LLAVA_STEP for question in questions):
        return list(answers)
    if not splits <= set(LLAVA_SPLITS):
        raise AnswerMismatch(
            f"ids such as {max(numbers)} are those of LLaVA's one file for all splits; name the files of questions as "
            "POPE does, coco_pope_random and so on, so that their splits are known"
        )
    return [_unshifted(answer, number) for answer, number in zip(answers, numbers, strict=True)]


def _unshifted(answer: GivenAnswer, number: int) -> GivenAnswer:
    place, own = divmod(number, LLAVA_STEP)
    if number < 0 or place >= len(LLAVA_SPLITS):
        return answer
    return replace(answer, question_id=str(own), split=LLAVA_SPLITS[place])


def _number(question_id: str | None) -> int:
    whole = question_id is not None and question_id.isascii() and question_id.isdecimal() and len(question_id) < 19
    return int(question_id) if whole and question_id is not None else -1


def require_file_order(answers: Sequence[str], questions: Mapping[str, str]) -> None:
    """Refuse files of answers that stand in another order than those of questions.

    Args:
        answers: names of the files, one for each file of questions.
        questions: name of a file -> the one split it holds.

    Raises:
        AnswerMismatch: if a name says another split than the questions it is paired with.
    """
    words = set(questions.values())
    for given, (name, split) in zip(answers, questions.items(), strict=True):
        said = words & set(re.split(r"[^a-z]+", given.lower()))
        if len(said) == 1 and said != {split}:
            raise AnswerMismatch(f"{given} stands where answers to {name} are due: give both in the same order")
