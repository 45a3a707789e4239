"""Which piece of a text completes the mention of an object, and which decides for it."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.places import Placed, coco_corrected, coco_objects, pieces_that_mention


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


def test_the_corrected_finder_finds_what_a_reader_finds() -> None:
    """CHAIR's vocabulary loses the bus, and takes a colour for fruit and a lonely place for a remote control."""
    text = "A bus stands beside an orange cup on a remote beach with two ties and a tennis racket."
    found = {
        make: [(text[start:end], name) for start, end, name in make()(text)] for make in (coco_objects, coco_corrected)
    }
    assert found[coco_corrected] == [
        ("bus", "bus"), ("cup", "cup"), ("ties", "tie"), ("tennis racket", "tennis racket"),
    ]  # fmt: skip
    assert ("orange", "orange") in found[coco_objects]
    assert ("remote", "remote") in found[coco_objects]
    assert not {"bus", "tie"} & {name for _, name in found[coco_objects]}


@pytest.mark.parametrize(("finder", "made"), [("coco", coco_objects), ("coco-corrected", coco_corrected)])
def test_the_installed_finder_is_this_one(finder: str, made: object, repository: Path) -> None:
    stated = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    module, _, name = stated["vlm_heads.object_finders"][finder].partition(":")
    assert getattr(import_module(module), name) is made
