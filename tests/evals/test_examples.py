"""Captions side by side in a report: the first that changed, with what they invent marked."""

from vlm_evals.data.formats import Caption
from vlm_evals.data.truth import Truth
from vlm_evals.metrics.chair import CHAIR, score_caption
from vlm_evals.records import Score
from vlm_evals.report import paired_report
from vlm_evals.reports.examples import LESS, MORE, MOST, examples, marked_text
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import compare
from vlm_evals.text.objects import ObjectFinder

FINDER = ObjectFinder()


def scored(*captions: str) -> list[Score]:
    """Return the scores of captions of pictures that show a dog alone."""
    truth = Truth({str(image): frozenset({"dog"}) for image in range(len(captions))}, "", "a test")
    return [score_caption(Caption(str(n), text), truth, FINDER).as_score() for n, text in enumerate(captions)]


def test_what_is_invented_is_marked_as_it_is_written() -> None:
    # the picture: a dog. knives and the hot dog are not in it, and their plural and their two words are marked
    (found,) = examples(scored("A dog, two Knives and a hot dog."), scored("A dog."), FINDER)
    assert found["kind"] == LESS
    assert found["plain"]["invented"] == [[11, 17], [24, 31]]
    assert marked_text(found["plain"]) == "A dog, two **Knives** and a **hot dog**."
    assert found["mitigated"] == {"text": "A dog.", "invented": []}


def test_the_first_of_each_kind_are_shown_and_what_stayed_the_same_is_not() -> None:
    plain = scored("A cat.", *["A dog."] * 2, *["A cat."] * (MOST + 1))
    other = scored("A kite.", *["A cup."] * 2, *["A dog."] * (MOST + 1))
    found = examples(plain, other, FINDER)
    assert [(one["image"], one["kind"]) for one in found] == [
        *((str(image), LESS) for image in range(3, 3 + MOST)), ("1", MORE), ("2", MORE),
    ]  # fmt: skip


def test_captions_without_their_text_give_no_example() -> None:
    bare = [Score("0", "0", {}, evidence={"hallucinated": ["cat"]})]
    assert examples(bare, scored("A dog."), FINDER) == []


def test_a_report_shows_them_below_its_tables_and_what_markdown_would_read_stays_text() -> None:
    sides = scored("A *cat* | _here_."), scored("A dog.")
    report = paired_report([compare(CHAIR, sides[0], {"mitigated": sides[1]}, resamples=5)], settings={})
    report["examples"] = examples(*sides, FINDER)
    text = markdown(report)
    assert "| 0 | invents less | A \\***cat**\\* \\| \\_here\\_. | A dog. |" in text
    assert text.index("## CHAIR") < text.index("## Examples") < text.index("## How to read it")
