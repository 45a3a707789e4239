"""One worked example for each steering method, with its arithmetic."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.support.compare import distance, rounding
from tests.support.families import Tiny
from vlm_heads import ImageRefresh, ImageSteering, attach
from vlm_heads.blind import Recording
from vlm_heads.call import GenerationState
from vlm_heads.key_map import KeyMap
from vlm_heads.methods import StreamCall, turned
from vlm_heads.receipt import LayerTally
from vlm_heads.stream_call import IMAGE
from vlm_heads.token_head import TokenHead

CLOSE = rounding(torch.float32, terms=8, size=10.0)


def call(leaving: list[float], sighted: list[float], blind: list[float]) -> StreamCall:
    """Return one position of layer 1, and what the two passes kept of what it leaves."""
    state = GenerationState(KeyMap.of_prompt(torch.tensor([[150]]), None, 150))
    state.sighted, state.blind = (Recording(entering={2: torch.tensor([one])}) for one in (sighted, blind))
    hidden: Tensor = torch.tensor([[leaving]])
    return StreamCall(1, hidden, hidden, state, TokenHead(nn.Identity(), nn.Identity()), {}, LayerTally())


def test_what_is_turned_keeps_its_length() -> None:
    """(3, 0) by (0, 1): unit (1, 0) + (0, 1) = (1, 1), so 3 / sqrt 2 each."""
    assert (
        distance(turned(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])), torch.tensor([3 / math.sqrt(2)] * 2))
        < CLOSE
    )
    assert turned(torch.tensor([3.0, 0.0]).half(), torch.tensor([0.0, 1.0])).dtype == torch.float16


def test_vistas_paper_adds_the_difference_itself() -> None:
    """v = (1, 5) - (1, 1) = (0, 4). At strength 1, (3, 0) + (0, 4) = (3, 4), of length 5; with length 3, (1.8, 2.4)."""
    got = ImageSteering(strength=1.0).steer(call([3.0, 0.0], [1.0, 5.0], [1.0, 1.0]))
    assert got is not None
    assert distance(got, torch.tensor([[[1.8, 2.4]]])) < CLOSE


def test_vistas_program_adds_its_direction_and_more_where_the_state_points_away() -> None:
    """v = (0, 4), unit (0, 1). (0, -2) points away: s = 1 + 1, and (0, -1) + 1.5 * 2 (0, 1) = (0, 2), of the
    same length as before.

    (3, 0) is at a right angle: s = 1, and (1, 0) + 1.5 (0, 1) = (1, 1.5), of length sqrt 3.25.
    """
    method = ImageSteering(strength=1.5, mode="code")
    away = method.steer(call([0.0, -2.0], [1.0, 5.0], [1.0, 1.0]))
    aside = method.steer(call([3.0, 0.0], [1.0, 5.0], [1.0, 1.0]))
    assert away is not None
    assert aside is not None
    assert distance(away, torch.tensor([[[0.0, 2.0]]])) < CLOSE
    assert distance(aside, torch.tensor([[[3 / math.sqrt(3.25), 4.5 / math.sqrt(3.25)]]])) < CLOSE


@pytest.mark.parametrize(("mode", "depth", "expected"), [("paper", 32, range(27, 32)), ("code", 32, range(26, 32))])
def test_vista_mixes_in_the_layers_before_the_last(mode: str, depth: int, expected: range, llava: Tiny) -> None:
    """What leaves layer l enters layer l + 1, so these are layers 26 to 30, and 25 to 30."""
    from vlm_heads import examine

    anatomy = examine(llava.model)
    layers = tuple(nn.Identity() for _ in range(depth))
    method = ImageSteering(mode=mode)  # type: ignore[arg-type]
    assert method.reads(type(anatomy)(**{**vars(anatomy), "layers": layers})) == set(expected)


def test_half_of_vista_alone(llava: Tiny) -> None:
    """Steering alone weighs no token; mixing alone steers no layer, and both say what they did."""
    with attach(llava.model, ImageSteering(mix=0.0)) as run:
        llava.generate(steps=2)
    assert (run.receipt.lenses, run.receipt.interventions[0].layers) == ((), (0, 1, 2))
    assert "vista: layers 0-2, 1 row" in str(run.receipt)
    with attach(llava.model, ImageSteering(strength=0.0)) as run:
        llava.generate(steps=2)
    assert (run.receipt.lenses[0].tokens, run.receipt.interventions[0].layers, run.receipt.blind_passes) == (2, (), 0)
    with attach(llava.model, ImageSteering()) as run:
        llava.generate(steps=2)
    assert (run.receipt.lenses[0].tokens, run.receipt.interventions[0].layers) == (2, (0, 1, 2))


def test_memvr_mixes_in_the_image_as_large_as_the_mlps_own() -> None:
    """One image position V = (1, 1) and x = (2, 0): a = (x V) V = (2, 2), of mean magnitude 2. f = (1, -5), mean 3.

    So a becomes (3, 3), and at ratio 0.5 the result is (2, -1). Ten equally likely tokens are as unsure as can be.
    """
    state = GenerationState(KeyMap.of_prompt(torch.tensor([[150]]), None, 150))
    state.entering = {4: torch.zeros(1, 10)}
    head, memory = TokenHead(nn.Identity(), _Same()), {IMAGE: torch.tensor([[[1.0, 1.0]]])}
    entering, leaving = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, -5.0]]])
    tally = LayerTally()
    got = ImageRefresh(ratio=0.5, threshold=0.9).steer(StreamCall(4, entering, leaving, state, head, memory, tally))
    assert got is not None
    assert distance(got, torch.tensor([[[2.0, -1.0]]])) < CLOSE
    assert int(tally.rows or 0) == 1


class _Same(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden
