"""Gains of each request in a packed batch, beside a stand-in engine: what a request gets is what it would get alone."""

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vlm_app.bridges.engine_gains import Share
from vlm_app.bridges.request_gains import KEPT_TEXTS, Arrival, RequestBatch, read_wish
from vlm_app.bridges.vllm_gains import bind

from tests.support.compare import equal
from tests.support.families import IMAGE, Tiny, build
from tests.support.stand_in_engine import forward, greedy, prompt, stand_in
from vlm_heads import Anatomy, HeadReinforcement, attach, examine
from vlm_heads.errors import BadOption

LOT = torch.tensor([[2.0, 1.0, 0.5, 4.0], [1.0, 1.0, 1.0, 1.0], [0.25, 2.0, 1.0, 0.0]])
ANATOMY = examine(build("llava").model)  # 3 layers of 4 heads, 16 channels each
SEEN = [1, 5, *[IMAGE] * 2, 7]  # a prompt with a picture
BLIND = [1, 5, 7]  # the same without
VHR = HeadReinforcement(gain=3.0, layers=(0, 1, 2))


@pytest.fixture
def engine() -> Iterator[Tiny]:
    with stand_in(build) as tiny:
        yield tiny


def _arrival(place: int, wish: str | None, ids: Sequence[int] = SEEN, stop: int | None = None) -> Arrival:
    return Arrival(place, None if wish is None else {"vlm_heads": wish}, ids, [], stop)


def _batch(**changes: Any) -> RequestBatch:
    return RequestBatch(ANATOMY, {"lot": LOT, "loud": torch.full((3, 4), 8.0)}, **changes)


def _outputs(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 4 * 16, generator=torch.Generator().manual_seed(seed))


def _alone(wish: str | None, output: Tensor, layer: int, ids: Sequence[int] = SEEN) -> Tensor:
    batch = _batch()
    batch.update([], [_arrival(0, wish, ids)], [])
    batch.begin([0, len(output)])
    return batch.applied(layer, output)


def test_each_request_gets_its_own_gains() -> None:
    """Three requests in one forward, the last one in the midst of its answer: as each alone."""
    batch, output = _batch(), _outputs(11)
    batch.update([], [_arrival(0, "lot"), _arrival(1, None), _arrival(2, "loud")], [])
    batch.begin([0, 5, 10, 11])
    for layer in range(3):
        parts = [("lot", output[:5]), (None, output[5:10]), ("loud", output[10:])]
        expected = torch.cat([_alone(wish, part, layer) for wish, part in parts])
        assert equal(batch.applied(layer, output), expected)


def test_a_batch_that_asks_for_nothing_is_left_alone() -> None:
    batch, output = _batch(), _outputs(10)
    batch.update([], [_arrival(0, None), _arrival(1, "none")], [])
    batch.begin([0, 5, 10])
    assert batch.applied(0, output) is output


def test_rows_behind_the_last_request_are_padding() -> None:
    batch, output = _batch(), _outputs(8)
    batch.update([], [_arrival(0, "loud")], [])
    batch.begin([0, 5])
    assert equal(batch.applied(0, output), torch.cat([output[:5] * 8, output[5:]]))


def test_gains_for_all_are_for_those_that_say_nothing() -> None:
    output = _outputs(15)
    batch = _batch(everywhere=torch.full((3, 4), 2.0))
    batch.update([], [_arrival(0, None), _arrival(1, "none"), _arrival(2, "loud")], [])
    batch.begin([0, 5, 10, 15])
    expected = torch.cat([output[:5] * 2, output[5:10], output[10:] * 8])
    assert equal(batch.applied(0, output), expected)


def test_a_prompt_without_an_image_is_left_alone_as_under_attach() -> None:
    output = _outputs(3)
    assert _alone("loud", output, 0, BLIND) is output
    assert _alone(VHR.word(), output, 0, BLIND) is output


def test_places_follow_the_batch() -> None:
    """Removed first, then added, then moved; a swap changes two places, a move leaves the first one free."""
    batch = _batch()
    batch.update([], [_arrival(0, "lot"), _arrival(1, "loud"), _arrival(2, "none")], [])
    batch.update([1], [_arrival(1, None)], [(0, 2, True), (1, 3, False)])
    assert {place: one.wish for place, one in batch.places.items()} == {0: "none", 2: "lot", 3: None}


class _Engine:
    """The stand-in engine with one request at a time, whose gains a batch applies."""

    def __init__(self, tiny: Tiny, wish: str) -> None:
        self.batch: RequestBatch | None = None
        self.answer: list[int] = []
        self._wish = wish
        self._tiny = tiny
        bind(tiny.model, None, Share(), self)

    def bind(self, anatomy: Anatomy, everywhere: Tensor | None, share: Share) -> Any:
        batch = self.batch = RequestBatch(anatomy, {})

        def change(layer: int, module: nn.Module, output: Tensor) -> Tensor:
            return batch.applied(layer, output)

        return change

    def arrives(self, ids: Sequence[int], wish: str | None = None) -> None:
        """Let a request stand alone in the batch with all rows of these ids; the picture's keeps its answer's list."""
        assert self.batch is not None
        asked = {"vlm_heads": wish or self._wish}
        prompt_ids = ids if wish else prompt(self._tiny)
        self.batch.update([0], [Arrival(0, asked, prompt_ids, [] if wish else self.answer)], [])
        self.batch.begin([0, len(ids)])


