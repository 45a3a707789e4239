"""Thinking is no answer, however it is marked, and text without it stays as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.data.formats import Caption
from vlm_evals.data.truth import Truth
from vlm_evals.metrics.chair import score_caption
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.spoken import Spoken, spoken


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("A dog.", Spoken("A dog.")),
        (" a < b \n", Spoken(" a < b \n")),
        ("<think>A cat?\nNo.</think>\n\nA dog.", Spoken("A dog.", True)),
        ("A cat? No.</think>A dog.", Spoken("A dog.", True)),  # the prompt had opened it
        ("<think></think>A dog.", Spoken("A dog.", True)),
        ("<THINK>A cat?</Think>A dog<think>or a bus</think>.", Spoken("A dog.", True)),
        ("[THINK]A cat?[/THINK]A dog.", Spoken("A dog.", True)),
        ("◁think▷A cat?◁/think▷A dog.", Spoken("A dog.", True)),
        ("<think>A cat and", Spoken("", True, True)),
        ("<think>A cat?</think><answer>A dog.</answer>", Spoken("A dog.", True)),
        ("<|begin_of_box|>Yes<|end_of_box|>", Spoken("Yes")),
        ("I think a dog.", Spoken("I think a dog.")),
    ],
)
def test_what_was_said(answer: str, said: Spoken) -> None:
    assert spoken(answer) == said


@given(st.text())
def test_text_without_marks_stays(text: str) -> None:
    if "<" not in text and "[" not in text and "◁" not in text:
        assert spoken(text) == Spoken(text)


@given(st.text(alphabet="ab <>/"), st.text(alphabet="cd "))
def test_nothing_of_the_thinking_is_left(thought: str, said: str) -> None:
    assert spoken(f"<think>{thought}</think>{said}").text == said.strip()


def test_a_caption_is_judged_without_its_thinking() -> None:
    truth = Truth({"42": frozenset({"dog"})}, "0", "made")
    caption = Caption(42, "<think>Is there a cat, a car or a chair? I see none of them.</think>A dog.")
    assert score_caption(caption, truth, ObjectFinder()).counts() == (
        score_caption(Caption(42, "A dog."), truth, ObjectFinder()).counts()
    )
