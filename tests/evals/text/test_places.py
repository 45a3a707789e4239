"""Which piece of a text completes the mention of an object, and which decides for it."""

import tomllib
from importlib import import_module
from pathlib import Path

from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.places import Placed, coco_objects, pieces_that_mention


def test_a_mention_stands_at_the_piece_that_completes_it() -> None:
    # "hot dog" is complete at piece 2 and decided at piece 1; "chairs" comes in two pieces
    pieces = ["a", " hot", " dog", " and", " two", " chair", "s", "."]
    assert pieces_that_mention(ObjectFinder(), pieces) == [Placed(1, 2, "hot dog"), Placed(5, 5, "chair")]


def test_what_a_later_piece_takes_back_is_no_mention() -> None:
    # "cat" stands in the beginning "a cat", but the text goes on to "cattle"
    assert pieces_that_mention(ObjectFinder(), ["a", " cat", "erpillar", " on", " a", " bench"]) == [
        Placed(5, 5, "bench")
    ]


def test_no_text_mentions_nothing() -> None:
    assert pieces_that_mention(ObjectFinder(), []) == []


def test_objects_are_found_with_their_places() -> None:
    text = "Two puppies and a hot dog. The Dining table is red."
    assert [(text[start:end], name) for start, end, name in coco_objects()(text)] == [
        ("puppies", "dog"),
        ("hot dog", "hot dog"),
        ("table", "dining table"),
    ]
    assert coco_objects()("") == []


def test_the_installed_finder_is_this_one(repository: Path) -> None:
    stated = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    module, _, name = stated["vlm_heads.object_finders"]["coco"].partition(":")
    assert getattr(import_module(module), name) is coco_objects
