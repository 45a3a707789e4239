"""The opening run: kept as data, true still, and told in words."""

from importlib.metadata import version
from pathlib import Path

import pytest
from vlm_app.session import Session
from vlm_app.studies.opening import find_opening, keep
from vlm_app.view.opening import STANDS_IN, opening_of
from vlm_app.view.truth import Judged
from vlm_evals.records import read_json

from tests.support.installed_base import needs_base
from vlm_heads import VLM


@pytest.mark.parametrize("model", ["mini", "planted", pytest.param("small", marks=needs_base)])
def test_the_plain_answer_invents_something_and_the_mitigated_one_does_not(model: str) -> None:
    session = Session(VLM.from_pretrained(model))
    try:
        session.warm_up()
        visit = session.open_run("first")
        assert visit is not None
        screen, opening = visit.screen(), session.opening
        assert opening is not None
        assert opening.model == model
        assert screen.truth is not None
        plain, mitigated = (one for one in screen.truth.sides if isinstance(one, Judged))
        assert plain.invented == tuple(opening.found_on["invented"])
        assert mitigated.invented == ()
        assert set(plain.found) <= set(mitigated.found)
        if opening.found_on["versions"]["torch"].partition("+")[0] == version("torch").partition("+")[0]:
            said = [side.text for side in visit.sides]
            assert said == [opening.found_on["plain"], opening.found_on["mitigated"]]
        story = session.story(screen.truth)
        assert f"The plain answer invents a {plain.invented[0]}; the other one does not." in story
        assert "An attention head is" in story
    finally:
        session.close()


def test_a_visitor_picks_in_a_copy_of_ones_own() -> None:
    session = Session(VLM.from_pretrained("planted"))
    session.warm_up()
    one, other = (session.open_run(key) for key in ("one", "other"))
    assert one is not None
    assert other is not None
    assert one.pick_head(2, 1) is not None
    assert other.inside is not None
    assert other.inside.head is None
    session.close()


def test_another_models_run_stands_in_where_none_was_found() -> None:
    assert opening_of("planted-sinks") is None
    session = Session(VLM.from_pretrained("planted-sinks"))
    session.warm_up()
    visit = session.open_run("first")
    assert visit is not None
    assert visit.said_by == STANDS_IN
    assert "Press Run to ask planted-sinks." in session.story(visit.screen().truth)
    assert visit.changed(session.open_link(""), "") == ()  # nothing of it is the visitor's setting
    session.close()


def test_the_program_finds_it_and_keeps_it_beside_others(tmp_path: Path) -> None:
    found = find_opening("planted", seed=7, device=None)
    assert found is not None
    assert (found["image"], found["words"]) == ("sample:planted-car", ["vhr"])
    assert (found["plain"], found["mitigated"]) == ("there is a dog.", "there is a car.")
    path = tmp_path / "openings.json"
    keep(path, "planted", found)
    keep(path, "mini", {"image": "sample:farm"})
    assert set(read_json(path)) == {"mini", "planted"}
    keep(path, "mini", None)
    assert read_json(path) == {"planted": found}
