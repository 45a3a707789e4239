"""The block of a page: sentences follow the numbers, and the rest of the page stays."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlm_app.studies.heads.effects import effects
from vlm_app.studies.heads.measure import summary
from vlm_app.studies.heads.page import heads_block, sentences, write_heads
from vlm_evals.errors import TaskError

from tests.support.heads import DEPTH, HEADS, fabricated


def _found(**kwargs: Any) -> dict[str, Any]:
    """Return what a run of fabricated heads comes to."""
    about = {
        "model": "made", "weights": "0", "date": "2026-01-01", "seed": 7, "split": "validation", "scenes": 20,
        "layers": DEPTH, "heads": HEADS, "vhr_layers": [1],
    }  # fmt: skip
    return {"about": about} | summary(effects([fabricated(20, **kwargs)], [1], seed=7))


def test_sentences_follow_the_numbers() -> None:
    said = " ".join(sentences(_found()))
    assert "VHD ranks heads by what they do for faithful mentions better than chance" in said
    assert "so faithful mentions become likelier than inventions" in said
    assert "yes for present objects" in said
    assert "one by one they add up to +0.70" in said  # heads 3 and 4 of layer 1, which see 0.3 and 0.4
    reversed_ = " ".join(sentences(_found(sign=-1.0)))
    assert "VHD ranks the heads of a layer the wrong way round" in reversed_
    assert "so inventions become likelier than faithful ones" in reversed_
    nothing = " ".join(sentences(_found(sign=0.0)))
    assert "VHD cannot be said to rank the heads of a layer" in nothing
    assert "the two changes cannot be told apart" in nothing


def test_without_inventions_none_is_spoken_of() -> None:
    found = _found(invents=False)
    said = heads_block(found)
    assert "Inventions lean" not in said
    assert "0 invented mentions" not in said
    assert "nan" not in said


def test_the_block_is_filled_in_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "effect.md"
    marks = "<!-- heads-made: written by a program, from here -->\n<!-- heads-made: to here -->"
    page.write_text(f"# Effect\n\nBefore.\n\n{marks}\n\nAfter.\n")
    for _ in range(2):
        written = write_heads(page, _found())
    text = page.read_text("utf-8")
    assert text.startswith("# Effect\n\nBefore.")
    assert text.endswith("After.\n")
    assert text.count("### What the heads of `made` do") == 1
    assert all(path.is_file() for path in written)
    pictures = [path for path in written if path.suffix == ".png"]
    for path in pictures:
        assert f"(pictures/{path.name})" in text
        with Image.open(path) as picture:
            assert min(picture.size) > 300
    assert len(pictures) == 2


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "effect.md"
    page.write_text("# Effect\n")
    with pytest.raises(TaskError, match="has no block to fill in"):
        write_heads(page, _found())
    assert [path.name for path in tmp_path.iterdir()] == ["effect.md"]
