"""Drafts that stop, go on and are taken back, against a plain loop that computes everything anew."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from tests.support.compare import same_ids
from tests.support.families import BYPASSING, Build, Inputs, Tiny
from tests.support.words import END, Words, WordsProcessor, every_third
from vlm_heads import (
    BranchContrast,
    CounterfactualAttention,
    FadingImage,
    HeadReinforcement,
    ImageFree,
    MaskedHeads,
    PriorAndBias,
    attach,
    errors,
)
from vlm_heads.asking.drafts import Context, Draft, Drafts
from vlm_heads.asking.leaving_out import leave_out
from vlm_heads.asking.named import Named
from vlm_heads.asking.sentences import ends_sentence
from vlm_heads.checks.ask_back import AskBack
from vlm_heads.generate_call import GenerateCall

NO_IMAGE = {"suppress_tokens": [150]}
STRICT = -4.0  # log-probability of a word in a vocabulary of 200 that says next to nothing


AGAIN = {"when": "sentence", "max_rounds": 2, "bound": 0.0}


def _free(**options: Any) -> AskBack:
    """Return the check that asks nothing: a word's own probability speaks for it."""
    return AskBack(by="confidence", objects=every_third, **{**AGAIN, **options})


def _checked(model: Any, inputs: Inputs, check: AskBack, *also: Any, **arguments: Any) -> tuple[Tensor, Any]:
    with attach(model, *also, check, processor=WordsProcessor(), allow_idle=True) as run:
        said = model.generate(**inputs, max_new_tokens=16, **{"do_sample": False, **NO_IMAGE, **arguments})
    return said, run.receipt.check


@pytest.mark.parametrize("when", ["sentence", "end"])
def test_where_nothing_is_taken_back_the_ids_are_plain(when: Any, family: str, tiny: Build) -> None:
    """Each draft stops after its sentence and the next goes on from the cache, in every family."""
    if family in (*BYPASSING, "janus"):
        return
    built = tiny(family)
    plain = built.model.generate(**built.inputs, max_new_tokens=16, do_sample=False, **NO_IMAGE)
    said, receipt = _checked(built.model, built.inputs, _free(margin="-inf", when=when))
    assert same_ids(plain, said)
    assert receipt.drafts > 1 or when == "end" or "." not in Words().decode(said[0, -16:])


