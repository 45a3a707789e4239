"""AskBack on the embedded model: margins of ordinary answers, batches, what a receipt lists, and what is attached."""

import copy
from typing import Any

import pytest
from PIL import Image
from vlm_evals.scenes.world import scenes
from vlm_evals.text.places import coco_objects

from tests.support.finders import needs_coco
from vlm_heads import VLM, AskBack, ImageFree, Mitigation, attach, errors, parse_method

EXACT = 2e-4
LONG = {"max_new_tokens": 40}


@pytest.fixture(scope="module")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(one.image) for one in scenes("validation", 11, 5)]


def check(**options: Any) -> AskBack:
    return AskBack(objects=coco_objects(), **options)


def _margin(mini: VLM, picture: Image.Image, question: str) -> float:
    """Return the margin of the first token of an ordinary answer."""
    inputs = mini.inputs([picture], question)
    output = mini.model.generate(
        **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    yes, no = (mini.processor.tokenizer.convert_tokens_to_ids(f"▁{word}") for word in ("Yes", "No"))
    return float(output.logits[0][0, yes] - output.logits[0][0, no])


@pytest.mark.parametrize("when", ["sentence", "end"])
def test_margins_are_those_of_ordinary_answers(when: Any, mini: VLM, pictures: list[Image.Image]) -> None:
    said = mini.answer_batch(pictures, interventions=check(margin="-inf", when=when), **LONG)
    asked = [(picture, one) for picture, answer in zip(pictures, said, strict=True) for one in _asked(answer)]
    assert len(asked) > 10
    for picture, one in asked:
        assert one["question"].startswith("Is there a")
        assert abs(one["margin"] - _margin(mini, picture, one["question"])) < EXACT
    assert [answer.token_ids for answer in said] == [answer.token_ids for answer in mini.answer_batch(pictures, **LONG)]


def _asked(answer: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer.receipt["check"]["asked"]
    return found


STRICT = {"margin": 2.0, "max_rounds": 2, "bound": 0.1}  # takes back about every third word


@pytest.mark.parametrize("options", [{}, {"when": "end"}, {"max_rounds": 0}, {"by": "both"}, {"calibrated": True}])
def test_a_batch_gives_what_its_rows_give_alone(
    options: dict[str, Any], mini: VLM, pictures: list[Image.Image]
) -> None:
    prompts = ["Describe the image.", "Please describe this image in detail.", "What do you see in this image?"]
    one = check(**(STRICT | options))
    together = mini.answer_batch(pictures[2:], prompts, one, **LONG)
    assert sum(found["fate"] in ("taken back", "left out") for answer in together for found in _asked(answer)) > 0
    for answer, picture, prompt in zip(together, pictures[2:], prompts, strict=True):
        alone = mini.answer(picture, prompt, one, **LONG)
        assert alone.token_ids == answer.token_ids
        assert alone.text == answer.text
        assert [found["object"] for found in _asked(alone)] == [found["object"] for found in _asked(answer)]


def test_an_answer_that_the_limit_cuts_holds_words_alone(mini: VLM, pictures: list[Image.Image]) -> None:
    """What is left out makes a row shorter than others; no end token closes it where the limit cut the draft."""
    limit: dict[str, Any] = {"max_new_tokens": 12}
    one = check(margin=2.0)
    together = mini.answer_batch(pictures, interventions=one, **limit)
    ends, padding = mini.model.generation_config.eos_token_id, mini.model.generation_config.pad_token_id
    shortened = [answer for answer in together if len(answer.token_ids) < 12 and ends not in answer.token_ids]
    assert shortened
    for answer, picture in zip(together, pictures, strict=True):
        assert padding not in answer.token_ids
        assert answer.token_ids == mini.answer(picture, interventions=one, **limit).token_ids


def test_what_was_taken_back_or_left_out_is_not_in_the_text(mini: VLM, pictures: list[Image.Image]) -> None:
    find = coco_objects()
    for rounds in (0, 2):
        for answer in mini.answer_batch(pictures, interventions=check(**STRICT | {"max_rounds": rounds}), **LONG):
            fates = {one["object"]: one["fate"] for one in _asked(answer)}
            assert {name for _, _, name in find(answer.text)} == {name for name in fates if fates[name] == "kept"}
            assert answer.text.endswith(".")
            for one in _asked(answer):
                gone = one["fate"] in ("taken back", "left out")
                assert one["fate"] == "not said" or (one["score"] < 2.0) == gone


@pytest.mark.parametrize("by", ["question", "confidence", "both"])
def test_when_it_asks_makes_no_difference_to_the_words(by: Any, mini: VLM, pictures: list[Image.Image]) -> None:
    strict = STRICT | {"by": by, "margin": {"question": 2.0, "confidence": -0.5, "both": 1.5}[by]}
    texts = [
        [one.text for one in mini.answer_batch(pictures, interventions=check(when=when, **strict), **LONG)]
        for when in ("sentence", "end")
    ]
    assert texts[0] == texts[1]
    assert texts[0] != [one.text for one in mini.answer_batch(pictures, **LONG)]


def test_both_adds_the_words_own_probability(mini: VLM, pictures: list[Image.Image]) -> None:
    answer = mini.answer(pictures[0], interventions=check(by="both", confidence_weight=0.5, margin="-inf"), **LONG)
    for one in _asked(answer):
        assert one["score"] == pytest.approx(one["margin"] + 0.5 * one["log_probability"])
        assert one["log_probability"] < 0


def test_calibration_takes_the_image_free_margin_off(mini: VLM, pictures: list[Image.Image]) -> None:
    answer = mini.answer(pictures[0], interventions=check(calibrated=True, margin="-inf"), **LONG)
    for one in _asked(answer):
        assert one["score"] == pytest.approx(one["margin"] - one["margin_without_picture"])


@pytest.mark.parametrize("by", ["question", "confidence"])
@pytest.mark.parametrize("control", ["random", "t_vhd", "blind"])
def test_a_control_takes_back_as_many_words(control: Any, by: Any, mini: VLM, pictures: list[Image.Image]) -> None:
    """The scores of each draft are dealt out anew."""
    options = {"max_rounds": 0, "by": by, "margin": 2.0 if by == "question" else -0.5}
    kept = mini.answer_batch(pictures, interventions=check(**options), **LONG)
    others = mini.answer_batch(pictures, interventions=check(control=control, **options), **LONG)
    changed = 0
    for one, other in zip(kept, others, strict=True):
        scores, dealt = ([row["score"] for row in _asked(answer)] for answer in (one, other))
        assert sorted(scores) == pytest.approx(sorted(dealt))
        assert [row["log_probability"] for row in _asked(one)] == [row["log_probability"] for row in _asked(other)]
        changed += [row["fate"] for row in _asked(one)] != [row["fate"] for row in _asked(other)]
    assert changed > 0


def test_controls_by_name() -> None:
    made = AskBack(by="both", margin=1.0).controls()
    assert {name: one.control for name, one in made.items()} == {
        "random-words": "random", "t-vhd-words": "t_vhd", "blind-words": "blind"
    }  # fmt: skip
    assert all((one.by, one.margin) == ("both", 1.0) for one in made.values())


def test_vhr_acts_on_drafts_and_questions(mini: VLM, pictures: list[Image.Image]) -> None:
    plain = mini.answer(pictures[1], interventions=check(margin="-inf"), **LONG)
    both = mini.answer(pictures[1], interventions=["vhr:gain=3", check(margin="-inf")], **LONG)
    alone = mini.answer(pictures[1], interventions="vhr:gain=3", **LONG)
    assert both.text == alone.text
    assert both.receipt is not None
    assert both.receipt["interventions"][0]["layers"]
    before = {one["object"]: one["margin"] for one in _asked(plain)}
    assert any(abs(one["margin"] - before.get(one["object"], 0.0)) > 1e-2 for one in _asked(both))


def test_it_goes_with_a_contrast(mini: VLM, pictures: list[Image.Image]) -> None:
    contrast = ImageFree(gamma=1.3)
    alone = mini.answer(pictures[3], contrast=contrast, **LONG)
    assert mini.answer(pictures[3], interventions=check(margin="-inf"), contrast=contrast, **LONG).text == alone.text
    with attach(mini.model, contrast, check(margin="-inf"), processor=mini.processor):
        inputs = mini.inputs([pictures[3]], "Please describe this image in detail.")
        ids = mini.model.generate(**inputs, do_sample=False, **LONG)
    assert (
        mini.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == alone.text
    )


def test_the_picture_is_encoded_once(mini: VLM, pictures: list[Image.Image]) -> None:
    rows: list[int] = []
    handle = mini.model.model.vision_tower.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    try:
        answer = mini.answer_batch(pictures, interventions=check(**STRICT), **LONG)[0]
    finally:
        handle.remove()
    assert rows == [len(pictures)]
    assert answer.receipt is not None
    assert answer.receipt["check"]["read_again"] == 0
    assert answer.receipt["check"]["questions"] > 10


def test_a_question_that_stands_before_the_picture_is_a_whole_prompt(mini: VLM, pictures: list[Image.Image]) -> None:
    other = VLM(mini.model, copy.deepcopy(mini.processor))
    other.processor.chat_template = (
        "<s>USER: {% for part in messages[0]['content'] %}{{ part.get('text', '') }}{% endfor %} <image> ASSISTANT:"
    )
    for answer, picture in zip(
        other.answer_batch(pictures[:2], interventions=check(margin="-inf"), **LONG), pictures[:2], strict=True
    ):
        assert answer.receipt is not None
        assert answer.receipt["check"]["read_again"] == answer.receipt["check"]["forwards"] > 0
        for one in _asked(answer):
            assert abs(one["margin"] - _margin(other, picture, one["question"])) < EXACT


def test_an_answer_of_yes_or_no_is_left_alone(mini: VLM, pictures: list[Image.Image]) -> None:
    for answer in mini.answer_batch(pictures, "Is there a dog in the image?", check(margin=100.0), max_new_tokens=6):
        assert answer.text in ("Yes.", "No.")
        assert not _asked(answer)


def test_it_streams(mini: VLM, pictures: list[Image.Image]) -> None:
    whole = mini.answer(pictures[4], interventions=check(**STRICT), **LONG)
    assert "".join(mini.stream(pictures[4], interventions=check(**STRICT), **LONG)) == whole.text


def test_a_function_is_not_written_in_words() -> None:
    with pytest.raises(errors.BadOption, match="entry-point group"):
        check().word()
    with pytest.raises(errors.BadOption, match="a function from a text"):
        AskBack(objects=3)  # type: ignore[arg-type]
    assert AskBack(margin=float("-inf")) == AskBack(margin="-inf") == parse_method("askback:margin=-inf")
    assert AskBack(margin="-inf").changes_nothing
    assert Mitigation.parse("vhr askback:by=both,margin=1").check == AskBack(by="both", margin=1.0)


@needs_coco
def test_attach_in_two_lines(mini: VLM, pictures: list[Image.Image]) -> None:
    """The reader's own call of generate, unchanged; words name the installed finder."""
    inputs = mini.inputs([pictures[2]], "Please describe this image in detail.")
    with attach(mini.model, "askback:margin=2,max_rounds=2,bound=0.1", processor=mini.processor) as run:
        ids = mini.model.generate(**inputs, do_sample=False, max_new_tokens=40)
    text = mini.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == mini.answer(pictures[2], interventions=check(**STRICT), **LONG).text
    assert "questions in" in str(run.receipt)
