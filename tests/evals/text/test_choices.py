"""Answers to questions with lettered choices, read in three ways."""

import pytest
from vlm_evals.records import Score
from vlm_evals.text.choices import choice_alerts, read_as_lmms_eval, read_first_character, read_strict

OPTIONS = {"A": "snowboard", "B": "couch", "C": "dining table", "D": "car"}


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(c)", "C"),
        ("D. car", "D"),
        ("(a) snowboard", "A"),
        ("A: snowboard", "A"),
        ("**B**", "B"),
        ("**B** couch", "B"),
        ("The answer is C.", "C"),
        ("Answer: (D)", "D"),
        ("Option B", "B"),
        ("<answer>C</answer>", "C"),
        ('{"answer": "D"}', "D"),
        ("Dining table.", "C"),
        ("a car", "D"),
        ("The couch", "B"),
        ("A couch and a car", "unparsed"),
        ("A dog is seen.", "unparsed"),
        ("E", "unparsed"),
        ("carpet", "unparsed"),
        ("", "unparsed"),
    ],
)
def test_ours_takes_a_letter_or_the_words_of_one_choice(answer: str, reading: str) -> None:
    assert read_strict(answer, OPTIONS) == reading


def test_two_choices_of_the_same_words_give_no_letter() -> None:
    assert read_strict("dog", {"A": "dog", "B": "Dog"}) == "unparsed"


@pytest.mark.parametrize(
    ("answer", "reading"), [("b", "B"), ("A dog", "A"), ("dog", "D"), (" B", " "), ("", "unparsed"), ("(B)", "(")]
)
def test_allpaths_program_takes_the_first_character(answer: str, reading: str) -> None:
    assert read_first_character(answer) == reading


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("A", "A"),
        ("(b)", "B"),
        ("b. Closed", "B"),
        ("The answer is (B), I think", "B"),
        ("Option A", "A"),
        ("a zebra crosses", "A"),  # the article at the start counts
        ("It sits on a sofa", "A"),  # and so does one in the middle
        ("Bent", "B"),  # the first character, where nothing else is found
        ("Open", "unparsed"),
    ],
)
def test_lmms_evals_way_and_its_quirks(answer: str, reading: str) -> None:
    assert read_as_lmms_eval(answer) == reading


def test_many_answers_that_are_no_choice_are_said_first() -> None:
    unread = Score("1", "1", {"neither": 1}, evidence={"answer": "I cannot\ntell"})
    read = Score("2", "2", {"neither": 0}, evidence={"answer": "A"})
    (alert,) = choice_alerts([unread, read])
    assert alert.startswith("1 of 2 answers (50%) are none of the choices and count as wrong, such as 'I cannot tell'")
    assert choice_alerts([unread, *[read] * 10]) == []