def _next(model: Any, inputs: Inputs, said: list[int]) -> Tensor:
    """Return the logits `[V]` after a prompt and what was said, everything computed anew."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([said], dtype=torch.long)], dim=1)
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, pixel_values=inputs["pixel_values"], use_cache=False).logits[0, -1]
    logits[150] = -torch.inf
    return logits


class Plainly:
    """The specification: one row, greedy, no cache, one token after the other.

    A sentence is drafted to its end. Its first object that is failing is taken back: the sentence goes on from before
    it, where its token may not stand, and where it may not be said again. After some rounds the failing objects are
    left out. What failed once fails always.
    """

    def __init__(self, model: Any, inputs: Inputs, margin: float, max_rounds: int, limit: int) -> None:
        self.model, self.inputs, self.margin, self.max_rounds, self.limit = model, inputs, margin, max_rounds, limit
        self.known: dict[str, float] = {}
        self.taken_back = 0

    def run(self) -> list[int]:
        said: list[int] = []
        shown: list[int] = []
        over = False
        while not over:
            sentence, over = self._sentence(said)
            text = Words().decode(sentence)
            failing = frozenset(one.name for one in every_third(text) if self.known[one.name] < self.margin)
            left = leave_out(text, every_third, failing) if failing else None
            shown += sentence if left is None else Words()(left)["input_ids"] + sentence[-1:] * (sentence[-1] == END)
            said += sentence
        return shown

    def _sentence(self, before: list[int]) -> tuple[list[int], bool]:
        kept: list[int] = []
        barred: dict[int, set[int]] = {}
        gone: set[int] = set()
        for again in range(self.max_rounds + 1):
            sentence, chances = list(kept), [0.0] * len(kept)
            while True:
                logits = _next(self.model, self.inputs, before + sentence)
                chances_here = logits.log_softmax(0)
                logits[list(barred.get(len(sentence), set()) | gone)] = -torch.inf
                token = int(logits.argmax())
                sentence.append(token)
                chances.append(float(chances_here[token]))
                over = token == END or len(before) + len(sentence) == self.limit
                if over or token % 4 == 0:
                    break
            for token, chance in zip(sentence, chances, strict=True):
                if token % 3 == 0 and token != END:
                    self.known.setdefault(f"w{token}", chance)
            bad = [at for at, one in enumerate(sentence) if self.known.get(f"w{one}", 0.0) < self.margin]
            if not bad or again == self.max_rounds:
                return sentence, over
            self.taken_back += 1
            kept = sentence[: bad[0]]
            barred = {at: tokens for at, tokens in barred.items() if at <= bad[0]}
            barred.setdefault(bad[0], set()).add(sentence[bad[0]])
            gone.add(sentence[bad[0]])
        raise AssertionError("the last round returns")


@pytest.mark.parametrize("when", ["sentence", "end"])
@pytest.mark.parametrize("max_rounds", [0, 1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_checked_answer_equals_the_plain_loop(seed: int, max_rounds: int, when: Any, tiny: Build) -> None:
    built = tiny("llava", seed=seed)
    plainly = Plainly(built.model, built.inputs, STRICT, max_rounds, limit=16)
    expected = plainly.run()
    said, receipt = _checked(built.model, built.inputs, _free(margin=STRICT, max_rounds=max_rounds, when=when))
    assert said[0, built.inputs["input_ids"].shape[1] :].tolist() == expected
    assert max_rounds == 0 or plainly.taken_back > 0, "choose a seed that takes something back"
    assert receipt.taken_back + receipt.left_out > 0


def test_where_no_other_word_is_as_probable_the_phrase_is_left_out_at_once(llava: Tiny) -> None:
    """No token is more probable than the one that greedy decoding takes."""
    said, receipt = _checked(llava.model, llava.inputs, _free(margin=STRICT, bound=1.0))
    at_once, _ = _checked(llava.model, llava.inputs, _free(margin=STRICT, max_rounds=0))
    assert same_ids(said, at_once)
    assert (receipt.taken_back, receipt.left_out > 0) == (0, True)


def test_how_far_a_word_stands_above_the_next_best() -> None:
    """The word has -0.1 and the next best -3: 2.9 nats. One barred there had -0.05: 2.95."""
    context = Context([1], [0], said=[5], chances=[-1.0], seconds=[-1.5])
    draft = Draft(ids=[6], chances=[-0.1], seconds=[-3.0], columns=[2])
    assert context.lead_at(0, draft) == pytest.approx(0.5)
    assert context.lead_at(1, draft) == pytest.approx(2.9)
    context.barred = {1: {7: -0.05}}
    assert context.lead_at(1, draft) == pytest.approx(2.95)


def test_log_probabilities_are_those_before_anything_is_barred(llava: Tiny) -> None:
    """Of the token that was chosen, and of the best other one that was not barred."""
    plain = llava.generate(steps=3, **NO_IMAGE, eos_token_id=None)
    first = int(plain.sequences[0, llava.inputs["input_ids"].shape[1]])
    arguments = {**llava.inputs, **NO_IMAGE, "max_new_tokens": 1, "do_sample": False}
    drafts = Drafts(llava.model, llava.model.generate, GenerateCall.of(llava.model, (), arguments), Words(), [150])
    drafts.contexts[0].barred = {0: {first: 0.0}}
    draft = drafts.write(one_sentence=False)[0]
    scores = plain.logits[0][0].clone()
    scores[150] = -torch.inf
    best, second, third = scores.log_softmax(0).topk(3).values.tolist()
    assert draft.ids != [first]
    assert (draft.chances, draft.seconds) == (pytest.approx([second]), pytest.approx([third]))
    assert best > second


def _failing(receipt: Any, row: int = 0) -> set[str]:
    return {one["object"] for one in receipt.rows[row] if one["score"] < STRICT and one["fate"] != "not said"}


@pytest.mark.parametrize("max_rounds", [0, 2])
def test_what_was_taken_back_is_never_said(max_rounds: int, tiny: Build) -> None:
    built = tiny("llava")
    said, receipt = _checked(built.model, built.inputs, _free(margin=STRICT, max_rounds=max_rounds))
    words = set(Words().decode(said[0, built.inputs["input_ids"].shape[1] :]).replace(".", "").split())
    assert _failing(receipt)
    assert not words & _failing(receipt)


def _batch() -> Inputs:
    torch.manual_seed(3)
    image = [150] * 4
    rows = [[1, 5, *image, 7, 8, 9, 10], [1, *image, 9, 12, 13, 10, 11, 14], [1, 20, 21, 22, *image, 23]]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(3, 3, 28, 28)}


def _alone(inputs: Inputs, row: int) -> Inputs:
    kept = inputs["attention_mask"][row].bool()
    ids = inputs["input_ids"][row : row + 1, kept]
    return {"input_ids": ids, "pixel_values": inputs["pixel_values"][row : row + 1]}


BESIDE = [(), (HeadReinforcement(gain=3.0, layers="all"),), (ImageFree(gamma=2.0),), (FadingImage(rate=0.3),),
          (BranchContrast(start=0.5, weight=1.0),), (MaskedHeads(share=0.3),),
          (PriorAndBias(start=1, text=3, sure=1.0),),
          (CounterfactualAttention(vision="none", language="random", mode="code"),)]  # fmt: skip


@pytest.mark.parametrize(
    "also", BESIDE, ids=["alone", "vhr", "pai-contrast", "m3id", "branch", "maskcd", "crops", "causalmm"]
)
@pytest.mark.parametrize("when", ["sentence", "end"])
def test_a_batch_gives_what_its_rows_give_alone(when: Any, also: tuple[Any, ...], tiny: Build) -> None:
    """Rows go on from different places of one cache, and of a second stream's."""
    model, inputs = tiny("llava").model, _batch()
    check = _free(margin=STRICT, when=when)
    together, receipt = _checked(model, inputs, check, *also)
    assert receipt.taken_back > 0
    width = inputs["input_ids"].shape[1]
    for row in range(3):
        alone, own = _checked(model, _alone(inputs, row), check, *also)
        expected = alone[0, int(inputs["attention_mask"][row].sum()) :].tolist()
        got = together[row, width:].tolist()
        assert got[: len(expected)] == expected
        assert set(got[len(expected) :]) <= {0}
        assert [one["fate"] for one in own.rows[0]] == [one["fate"] for one in receipt.rows[row]]


