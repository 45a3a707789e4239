"""What a token says is data: apostrophes, tags and formulas come out as they are, and only HTML escapes them."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vlm_app.plots import draw_answers, draw_head_map, draw_patches, draw_tokens
from vlm_app.session import Session
from vlm_app.view import html, words
from vlm_app.view.facts import Column, LookedAt, Patches, Strip
from vlm_app.view.grid import Grid
from vlm_app.view.side_by_side import Side

from vlm_heads import VLM, TokenGrounding

WORDS = ["don't", "<b>bold</b>", "it's <b>", "&#x27;", r"$\frac{1}{$", "a$b$c"]


def _patches(word: str) -> Patches:
    looked_at = LookedAt("plain", 0, word, (2, 1))
    return Patches(looked_at, Image.new("RGB", (20, 10)), Grid(1, 2), np.array([0.25, 0.5]), np.array([0.5, 0.0]))


def _token(text: str) -> TokenGrounding:
    return TokenGrounding(5, text, 0, len(text), 1.0)


@pytest.mark.parametrize("word", WORDS)
def test_a_picture_is_titled_with_the_token_as_it_is(tmp_path: Path, word: str) -> None:
    title = f"Patches used for “{word}” of the plain answer: layer 2, head 1."
    with Image.open(draw_patches(_patches(word), tmp_path / "patches.png")) as picture:
        assert picture.info["Title"] == title
    drawing = ElementTree.parse(draw_patches(_patches(word), tmp_path / "patches.svg"))
    titles = [element.text for element in drawing.iter("{http://purl.org/dc/elements/1.1/}title")]
    assert titles == [title]


@pytest.mark.parametrize("word", WORDS)
def test_whatever_a_model_says_can_be_drawn(tmp_path: Path, word: str) -> None:
    draw_answers([Column(word, Side(word, done=True))], tmp_path / "answers.png")
    draw_tokens([Strip("plain", [_token(word)])], tmp_path / "tokens.png")
    with Image.open(draw_head_map(np.ones((2, 2)), tmp_path / "heads.png", title=word)) as picture:
        assert picture.info["Title"] == word


@pytest.mark.parametrize("word", WORDS)
def test_html_says_the_same_as_plain_words(word: str) -> None:
    page = ElementTree.fromstring(f"<div>{html.patches(_patches(word))}</div>")
    (what,) = (line for line in page.iter("p") if line.get("class") == "vh-what")
    assert "".join(what.itertext()) == words.looked_at(_patches(word).looked_at)
    strips = ElementTree.fromstring(f"<div>{html.strips([Strip('plain', [_token(word)])])}</div>")
    (button,) = (one for one in strips.iter("button") if one.get("class") == "vh-token")
    assert (button.text, button.get("title")) == (word, f"{word}, T-VHD 1.00, the largest of 1 token")


def test_the_run_as_json_is_titled_with_the_token_as_it_is() -> None:
    session = Session(VLM.from_pretrained("planted"))
    try:
        visit = session.visit("a")
        list(visit.run(session.sample("planted-car"), session.open_link("with=")))
        inside = visit.look()
        assert inside is not None
        plain = inside.said["plain"]
        odd = tuple(_token("it's <b>") for _ in plain.tokens)
        inside.said["plain"] = type(plain)(plain.ids, odd, plain.named)
        paths = {path.name: path for path in visit.export()}
        title = "Patches used for “it's <b>” of the plain answer: all heads, each counted by its VHD."
        assert json.loads(paths["run.json"].read_text())["looked_at"]["title"] == title
        with Image.open(paths["patches.png"]) as picture:
            assert picture.info["Title"] == title
    finally:
        session.close()


def test_nothing_is_drawn_where_nothing_was_taken(tmp_path: Path) -> None:
    found = Patches(LookedAt("plain", 0, "dog"), Image.new("RGB", (20, 10)), Grid(1, 2), np.zeros(2))
    draw_patches(found, tmp_path / "patches.png")
    assert html.patches(found).count('fill-opacity="0.000"') == 2
