"""Ask back: the questions, the answers and what was taken back, while it works and afterwards."""

import math

from vlm_app.session import Session
from vlm_app.view import html
from vlm_app.view.asked import AskedBack, asked_back, conversation, replied
from vlm_app.view.recipe import Recipe

from vlm_heads import VLM


def _row(margin: float | None, fate: str = "kept") -> dict[str, object]:
    question = None if margin is None else "Is there a dog in the image?"
    return {"said": "dog", "question": question, "margin": margin, "log_probability": math.log(0.25), "fate": fate}


def test_odds_are_told_as_people_tell_them() -> None:
    # exp(0.7) = 2.01, exp(3) = 20.1, exp(-1.6) = 1 / 4.95
    said = [replied(one) for one in asked_back([_row(0.7), _row(3.0), _row(-1.6), _row(9.0), _row(None)])]
    assert said == [
        "yes, 2.0 to 1",
        "yes, 20 to 1",
        "no, 5.0 to 1",
        "yes, more than 1,000 to 1",
        "“dog” had 25 % when it was said",
    ]


def test_what_was_taken_back_stands_out() -> None:
    shown = conversation(asked_back([_row(2.0), _row(-2.0, "left out")]))
    assert "asked itself 2 questions and took back 1." in shown
    assert shown.count("class=vh-gone") == 1
    assert "<em>left out</em>" in shown
    shown = conversation(asked_back([_row(2.0, "went with it"), _row(-2.0, "left out")]))
    assert "took back 1." in shown
    assert shown.count("class=vh-gone") == 2
    assert "asked itself 1 question and took back none." in conversation(asked_back([_row(2.0)]))
    assert conversation(()) == ""
    assert "&lt;b&gt;" in conversation([AskedBack("<b>", "<b>?", 1.0, 0.5, "kept")])


def test_it_is_shown_as_it_works_and_stays_when_it_is_done() -> None:
    session = Session(VLM.from_pretrained("mini"))
    picture = session.sample("farm")
    recipe = Recipe(picture.name, words=("askback",))
    screens = list(session.visit("a").run(picture, recipe))
    columns = [screen.mitigated for screen in screens if screen.mitigated is not None]
    counts = [len(column.asked) for column in columns]
    assert counts == sorted(counts)  # questions are added as sentences come
    assert any(0 < count < counts[-1] for count, column in zip(counts, columns, strict=True) if not column.side.done)
    last = columns[-1]
    assert all(one.question is not None for one in last.asked)
    gone = {one.said for one in last.asked if one.gone}
    assert not any(f"a {word}" in last.side.text for word in gone)
    assert "What the model asked itself" in html.answer(last)
    session.close()
