"""What the page shows, without a browser: answers side by side, marks, links, code, looking inside, files."""

import json
import shlex
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vlm_app.session import Session
from vlm_app.view import html, words
from vlm_app.view.cards import cards, presets
from vlm_app.view.facts import Column
from vlm_app.view.form import Key, option_keys, values_of, words_of
from vlm_app.view.marks import Marker, Named, changed_words
from vlm_app.view.recipe import Recipe
from vlm_app.view.side_by_side import Side, race
from vlm_app.visit import Screen

from tests.support.command import Command
from tests.support.compare import equal
from vlm_heads import (
    VLM,
    HeadProfile,
    known_checks,
    known_contrasts,
    known_interventions,
    known_lenses,
    known_pipelines,
    parse_mitigation,
)
from vlm_heads.errors import BadImage, BadOption
from vlm_heads.models.planted import planted_image

CAR = "sample:planted-car"


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    made = Session(VLM.from_pretrained("planted"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def rambling(untrained_mini: Path) -> VLM:
    """A model that says random words and does not stop."""
    vlm = VLM.from_pretrained(untrained_mini)
    vlm.model.generation_config.eos_token_id = None
    return vlm


def _run(session: Session, key: str, recipe: Recipe) -> Screen:
    *_, last = session.visit(key).run(session.sample("planted-car"), recipe)
    return last


def _text(column: Column | None) -> str:
    assert column is not None
    return column.side.text


# Side by side


def test_both_answers_come_with_their_marks_and_receipt(session: Session) -> None:
    screen = _run(session, "a", Recipe(CAR))
    assert (_text(screen.plain), _text(screen.mitigated)) == ("there is a dog.", "there is a car.")
    plain, mitigated = html.answer(screen.plain), html.answer(screen.mitigated)
    assert '<mark class="vh-absent" title="dog: not in the picture">' in plain
    assert 'class="vh-shown" title="car: in the picture"' in mitigated
    assert "tokens/s" in plain
    assert "vhr: 2 layers, 4 heads" in mitigated  # as planted: two vision heads in each of layers 2 and 3


def test_the_sides_take_turns_token_by_token(rambling: VLM) -> None:
    session = Session(rambling)
    counts = []
    streams = [
        partial(vlm.stream, planted_image("car"), max_new_tokens=12) for vlm in (session.model.vlm, session.model.twin)
    ]
    for sides in race(streams, 7, threading.Event()):
        counts.append((sides[0].tokens, sides[1].tokens))
    assert counts[-1] == (12, 12)
    assert all(0 <= first - second <= 1 for first, second in counts), counts
    session.close()


@pytest.mark.parametrize("decoding", [{"do_sample": False}, {"do_sample": True, "temperature": 1.0, "top_k": 0}])
def test_a_side_says_what_it_says_alone(rambling: VLM, decoding: dict[str, object]) -> None:
    """Even when it draws: each side has random numbers of its own."""
    session = Session(rambling)
    asked: dict[str, object] = {"max_new_tokens": 10, **decoding}
    mitigation = parse_mitigation(["vhr"]).interventions
    torch.manual_seed(11)
    before = torch.get_rng_state()
    streams = [
        partial(session.model.vlm.stream, planted_image("bird"), **asked),
        partial(session.model.twin.stream, planted_image("bird"), interventions=mitigation, **asked),
    ]
    *_, sides = race(streams, 7, threading.Event())
    assert equal(torch.get_rng_state(), before)
    for side, attached in zip(sides, ((), mitigation), strict=True):
        torch.manual_seed(7)
        alone = rambling.answer(planted_image("bird"), interventions=attached, **asked)
        assert side.answer is not None
        assert side.answer.token_ids == alone.token_ids
    session.close()


def test_a_stopped_run_ends_at_the_next_token_and_says_so(rambling: VLM) -> None:
    session = Session(rambling)
    picture = session.sample(session.samples[0])
    for _ in session.visit("a").run(picture, Recipe(picture.name, max_tokens=512)):
        if session.visit("a").sides[0].tokens:
            session.visit("a").stop()
    assert session.visit("a").screen().status == "Stopped."
    assert all(0 < side.tokens < 512 for side in session.visit("a").sides)
    session.visit("a").begin()
    *_, screen = session.visit("a").run(picture, Recipe(picture.name, max_tokens=3))
    assert screen.status == "Answered; looking inside…"
    session.visit("a").look()
    assert session.visit("a").screen().status == "Done."
    session.close()


def test_one_who_waits_is_told_and_can_give_up(session: Session) -> None:
    assert session.visit("first").begin() == "Starting…"
    assert session.visit("second").begin().startswith("1 before you")
    session.visit("second").stop()
    (only,) = session.visit("second").run(session.sample("planted-car"), Recipe(CAR))
    assert only.status == "Stopped before it began."
    assert session.visit("second").look() is None
    _run(session, "first", Recipe(CAR))
    assert session.visit("second").begin() == "Starting…"
    session.leave("second")


def test_a_run_that_cannot_be_carried_out_leaves_nothing_of_the_last_one(session: Session) -> None:
    _run(session, "a", Recipe(CAR))
    visit = session.visit("a")
    visit.begin()
    with pytest.raises(BadOption):
        list(visit.run(session.sample("planted-car"), Recipe(CAR, words=("vrh",))))
    assert visit.look() is None


def test_nobody_listening_stops_the_run(rambling: VLM) -> None:
    session = Session(rambling)
    picture = session.sample(session.samples[0])
    running = session.visit("a").run(picture, Recipe(picture.name, max_tokens=512))
    next(running)
    running.close()
    assert all(side.done and side.tokens < 512 for side in session.visit("a").sides)
    session.close()


def test_a_side_that_fails_says_so_beside_the_other(session: Session) -> None:
    screen = _run(session, "a", Recipe(CAR, words=("var",)))
    assert _text(screen.plain) == "there is a dog."
    assert "no attention sinks" in html.answer(screen.mitigated)


def test_an_empty_prompt_is_said_and_nothing_is_looked_into(session: Session) -> None:
    screen = _run(session, "a", Recipe(CAR, prompt=" "))
    assert screen.status == "There is no answer."
    assert "the prompt is empty" in html.answer(screen.plain)
    assert session.visit("a").look() is None


def test_two_visitors_do_not_mix(session: Session) -> None:
    said: dict[str, str] = {}

    def ask(key: str, word: str) -> None:
        said[key] = _text(_run(session, key, Recipe(CAR, words=(word,))).mitigated)

    threads = [threading.Thread(target=ask, args=each) for each in (("strong", "vhr"), ("weak", "vhr:gain=0.5"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {"strong": "there is a car.", "weak": "there is a dog."}
    assert session.visit("strong").recipe.words == ("vhr",)
    session.leave("strong")
    assert session.visit("strong").sides == ()


def test_the_twin_shares_every_weight_and_no_module(session: Session) -> None:
    weights = zip(session.model.vlm.model.parameters(), session.model.twin.model.parameters(), strict=True)
    assert all(one is other for one, other in weights)
    assert not set(session.model.vlm.model.modules()) & set(session.model.twin.model.modules())


# Marks


def test_objects_are_marked_where_they_stand() -> None:
    text = "A hot dog and two chairs."
    #       0 2   6   10  14  18
    found = Marker().named(text, {"chair"})
    assert found == [Named(2, 9, "hot dog", False), Named(18, 24, "chair", True)]
    assert [text[one.start : one.end] for one in found] == ["hot dog", "chairs"]


def test_what_nobody_knows_is_not_guessed(session: Session) -> None:
    assert [one.shown for one in Marker().named("a dog", None)] == [None]
    column = Column("Plain", Side("a dog", 2, 1.0, done=True), Marker().named("a dog", None), checked=False)
    assert "not checked" in html.answer(column)
    assert "vh-absent" not in html.answer(column)


def test_words_that_differ_are_found_without_case_and_stops() -> None:
    # a b c. / A x c: `b` became `x`; a and c stayed
    assert changed_words("a b c.", "A x c") == [(2, 3)]
    assert changed_words("A x c", "a b c.") == [(2, 3)]
    assert changed_words("a b", "a b") == []
    assert changed_words("", "a") == []


def test_what_a_model_says_cannot_become_markup() -> None:
    shown = html.answer(Column("<b>", Side("<script>x</script> dog", done=True), changed=[(0, 8)]))
    assert "<script" not in shown
    assert "<b>" not in shown


# Recipes: links and code


def test_a_link_says_that_ones_own_picture_is_missing(session: Session) -> None:
    query = Recipe("holiday.png", seed=3).query()
    assert session.open_link(query).own_picture
    assert "not in the link: choose it" in session.missing_picture(query)
    assert "'kitchen', which this model has not; planted-car" in session.missing_picture("image=sample:kitchen")
    assert session.missing_picture(Recipe(CAR).query()) == session.missing_picture("with=vhr") == ""


@pytest.mark.parametrize("words", [("vhr",), ("vhr:gain=1.5", "spin:kept=0.5"), ("pai", "vcd:alpha=0.5"), ()])
def test_the_python_says_what_the_page_said(
    session: Session, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    recipe = Recipe(CAR, words=words, max_tokens=8, temperature=0.9)
    _run(session, "a", recipe)
    capsys.readouterr()
    exec(recipe.python("planted"), {})
    plain, mitigated = capsys.readouterr().out.splitlines()
    said = [side.text for side in session.visit("a").sides]
    assert [plain, mitigated][: len(said)] == said


def test_the_command_line_says_what_the_page_said(session: Session, command: Command) -> None:
    recipe = Recipe(CAR, words=("vhr:gain=1.5",), max_tokens=8, temperature=0.9, top_p=0.8)
    _run(session, "a", recipe)
    (row,) = command(*shlex.split(recipe.command("planted"))[1:], "--json").value
    assert [row[side]["text"] for side in ("plain", "mitigated")] == [one.text for one in session.visit("a").sides]


def test_a_link_without_a_sample_of_this_model_opens_with_the_first(session: Session) -> None:
    assert session.open_link("image=sample:kitchen&seed=3") == Recipe(CAR, seed=3)
    assert session.open_link("image=sample:planted-car-sinks").image == "sample:planted-car-sinks"


# Cards


def test_every_method_that_acts_by_itself_has_a_card_with_every_option_explained() -> None:
    found = {card.name: card for card in cards()}
    alone = {name for name, kind in known_interventions().items() if not kind.needs_profile}
    beside = known_lenses() | known_contrasts() | known_checks() | known_pipelines()
    assert found.keys() == alone | beside.keys()
    for card in cards():
        assert card.title
        assert card.label
        for control in card.controls:
            assert control.help, (card.name, control.option.name)
            if control.slides:
                assert control.low <= control.option.default <= control.high


def test_sliders_end_where_the_method_does() -> None:
    controls = {control.option.name: control for card in cards() if card.name == "var" for control in card.controls}
    assert (controls["moved"].low, controls["moved"].high) == (0.0, 1.0)
    with pytest.raises(BadOption):
        parse_mitigation(["var:moved=1.1"])


@pytest.mark.parametrize("name", presets())
def test_a_preset_goes_through_the_form_unchanged(name: str) -> None:
    words = presets()[name]
    chosen, values = values_of(words)
    assert sorted(words_of(chosen, values)) == sorted(words)


@pytest.mark.parametrize(
    "word",
    [
        "var:threshold=relative,sink_dims=14+25",  # words and lists where numbers may stand
        "var:threshold=12.5,mode=code",
        "vhr:layers=1+18,outlier_filter=false,seed=3",
        "adhh:heads=14.3+-1.0",
        'icd:instruction="You see nothing, or little."',
        "spin:kept=0.123456789",
    ],
)
def test_any_word_goes_through_the_form_unchanged(word: str) -> None:
    assert words_of(*values_of((word,))) == (word,)


def test_what_is_typed_is_read_as_on_the_command_line() -> None:
    chosen, values = values_of(("var",))
    assert values[Key("var", "threshold")] == "20"
    values |= {Key("var", "threshold"): " relative ", Key("var", "layers"): "2+3", Key("var", "sink_dims"): ""}
    assert words_of(chosen, values) == ("var:threshold=relative,layers=2+3",)
    with pytest.raises(BadOption, match="threshold=far"):
        words_of(chosen, values | {Key("var", "threshold"): "far"})


def test_an_emptied_field_is_the_default() -> None:
    chosen, _ = values_of(("vhr",))
    assert words_of(chosen, dict.fromkeys(option_keys())) == ("vhr",)


# Pictures of one's own


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_picture_that_cannot_be_read_is_named_without_its_folder(
    session: Session, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "holiday.png"
    path.write_bytes(content)
    with pytest.raises(BadImage, match=r"^holiday\.png"):
        session.own(path)


@pytest.mark.parametrize(("side", "size"), [(11_000, "11000 x 11000"), (30_000, "900,000,000")])
def test_a_picture_that_is_too_large_is_told_its_size_and_the_limit(
    session: Session, tmp_path: Path, side: int, size: str
) -> None:
    path = tmp_path / "poster.tif"
    Image.new("1", (side, side)).save(path, compression="group4")
    with pytest.raises(BadImage) as refused:
        session.own(path)
    assert str(refused.value) == (
        f"poster.tif is too large: it has {size} pixels, and at most 100,000,000 are read; make it smaller"
    )


def test_ones_own_picture_is_not_checked(session: Session, tmp_path: Path) -> None:
    planted_image("bird").save(tmp_path / "mine.png")
    *_, screen = session.visit("a").run(session.own(tmp_path / "mine.png"), Recipe("mine.png"))
    assert _text(screen.mitigated) == "there is a bird."
    assert "not checked" in html.answer(screen.mitigated)


# Looking inside, and what is taken home


def test_the_planted_heads_and_the_invented_token_are_seen(session: Session) -> None:
    _run(session, "a", Recipe(CAR))
    inside = session.visit("a").look()
    assert inside is not None
    assert {(layer, head) for layer, head, _ in inside.profile.top(4)} == {(2, 1), (2, 3), (3, 0), (3, 2)}
    assert inside.said["plain"].tokens[inside.token].text.strip() == "dog"  # the object that is not there comes first
    session.visit("a").pick_token("mitigated", 3)
    session.visit("a").pick_head(2, 1)
    before, after = inside.weights()
    assert after is not None
    # a vision head, doubled; its layer sees what layer 1 changed, and that is nothing it attends by
    assert after.sum() == pytest.approx(2 * before.sum(), rel=0.01)
    assert "layer 2, head 1" in html.patches(inside.patches())
    session.visit("a").pick_head(2, 1)
    assert "all heads" in words.looked_at(inside.looked_at())
    assert session.visit("a").pick_token("nowhere", 99) is inside


def test_sinks_are_outlined_and_the_share_of_their_mass_is_said() -> None:
    session = Session(VLM.from_pretrained("planted-sinks"))
    picture = session.sample("planted-car-sinks")
    recipe = Recipe(picture.name, words=("var:threshold=relative,layers=2+3",))
    *_, screen = session.visit("a").run(picture, recipe)
    assert _text(screen.mitigated) == "there is a car."
    inside = session.visit("a").look()
    assert inside is not None
    assert html.patches(inside.patches()).count("class=vh-sink") == 2 * 2  # two black corners, plain and mitigated
    assert "2 image sinks outlined, known by channel" in words.sinks(inside.patches())
    none = replace(inside.patches(), sinks=np.zeros(4, dtype=np.int64))
    assert words.sinks(none).startswith("none lies in this picture, so nothing is outlined; this model's are known by")
    assert 0.0 < inside.shares["var"] <= 0.6  # of what selected heads hold; others keep theirs
    assert "% of the sinks&#x27; mass moved" in html.answer(session.visit("a").screen().mitigated)
    session.close()


def test_where_patches_lie_nowhere_known_nothing_is_drawn(rambling: VLM) -> None:
    session = Session(rambling)
    rambling.model.config.model_type = "perceiving"
    try:
        picture = session.sample(session.samples[0])
        list(session.visit("a").run(picture, Recipe(picture.name, max_tokens=4)))
        inside = session.visit("a").look()
        assert inside is not None
        assert "Cannot be drawn: how the 49 image positions of perceiving lie" in html.patches(inside.patches())
        assert "vh-token" in html.strips(inside.strips())
        assert "patches.png" not in {path.name for path in session.visit("a").export()}
    finally:
        rambling.model.config.model_type = "llava"
        session.close()


def test_a_run_is_taken_home_as_files(session: Session) -> None:
    _run(session, "b", Recipe(CAR))
    paths = {path.name: path for path in session.visit("b").export()}
    views = {f"{view}.{kind}" for view in ("answers", "tokens", "heads", "patches") for kind in ("png", "svg")}
    assert paths.keys() == views | {"run.html", "run.json", "run.py", "run.sh", "head_profile.zip"}
    for name in ("answers.png", "tokens.png", "heads.png", "patches.png"):
        with Image.open(paths[name]) as picture:
            assert min(picture.size) > 100
    run = json.loads(paths["run.json"].read_text())
    assert [one["text"] for one in run["answers"]] == ["there is a dog.", "there is a car."]
    assert run["answers"][0]["objects"][0]["shown"] is False
    loose = paths["run.json"].parent / "loose"
    with zipfile.ZipFile(paths["head_profile.zip"]) as archive:
        archive.extractall(loose)
    assert HeadProfile.from_pretrained(loose).top(1)[0][:2] in {(2, 1), (2, 3), (3, 0), (3, 2)}
    folder = paths["run.json"].parent
    session.leave("b")
    assert not folder.exists()


def test_nothing_to_take_home_before_a_run(session: Session) -> None:
    with pytest.raises(BadOption, match="run the model first"):
        session.visit("nobody").export()


def test_closing_leaves_nothing_behind() -> None:
    session = Session(VLM.from_pretrained("planted"))
    assert session.sample_file("planted-car").is_file()
    session.close()
    assert not session.folder.exists()
