"""The vocabulary "corrected" mends the defects of the published one and nothing else."""

import pytest
from vlm_evals.text.language import PunktData
from vlm_evals.text.objects import ObjectFinder

CORRECTED = ObjectFinder(vocabulary_name="corrected", punkt=PunktData())
PUBLISHED = ObjectFinder(punkt=PunktData())


def nodes(finder: ObjectFinder, caption: str) -> list[str]:
    return [mention.node for mention in finder.find(caption).mentions]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # lost by the singulariser
        ("A bus, a minibus and an airbus", ["bus", "bus", "airplane"]),
        ("A man wears ties", ["person", "tie"]),
        ("Canoes", ["boat"]),
        # could never match
        ("Motor bikes, a cheesecake and an iPhone", ["motorcycle", "cake", "cell phone"]),
        # another sense
        ("An orange cat with oranges", ["cat", "orange"]),
        ("An orange and white cat", ["cat"]),
        ("The wall is orange", []),
        ("A peeled orange on a plate", ["orange"]),
        ("A remote area", []),
        ("A remote control", ["remote"]),
        ("A sub in the sea near a sub sandwich", ["sandwich", "sandwich"]),
        ("A roast turkey", []),
        ("A turkey stands there", ["bird"]),
        ("The back seat of a car", ["car"]),
        ("A wooden seat.", ["chair"]),
        # negation
        ("There is no dog, but a cat", ["cat"]),
        ("A street without any visible cars", []),
        ("There isn't a dog", []),
        ("The cup is not on the table", ["cup", "dining table"]),
        # hyphens and slashes
        ("A cat/dog and an umbrella-holding man", ["cat", "dog", "umbrella", "person"]),
        ("A dog-like statue", []),
    ],
)
def test_a_mended_defect(caption: str, expected: list[str]) -> None:
    assert nodes(CORRECTED, caption) == expected
    assert nodes(PUBLISHED, caption) != expected or caption in SAME


SAME = {
    "A peeled orange on a plate",
    "A remote control",
    "A turkey stands there",
    "A wooden seat.",
    "The cup is not on the table",
    "A dog-like statue",
}


@pytest.mark.parametrize(
    "caption",
    [
        "A man rides a horse near two dogs and a fire hydrant.",
        "The toilet seat is up.",
        "A hot dog, a wine glass and a teddy bear on a dining table.",
        "Women sit on a couch; a laptop computer is next to them.",
    ],
)
def test_what_was_right_stays(caption: str) -> None:
    assert nodes(CORRECTED, caption) == nodes(PUBLISHED, caption)