@pytest.mark.parametrize("family_name", ["gemma3", "qwen3_5", "idefics2", "mllama"])
def test_where_the_cache_cannot_be_cut_the_prompt_is_read_again(family_name: str, tiny: Build) -> None:
    built = tiny(family_name)
    said, receipt = _checked(built.model, built.inputs, _free(margin=STRICT))
    at_once, other = _checked(built.model, built.inputs, _free(margin=STRICT, when="end"))
    assert same_ids(said, at_once)
    assert receipt.taken_back == other.taken_back > 0
    words = set(Words().decode(said[0, built.inputs["input_ids"].shape[1] :]).replace(".", "").split())
    assert not words & _failing(receipt)


def test_the_picture_is_encoded_once(llava: Tiny) -> None:
    calls = []
    handle = llava.model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        _, receipt = _checked(llava.model, llava.inputs, _free(margin=STRICT))
    finally:
        handle.remove()
    assert receipt.drafts > 3
    assert len(calls) == 1


def test_sampling_follows_its_seed(llava: Tiny) -> None:
    """Where nothing is taken back the draws are those of plain sampling."""
    sampled = {"do_sample": True, "temperature": 1.5, "top_k": 0}

    def draw(check: AskBack | None) -> Tensor:
        torch.manual_seed(8)
        if check is None:
            return llava.model.generate(**llava.inputs, max_new_tokens=16, **sampled, **NO_IMAGE)
        return _checked(llava.model, llava.inputs, check, **sampled)[0]

    assert same_ids(draw(None), draw(_free(margin="-inf")))
    assert same_ids(draw(_free(margin=STRICT)), draw(_free(margin=STRICT)))
    assert not same_ids(draw(None), draw(_free(margin=STRICT)))


