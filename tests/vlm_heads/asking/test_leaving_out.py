"""What is left of a sentence when a phrase is left out: worked examples, and every sentence of the embedded world."""

import itertools
import random
import re

import pytest
from vlm_evals.scenes.text import FOLLOW_UPS, OPENERS, join

from vlm_heads.asking.leaving_out import leave_out
from vlm_heads.asking.named import Named

_NOUN = re.compile(
    r"\b(dogs?|cat|car|man|bike|cup|table|bowl|fork|couch|chair|book|bench|bottle|knife|scissors)\b", re.I
)


def _names(text: str) -> list[Named]:
    return [Named(one.start(), one.end(), one[0].lower().removesuffix("s")) for one in _NOUN.finditer(text)]


def without(sentence: str, *gone: str) -> str:
    return leave_out(sentence, _names, frozenset(gone))


LIST = "The image shows a kitchen with a dog, a cat and a car."


@pytest.mark.parametrize(
    ("sentence", "gone", "left"),
    [
        # of a list: the others, with the conjunction before the last
        (LIST, "dog", "The image shows a kitchen with a cat and a car."),
        (LIST, "cat", "The image shows a kitchen with a dog and a car."),
        (LIST, "car", "The image shows a kitchen with a dog and a cat."),
        (LIST, "dog cat", "The image shows a kitchen with a car."),
        (LIST, "dog cat car", "The image shows a kitchen."),
        ("We can also see a dog, a cat, and a car.", "cat", "We can also see a dog and a car."),
        ("A table has a bowl, a cup, a fork, and a knife.", "cup", "A table has a bowl, a fork, and a knife."),
        ("It also shows two dogs and a pair of scissors.", "scissor", "It also shows two dogs."),
        ("A kitchen with a table, chair, cup, and bowl.", "table", "A kitchen with a chair, cup, and bowl."),
        ("dog, chair, cup.", "chair", "dog, cup."),
        # of a list whose other words are no objects
        ("The colours are blue, white and a car.", "car", "The colours are blue and white."),
        ("It shows trees, grass, and a bench.", "bench", "It shows trees and grass."),
        ("It shows trees, grass, sky and a bench.", "bench", "It shows trees, grass and sky."),
        ("In the park, grass and a bench can be seen.", "bench", "In the park, grass can be seen."),
        ("We see a man in a hat, smiling and a dog.", "dog", "We see a man in a hat, smiling."),
        # of a list that the sentence is about: the verb follows
        ("A dog and a cat are sitting on a couch.", "dog", "A cat is sitting on a couch."),
        ("A dog, a cat and a man are on the couch.", "man", "A dog and a cat are on the couch."),
        ("In the background, a dog and a cat can be seen.", "dog", "In the background, a cat can be seen."),
        ("There are a dog and a cat.", "cat", "There is a dog."),
        # a preposition and what it brings
        ("The image shows a kitchen with a dog.", "dog", "The image shows a kitchen."),
        ("A dog is sitting on a couch next to a book.", "couch", "A dog is sitting next to a book."),
        ("On a table, there is a cup.", "table", "There is a cup."),
        ("The table with a cup is brown.", "cup", "The table is brown."),
        # a clause of its own
        ("A man is riding a bike, and a dog is running.", "dog", "A man is riding a bike."),
        ("A man is riding a bike, and a dog is running.", "man", "A dog is running."),
        # nothing that could stand
        ("We can also see a dog.", "dog", ""),
        ("A dog is sitting on the couch.", "dog", ""),
        ("The cat is on a chair.", "chair", ""),
        ("In the image we see a dog in a park.", "dog", ""),
        ("A dog and a cat sit.", "dog", ""),  # sits, or sit: not known
        # nothing to leave out
        (LIST, "fork", LIST),
    ],
)
def test_what_is_left(sentence: str, gone: str, left: str) -> None:
    assert without(sentence, *gone.split()) == left


PHRASES = ["a dog", "two cats", "an apple", "a pair of skis"]
_WORLD = re.compile(r"\b(dog|cats|apple|skis)\b")


def _in_the_world(text: str) -> list[Named]:
    return [Named(one.start(), one.end(), one[0]) for one in _WORLD.finditer(text)]


@pytest.mark.parametrize("template", [*OPENERS, *FOLLOW_UPS])
def test_every_sentence_of_the_world_stays_one(template: str) -> None:
    """What is left is the template with the other objects; where the last one goes, what followed it may go too."""
    for count in (1, 2, 3, 4):
        phrases = random.Random(count).sample(PHRASES, count)
        for size in range(1, count + 1):
            for gone in itertools.combinations(phrases, size):
                kept = [one for one in phrases if one not in gone]
                sentence = template.format(objects=join(phrases), scene="a park")
                left = leave_out(sentence, _in_the_world, frozenset(one.split()[-1] for one in gone))
                allowed = {"", "The image shows a park.", "This is a picture of a park.", "Here is a park."}
                if kept:
                    whole = template.format(objects=join(kept), scene="a park")
                    allowed = {whole, whole.replace(" in a park", "")}
                assert left in allowed, (sentence, gone)


def test_what_cannot_be_understood_goes_whole() -> None:
    """A finder may name anything; what is left never names what was left out."""
    words = ["dog", "and", "with", "a", ",", "the", "is", "cat", "of", "on", "running", ".", "car"]
    draw = random.Random(0)
    for _ in range(500):
        sentence = " ".join(draw.choices(words, k=draw.randint(1, 12)))
        left = without(sentence, "dog", "car")
        assert not _names(left) or {one.name for one in _names(left)} == {"cat"}
