"""The worker: a batch says what each request says alone, and one that fails or leaves harms no other."""

import queue
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from vlm_app.serving.job import Done, Event, Failed, Job, Said, Sampling
from vlm_app.serving.worker import Worker
from vlm_evals.scenes.samples import sample_path

from tests.support.serving import DESCRIBE
from vlm_heads import VLM, HeadReinforcement, Mitigation
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadImage, UnsupportedModel
from vlm_heads.models import Conversation, Turn

KITCHEN, STREET = sample_path("kitchen").read_bytes(), sample_path("street").read_bytes()


@pytest.fixture(scope="module")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


def talk(prompt: str = DESCRIBE, *before: Turn) -> Conversation:
    if not before:
        return Conversation((Turn("user", prompt, image=True),))
    return Conversation((*before, Turn("user", prompt)))


def job(picture: bytes = KITCHEN, conversation: Conversation | None = None, words: str = "", **more: object) -> Job:
    return Job(picture, conversation or talk(), Mitigation.parse(words), **{"limit": 64, **more})


def run(vlm: VLM, jobs: Sequence[Job], together: int = 16) -> tuple[list[list[Event]], Worker]:
    """Return what jobs that wait together are delivered, and the worker that has ended."""
    worker = Worker(vlm, together=together)
    heard: list[queue.Queue[Event]] = [queue.Queue() for _ in jobs]
    for one, box in zip(jobs, heard, strict=True):
        one.deliver = box.put
        worker.put(one)
    worker.start()
    found = []
    for one, box in zip(jobs, heard, strict=True):
        events: list[Event] = []
        while not one.left() and not (events and isinstance(events[-1], Done | Failed)):
            events.append(box.get(timeout=120))
        found.append(events)
    worker.stop()
    return found, worker


def ends(vlm: VLM, jobs: Sequence[Job], together: int = 16) -> list[Done]:
    found, _ = run(vlm, jobs, together)
    assert all(isinstance(events[-1], Done) for events in found), found
    return [events[-1] for events in found]  # type: ignore[misc]  # as asserted


TURNS = (Turn("user", DESCRIBE, image=True), Turn("assistant", "A kitchen with two cats."))


def mixed(words: str) -> list[Job]:
    """Requests that fit together, and differ in everything in which they may."""
    return [
        job(words=words),
        job(STREET, talk("Is there a car in the image?"), words),
        job(KITCHEN, talk("Is there a dog in the image?", *TURNS), words),
        job(STREET, words=words, limit=5),
        job(STREET, words=words, stops=("traffic", "two ")),
        job(KITCHEN, words=words, streams=True),
        job(KITCHEN, talk("Is there a clock in the image?"), words, **({} if "vcd" in words else {"alternatives": 2})),
    ]


@pytest.mark.parametrize("words", ["", "vhr:gain=2", "vhr:gain=1.5 vcd"])
def test_a_batch_says_what_each_request_says_alone(mini: VLM, words: str) -> None:
    found, worker = run(mini, mixed(words))
    assert "vlm_heads_batches_total 1\n" in worker.counts.exposition({})
    alone = ends(mini, mixed(words), together=1)
    for events, expected in zip(found, alone, strict=True):
        done = events[-1]
        assert isinstance(done, Done)
        same = ("text", "finish", "prompt_tokens", "completion_tokens")
        assert [getattr(done, name) for name in same] == [getattr(expected, name) for name in same]
        assert "".join(one.text for one in events[:-1] if isinstance(one, Said)) in ("", done.text)


@pytest.mark.parametrize("words", ["", "vhr:gain=2", "vcd", "vhr:gain=2 vcd", "askback", "askback:by=both vhr"])
def test_what_is_said_is_what_the_library_says(mini: VLM, words: str) -> None:
    done, streamed = (ends(mini, [job(words=words, streams=streams)])[0] for streams in (False, True))
    expected = mini.answer(KITCHEN, DESCRIBE, words, max_new_tokens=64)
    assert (done.text, done.prompt_tokens) == (expected.text, expected.prompt_tokens)
    assert done.completion_tokens == len(expected.token_ids)
    assert done.receipt == expected.receipt
    whole = mini.stream(KITCHEN, DESCRIBE, words, max_new_tokens=64)
    assert streamed.text == "".join(whole).strip()


def test_several_turns_are_answered_as_the_library_answers_them(mini: VLM) -> None:
    asked = talk("Is there a dog in the image?", *TURNS)
    (done,) = ends(mini, [job(conversation=asked)])
    assert done.text == mini.answer(KITCHEN, asked).text


@pytest.mark.parametrize("words", ["", "vhr:gain=2"])
def test_a_seed_draws_what_it_draws_in_the_library(mini: VLM, words: str) -> None:
    drawn = {"do_sample": True, "num_beams": 1, "temperature": 1.5, "top_p": 0.95, "top_k": 0}
    jobs = [job(words=words, sampling=Sampling(seed, drawn)) for seed in (3, 4, 3)]
    said = [done.text for done in ends(mini, jobs)]
    torch.manual_seed(3)
    assert said[0] == said[2] == mini.answer(KITCHEN, DESCRIBE, words, max_new_tokens=64, **drawn).text
    assert said[1] != said[0]
    assert not any(one.fits(other) for one in jobs for other in jobs)


