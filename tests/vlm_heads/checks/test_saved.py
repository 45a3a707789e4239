"""Saved captions: what `answer` would have left out of the same words, and any model's text as it was written."""

import re
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from vlm_evals.scenes.world import scenes
from vlm_evals.text.places import coco_objects

from vlm_heads import VLM, AskBack, errors
from vlm_heads.asking.named import Named
from vlm_heads.asking.sentences import sentences_of


@pytest.fixture(scope="module")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(one.image) for one in scenes("validation", 11, 6)]


def _asked(answer: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer.receipt["check"]["asked"]
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"margin": 1.5}, {"by": "confidence", "margin": -0.5}, {"by": "both", "margin": 1.0},
        {"margin": 1.5, "control": "t_vhd"}, {"margin": 1.5, "control": "random"},
    ],
    ids=lambda one: "+".join(map(str, one.values())),
)  # fmt: skip
def test_saved_captions_lose_what_drafts_would_have_lost(options: Any, mini: VLM, pictures: list[Image.Image]) -> None:
    check = AskBack(objects=coco_objects(), **options)
    said = [one.text for one in mini.answer_batch(pictures, max_new_tokens=40)]
    expected = mini.answer_batch(pictures, interventions=check, max_new_tokens=40)
    got = mini.ask_back(pictures, said, check)
    assert [one.text for one in got] == [one.text for one in expected]
    assert [one.text for one in got] != said
    for one, other in zip(got, expected, strict=True):
        for name in ("margin", "log_probability", "score"):
            mine, its = ([row[name] for row in _asked(answer)] for answer in (one, other))
            assert mine == pytest.approx(its, abs=2e-4)
        assert [row["fate"] for row in _asked(one)] == [row["fate"] for row in _asked(other)]


@pytest.mark.parametrize("words", ["vhr", "vhr:gain=3", "route", "spin", "vista", "sparc:threshold=-1", "crg"])
def test_under_interventions_they_are_judged_as_they_were_while_they_were_said(
    words: str, mini: VLM, pictures: list[Image.Image]
) -> None:
    check = AskBack(objects=coco_objects(), margin="-inf")
    said = [mini.answer(one, interventions=[words, check], max_new_tokens=40) for one in pictures[:3]]
    got = mini.ask_back(pictures[:3], [one.text for one in said], check, interventions=words)
    for one, other in zip(got, said, strict=True):
        assert one.text == other.text
        assert [row["object"] for row in _asked(one)] == [row["object"] for row in _asked(other)] != []
        for name in ("margin", "log_probability"):
            mine, its = ([row[name] for row in _asked(answer)] for answer in (one, other))
            assert mine == pytest.approx(its, abs=2e-4)


def test_words_that_the_model_does_not_know_stay_as_they_are(mini: VLM, pictures: list[Image.Image]) -> None:
    text = "  Quokkas — über all!\n\nA giraffe-like thing, e.g. this one, is *bold*.  "
    check = AskBack(objects=coco_objects(), margin="-inf")
    assert mini.ask_back(pictures[:1], [text], check)[0].text == text
    strict = AskBack(objects=lambda _: ["bold"], margin=100.0)
    assert mini.ask_back(pictures[:1], [text], strict)[0].text == "Quokkas — über all!"
    assert mini.ask_back(pictures[:1], [""], check)[0].text == ""


@pytest.mark.parametrize("text", ["Yes, there is a dog.", "No. There is a dog.", ' "yes" - a dog'])
def test_an_answer_with_yes_or_no_is_never_checked(text: str, mini: VLM, pictures: list[Image.Image]) -> None:
    check = AskBack(objects=coco_objects(), margin=100.0)
    (answer,) = mini.ask_back(pictures[:1], [text], check)
    assert (answer.text, _asked(answer), check.questions(text)) == (text, [], {})
    assert mini.ask_back(pictures[:1], ["Northern light falls on a dog."], check)[0].text == "Northern light falls."