@pytest.mark.parametrize("method", [VHR, HeadReinforcement(gain=2.0), HeadReinforcement(gain=3.0, heads="bottom")])
def test_vhr_says_what_it_says_attached(engine: Tiny, method: HeadReinforcement) -> None:
    """First the prompt without its image, then with it; each further step is a pause after which all is run again."""
    attached = build("llava")
    with attach(attached.model, [method]):
        expected = attached.generate(8).sequences[0, -8:].tolist()
    assert expected != attached.generate(8).sequences[0, -8:].tolist()
    served = _Engine(engine, method.word())
    blind = [token for token in prompt(engine) if token != IMAGE]
    served.arrives(blind, "image-free")
    forward(engine, blind)
    assert greedy(engine, 8, served.arrives) == expected


def _vhr_batch(share: Share | None = None, gather: Any = None) -> RequestBatch:
    return RequestBatch(ANATOMY, {}, share=share, gather=gather)


def _run_vhr(batch: RequestBatch, blind: Tensor, seen: Tensor, later: Tensor) -> list[Tensor]:
    """Run an image-free request, the prompt with its picture, and one further token; return the two latter."""
    batch.update([], [_arrival(0, "image-free", BLIND)], [])
    batch.begin([0, 3])
    for layer in range(3):
        batch.applied(layer, blind)
    batch.update([0], [_arrival(0, VHR.word())], [])
    found = []
    for output in (seen, later):
        batch.begin([0, len(output)])
        found.append(torch.stack([batch.applied(layer, output) for layer in range(3)]))
    return found


def test_two_ranks_choose_as_one() -> None:
    """Each rank sees half of the heads; the median and the outliers are of all of them. Two threads are two ranks."""
    blind, seen, later = _outputs(3, 1), _outputs(5, 2), _outputs(1, 3)
    whole = _run_vhr(_vhr_batch(), blind, seen, later)
    barrier, parts, found = threading.Barrier(2, timeout=60), {}, {}

    def rank(number: int) -> None:
        def gather(heads: Tensor) -> Tensor:
            parts[number] = heads
            barrier.wait()
            together = torch.cat([parts[0], parts[1]])
            barrier.wait()
            return together

        half = slice(32 * number, 32 * (number + 1))
        batch = _vhr_batch(Share(number, 2), gather)
        found[number] = _run_vhr(batch, blind[:, half], seen[:, half], later[:, half])

    threads = [threading.Thread(target=rank, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, expected in enumerate(whole):
        assert equal(torch.cat([found[0][place], found[1][place]], dim=-1), expected)


def test_the_choice_by_hand() -> None:
    """Heads move by 1, 2, 3 and 4 when the image goes; the lower median is 2, so heads 2 and 3 are chosen."""
    blind = torch.zeros(3, 4, 16)
    seen = torch.zeros(5, 4, 16)
    seen[-1, :, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    prefill, _ = _run_vhr(_vhr_batch(), blind.flatten(1), seen.flatten(1), _outputs(1))
    assert prefill[0].view(5, 4, 16)[-1, :, 0].tolist() == [1.0, 2.0, 9.0, 12.0]


@pytest.mark.parametrize(
    ("arrivals", "starts", "message"),
    [
        ([_arrival(0, "vhr", stop=2)], [0, 5], "send its token ids first"),
        ([_arrival(0, "image-free", SEEN, stop=2)], [0, 5], "without the image's"),
        ([_arrival(0, "vhr:layers=7", stop=2)], [0, 5], "layer"),
    ],
)
def test_what_cannot_be_done_gets_no_answer_and_says_why(
    arrivals: list[Arrival], starts: list[int], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch, output = _batch(), _outputs(5)
    with caplog.at_level(logging.ERROR):
        batch.update([], arrivals, [])
    batch.begin(starts)
    assert batch.applied(0, output) is output
    assert batch.refused() == {0: 2}
    assert message in caplog.text


def test_the_texts_asked_last_are_kept() -> None:
    """One text more than there is room for drops the one that nobody asked about for longest."""
    batch = _vhr_batch()
    for last in range(1000, 1001 + KEPT_TEXTS):
        batch.update([0], [_arrival(0, "image-free", [1, 5, last])], [])
        batch.begin([0, 3])
        batch.applied(1, _outputs(3))
        batch.update([0], [_arrival(0, VHR.word(), [1, 5, IMAGE, 1000])], [])  # the first text is asked about each time
    for last, kept in ((1000, True), (1001, False), (1002, True)):
        batch.update([0], [_arrival(0, VHR.word(), [1, 5, IMAGE, last])], [])
        assert (not batch.refused()) == kept


def test_a_prompt_in_pieces_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """The heads are chosen at its end, and by then its beginning has been run without them."""
    batch = _vhr_batch()
    batch.update([], [_arrival(0, "image-free", BLIND)], [])
    batch.begin([0, 3])
    batch.applied(1, _outputs(3))
    batch.update([0], [_arrival(0, VHR.word())], [])
    batch.begin([0, 4])
    with caplog.at_level(logging.ERROR):
        batch.applied(1, _outputs(4))
    assert "--no-enable-chunked-prefill" in caplog.text
    assert batch.refused() == {0: None}


@pytest.mark.parametrize("wish", ["lott", "vhr:gain=", "vhr:blind=lockstep", "vhr:heads=random", 3, "pai"])
def test_a_wish_that_there_is_not_is_refused_before_it_is_run(wish: object) -> None:
    with pytest.raises(BadOption):
        read_wish({"vlm_heads": wish}, {"lot"})


def test_wishes() -> None:
    assert read_wish(None, {"lot"}) is None
    assert read_wish({"other": 1}, {"lot"}) is None
    assert [read_wish({"vlm_heads": one}, {"lot"}) for one in ("lot", "none", "image-free")] == [
        "lot",
        "none",
        "image-free",
    ]
    assert read_wish({"vlm_heads": "vhr:gain=1.5"}, set()) == HeadReinforcement(gain=1.5)