def test_unseeded_draws_differ_after_a_seeded_one(mini: VLM) -> None:
    drawn = {"do_sample": True, "temperature": 2.0, "top_p": 1.0, "top_k": 0}
    first, *others = (ends(mini, [job(sampling=Sampling(seed, drawn))])[0].text for seed in (1, None, 1, None))
    assert others[1] == first
    assert others[0] != others[2]


def test_limits_stops_and_ends_are_told_apart(mini: VLM) -> None:
    whole, short, stopped = ends(mini, [job(), job(limit=3), job(stops=(" kitchen", "The image"))])
    assert (whole.finish, short.finish, stopped.finish) == ("stop", "length", "stop")
    assert (short.completion_tokens, stopped.text) == (3, "")
    assert whole.text.startswith(short.text)


def test_log_probabilities_are_those_of_one_forward(mini: VLM) -> None:
    question = talk("Is there a clock in the image?")
    (done,) = ends(mini, [job(conversation=question, alternatives=3)])
    with torch.no_grad():
        logits = mini.model(**mini.inputs([KITCHEN], "Is there a clock in the image?")).logits[0, -1]
    expected = logits.log_softmax(dim=-1)
    chosen, *best = done.chances[0]
    assert chosen == best[0]
    assert [token for token, _ in best] == expected.topk(3).indices.tolist()
    assert [chance for _, chance in best] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-5)
    assert len(done.chances) == done.completion_tokens - 1  # the end token is no part of the answer


def test_a_broken_picture_harms_no_other(mini: VLM) -> None:
    found, _ = run(mini, [job(limit=4), job(b"no picture", limit=4), job(STREET, limit=4)])
    (failed,) = found[1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.failure, BadImage)
    assert all(isinstance(events[-1], Done) for events in (found[0], found[2]))


def test_a_prompt_that_the_model_refuses_harms_no_other(mini: VLM) -> None:
    found, _ = run(mini, [job(limit=4), job(conversation=talk("what is <image>?"), limit=4)])
    assert [type(events[-1]) for events in found] == [Done, Failed]


@pytest.mark.parametrize("failure", [ZeroDivisionError, UnsupportedModel])
def test_whatever_fails_the_worker_goes_on(
    mini: VLM, failure: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(HeadReinforcement):
        """A mitigation that breaks in the middle of a generation."""

        def plan(self, call: AttentionCall) -> None:
            raise failure("on purpose")

    broken = job(limit=4)
    broken.mitigation = Mitigation((Fails(),))
    found, _ = run(mini, [broken, job(limit=4)])
    (failed,) = found[0]
    assert isinstance(failed, Failed)
    assert isinstance(failed.failure, failure)
    assert isinstance(found[1][-1], Done)
    assert bool(caplog.records) == (failure is ZeroDivisionError)  # a user's mistake is nothing for the log


def test_one_who_left_before_the_turn_is_not_answered(mini: VLM) -> None:
    gone = job()
    gone.leave()
    found, worker = run(mini, [gone, job(limit=2)])
    assert found[0] == []
    counted = worker.counts.exposition({})
    assert "vlm_heads_cancelled_total 1\n" in counted
    assert "vlm_heads_completion_tokens_total 2\n" in counted


@pytest.mark.parametrize("words", ["", "askback"])
def test_one_who_leaves_in_the_middle_ends_only_that_answer(mini: VLM, words: str) -> None:
    """Of two in one batch one leaves at its third piece; the other is answered whole."""
    leaving, staying = job(words=words, streams=True), job(STREET, words=words)
    if words:  # a check streams by itself, sentence by sentence
        assert not leaving.fits(staying)
    worker, box = Worker(mini), queue.Queue[Event]()
    pieces: list[Event] = []

    def leave_at_the_third(event: Event) -> None:
        pieces.append(event)
        if len(pieces) == (1 if words else 3):
            leaving.leave()

    leaving.deliver, staying.deliver = leave_at_the_third, box.put
    worker.put(leaving)
    worker.put(staying)
    worker.start()
    done = box.get(timeout=60)
    worker.stop()
    assert isinstance(done, Done)
    assert done.text == mini.answer(STREET, DESCRIBE, words, max_new_tokens=64).text
    assert len([one for one in pieces if isinstance(one, Said)]) == (1 if words else 3)
    assert "vlm_heads_cancelled_total 1\n" in worker.counts.exposition({})


def test_a_stop_ends_what_is_generated(untrained_mini: Path) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    long, worker, box = job(limit=4000, streams=True), Worker(vlm), queue.Queue[Event]()
    long.deliver = box.put
    worker.put(long)
    worker.start()
    assert isinstance(box.get(timeout=60), Said)
    worker.stop()
    assert not worker.alive
    while not isinstance(last := box.get(timeout=1), Done):
        pass
    assert last.completion_tokens < 4000


def test_what_does_not_fit_goes_apart(mini: VLM) -> None:
    jobs = [job(limit=2), job(words="vhr:gain=2", limit=2), job(limit=2), job(words="vhr:gain=2", limit=3)]
    _, worker = run(mini, jobs)
    counted = worker.counts.exposition({})
    assert "vlm_heads_batches_total 2\n" in counted
    assert "vlm_heads_batched_requests_total 4\n" in counted
