"""Every lens against its formula, written down a second time over a plain, uncached loop in float64."""

import math

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance, equal, rounding
from tests.support.families import Build, Inputs
from tests.support.layer_loop import Rule, Seen, greedy_loop, vivid
from vlm_heads import EarlyAnswer, FirstLogits, LayerContrast, Lens, attach

CLOSE_SCORES = rounding(torch.float32, terms=64, size=40.0)  # log-probabilities, some of them times a large weight


def padded() -> Inputs:
    """Return a left-padded batch of two prompts, each with a picture of four positions."""
    torch.manual_seed(3)
    ids = torch.tensor([[1, 5, *[150] * 4, 7, 8, 9, 10, 11], [0, 0, 0, 1, *[150] * 4, 9, 12, 13]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(2, 3, 28, 28)}


def _plausible(logits: Tensor, weighed: Tensor, bound: float) -> Tensor:
    p = logits.softmax(-1)
    return weighed.masked_fill(p < bound * p.max(), -math.inf)


def _flb(gamma: float, rate: float, bound: float) -> Rule:
    def rule(seen: Seen) -> Tensor:
        weight = gamma * (1 - math.exp(-rate * seen.step))
        return _plausible(seen.logits, seen.logits + weight * seen.first, bound)

    return rule


def _kl(one: Tensor, other: Tensor) -> float:
    return sum((one * (one / other).log()).tolist())


def _dola(layers: list[int], strength: float, bound: float, mode: str, norm: bool) -> Rule:
    def rule(seen: Seen) -> Tensor:
        p = seen.logits.softmax(-1)
        found = []
        for layer in layers:
            state = seen.norm(seen.entering[layer]) if norm else seen.entering[layer]
            q = seen.head(state).softmax(-1)
            m = (p + q) / 2
            apart = _kl(p, m) + _kl(q, m) if mode == "paper" else _kl(m, p) + _kl(m, q)
            found.append((apart / 2, q))
        q = max(found, key=lambda one: one[0])[1]
        return _plausible(seen.logits, p.log() - strength * q.log(), bound)

    return rule


def _deco(layers: list[int], alpha: float, top_k: int, top_p: float) -> Rule:
    def rule(seen: Seen) -> Tensor:
        p = seen.logits.softmax(-1)
        candidates: list[int] = []
        for token in p.argsort(descending=True)[:top_k].tolist():
            if sum(p[candidates].tolist()) >= top_p:
                break
            candidates.append(token)
        best, best_logits = -1.0, seen.logits
        for layer in layers:
            early = seen.head(seen.norm(seen.entering[layer]))
            surest = early.softmax(-1)[candidates].max().item()
            if surest > best:
                best, best_logits = surest, early
        weighed = seen.logits + alpha * best * best_logits
        excluded = torch.ones(len(p), dtype=torch.bool)
        excluded[candidates] = False
        return weighed.masked_fill(excluded, -math.inf)

    return rule


CASES: dict[str, tuple[Lens, Rule]] = {
    "flb": (FirstLogits(gamma=4.0, rate=0.7, bound=0.3), _flb(4.0, 0.7, 0.3)),
    "dola": (LayerContrast(layers="all", bound=0.2), _dola([0, 1, 2], 1.0, 0.2, "paper", False)),
    "dola, its program": (
        LayerContrast(layers="all", bound=0.2, mode="code"), _dola([0, 1, 2], 1.0, 0.2, "code", False)
    ),
    "dola, last norm": (LayerContrast(layers=(0, 2), norm=True), _dola([0, 2], 1.0, 0.1, "paper", True)),
    "dola, stronger": (LayerContrast(layers=1, strength=2.5, bound=0.0), _dola([1], 2.5, 0.0, "paper", False)),
    "deco": (EarlyAnswer(layers="all", alpha=50.0), _deco([0, 1, 2], 50.0, 20, 0.9)),
    "deco, few candidates": (
        EarlyAnswer(layers=(1, 2), alpha=150.0, top_k=12, top_p=0.05), _deco([1, 2], 150.0, 12, 0.05)
    ),
}  # fmt: skip


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_lens_equals_a_plain_loop(case: str, heads: int, tiny: Build) -> None:
    lens, rule = CASES[case]
    model, inputs = vivid(tiny("llava", num_key_value_heads=heads)), padded()
    answer, expected = greedy_loop(model, inputs, rule)
    with attach(model, lens) as run:
        got = model.generate(
            **inputs, max_new_tokens=5, do_sample=False, eos_token_id=None, return_dict_in_generate=True,
            output_scores=True, output_logits=True,
        )  # fmt: skip
    assert equal(got.sequences[:, -5:], answer)
    for one, other in zip(expected, got.scores, strict=True):
        assert equal(one.isinf(), other.isinf())
        assert distance(one.float(), other) < CLOSE_SCORES
    moved = (got.scores[-1] - got.logits[-1].log_softmax(-1))[~got.scores[-1].isinf()]
    assert moved.std() > 10 * CLOSE_SCORES  # the comparison would be empty otherwise
    assert run.receipt.lenses[0].tokens == 10


def test_the_comparison_sees_another_rule(tiny: Build) -> None:
    model, inputs = vivid(tiny("llava")), padded()
    _, right = greedy_loop(model, inputs, _dola([0, 1, 2], 1.0, 0.0, "paper", False), steps=1)
    for wrong in (_dola([1, 2], 1.0, 0.0, "paper", False), _dola([0, 1, 2], 1.0, 0.0, "paper", True)):
        assert distance(right, greedy_loop(model, inputs, wrong, steps=1)[1]) > 10 * CLOSE_SCORES
