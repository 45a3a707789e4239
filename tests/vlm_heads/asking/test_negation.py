"""What a negation denies is not asked about, and stays whole where something else is left out."""

import random
import re

import pytest

from vlm_heads import AskBack
from vlm_heads.asking.leaving_out import leave_out
from vlm_heads.asking.named import Named
from vlm_heads.asking.objects import named_in

_NOUN = re.compile(
    r"\b(dogs?|cats?|birds?|people|cups?|tables?|chairs?|benches|bench|hat|bike|man|couch|objects)\b", re.I
)


def _find(text: str) -> list[Named]:
    return [Named(one.start(), one.end(), one[0].lower().removesuffix("s")) for one in _NOUN.finditer(text)]


def _names(text: str) -> list[Named]:
    return named_in(text, _find)


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        ("There are no people or cups in the scene.", ""),
        ("There is no dog or cat in the picture.", ""),
        ("There are no dogs, cats, or birds.", ""),
        ("There are no dogs and cats.", ""),
        ("There is no dog in the picture.", ""),
        ("No dogs, cats and birds are visible.", ""),
        ("There is neither a dog nor a cat.", ""),
        ("There isn't a dog, a cat, or a bird.", ""),
        ("There isn’t any dog.", ""),
        ("We do not see a dog.", ""),
        ("There does not appear to be a dog.", ""),
        ("None of the people are on a bench.", ""),
        ("The room is empty, with no people or other objects visible.", ""),
        ("There are no animals, such as dogs or cats.", ""),
        ("A dog is not visible.", ""),
        # it ends with its clause
        ("There is no dog, but a cat is on the couch.", "cat couch"),
        ("There is nothing but a dog, and no cat.", "dog"),
        ("There are no people except a man.", "man"),
        ("There are no objects other than a cup.", "cup"),
        ("There are no people and a dog is on the bench.", "dog bench"),
        ("There are no people, and cups are on the table.", "cup table"),
        ("There are no people, with a dog on the couch.", "dog couch"),
        ("It shows a room with no people, a table, and two chairs.", "table chair"),
        ("There is no dog, there is a cat.", "cat"),
        ("There is no dog. There is a cat.", "cat"),
        ("Without a dog, the man is on the bench.", "man bench"),
        ("In a room without people, cups are on the table.", "cup table"),
        ("A man without a hat is riding a bike.", "man bike"),
        ("A man who is not wearing a hat is riding a bike.", "man bike"),
        ("The man is not wearing a hat.", "man"),
        ("The table is free of cups and dogs.", "table"),
        ("The room lacks a table or chairs.", ""),
        ("The absence of dogs is clear.", ""),
        ("There is a lack of people.", ""),
        # no negation
        ("Oh no, there is a dog in the picture.", "dog"),
        ("There is not only a dog but also a cat.", "dog cat"),
        ("The dog is not looking at the cat.", "dog"),
        ("There is a dog and a cat.", "dog cat"),
    ],
)
def test_what_is_asked_about(sentence: str, asked: str) -> None:
    assert [one.name for one in _names(sentence)] == asked.split()
    assert list(AskBack(objects=_find).questions(sentence)) == asked.split()


@pytest.mark.parametrize(
    ("sentence", "gone", "left"),
    [
        ("There are no people or cups in the scene.", "people", "There are no people or cups in the scene."),
        ("There is a cup on the table with no dogs or cats.", "table", "There is a cup with no dogs or cats."),
        ("There is no dog but a cat and a cup.", "cat", "There is no dog but a cup."),
        ("There is no dog but a cat and a cup.", "cup", "There is no dog but a cat."),
        ("There are no dogs or cats, but a cup is on the table.", "cup", "There are no dogs or cats."),
        ("A man and a dog are on a couch, with no cats, cups, or birds.", "dog",
         "A man is on a couch, with no cats, cups, or birds."),
        ("There is a dog, and there are no cats or birds.", "dog", "There are no cats or birds."),
    ],
)  # fmt: skip
def test_it_stays_whole(sentence: str, gone: str, left: str) -> None:
    assert leave_out(sentence, _names, frozenset(gone.split())) == left
    assert AskBack(objects=_find).without(sentence, gone.split()) == left


def test_nothing_is_claimed_that_was_denied() -> None:
    words = ["dog", "and", "or", "no", "without", "a", ",", "the", "is", "there", "cat", "of", "on", "but", "cup"]
    draw = random.Random(0)
    for _ in range(500):
        sentence = " ".join([*draw.choices(words, k=draw.randint(3, 14)), "."])
        left = leave_out(sentence, _names, frozenset(["dog"]))
        assert {one.name for one in _names(left)} <= {one.name for one in _names(sentence)} - {"dog"}
