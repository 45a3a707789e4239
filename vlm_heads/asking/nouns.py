"""The nouns of a text, by nltk's English part-of-speech tagger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vlm_heads.asking.named import Named
from vlm_heads.errors import BadOption

_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
# nouns that a description uses and that no picture shows as a thing
_NO_OBJECTS = frozenset(
    [
        "image",
        "picture",
        "photo",
        "photograph",
        "scene",
        "view",
        "background",
        "foreground",
        "side",
        "sides",
        "left",
        "right",
        "center",
        "centre",
        "middle",
        "top",
        "bottom",
        "front",
        "back",
        "edge",
        "corner",
        "end",
        "part",
        "rest",
        "area",
        "space",
        "place",
        "location",
        "position",
        "setting",
        "atmosphere",
        "mood",
        "feel",
        "number",
        "group",
        "groups",
        "pair",
        "couple",
        "lot",
        "variety",
        "set",
        "series",
        "row",
        "rows",
        "line",
        "lines",
        "bunch",
        "piece",
        "pieces",
        "type",
        "kind",
        "kinds",
        "color",
        "colors",
        "colour",
        "colours",
        "size",
        "shape",
        "day",
        "night",
        "time",
        "moment",
        "activity",
        "action",
        "way",
        "sense",
        "addition",
        "total",
        "foot",
        "feet",
        "focus",
        "distance",
        "surroundings",
        "environment",
        "presence",
        "appearance",
        "layout",
        "arrangement",
        "something",
        "someone",
        "everything",
        "everyone",
        "anything",
        "other",
        "others",
        "one",
        "ones",
        "many",
        "several",
        "few",
        "some",
    ]
)
_LEAST = 2  # letters


class Nouns:
    """Finds runs of nouns, as `dining table`; the name is their last word's singular behind the words before it.

    Raises:
        BadOption: if the tagger's data is not on this machine.
    """

    def __init__(self) -> None:
        from nltk.tag.perceptron import PerceptronTagger

        try:
            self._tagger: Any = PerceptronTagger()
        except LookupError:
            raise BadOption(
                "objects=nouns tags parts of speech and needs NLTK's averaged_perceptron_tagger_eng, which is not on "
                "this machine; set NLTK_DATA to a folder that has it, or take another finder, as objects=coco"
            ) from None

    def __call__(self, text: str) -> Iterator[Named]:
        """Yield the nouns of a text."""
        words = list(_WORD.finditer(text))
        tags = [tag for _, tag in self._tagger.tag([word[0] for word in words])]
        start = 0
        while start < len(words):
            end = start
            while end < len(words) and _is_object(words[end][0], tags[end]):
                end += 1
            if end > start:
                yield _named(words[start:end], tags[end - 1])
            start = max(end, start + 1)


def _is_object(word: str, tag: str) -> bool:
    return tag in ("NN", "NNS") and len(word) >= _LEAST and word[0].isalpha() and word.lower() not in _NO_OBJECTS


def _named(words: list[re.Match[str]], tag: str) -> Named:
    *before, last = (word[0].lower() for word in words)
    name = " ".join([*before, _singular(last) if tag == "NNS" else last])
    return Named(words[0].start(), words[-1].end(), name)


_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "knives": "knife"}
_IRREGULAR |= {"leaves": "leaf", "shelves": "shelf", "loaves": "loaf", "mice": "mouse", "geese": "goose"}


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")) or (word.endswith("oes") and word != "shoes"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
