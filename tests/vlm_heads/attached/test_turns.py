"""Several generations open at once on one model: each is its own, waits for its turn, or is refused."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier, Event

import pytest
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from tests.support.compare import Generated, distance, equal, same_ids
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import HookedVhr
from vlm_heads import VLM, Answer, HeadReinforcement, attach, errors, score_heads
from vlm_heads.attention import is_bound
from vlm_heads.families import examine
from vlm_heads.models.planted import planted_image

VHR = HeadReinforcement(layers="all", gain=6.0)


@cache
def _planted() -> VLM:
    return VLM.from_pretrained("planted")


@pytest.fixture
def vlm() -> VLM:
    return _planted()


def _all_of(pieces: Generator[str, None, Answer]) -> str:
    return "".join(pieces)


def _ask(vlm: VLM, shown: str, *interventions: HeadReinforcement) -> Generator[str, None, Answer]:
    return vlm.stream(planted_image(shown), "what do you see?", list(interventions), max_new_tokens=12)


@pytest.mark.parametrize("both", [True, False], ids=["both mitigated", "one plain"])
def test_two_streams_that_are_read_in_turns(both: bool, vlm: VLM) -> None:
    """The planted model calls every thing a dog, and names it where its heads are reinforced."""
    first, second = _ask(vlm, "car", HeadReinforcement()), _ask(vlm, "bird", *[HeadReinforcement()] * both)
    begun = next(first)
    other = next(second)
    assert begun + _all_of(first) == "there is a car."
    assert other + _all_of(second) == ("there is a bird." if both else "there is a dog.")


def test_an_answer_beside_a_stream_is_its_own(vlm: VLM) -> None:
    stream = _ask(vlm, "car", HeadReinforcement())
    begun = next(stream)
    assert vlm.answer(planted_image("bird"), "what do you see?").text == "there is a dog."
    assert vlm.answer(planted_image("bird"), "what do you see?", [HeadReinforcement()]).text == "there is a bird."
    assert begun + _all_of(stream) == "there is a car."


def test_many_threads_get_their_own_answers(vlm: VLM) -> None:
    ways: list[tuple[Callable[[], str], str]] = [
        (lambda: vlm.answer(planted_image("car"), "what do you see?", "vhr").text, "there is a car."),
        (lambda: vlm.answer(planted_image("car"), "what do you see?").text, "there is a dog."),
        (lambda: _all_of(_ask(vlm, "bird", HeadReinforcement())), "there is a bird."),
    ]
    scores = score_heads(vlm.model, vlm.processor, [planted_image("car")]).scores
    with ThreadPoolExecutor(5) as pool:
        scored = pool.submit(lambda: score_heads(vlm.model, vlm.processor, [planted_image("car")]).scores)
        said = [(pool.submit(way), expected) for way, expected in ways * 4]
        assert [one.result().strip() for one, _ in said] == [expected for _, expected in said]
        assert torch.equal(scored.result(), scores)
    assert not any(is_bound(module) for module in examine(vlm.model).attentions.values())


def test_a_plain_generate_waits_for_what_is_attached_for_an_answer(vlm: VLM) -> None:
    inputs = vlm.inputs([planted_image("car")], "what do you see?")
    greedy = {"max_new_tokens": 12, "do_sample": False}
    expected = vlm.model.generate(**inputs, **greedy)
    holds = _Holds()
    with ThreadPoolExecutor(2) as pool:
        picture = planted_image("car")
        answer = pool.submit(vlm.answer, picture, "what do you see?", "vhr", logits_processor=[holds])
        assert holds.reached.wait(30)
        beside = pool.submit(lambda: vlm.model.generate(**inputs, **greedy))
        threading.Timer(0.2, holds.may_go_on.set).start()
        assert torch.equal(beside.result(30), expected)
        assert answer.result(30).text == "there is a car."


class _Asks(LogitsProcessor):  # type: ignore[misc]
    """Asks the same model while it answers."""

    def __init__(self, vlm: VLM) -> None:
        self._vlm = vlm

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._vlm.answer(planted_image("car"))
        return scores


def test_a_question_from_inside_an_answer_is_refused(vlm: VLM) -> None:
    with pytest.raises(errors.UnsupportedGeneration, match="asked again from inside an answer"):
        vlm.answer(planted_image("bird"), "what ?", logits_processor=[_Asks(vlm)])
    assert vlm.answer(planted_image("bird"), "what ?", "vhr").text == "there is a bird."


class _Holds(LogitsProcessor):  # type: ignore[misc]
    """Stops before the third token until it may go on."""

    def __init__(self) -> None:
        self.reached, self.may_go_on = Event(), Event()
        self._calls = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._calls += 1
        if self._calls == 3:
            self.reached.set()
            assert self.may_go_on.wait(30)
        return scores


def test_leaving_waits_for_what_another_thread_generates(llava: Tiny) -> None:
    with attach(llava.model, [VHR]):
        expected = llava.generate(steps=6)
    holds = _Holds()
    with ThreadPoolExecutor(1) as pool:
        with attach(llava.model, [VHR]):
            work = pool.submit(llava.generate, 6, logits_processor=[holds])
            assert holds.reached.wait(30)
            threading.Timer(0.2, holds.may_go_on.set).start()
        assert work.done()
        assert equal(work.result(), expected)


def test_attach_waits_for_an_answer_under_way(vlm: VLM) -> None:
    holds = _Holds()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(vlm.answer, planted_image("car"), "what do you see?", logits_processor=[holds])
        assert holds.reached.wait(30)
        threading.Timer(0.2, holds.may_go_on.set).start()
        with attach(vlm.model, "vhr", allow_idle=True):
            assert work.result(30).text == "there is a dog."


def _in_turns(*work: Callable[[], Generated]) -> list[Generated]:
    """Run each in a thread of its own, begun together."""
    start = Barrier(len(work))

    def begin(one: Callable[[], Generated]) -> Generated:
        start.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return [one.result() for one in [pool.submit(begin, one) for one in work]]


@pytest.mark.parametrize("family_name", ["llava", "qwen3_vl", "instructblip"])
def test_generations_without_cache_in_two_threads(family_name: str, tiny: Build) -> None:
    """Both prompts are the same ids: what tells them apart is who generates."""
    model = tiny(family_name)
    images = [torch.randn_like(model.inputs["pixel_values"]) for _ in range(2)]
    with attach(model.model, [VHR]) as run:
        expected = [model.generate(steps=8, pixel_values=image, use_cache=False) for image in images]
        work = [lambda image=image: model.generate(steps=8, pixel_values=image, use_cache=False) for image in images]
        got = _in_turns(*work)
    assert all(equal(one, other) for one, other in zip(expected, got, strict=True))
    assert run.receipt.generations == 4


class _Loop:
    """A loop of somebody's own over whole sequences, without a cache."""

    def __init__(self, llava: Tiny, image: Tensor) -> None:
        self._llava = llava
        self._given = {**llava.inputs, "pixel_values": image, "use_cache": False}

    def step(self) -> Tensor:
        with torch.no_grad():
            logits = self._llava.model(**self._given).logits[:, -1]
        ids = self._given["input_ids"]
        assert isinstance(ids, Tensor)
        self._given["input_ids"] = torch.cat([ids, logits.argmax(-1)[:, None]], dim=1)
        return logits


