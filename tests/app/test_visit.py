"""One visitor among others: stopping, leaving, waiting, and knowing what the screen shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from vlm_app.session import Session
from vlm_app.view import looking
from vlm_app.view.recipe import Recipe

from vlm_heads import VLM, AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.models.planted import planted_image

CAR = "sample:planted-car"


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    made = Session(VLM.from_pretrained("planted"))
    yield made
    made.close()


def _run(session: Session, key: str, recipe: Recipe) -> None:
    list(session.visit(key).run(session.sample("planted-car"), recipe))


def test_stop_ends_the_look_inside_at_the_next_token(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(session, "stopping", Recipe(CAR))
    visit = session.visit("stopping")
    seen = []

    def stop_at_the_third(watcher: looking._Watcher, call: AttentionCall) -> None:
        seen.append(call.layer)
        if len(seen) == 3 * 4:  # layers
            visit.stop()

    monkeypatch.setattr(looking._Watcher, "see", stop_at_the_third)
    assert visit.look() is None
    assert len(seen) == 3 * 4
    assert visit.screen().status == "Stopped."
    assert not session.model.turn.locked()
    with pytest.raises(BadOption, match="stopped before it was looked into"):
        visit.export()


def test_stop_after_the_end_changes_nothing(session: Session) -> None:
    visit = session.visit("late")
    visit.begin()
    _run(session, "late", Recipe(CAR))
    assert visit.look() is not None
    visit.end()
    assert visit.stop() == "Done."
    assert visit.pick_token("mitigated", 3) is not None
    session.leave("late")


def test_one_who_leaves_ends_the_look_inside(session: Session) -> None:
    _run(session, "leaving", Recipe(CAR))
    visit = session.visit("leaving")
    session.leave("leaving")
    assert visit.look() is None


def test_a_run_that_never_came_about_lets_the_next_begin(session: Session) -> None:
    session.visit("first").begin()
    session.visit("first").end()
    assert session.visit("second").begin() == "Starting…"
    session.visit("second").end()


def test_one_who_waits_sees_the_line_grow_shorter(session: Session) -> None:
    """Three ask; the first two leave the line one after the other, and the third is told each time."""
    first, second, third = (session.visit(key) for key in ("1st", "2nd", "3rd"))
    assert [one.begin() for one in (first, second, third)] == [
        "Starting…",
        "1 before you; waiting for the model…",
        "2 before you; waiting for the model…",
    ]
    session.model.turn.acquire()  # the first is at it
    running = third.run(session.sample("planted-car"), Recipe(CAR))
    assert next(running).status == "2 before you; waiting for the model…"
    second.end()
    assert next(running).status == "1 before you; waiting for the model…"
    first.end()
    session.model.turn.release()
    *_, last = running
    assert last.plain is not None
    assert last.plain.side.text == "there is a dog."
    third.end()
    assert not session.model.turn.locked()


def test_one_who_gives_up_while_waiting_leaves_the_model_to_others(session: Session) -> None:
    visit = session.visit("gives up")
    visit.begin()
    session.model.turn.acquire()
    running = visit.run(session.sample("planted-car"), Recipe(CAR))
    next(running)
    visit.stop()
    assert [screen.status for screen in running] == ["Stopped before it began."]
    session.model.turn.release()
    assert not session.model.turn.locked()
    visit.end()


def test_answers_know_which_settings_they_are_of(session: Session, tmp_path: Path) -> None:
    visit = session.visit("new")
    assert visit.changed(Recipe(CAR), "") == ()  # nothing is shown, so nothing is older
    _run(session, "new", Recipe(CAR))
    assert visit.changed(Recipe(CAR), "") == ()
    assert visit.changed(Recipe(CAR, words=("vhr:gain=3",)), "") == ("vhr is now vhr:gain=3",)
    assert visit.changed(Recipe(CAR, "What?", words=(), seed=8), "") == (
        "another prompt",
        "vhr is now nothing",
        "seed 7 is now 8",
    )
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        planted_image("bird").save(tmp_path / folder / "mine.png")
    one, other = (str(tmp_path / folder / "mine.png") for folder in ("one", "other"))
    list(visit.run(session.own(one), Recipe("mine.png")))
    assert visit.changed(Recipe("mine.png"), one) == ()
    assert visit.changed(Recipe("mine.png"), other) == visit.changed(Recipe(CAR), "") == ("another picture",)
    session.leave("new")
