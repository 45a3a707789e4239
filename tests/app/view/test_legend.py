"""The legend: every mark has a meaning, every word an explanation."""

import re
from importlib.resources import files

import numpy as np
from vlm_app.view import html, words
from vlm_app.view.facts import HeadMap
from vlm_app.view.legend import TERMS, legend, term


def test_every_mark_of_the_answers_and_the_map_is_explained() -> None:
    shown = legend()
    for mark in ("vh-shown", "vh-absent", "vh-unchecked", "vh-changed", "vh-absent-token", "vh-acted", "vh-patch-sink"):
        assert mark in shown
    styles = "".join(files("vlm_app").joinpath("assets", name).read_text() for name in ("page.css", "parts.css"))
    assert all(f".{mark}" in styles for mark in re.findall(r"vh-[a-z-]+", shown) if "tip-" not in mark)


def test_a_word_is_described_by_its_meaning() -> None:
    found = re.fullmatch(
        r'<span class="vh-term"><button type="button" aria-describedby="(.+?)">VHD</button>'
        r'<span role="tooltip" id="(.+?)" class="vh-tip">(.+?)</span></span>',
        term("VHD", "map"),
    )
    assert found is not None
    assert found[1] == found[2]
    assert found[3].startswith("How much a head looks at the image")
    assert set(TERMS) == {"head", "VHD", "T-VHD", "sink", "acted on"}


def test_places_are_told_as_people_count() -> None:
    said = [words.place_among(larger) for larger in (0, 1, 2, 3, 10, 11, 12, 20, 21, 110)]
    endings = [one.removesuffix(" largest of").removeprefix("the ") for one in said[1:]]
    assert said[0] == "the largest of"
    assert endings == ["2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "111th"]


def test_the_map_names_its_axes_and_says_where_a_head_stands() -> None:
    found = HeadMap(np.array([[0.5, 2.0], [1.0, 0.0]], np.float32), frozenset({(1, 0)}))
    assert words.head(found, 0, 1) == "layer 0, head 1, VHD 2.000, the largest of 4 heads"
    assert words.head(found, 1, 0) == "layer 1, head 0, VHD 1.000, the 2nd largest of 4 heads, acted on"
    shown = html.head_map(found)
    assert 'vh-down" aria-hidden="true">layer<' in shown
    assert 'vh-across" aria-hidden="true">head<' in shown