def test_say_more_makes_ending_less_likely(llava: Tiny) -> None:
    """An end token that is always most likely is said at once, and never where it is pushed down far enough."""
    with torch.no_grad():
        llava.model.get_output_embeddings().weight[END] *= 0.0
        bias = torch.zeros(200)
        bias[END] = 50.0
        llava.model.lm_head.bias = nn.Parameter(bias)
    short, _ = _checked(llava.model, llava.inputs, _free(margin="-inf"))
    long, _ = _checked(llava.model, llava.inputs, _free(margin="-inf", say_more=100.0))
    width = llava.inputs["input_ids"].shape[1]
    assert short[0, width:].tolist() == [END]
    assert END not in long[0, width:]
    assert long.shape[1] == width + 16


def test_a_criterion_of_the_callers_ends_the_answer(llava: Tiny) -> None:
    """It sees the tokens as said, and what it ends is over."""
    seen: list[Tensor] = []

    def criterion(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        seen.append(ids.clone())
        return torch.tensor([ids.shape[1] >= llava.inputs["input_ids"].shape[1] + 7])

    said, _ = _checked(llava.model, llava.inputs, _free(margin="-inf"), stopping_criteria=[criterion])
    assert said.shape[1] == llava.inputs["input_ids"].shape[1] + 7
    assert all(torch.equal(ids, said[:, : ids.shape[1]]) for ids in seen)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_new_tokens": 9}, {"max_length": 20}, {"generation_config": GenerationConfig(max_new_tokens=7)},
        {"max_new_tokens": 12, "repetition_penalty": 1.5}, {"max_new_tokens": 12, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 12, "bad_words_ids": [[31], [136, 31]]}, {"max_new_tokens": 12, "eos_token_id": None},
        {"max_new_tokens": 12, "sequence_bias": [[[END], 3.0]]},
    ],
    ids=str,
)  # fmt: skip
def test_other_ways_to_ask_generate_stay_what_they_are(arguments: dict[str, Any], llava: Tiny) -> None:
    """Sentence by sentence, with the prompt by position, and the output as a dictionary."""
    ids, rest = llava.inputs["input_ids"], {"pixel_values": llava.inputs["pixel_values"], **NO_IMAGE}
    plain = llava.model.generate(ids, **rest, do_sample=False, **arguments)
    with attach(llava.model, _free(margin="-inf"), processor=WordsProcessor()):
        said = llava.model.generate(ids, **rest, do_sample=False, **arguments, return_dict_in_generate=True)
    assert same_ids(plain, said.sequences)


def test_a_contrast_that_cannot_be_rewound_is_refused(tiny: Build) -> None:
    built = tiny("gemma3")
    with pytest.raises(errors.UnsupportedGeneration, match="max_rounds=0 and when=end"):
        _checked(built.model, built.inputs, _free(margin=STRICT), FadingImage(rate=0.1))
    said, _ = _checked(built.model, built.inputs, _free(margin=STRICT, max_rounds=0, when="end"), FadingImage(rate=0.1))
    assert said.shape[0] == 1