def test_loops_without_cache_that_take_turns_in_one_thread(llava: Tiny) -> None:
    images = [torch.randn_like(llava.inputs["pixel_values"]) for _ in range(2)]
    with attach(llava.model, [VHR]) as run:
        alone = [[loop.step() for _ in range(5)] for loop in (_Loop(llava, image) for image in images)]
        loops = [_Loop(llava, image) for image in images]
        mixed = [[loop.step() for loop in loops] for _ in range(5)]
    assert run.receipt.generations == 4
    for which in (0, 1):
        assert equal(alone[which], [step[which] for step in mixed])


def test_a_prompt_that_goes_on_where_another_answer_ended_is_a_prompt(llava: Tiny) -> None:
    """Without a cache; another picture, and one token more than the first generation's prompt."""
    longer = torch.cat([llava.inputs["input_ids"], torch.tensor([[7]])], dim=1)
    other = {"input_ids": longer, "pixel_values": torch.randn_like(llava.inputs["pixel_values"]), "use_cache": False}
    with attach(llava.model, [VHR]):
        expected = llava.generate(steps=1, **other)
    with attach(llava.model, [VHR]) as run:
        llava.generate(steps=1, use_cache=False)
        assert equal(llava.generate(steps=1, **other), expected)
    assert run.receipt.generations == 2
    with attach(llava.model, [VHR]) as run, torch.no_grad():
        llava.model(**llava.inputs, use_cache=False)
        assert distance(llava.model(**other).logits[:, -1], expected.logits[0]) < CLOSE
    assert run.receipt.generations == 2


@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"guidance_scale": 1.5}], ids=["beams", "guidance"])
def test_modes_without_cache_equal_hooks(mode: dict[str, object], llava: Tiny) -> None:
    """Beams change places, and guidance runs a second sequence beside the first."""
    with HookedVhr(llava, gain=2.0, layers={0, 1, 2}).hooked():
        expected = llava.generate(steps=8, use_cache=False, **mode)
    with attach(llava.model, [HeadReinforcement(layers="all")]) as run:
        got = llava.generate(steps=8, use_cache=False, **mode)
    assert run.receipt.blind_passes == 1
    if "num_beams" in mode:
        assert same_ids(expected, got)
        assert distance(expected.logits, got.logits) < CLOSE


def _embeds_between(model: nn.Module, meanwhile: Callable[[], object]) -> Callable[[], None]:
    """Do something else after the prompt was embedded and before the language model runs; return what undoes that."""
    done: list[bool] = []

    def hook(*_: object) -> None:
        if not done:
            done.append(True)
            meanwhile()

    return model.language_projection.register_forward_hook(hook).remove


def test_ids_embedded_in_two_threads_are_each_threads_own(tiny: Build) -> None:
    """InstructBLIP embeds its prompt before its language model runs; another thread embeds one of the same length."""
    blip = tiny("instructblip")
    ids = blip.inputs["input_ids"]
    moved = {"input_ids": torch.cat([ids[:, :1], ids[:, 3:], ids[:, 1:3]], dim=1)}  # its image begins earlier
    with attach(blip.model, [VHR]):
        expected = [blip.generate(), blip.generate(**moved)]
        embed = blip.model.get_input_embeddings()
        with ThreadPoolExecutor(1) as pool:
            undo = _embeds_between(blip.model, lambda: pool.submit(embed, moved["input_ids"]).result())
            got = blip.generate()
            undo()
    assert equal(got, expected[0])
    assert not equal(expected[0].logits, expected[1].logits)
