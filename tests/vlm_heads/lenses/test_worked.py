"""One worked example for each lens, with its arithmetic, and what a family does to token logits."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.support.compare import distance, rounding
from tests.support.families import Tiny
from vlm_heads import EarlyAnswer, FirstLogits, LayerContrast, attach, examine
from vlm_heads.call import GenerationState
from vlm_heads.key_map import KeyMap
from vlm_heads.methods import TokenStep, implausible
from vlm_heads.receipt import LensReceipt
from vlm_heads.token_head import TokenHead

CLOSE = rounding(torch.float32, terms=8, size=10.0)


def _step(logits: list[float], entering: dict[int, list[float]], said: int = 0) -> TokenStep:
    """Return a step of one row; the head is the identity, so that a hidden state is its own token logits."""
    state = GenerationState(KeyMap.of_prompt(torch.tensor([[150, 7]]), None, 150))
    state.entering = {layer: torch.tensor([one]) for layer, one in entering.items()}
    head = TokenHead(nn.Identity(), _Same())
    reads, anatomy = frozenset(entering), SimpleNamespace(depth=max(entering))
    return TokenStep(
        torch.tensor([logits]), torch.tensor([said]), state, head, {}, LensReceipt("worked", {}), reads, anatomy,  # type: ignore[arg-type]
    )  # fmt: skip


class _Same(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


def test_flb_adds_more_of_the_first_step_as_the_answer_grows() -> None:
    """Gamma 0.5 and rate log 2: the weight is 0.5 (1 - 2^-t), so 0, 0.25, 0.375 at t = 0, 1, 2.

    The second token has e^-1 of the largest probability and stays; the third has e^-4 < 0.1 and goes.
    """
    lens, memory = FirstLogits(gamma=0.5, rate=math.log(2)), {}
    expected = [[4.0, 3.0, -math.inf], [5.0, 3.5, -math.inf], [5.5, 3.75, -math.inf]]
    for said, wanted in enumerate(expected):
        step = _step([4.0, 3.0, 0.0], {2: [4.0, 2.0, 8.0]} if said == 0 else {2: [9.0, 9.0, 9.0]}, said)
        step.memory = memory
        assert distance(lens.weigh(step), torch.tensor([wanted])) < CLOSE


def test_dola_takes_off_the_layer_that_differs_most() -> None:
    """Own 0.5, 0.25, 0.25. Layer 0 agrees to rounding and layer 1 says 0.1, 0.8, 0.1: it is taken.

    log p - log q = log 5, log 0.3125, log 2.5.
    """
    own, other = [0.5, 0.25, 0.25], [0.1, 0.8, 0.1]
    step = _step([math.log(p) for p in own], {0: [math.log(p) for p in own], 1: [math.log(p) for p in other]})
    weighed = LayerContrast(layers="all").weigh(step)
    assert distance(weighed, torch.tensor([[math.log(5), math.log(0.3125), math.log(2.5)]])) < CLOSE
    assert step.receipt.layers() == {1: 1}
    assert str(step.receipt) == "worked: 1 token weighed, by layer: 1 (1)"


def test_dolas_two_divergences_may_take_different_layers() -> None:
    """Own 0.98, 0.01, 0.01. To 0.3, 0.35, 0.35 the divergence is 0.30, and 0.51 the other way round; to 0.49, 0.51
    and next to nothing it is 0.20 and 0.54.
    """
    own, flat, sharp = [0.98, 0.01, 0.01], [0.3, 0.35, 0.35], [0.49, 0.51, 1e-30]
    entering = {layer: [math.log(p) for p in one] for layer, one in enumerate((flat, sharp))}
    chosen = {}
    for mode in ("paper", "code"):
        step = _step([math.log(p) for p in own], entering)
        LayerContrast(layers=(0, 1), mode=mode, bound=0.0).weigh(step)
        chosen[mode] = step.receipt.layers()
    assert chosen == {"paper": {0: 1}, "code": {1: 1}}


def test_deco_adds_the_layer_that_is_surest_of_a_candidate() -> None:
    """Own 0.6, 0.3, 0.1 and top_p 0.8: the candidates are the first two. Layer 0 gives them 0.2 and 0.5, layer 1 0.1
    and 0.1, and 0.8 to a token that is none. So p_max = 0.5, and z + 2 * 0.5 * z[0] = log 0.6 * 0.2, log 0.3 * 0.5.
    """
    step = _step(
        [math.log(p) for p in (0.6, 0.3, 0.1)],
        {0: [math.log(p) for p in (0.2, 0.5, 0.3)], 1: [math.log(p) for p in (0.1, 0.1, 0.8)]},
    )
    weighed = EarlyAnswer(layers="all", alpha=2.0, top_p=0.8).weigh(step)
    assert distance(weighed, torch.tensor([[math.log(0.12), math.log(0.15), -math.inf]])) < CLOSE
    assert step.receipt.layers() == {0: 1}


def test_deco_always_keeps_the_most_probable_token() -> None:
    step = _step([3.0, 1.0, 0.0], {0: [0.0, 5.0, 0.0]})
    weighed = EarlyAnswer(layers="all", top_p=0.0).weigh(step)
    assert weighed[0].isfinite().tolist() == [True, False, False]


def test_what_is_implausible() -> None:
    """0.05 is less than a tenth of 0.6 and goes; exactly a tenth stays."""
    p = torch.tensor([[0.6, 0.29, 0.06, 0.05]], dtype=torch.float64).log()
    assert implausible(p, 0.1 - 1e-12).tolist() == [[False, False, False, True]]
    assert not implausible(p, 0.0).any()


@pytest.mark.parametrize(
    ("depth", "expected"), [(32, range(20, 29)), (40, range(25, 36)), (8, [5, 6, 7]), (4, [2, 3]), (1, [0])]
)
def test_deco_reads_its_layers_in_proportion(depth: int, expected: list[int], llava: Tiny) -> None:
    anatomy = examine(llava.model)
    layers = tuple(torch.nn.Identity() for _ in range(depth))
    assert EarlyAnswer().reads(type(anatomy)(**{**vars(anatomy), "layers": layers})) == set(expected)


@pytest.mark.parametrize(
    ("bucket", "depth", "expected"),
    [("low", 32, range(0, 16, 2)), ("high", 32, range(16, 32, 2)), ("low", 60, range(0, 20, 2)),
     ("high", 60, range(40, 60, 2)), ("low", 1, [0])],
)  # fmt: skip
def test_dola_reads_every_second_layer_of_a_bucket(bucket: str, depth: int, expected: list[int], llava: Tiny) -> None:
    anatomy = examine(llava.model)
    layers = tuple(torch.nn.Identity() for _ in range(depth))
    lens = LayerContrast(bucket=bucket)  # type: ignore[arg-type]
    assert lens.reads(type(anatomy)(**{**vars(anatomy), "layers": layers})) == set(expected)


def test_dola_leaves_layer_0_out_where_the_head_is_tied(llava: Tiny) -> None:
    anatomy = examine(llava.model)
    layers = tuple(torch.nn.Identity() for _ in range(32))
    anatomy.decoder.config.tie_word_embeddings = True
    assert min(LayerContrast().reads(type(anatomy)(**{**vars(anatomy), "layers": layers}))) == 2


def test_what_a_family_does_behind_its_head() -> None:
    """Times 0.5, then kept below 2 by a tanh: 3 becomes 2 tanh(1.5 / 2)."""
    head = TokenHead(nn.Identity(), _Same(), scale=0.5, cap=2.0)
    assert head.logits(torch.tensor([3.0])).item() == pytest.approx(2 * math.tanh(0.75))


def test_flb_is_not_bound_by_what_a_processor_bars_at_first(llava: Tiny) -> None:
    """The end token may not come first; the first step's logits are the model's own, so it may come later."""
    with attach(llava.model, FirstLogits(gamma=1.0, rate=5.0, bound=0.0)):
        got = llava.generate(steps=4, min_new_tokens=2, output_scores=True, eos_token_id=199)
    assert [bool(one[0, 199].isinf()) for one in got.scores[:2]] == [True, True]
    assert all(one[0, 199].isfinite() for one in got.scores[2:])
