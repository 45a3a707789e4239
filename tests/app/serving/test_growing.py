"""The text of a growing answer: what is said is never taken back, and a stop string is never said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_app.serving.growing import Growing

LETTERS = st.text(alphabet="ab \n", max_size=30)


def said(raw: str, stops: list[str], cuts: list[int]) -> tuple[list[str], Growing]:
    """Return the pieces of a text that arrives up to each cut, and then whole."""
    growing = Growing(lambda ids: raw[: len(ids)], stops)
    pieces = [growing.piece(range(cut), over=False) for cut in sorted({cut for cut in cuts if cut <= len(raw)})]
    return [*pieces, growing.piece(range(len(raw)), over=True)], growing


def cut_at(raw: str, stops: list[str]) -> str:
    """The specification: the text before the first stop string, stripped."""
    places = [raw.index(one) for one in stops if one in raw]
    return raw[: min(places, default=len(raw))].strip()


@given(LETTERS, st.lists(st.text(alphabet="ab \n", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 30)))
def test_the_pieces_are_the_whole_text_however_it_arrives(raw: str, stops: list[str], cuts: list[int]) -> None:
    pieces, growing = said(raw, stops, cuts)
    assert "".join(pieces) == growing.text == cut_at(raw, stops)
    assert growing.stopped == any(one in raw for one in stops)


def test_what_may_become_a_stop_string_is_kept_back() -> None:
    growing = Growing(lambda ids: "one two three"[: len(ids)], ["two t"])
    assert [growing.piece(range(end), over=False) for end in (4, 7, 8)] == ["one", "", ""]
    assert growing.piece(range(9), over=False) == ""
    assert growing.stopped
    assert growing.text == "one"


def test_a_stop_string_inside_the_beginning_of_a_longer_one_says_nothing_too_early() -> None:
    growing = Growing(lambda ids: "baa"[: len(ids)], ["a", "baa"])
    assert growing.piece(range(2), over=False) == ""
    assert growing.stopped
    assert growing.piece(range(2), over=True) == "b"  # the generation has ended there


def test_half_a_character_is_kept_back() -> None:
    growing = Growing(lambda ids: ["caf", "caf\ufffd", "café"][len(ids)])
    assert [growing.piece(range(end), over=end == 2) for end in range(3)] == ["caf", "", "é"]


@pytest.mark.parametrize(("over", "text"), [(False, "a"), (True, "a\ufffd")])
def test_a_character_that_is_never_completed_is_said_at_the_end(over: bool, text: str) -> None:
    growing = Growing(lambda ids: "a\ufffd")
    growing.piece([1], over=over)
    assert growing.text == text
