"""What is left reads as a sentence: numbers, agreement, joined adjectives, lists behind `including`, pairs, clauses."""

import re

import pytest

from vlm_heads.asking.leaving_out import leave_out
from vlm_heads.asking.named import Named
from vlm_heads.asking.objects import named_in

_NOUN = re.compile(
    r"\b(dogs?|cats?|birds?|people|cups?|tables?|chairs?|bench|bike|couch|bed|floor|beach|bowls?|vases?|bottles?|forks?"
    r"|potted plant|man)\b",
    re.IGNORECASE,
)


def _find(text: str) -> list[Named]:
    return [Named(one.start(), one.end(), one[0].lower().removesuffix("s")) for one in _NOUN.finditer(text)]


def _names(text: str) -> list[Named]:
    return named_in(text, _find)


@pytest.mark.parametrize(
    ("sentence", "gone", "left"),
    [
        ("It has various items, including a cup, a dog, and a bowl.", "dog",
         "It has various items, including a cup and a bowl."),
        ("It has various items, including a cup, a dog, and a bowl.", "cup",
         "It has various items, including a dog and a bowl."),
        ("It has various items, including a cup, a dog, and a bowl.", "bowl",
         "It has various items, including a cup and a dog."),
        ("It has various items, including a cup, a dog, and a bowl.", "bowl+cup+dog", "It has various items."),
        ("There are several items, including a potted plant, a vase, and several bottles.", "bottle",
         "There are several items, including a potted plant and a vase."),
        ("There are items, such as a cup, a dog, and a bowl.", "dog", "There are items, such as a cup and a bowl."),
        ("There are items like a cup, a dog, and a bowl.", "dog", "There are items like a cup and a bowl."),
        ("There are items, like a cup, a dog, and a bowl.", "dog", "There are items, like a cup and a bowl."),
        ("The room is full, with a cup, a dog, and a bowl.", "dog", "The room is full, with a cup and a bowl."),
        ("The room is full, with a cup, a dog, and a bowl on the table.", "dog",
         "The room is full, with a cup and a bowl on the table."),
        ("The room is full, with a cup, a dog, and a bowl.", "cup", "The room is full, with a dog and a bowl."),
        ("On the table, a cup, a dog, and a bowl are visible.", "cup", "On the table, a dog and a bowl are visible."),
        ("In the kitchen, a cup, a dog and a bowl can be seen.", "cup",
         "In the kitchen, a dog and a bowl can be seen."),
        ("Various items, including a cup, a dog, and a bowl, are on the table.", "dog",
         "Various items, including a cup and a bowl, are on the table."),
        ("2 dogs and a cup on a table", "dog+table", "A cup"),
        ("2 dogs and a cup on a table.", "dog", "A cup on a table."),
        ("There are 12 dogs and 3 cups.", "dog", "There are 3 cups."),
        ("There are fifteen dogs and a cup.", "dog", "There is a cup."),
        ("There are a few cups and a dog.", "dog", "There are a few cups."),
        ("There are a couple of cups and a dog.", "dog", "There are a couple of cups."),
        ("There are a lot of cups and a dog.", "dog", "There are a lot of cups."),
        ("There are several cups and a dog.", "dog", "There are several cups."),
        ("There are a dog and a few cups.", "dog", "There are a few cups."),
        ("There are a dog and a cup.", "dog", "There is a cup."),
        ("There are a man on a bike and a cup, and a dog is on the couch.", "dog",
         "There are a man on a bike and a cup."),
        ("There are people on a couch and a dog.", "dog", "There are people on a couch."),
        ("The dog and cup are on the floor.", "dog", "The cup is on the floor."),
        ("The dog and cup are on the floor.", "cup", "The dog is on the floor."),
        ("The dogs and cups are on the floor.", "dog", "The cups are on the floor."),
        ("A dog and cup are on the floor.", "dog", "A cup is on the floor."),
        ("A black and white dog and a cup are on the floor.", "dog", "A cup is on the floor."),
        ("A black and white dog and a cup are on the floor.", "cup", "A black and white dog is on the floor."),
        ("The image shows a black and white cat laying on a bed.", "cat", ""),
        ("The image shows a black and white cat and a dog.", "cat", "The image shows a dog."),
        ("A large red and blue bike and a dog are on the floor.", "bike", "A dog is on the floor."),
        ("There is a kitchen with a black and white cat.", "cat", "There is a kitchen."),
        ("Both a dog and a cat are on the bed.", "dog", "A cat is on the bed."),
        ("Both a dog and a cat are on the bed.", "cat", "A dog is on the bed."),
        ("We see both a dog and a cat.", "cat", "We see a dog."),
        ("Both dogs and cats are on the bed.", "dog", "Cats are on the bed."),
        ("A cup and forks are on the table.", "cup", "Forks are on the table."),
        ("A cup and forks are on the table.", "fork", "A cup is on the table."),
        ("A lot of people and a dog are at the beach.", "dog", "A lot of people are at the beach."),
        ("A couple of people and a dog are at the beach.", "dog", "A couple of people are at the beach."),
        ("A group of people and a dog are at the beach.", "dog", "A group of people is at the beach."),
        ("A man is standing between a chair and a table.", "chair", "A man is standing."),
        ("A man is standing between a chair and a table.", "table", "A man is standing."),
        ("A man is standing between two chairs and a dog is on the couch.", "dog",
         "A man is standing between two chairs."),
        ("A man is between a chair and a table, and a dog is on the couch.", "chair", "A dog is on the couch."),
        ("If you look closely, you can see a dog.", "dog", ""),
        ("When you look closely, a dog can be seen.", "dog", ""),
        ("If you look closely, you can see a dog and a cat.", "dog", "If you look closely, you can see a cat."),
        ("While the man is sitting, a dog is running.", "dog", ""),
        ("There are no people, but a dog and a cup are visible.", "dog", "There are no people, but a cup is visible."),
        ("There are no people, but a dog and a cup are visible.", "cup", "There are no people, but a dog is visible."),
        ("There are 3 dogs and 2 chairs.", "dog", "There are 2 chairs."),
        ("There is a man, and a dog and a cup are visible.", "dog", "There is a man, and a cup is visible."),
        ("There are bottles and cups, and several chairs, a dog, and a cat are on the floor.", "dog",
         "There are bottles and cups, and several chairs and a cat are on the floor."),
        ("Either a dog or a cat is on the bed.", "dog", "A cat is on the bed."),
        ("We see people and a dog, and there are a few cups.", "dog", "We see people, and there are a few cups."),
        ("The image features a man with a dog, a cat, and a bird.", "dog",
         "The image features a man with a cat and a bird."),
        ("A cup and a pair of forks are on the table.", "cup", "A pair of forks is on the table."),
        ("There are people and a lot of cups and a dog.", "dog", "There are people and a lot of cups."),
        ("Either a dog or a cat is on the bed.", "cat", "A dog is on the bed."),
        ("There is a dog and several cups.", "dog", "There are several cups."),
        ("There is a dog, two cats, and a cup.", "dog", "There are two cats and a cup."),
        ("The dogs and the cups are on the floor.", "dog", "The cups are on the floor."),
        ("The dogs and the cup are on the floor.", "dog", "The cup is on the floor."),
        ("His dog and cat are on the bed.", "dog", "His cat is on the bed."),
        ("There is a man, and a dog, a cat, and a cup are visible.", "cat",
         "There is a man, and a dog and a cup are visible."),
        ("There is a man, and a dog, a cat, and a cup are visible.", "man", "A dog, a cat, and a cup are visible."),
        ("Twenty-five dogs and a cup are on the floor.", "dog", "A cup is on the floor."),
        ("A red, white, and blue bike and a dog are on the floor.", "bike", "A dog is on the floor."),
        ("We see a dog in front of a red and white couch.", "couch", "We see a dog."),
        ("We see a dog near a red and white couch.", "couch", "We see a dog."),
        ("If you look closely, you can see a dog, and there is a cat.", "dog", "There is a cat."),
        ("Between a chair and a table, there is a dog.", "chair", "There is a dog."),
        ("In a room where there is a man, a dog is running.", "dog", ""),
    ],
)  # fmt: skip
def test_what_is_left(sentence: str, gone: str, left: str) -> None:
    assert leave_out(sentence, _names, frozenset(gone.split("+"))) == left
