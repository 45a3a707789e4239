"""Questions behind the picture's own keys: the margin is that of an ordinary answer to the same question."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.families import BYPASSING, Build, Inputs, Tiny
from tests.support.family_table import FamilyTable
from vlm_heads import HeadReinforcement, ImageBoost, RouteGain, attach, errors, examine
from vlm_heads.asking.asking import Asker, first_logits
from vlm_heads.asking.questions import Question, YesNo
from vlm_heads.asking.whole_prompts import WholePrompts
from vlm_heads.attached.tracking import Tracker
from vlm_heads.checks.ask_back import AskBack
from vlm_heads.receipt import Receipt

WORDS = YesNo((11, 12), (13,))
EXACT = 2e-4  # of margins, in float32
TAILS = [(21, 22, 23), (31, 32, 33, 34, 35)]
ALIKE = [(21, 22, 24, 23, 25), (21, 22, 24, 33, 34, 35)]  # they begin alike, as "Is there a dog" and "Is there a cat"
READ_AGAIN = {
    "qwen3_5": "linear attention",
    "lfm2_vl": "short convolutions",
    "idefics2": "a sliding window",
    "gemma3": "a sliding window",
    "ayavision": "a sliding window",
    "cohere2_vision": "a sliding window",
    "paligemma": "the image attends to the text",
    "mllama": "keys of the image alone",
}


def _asker(model: Any, inputs: Inputs, tracker: Tracker | None = None) -> Asker:
    anatomy = examine(model)
    tracker = tracker or Tracker(model, anatomy, (), Receipt(anatomy.model_type, anatomy.heads, ()))
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    return Asker(model, anatomy, tracker, WORDS, dict(inputs), mask, picture_first=True)


def _span(ids: Tensor, image: int) -> tuple[list[int], list[int]]:
    """Return the ids before the image, and those from its first to its last position."""
    row = [one for one in ids.tolist() if one != 0]
    last = len(row) - row[::-1].index(image)
    return row[: row.index(image)], row[row.index(image) : last]


def _ordinary(model: Any, inputs: Inputs, row: int, question: Question, image: int = 150) -> float:
    """Return the margin of the first token of `generate` after a whole prompt, alone."""
    alone = {name: value for name, value in inputs.items() if name in ("input_ids", "token_type_ids")}
    before, picture = _span(inputs["input_ids"][row], image)
    prompt = [*before, *picture, *question.after]
    rest = {name: value for name, value in inputs.items() if name not in alone and name != "attention_mask"}
    rest = {
        name: value[row : row + 1] if len(value) == len(inputs["input_ids"]) else value for name, value in rest.items()
    }
    whole = WholePrompts({**{name: value[row : row + 1] for name, value in alone.items()}, **rest}, [image])
    given = whole.of([prompt])
    output = model.generate(
        **given, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    logits = output.logits[0][0]
    return float(logits[list(WORDS.yes)].logsumexp(0) - logits[list(WORDS.no)].logsumexp(0))


def _said(model: Any, inputs: Inputs) -> Any:
    return model.generate(
        **inputs, max_new_tokens=6, do_sample=False, return_dict_in_generate=True, suppress_tokens=[150]
    ).past_key_values


@pytest.mark.parametrize("tails", [TAILS, ALIKE])
def test_a_margin_equals_that_of_an_ordinary_answer(
    tails: list[tuple[int, ...]], family: str, tiny: Build, support: FamilyTable
) -> None:
    built = tiny(family)
    if family in (*BYPASSING, "janus"):
        with pytest.raises(errors.UnsupportedModel):
            AskBack().check(examine(built.model))
        support.states(family, "askback", "refused")
        return
    image = 200 if family == "mllama" else 150
    before, _ = _span(built.inputs["input_ids"][0], image)
    questions = [Question("", tuple(before), tail) for tail in tails]
    with torch.no_grad():
        cache, asker = _said(built.model, built.inputs), _asker(built.model, built.inputs)
        margins = asker.margins(cache, [0, 0], questions)
    expected = [_ordinary(built.model, built.inputs, 0, one, image) for one in questions]
    assert max(abs(one - other) for one, other in zip(margins, expected, strict=True)) < EXACT
    assert abs(margins[0] - margins[1]) > 10 * EXACT  # empty otherwise
    shared = family not in READ_AGAIN
    assert (asker.asked.forwards, asker.asked.read_again) == ((1 + (tails is ALIKE), 0) if shared else (2, 2))
    support.states(family, "askback", "shares the image's keys" if shared else f"reads it again: {READ_AGAIN[family]}")


def _padded() -> Inputs:
    """Return a left-padded batch of three prompts, the texts before and behind their images of different lengths."""
    torch.manual_seed(3)
    image = [150] * 4
    rows = [[1, 5, *image, 7, 8, 9, 10], [1, *image, 9, 12, 13, 10, 11, 14], [1, 20, 21, 22, *image, 23]]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(3, 3, 28, 28)}


@pytest.mark.parametrize("tails", [TAILS, ALIKE])
@pytest.mark.parametrize("heads", [2, 4])
def test_in_a_padded_batch_too(heads: int, tails: list[tuple[int, ...]], tiny: Build) -> None:
    model, inputs = tiny("llava", num_key_value_heads=heads).model, _padded()
    rows = [0, 1, 1, 2]
    questions = [Question("", (), tails[at % 2]) for at in range(4)]
    with torch.no_grad():
        asker = _asker(model, inputs)
        margins = asker.margins(_said(model, inputs), rows, questions)
    expected = [_ordinary(model, inputs, row, one) for row, one in zip(rows, questions, strict=True)]
    assert max(abs(one - other) for one, other in zip(margins, expected, strict=True)) < EXACT
    assert asker.asked.forwards == 1 + (tails is ALIKE)


def test_what_questions_begin_with_is_read_once_a_row(llava: Tiny) -> None:
    """Of four questions about two rows, three ids are alike: 2 x 3 positions once, and 4 x 3 of the rest, padded."""
    inputs, read = _padded(), []
    handle = llava.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].shape))
    questions = [Question("", (), ALIKE[at % 2]) for at in range(4)]
    with torch.no_grad():
        cache = _said(llava.model, inputs)
        read.clear()
        _asker(llava.model, inputs).margins(cache, [0, 0, 2, 2], questions)
    handle.remove()
    assert read == [(2, 3), (4, 3)]


@pytest.mark.parametrize("more", [[], [1, 0]])  # with several of a row, what they begin with is read before
def test_offsets_of_positions_follow_the_rows(more: list[int], tiny: Build) -> None:
    """Qwen keeps the offset between cache slots and positions on the model, one a row; pictures of two sizes."""
    model = tiny("qwen2_vl").model
    torch.manual_seed(3)
    rows = [[1, 5, 152, *[150] * 4, 153, 7, 8, 9], [1, 152, *[150] * 6, 153, 7, 10]]
    ids = torch.tensor(rows)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == 150).int(),
        "pixel_values": torch.randn(16 + 24, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 6]]),
    }
    question = Question("", (), (153, 21, 22, 23, 24))
    with torch.no_grad():
        margins = _asker(model, inputs).margins(_said(model, inputs), [1, 0, *more], [question] * (2 + len(more)))[:2]
    alone = {
        0: {"pixel_values": inputs["pixel_values"][:16], "image_grid_thw": inputs["image_grid_thw"][:1]},
        1: {"pixel_values": inputs["pixel_values"][16:], "image_grid_thw": inputs["image_grid_thw"][1:]},
    }
    for row, margin in zip([1, 0], margins, strict=True):
        one = {"input_ids": ids[row : row + 1], "mm_token_type_ids": inputs["mm_token_type_ids"][row : row + 1]}
        assert abs(margin - _ordinary(model, one | alone[row], 0, question)) < EXACT


def test_a_picture_that_attends_to_the_text_is_read_again(tiny: Build) -> None:
    """Sharing its keys would be wrong, and the test above would see it."""
    built = tiny("paligemma")
    question = Question("", (1, 5, 6), TAILS[0])
    with torch.no_grad():
        cache, asker = _said(built.model, built.inputs), _asker(built.model, built.inputs)
        asker._picture_first = True
        wrong = asker.margins(cache, [0], [question])[0]
    assert abs(wrong - _ordinary(built.model, built.inputs, 0, question)) > 5 * EXACT


def test_without_the_picture(llava: Tiny) -> None:
    """The image-free margin is that of the question's own text."""
    questions = [Question("", (1, 5), tail) for tail in TAILS]
    with torch.no_grad():
        margins = _asker(llava.model, llava.inputs).without_picture(questions)
        for margin, question in zip(margins, questions, strict=True):
            logits = llava.model(input_ids=torch.tensor([[*question.before, *question.after]])).logits[0, -1]
            expected = logits[list(WORDS.yes)].logsumexp(0) - logits[list(WORDS.no)].logsumexp(0)
            assert abs(margin - float(expected)) < EXACT


