"""The laws of lenses, over every one of the folder; the same as of interventions, told where `generate` is asked."""

import copy
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor

from tests.support.compare import Generated, distance, equal, rounding
from tests.support.families import CLOSE, Build, Tiny
from tests.support.family_table import FamilyTable
from tests.support.laws import fingerprint, ragged
from tests.support.uncached import uncached
from vlm_heads import FirstLogits, Lens, attach, errors, known_lenses, parse_method
from vlm_heads.attached.lens_processor import LensProcessor, LensWatcher
from vlm_heads.call import AttentionCall, GenerationState
from vlm_heads.families import Anatomy, examine
from vlm_heads.key_map import KeyMap
from vlm_heads.methods import TokenStep
from vlm_heads.receipt import LensReceipt
from vlm_heads.token_head import TokenHead

NAMES = list(known_lenses())
CLOSE_SCORES = rounding(torch.float32, terms=64, size=100.0)  # under trial options, whose weights are large


def _active(name: str) -> Lens:
    kind = known_lenses()[name]
    return kind(**kind.trial)


def _scores(model: Tiny, **changes: object) -> Generated:
    return model.generate(output_scores=True, **changes)


@dataclass(frozen=True)
class _Reading(Lens):
    """Keeps what it is shown, and changes nothing."""

    name: ClassVar[str] = "reading"
    neutral: ClassVar[Mapping[str, Any]] = {}
    entering: ClassVar[list[dict[int, Tensor]]] = []
    own: ClassVar[list[Tensor]] = []
    said: ClassVar[list[list[int]]] = []

    def reads(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset(range(anatomy.depth + 1))

    def weigh(self, step: TokenStep) -> Tensor:
        step.note()
        self.entering.append(dict(step.state.entering))
        self.own.append(step.own_logits())
        self.said.append(step.said.tolist())
        return step.logits


@pytest.fixture
def reading() -> _Reading:
    """A lens that keeps what it is shown, and has seen nothing."""
    for kept in (_Reading.entering, _Reading.own, _Reading.said):
        kept.clear()
    return _Reading()


@pytest.mark.parametrize("name", NAMES)
def test_1_neutral_changes_no_bit(name: str, llava: Tiny) -> None:
    kind = known_lenses()[name]
    assert kind.neutral
    plain = _scores(llava)
    with attach(llava.model, kind(**kind.neutral), allow_idle=True):
        got = _scores(llava)
    assert equal(plain, got)
    assert equal(plain.scores, got.scores)


@pytest.mark.parametrize("name", NAMES)
def test_1_active_changes_the_answer(name: str, llava: Tiny) -> None:
    plain = llava.generate()
    with attach(llava.model, _active(name)):
        assert not equal(plain, llava.generate())


@pytest.mark.parametrize("name", NAMES)
def test_2_leaving_restores_the_model(name: str, llava: Tiny) -> None:
    plain, before = llava.generate(), fingerprint(llava.model)
    with attach(llava.model, _active(name)):
        llava.generate()
    assert fingerprint(llava.model) == before
    assert equal(plain, llava.generate())
    with pytest.raises(ZeroDivisionError), attach(llava.model, _active(name)):
        raise ZeroDivisionError
    assert fingerprint(llava.model) == before


@pytest.mark.parametrize("name", NAMES)
def test_3_a_second_call_starts_clean(name: str, llava: Tiny) -> None:
    other = copy.copy(llava)
    other.inputs = {**llava.inputs, "pixel_values": torch.randn_like(llava.inputs["pixel_values"])}
    with attach(llava.model, _active(name)):
        alone = other.generate()
    with attach(llava.model, _active(name)):
        llava.generate()
        assert equal(alone, other.generate())


@pytest.mark.parametrize("name", NAMES)
def test_3_two_threads_with_one_model_do_not_mix(name: str, tiny: Build) -> None:
    model = tiny("llava")
    pictures = [torch.randn(1, 3, 28, 28) for _ in range(2)]
    got: dict[int, Generated] = {}
    with attach(model.model, _active(name)):
        expected = [model.generate(pixel_values=one) for one in pictures]
        start = threading.Barrier(2)

        def work(index: int) -> None:
            start.wait()
            got[index] = model.generate(pixel_values=pictures[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(equal(expected[index], got[index]) for index in (0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_3_another_thread_may_ask_the_head_in_the_middle_of_a_forward(name: str, llava: Tiny) -> None:
    """As the lens of a second answer does between its forwards: what it hands to the last norm is not this answer's."""
    anatomy = examine(llava.model)
    norm = TokenHead.of(llava.model, anatomy).norm

    def ask(_: object, __: object) -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(norm, torch.ones(64)).result()

    with attach(llava.model, _active(name)):
        alone = _scores(llava)
        handle = anatomy.layers[1].register_forward_pre_hook(ask)
        beside = _scores(llava)
        handle.remove()
    assert equal(alone.scores, beside.scores)


@pytest.mark.parametrize("steering", ["adavboost:visual=3,scale=1", "memvr:threshold=0,ratio=0.9"])
def test_what_steering_asks_of_the_head_did_not_enter_it(steering: str, llava: Tiny, reading: _Reading) -> None:
    """The prompt has more positions than a hidden state has numbers, so taking one for the other cannot pass."""
    ids = torch.cat([llava.inputs["input_ids"], torch.full((1, 80), 9)], dim=1)
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with attach(llava.model, parse_method(steering)):
        steered = _scores(llava, **asked)
    with attach(llava.model, reading, parse_method(steering)):
        assert equal(steered.logits, _scores(llava, **asked).logits)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_4_a_batch_gives_what_its_rows_give_alone(name: str, heads: int, tiny: Build) -> None:
    """One row has no image: it is left alone, bit for bit."""
    model = tiny("llava", num_key_value_heads=heads)
    batch, rows = ragged()
    asked = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    with attach(model.model, _active(name)) as run:
        together = model.model.generate(**batch, **asked)
    for index, row in enumerate(rows):
        with attach(model.model, _active(name), allow_idle=True):
            alone = model.model.generate(**row, **asked)
        for step, (ours, theirs) in enumerate(zip(together.scores, alone.scores, strict=True)):
            assert distance(ours[index], theirs[0]) < CLOSE_SCORES, f"row {index}, step {step}"
    assert run.receipt.lenses[0].tokens == 2 * 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cache", [{"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}])
def test_any_cache_gives_the_same(cache: dict[str, object], name: str, llava: Tiny) -> None:
    with attach(llava.model, _active(name)):
        expected, got = _scores(llava), _scores(llava, **cache)
    assert distance(expected, got) < CLOSE
    assert distance(expected.scores, got.scores) < CLOSE_SCORES


class _Keeping(LensWatcher):
    """Keeps what a lens kept of the attention of one forward."""

    seen: Mapping[Any, Any] = {}

    def see(self, call: AttentionCall) -> None:
        super().see(call)
        self.seen = call.memory


class _Again(LogitsProcessor):
    """The same lens over forwards that remember nothing; what entered the layers is read by `hidden_states`."""

    def __init__(self, model: Tiny, lens: Lens) -> None:
        self.model, self.lens, self.anatomy = model, lens, examine(model.model)
        self.head = TokenHead.of(model.model, self.anatomy)
        self.receipt = LensReceipt("again", {})
        self.memory: dict[Any, Any] = {}
        self.length = model.inputs["input_ids"].shape[1]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        state = GenerationState(KeyMap.of_prompt(ids, None, 150))
        last: list[Tensor] = []
        handle = self.head.norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
        pixels = self.model.inputs["pixel_values"].repeat_interleave(len(ids), 0)
        watching = _Keeping(self.lens)
        with torch.no_grad(), attach(self.model.model, watch=[watching], allow_idle=True):
            output = self.model.model(input_ids=ids, pixel_values=pixels, use_cache=False, output_hidden_states=True)
        handle.remove()
        states = (*output.hidden_states[:-1], last[0])
        state.entering = {layer: one[:, -1] for layer, one in enumerate(states)}
        said = torch.full_like(ids[:, 0], ids.shape[1] - self.length)
        reads = self.lens.reads(self.anatomy)
        step = TokenStep(scores, said, state, self.head, self.memory, self.receipt, reads, self.anatomy, watching.seen)
        return self.lens.weigh(step).log_softmax(-1)


@pytest.mark.parametrize("name", NAMES)
def test_beams_follow_their_rows(name: str, llava: Tiny) -> None:
    lens = _active(name)
    beams: dict[str, object] = {"num_beams": 3, "num_return_sequences": 3, "steps": 6, "suppress_tokens": [150]}
    expected = _scores(llava, logits_processor=[_Again(llava, lens)], **beams)
    with attach(llava.model, lens):
        got = _scores(llava, **beams)
    assert equal(expected.sequences, got.sequences)
    assert distance(expected.sequences_scores, got.sequences_scores) < CLOSE_SCORES


@pytest.mark.parametrize("name", NAMES)
def test_sampling_takes_the_weighed_logits(name: str, llava: Tiny) -> None:
    with attach(llava.model, _active(name)):
        drawn = _scores(llava, do_sample=True, temperature=0.7, top_k=0)
    for step, scores in enumerate(drawn.scores):
        assert torch.isfinite(scores[0, drawn.sequences[0, -5:][step]])
    with attach(llava.model, _active(name)):
        assert equal(drawn, _scores(llava, do_sample=True, temperature=0.7, top_k=0))


@pytest.mark.parametrize("name", NAMES)
def test_6_nothing_fired_raises_at_exit(name: str, llava: Tiny) -> None:
    text = {"input_ids": torch.tensor([[1, 5, 6, 7, 8]]), "max_new_tokens": 2}
    with pytest.raises(errors.NothingIntervened, match="not run"), attach(llava.model, _active(name)):
        pass
    with pytest.raises(errors.NothingIntervened, match="image tokens"), attach(llava.model, _active(name)):
        llava.model.generate(**text)
    said = "generate\\(\\) was not called"
    with pytest.raises(errors.NothingIntervened, match=said), attach(llava.model, _active(name)), torch.no_grad():
        llava.model(**llava.inputs)
    with attach(llava.model, _active(name), allow_idle=True) as run:
        assert equal(llava.model.generate(**text), llava.model.generate(**text))
    assert not run.receipt.fired
    assert "nothing fired" in str(run.receipt)


@pytest.mark.parametrize("name", NAMES)
def test_a_receipt_says_what_was_done(name: str, llava: Tiny) -> None:
    with attach(llava.model, _active(name)) as run:
        llava.generate(steps=4)
    written = run.receipt.to_dict()["lenses"]
    assert [one["name"] for one in written] == [name]
    assert written[0]["tokens"] == 4
    assert sum(written[0]["layers"].values()) in (0, 4)
    assert f"{name}: 4 tokens weighed" in str(run.receipt)
    assert name in repr(run.receipt)


def test_lenses_act_in_the_order_given(llava: Tiny) -> None:
    """FLB and DeCo: the second weighs what the first returns."""
    flb, deco = _active("flb"), _active("deco")
    found = []
    for order in ((flb, deco), (deco, flb)):
        with attach(llava.model, *order):
            found.append(_scores(llava, steps=2))
        expected = _scores(llava, steps=2, logits_processor=[_Again(llava, one) for one in order])
        assert equal(found[-1].sequences, expected.sequences)
        assert distance(found[-1].scores, expected.scores) < CLOSE_SCORES
    assert not equal(found[0].scores[1], found[1].scores[1])


def test_a_word_attaches_a_lens_beside_an_intervention(llava: Tiny) -> None:
    with attach(llava.model, "route:layers=all dola:layers=all") as run:
        llava.generate()
    assert run.receipt.fired
    assert parse_method("dola:layers=all") == known_lenses()["dola"](layers="all")


@pytest.mark.parametrize("name", NAMES)
def test_a_contrast_takes_the_weighed_stream_for_the_first(name: str, tiny: Build) -> None:
    """VCD's weights over what the lens returns, and a second stream that the lens leaves alone."""
    model = tiny("llava")
    bare, lens = {"input_ids": model.text}, _active(name)
    with attach(model.model, lens, "m3id:rate=0.5,bound=0") as run:
        got = _scores(model, steps=3, eos_token_id=None)
    answer = got.sequences[:, -3:]
    again = _Again(model, lens)
    for step in range(3):
        ids = torch.cat([model.inputs["input_ids"], answer[:, :step]], 1)
        first = again(ids, got.logits[step])
        second = uncached(model.model, {**bare, "attention_mask": torch.ones_like(model.text)}, answer[:, :step])
        missing = torch.tensor(0.5 * (step + 1)).expm1().item()
        expected = ((1 + missing) * first - missing * second.log_softmax(-1)).log_softmax(-1)
        assert distance(expected, got.scores[step]) < 10 * CLOSE_SCORES
    assert run.receipt.second_stream is not None
    assert run.receipt.second_stream.in_one_pass == 0
    assert "read or steered" in run.receipt.second_stream.why


REFUSED = {"janus": "drops logits processors"}


def test_every_family_shows_its_layers_or_says_why_not(
    family: str, tiny: Build, reading: _Reading, support: FamilyTable
) -> None:
    """What enters a layer is what `hidden_states` holds; behind the last one the head says what the model says."""
    model = tiny(family)
    if family in REFUSED:
        with pytest.raises(errors.UnsupportedModel, match=REFUSED[family]):
            attach(model.model, reading)
        support.states(family, "lens", f"refused: {REFUSED[family]}")
        return
    with attach(model.model, reading) as run:
        got = model.generate(steps=3, output_hidden_states=True)
    assert run.receipt.lenses[0].tokens == len(reading.own) == 3
    for step, logits in enumerate(got.logits):
        assert distance(reading.own[step], logits) < CLOSE
        for layer, entering in enumerate(got.hidden_states[step][:-1]):
            assert equal(reading.entering[step][layer], entering[:, -1])
    support.states(family, "lens", "equals hidden states")


def test_a_decoder_with_no_one_last_norm_is_refused(llava: Tiny) -> None:
    llava.model.get_decoder().second_norm = torch.nn.Identity()
    with pytest.raises(errors.UnsupportedModel, match="has 2 norms there"):
        attach(llava.model, FirstLogits())


def test_a_layer_outside_the_model_is_refused(llava: Tiny) -> None:
    with pytest.raises(errors.BadOption, match="layer 7 was asked for"):
        attach(llava.model, "dola:layers=7")


def test_words_taken_back_count_no_more(llava: Tiny, reading: _Reading) -> None:
    """Two tokens were said in both rows; the first row keeps one of them, the second none."""
    anatomy, state = examine(llava.model), GenerationState(KeyMap.of_prompt(torch.full((2, 3), 150), None, 150))
    state.entering = {layer: torch.zeros(2, 64) for layer in range(4)}
    head, receipt = TokenHead.of(llava.model, anatomy), LensReceipt("reading", {})
    processor = LensProcessor(reading, SimpleNamespace(finished=state), head, receipt, anatomy)  # type: ignore[arg-type]
    scores = torch.randn(2, 200)
    for length in (3, 4, 5):
        processor(torch.ones(2, length).long(), scores)
    processor.rewind(torch.ones(2, 4).long(), torch.tensor([[True, True], [True, False]]))
    processor(torch.ones(2, 5).long(), scores)
    assert reading.said == [[0, 0], [1, 1], [2, 2], [2, 1]]


@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_refused(name: str, llava: Tiny) -> None:
    """Its second forward would be taken for the one that the logits come from."""
    with (
        pytest.raises(errors.UnsupportedGeneration, match="leave guidance_scale out"),
        attach(llava.model, _active(name)),
    ):
        llava.generate(guidance_scale=1.5)