def test_they_are_asked_about_under_interventions(mini: VLM, pictures: list[Image.Image]) -> None:
    check, said = AskBack(objects=coco_objects(), margin="-inf"), ["There is a dog and a cup."] * 2
    plain = mini.ask_back(pictures[:2], said, check)
    gained = mini.ask_back(pictures[:2], said, check, interventions="vhr:gain=3")
    assert [row["object"] for row in _asked(plain[0])] == ["dog", "cup"]
    assert abs(_asked(plain[0])[0]["margin"] - _asked(gained[0])[0]["margin"]) > 1e-2
    assert gained[0].receipt is not None
    assert gained[0].receipt["interventions"][0]["layers"]


def test_other_methods_are_refused(mini: VLM, pictures: list[Image.Image]) -> None:
    for wrong in ("vhr", "vcd"):
        with pytest.raises(errors.BadOption, match="askback, beside interventions alone"):
            mini.ask_back(pictures[:1], ["A dog."], wrong)
    with pytest.raises(errors.BadPrompt, match="image token"):
        mini.ask_back(pictures[:1], ["A <image> dog."], AskBack(objects=coco_objects()))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A dog. A cat.", ["A dog. ", "A cat."]),
        ('It says "no."  Then, e.g. at 3.5 p.m., more!\n', ['It says "no."  ', "Then, e.g. at 3.5 p.m., more!\n"]),
        ("- a dog\n- a cat\n", ["- a dog\n", "- a cat\n"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_a_text_is_cut_after_its_sentences(text: str, pieces: list[str]) -> None:
    assert sentences_of(text) == pieces


def test_what_goes_with_the_clause_of_another_is_not_called_kept(mini: VLM, pictures: list[Image.Image]) -> None:
    """A giraffe is in no scene; the chair is gone only in the sentence that cannot stand without the giraffe."""
    check = AskBack(objects=lambda text: [one for one in ("giraffe", "chair") if one in text])
    alone, twice = "The giraffe is on a chair.", "The giraffe is on a chair. There is a chair."
    margins = {row["object"]: row["margin"] for row in _asked(mini.ask_back(pictures[:1], [alone], check)[0])}
    between = sum(margins.values()) / 2
    gone, stays = ("giraffe", "chair") if margins["giraffe"] < margins["chair"] else ("chair", "giraffe")
    check = replace(check, margin=between)
    assert check.fates(alone, {gone}) == {gone: "left out", stays: "went with it"}
    found = mini.ask_back(pictures[:1], [alone], check)[0]
    assert found.text == ""
    assert {row["object"]: row["fate"] for row in _asked(found)} == {gone: "left out", stays: "went with it"}
    receipt: Any = found.receipt
    assert (receipt["check"]["left_out"], receipt["check"]["went_along"]) == (1, 1)
    assert check.fates(twice, {"giraffe"}) == {"giraffe": "left out", "chair": "kept"}


def test_an_answer_says_what_went_with_it(mini: VLM, pictures: list[Image.Image]) -> None:
    """Neither the subject nor the verb of a sentence can go alone: it goes whole, and the other with it."""

    def subject_and_verb(text: str) -> list[Named]:
        found = re.match("The (image) (shows)", text)
        return [Named(*found.span(1), "cup"), Named(*found.span(2), "giraffe")] if found else []

    check = AskBack(objects=subject_and_verb)
    said = mini.answer(pictures[0], interventions=replace(check, margin="-inf"), max_new_tokens=40)
    scores = {row["object"]: row["score"] for row in _asked(said)}
    gone, stays = sorted(scores, key=lambda name: scores[name])
    check = replace(check, margin=sum(scores.values()) / 2)
    found = mini.answer(pictures[0], interventions=check, max_new_tokens=40)
    assert {row["object"]: row["fate"] for row in _asked(found)} == {gone: "left out", stays: "went with it"}
    receipt: Any = found.receipt
    assert (receipt["check"]["left_out"], receipt["check"]["went_along"]) == (1, 1)