@pytest.mark.parametrize("tail", [TAILS[1], ALIKE[1]])
@pytest.mark.parametrize("method", [HeadReinforcement(gain=6.0, layers="all"), RouteGain(image=4.0, layers="all")])
def test_questions_are_answered_under_what_is_attached(method: Any, tail: tuple[int, ...], llava: Tiny) -> None:
    """As a further turn of the same conversation is: with the heads that its prompt chose."""
    inputs, question = _padded(), Question("", (), tail)
    plain = _asker(llava.model, inputs).margins(_said(llava.model, inputs), [0, 2, 2], [question] * 3)
    with torch.no_grad(), attach(llava.model, method) as run:
        asker = _asker(llava.model, inputs, run.tracker)
        margins = asker.margins(_said(llava.model, inputs), [0, 2, 2], [question] * 3)
        for row, margin in zip([0, 2], [margins[0], margins[2]], strict=True):
            assert abs(margin - _as_a_turn(llava, inputs, row, question)) < EXACT
    assert abs(margins[0] - plain[0]) > 1e-2


def _as_a_turn(llava: Tiny, inputs: Inputs, row: int, question: Question) -> float:
    """Return the margin where the cache of one row alone is cut behind the image, and the question goes on from it."""
    kept = inputs["attention_mask"][row].bool()
    ids = inputs["input_ids"][row : row + 1, kept]
    cache = llava.model(
        input_ids=ids, pixel_values=inputs["pixel_values"][row : row + 1], use_cache=True
    ).past_key_values
    end = ids.shape[1] - ids[0].flip(0).eq(150).int().argmax().item()
    cache.crop(end - ids.shape[1])
    logits = llava.model(input_ids=torch.tensor([question.after]), past_key_values=cache).logits[0, -1]
    return float(logits[list(WORDS.yes)].logsumexp(0) - logits[list(WORDS.no)].logsumexp(0))


def test_watchers_and_the_generation_itself_see_nothing_of_a_question(llava: Tiny) -> None:
    plain = llava.generate(steps=6)
    with torch.no_grad(), attach(llava.model, ImageBoost(strength=0.0), allow_idle=True) as run:
        asker = _asker(llava.model, llava.inputs, run.tracker)
        cache = _said(llava.model, llava.inputs)
        before = [layer.keys.clone() for layer in cache.layers]
        asker.margins(cache, [0, 0], [Question("", (), one) for one in TAILS])
        assert all(torch.equal(one, layer.keys) for one, layer in zip(before, cache.layers, strict=True))
        assert run.receipt.generations == 1
    assert torch.equal(plain.sequences, llava.generate(steps=6).sequences)


def test_first_logits_are_those_of_generate(family: str, tiny: Build) -> None:
    if family in BYPASSING:
        return
    built = tiny(family)
    with torch.no_grad():
        got = first_logits(built.model, dict(built.inputs))
    assert float((got - built.generate(1).logits[0]).abs().max()) < EXACT