class _Heard:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.puts: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.puts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


def test_an_answer_streams_sentence_by_sentence(llava: Tiny) -> None:
    heard = _Heard()
    said, _ = _checked(llava.model, llava.inputs, _free(margin=STRICT), streamer=heard)
    prompt, *sentences = heard.puts
    assert prompt == llava.inputs["input_ids"][0].tolist()
    assert [one for sentence in sentences for one in sentence] == said[0, len(prompt) :].tolist()
    assert all(ends_sentence(Words().decode(one)) for one in sentences[:-1])
    assert heard.ended
    with pytest.raises(errors.UnsupportedGeneration, match="one picture at a time"):
        _checked(llava.model, _batch(), _free(), streamer=_Heard())


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}, {"use_cache": False}, {"max_time": 1.0},
        {"stop_strings": ["w"]}, {"min_new_tokens": 3}, {"cache_implementation": "static"}, {"guidance_scale": 2.0},
        {"exponential_decay_length_penalty": (3, 1.3)}, {"begin_suppress_tokens": [5]},
        {"encoder_repetition_penalty": 1.5}, {"encoder_no_repeat_ngram_size": 2}, {"token_healing": True},
        {"output_scores": True, "return_dict_in_generate": True}, {"penalty_alpha": 0.5, "top_k": 4},
    ],
    ids=lambda one: next(iter(one)),
)  # fmt: skip
def test_what_cannot_be_checked_is_refused_with_its_remedy(arguments: dict[str, Any], llava: Tiny) -> None:
    with pytest.raises(errors.UnsupportedGeneration, match=f"leave {next(iter(arguments))}.* out"):
        _checked(llava.model, llava.inputs, _free(), **arguments)
    assert "generate" not in vars(llava.model)


class _Trouble(Exception):
    pass


@pytest.mark.parametrize("where", ["finder", "layer"])
def test_an_exception_leaves_nothing_on_the_model(where: str, llava: Tiny) -> None:
    plain = llava.generate(steps=6)
    before = {name: dict(vars(module)) for name, module in llava.model.named_modules()}
    steps = iter(range(100))

    def fail(*_: Any) -> None:
        if next(steps) == (2 if where == "finder" else 7):
            raise _Trouble

    def find(text: str) -> list[Named]:
        fail()
        return every_third(text)

    handle = llava.decoder_layers[1].register_forward_hook(fail) if where == "layer" else None
    objects: Callable[[str], list[Named]] = find if where == "finder" else every_third
    with pytest.raises(_Trouble):
        _checked(llava.model, llava.inputs, AskBack(by="confidence", objects=objects, margin=STRICT), "vhr")
    if handle is not None:
        handle.remove()
    after = {name: dict(vars(module)) for name, module in llava.model.named_modules()}
    assert before.keys() == after.keys()
    assert all(before[name].keys() == after[name].keys() for name in before)
    again = llava.generate(steps=6)
    assert same_ids(plain, again)


def test_a_prompt_without_a_picture_is_answered_plainly(llava: Tiny) -> None:
    text = {"input_ids": torch.tensor([[1, 5, 6, 7, 8]])}
    plain = llava.model.generate(**text, max_new_tokens=16, do_sample=False, **NO_IMAGE)
    said, receipt = _checked(llava.model, text, _free(margin=STRICT))
    assert same_ids(plain, said)
    assert receipt.calls == 0
    run = attach(llava.model, _free(), processor=WordsProcessor())
    llava.model.generate(**text, max_new_tokens=2)
    with pytest.raises(errors.NothingIntervened, match="checked nothing"):
        run.detach()


def test_a_check_needs_the_processor(llava: Tiny) -> None:
    with pytest.raises(errors.BadOption, match="processor=processor"):
        attach(llava.model, _free())
    assert "generate" not in vars(llava.model)
