"""ILVAD against a plain loop in float64 without a cache, and its map by hand."""

from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from tests.support.full_loop import FullLoop, plain
from vlm_heads import attach, errors
from vlm_heads.interventions.evidence_attention import EvidenceAttention
from vlm_heads.toolkit.evidence_map import cut_off, evidence

HALF = 2  # of four heads
END = 199


def standardised(values: Tensor) -> Tensor:
    """Return values with those beyond three standard deviations from the mean cut off."""
    mean, std = values.mean(), values.std()
    return values.clamp(mean - 3 * std, mean + 3 * std)


class PlainLoop(FullLoop):
    """ILVAD written as loops over layers, rows, heads and keys."""

    def __init__(self, tiny: Tiny, method: EvidenceAttention) -> None:
        super().__init__(tiny)
        self.method = method
        self.begin = int(self.image.nonzero().max()) + 1  # of the text after the image
        self.layers = len(tiny.decoder_layers)
        self.map = self.first_pass()
        self.kept: dict[tuple[int, int], Tensor] = {}  # an edited row's factors, by row and layer
        self.scores: dict[int, float] = {}  # by key

    def first_pass(self) -> Tensor:
        """Return the map over the image `[T]`."""
        said: list[int] = []
        seen: dict[int, list[Tensor]] = {layer: [] for layer in range(self.layers)}
        for step in range(self.method.tokens):

            def rule(layer: int, logits: Tensor, values: Tensor, step: int = step) -> Tensor:
                weights = logits.softmax(-1)[:, -1, : len(self.prompt)] * self.image
                if step > 0:
                    most = weights.sum(-1).topk(HALF).indices
                    seen[layer].append(weights[most].mean(0))
                return plain(layer, logits, values)

            token = int(self.token_logits(said, rule).argmax())
            said.append(token)
            if token == END:
                break
        attention = [torch.stack(seen[layer]).mean(0)[self.image] for layer in range(self.layers)]
        looked_at = [one > self.method.threshold * one.mean() for one in attention]
        begun = torch.zeros(int(self.image.sum()), dtype=torch.float64)
        for before, now in pairwise(looked_at):
            begun += (now.double() - before.double()).clamp_min(0)
        mean = torch.stack(attention).mean(0)
        begun = standardised(begun * (mean > mean.mean()))
        whole = torch.zeros(len(self.prompt), dtype=torch.float64)
        whole[self.image] = (begun - begun.min()) / (begun.max() - begun.min())
        return whole

    def generate(self, steps: int) -> list[Tensor]:
        """Return the token logits of each step."""
        said: list[int] = []
        found: list[Tensor] = []
        for _ in range(steps):
            found.append(self.token_logits(said, self.rule))
            said.append(int(found[-1].argmax()))
        return found

    def rule(self, layer: int, logits: Tensor, values: Tensor) -> Tensor:
        """Edit the row of the prompt's end and every later one, each as it was when it was new."""
        weights = logits.softmax(-1)
        end = len(self.prompt) - 1
        newest = weights.shape[1] - 1
        for row in range(end, newest + 1):
            if (row, layer) not in self.kept:
                assert row == newest
                self.kept[row, layer] = self.factors(layer, row, weights)
            edited = weights[:, row, : row + 1] * self.kept[row, layer]
            weights[:, row, : row + 1] = edited / edited.sum(-1, keepdim=True)
        return weights @ values

    def good(self, row: Tensor) -> list[int]:
        """Return the heads that look at the evidence most."""
        image = row[:, : len(self.prompt)] * self.image
        share = (image * self.map).sum(-1) / (image.sum(-1) + 1e-8)
        return share.topk(HALF).indices.tolist()

    def looked(self, row: Tensor) -> float:
        """Return how much the good heads look at the evidence."""
        return float((row[self.good(row)][:, : len(self.prompt)] * self.map).sum(-1).mean())

    def factors(self, layer: int, row: int, weights: Tensor) -> Tensor:
        """Return what the newest row's weights `[Hq, T]` are multiplied by, all weights `[Hq, T, T]` being plain."""
        end, paper = len(self.prompt) - 1, self.method.mode == "paper"
        if row == end:
            for token in range(self.begin, end):
                self.scores[token] = self.scores.get(token, 0.0) + self.looked(weights[:, token])
            self.scores[end] = self.scores.get(end, 0.0) + (self.looked(weights[:, end]) if paper else 0.0)
        coming = self.scores.get(row + 1, 0.0) + self.looked(weights[:, row])
        times = torch.ones_like(weights[:, row])
        for head in self.good(weights[:, row]):
            times[head, : len(self.prompt)] = (self.method.strength * self.map).exp()
        keys = list(range(self.begin, row + 1))
        values = torch.tensor([self.scores[key] for key in keys], dtype=torch.float64)
        cut = standardised(values)
        if self.method.floor != "off":
            reading = weights[:, row, self.begin :].sum(-1).topk(HALF).indices
            for head in reading.tolist():
                times[head, self.begin :] = (cut - values.min()) / (values.max() - values.min()) + self.method.floor
        if not paper:
            self.scores |= dict(zip(keys, cut.tolist(), strict=True))
        self.scores[row + 1] = coming
        return times


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize("floor", [0.3, "off"])
def test_equals_a_plain_loop(floor: Any, mode: Literal["paper", "code"], backend: Any, model: Tiny) -> None:
    method = EvidenceAttention(threshold=1.0, floor=floor, mode=mode, layers="all")
    loop = PlainLoop(model, method)
    assert loop.map.max() == 1.0
    expected = loop.generate(6)
    with attach(model.model, method, backend=backend) as run:
        got = model.generate(6)
    assert run.receipt.first_passes == 1
    assert run.receipt.generations == 1
    for ours, theirs in zip(got.logits, expected, strict=True):
        assert distance(ours[0].double(), theirs) < CLOSE
    assert distance(got.logits[0][0].double(), FullLoop(model).token_logits([], plain)) > 100 * CLOSE


def test_paper_and_program_differ_in_the_last_token_of_the_prompt(model: Tiny) -> None:
    found = []
    for mode in ("paper", "code"):
        with attach(model.model, f"ilvad:threshold=1,mode={mode},layers=all"):
            found.append(model.generate(2))
    assert distance(found[0].logits[0], found[1].logits[0]) > CLOSE


def test_the_map_by_hand() -> None:
    """Four image keys behind one of text, three layers; a key is looked at above twice the mean over the image.

    layer 0: (4 1 1 2), mean 2, above 4: none;  layer 1: (1 9 1 1), mean 3, above 6: key 1;
    layer 2: (1 7 8 0), mean 4, above 8: none, as 8 is not above it.  So key 1 began once, and nothing else did.
    The mean over layers is (2, 17/3, 10/3, 1) and its mean 3: key 1 is above it. Of (0 1 0 0), the mean is 1/4 and the
    standard deviation 1/2: nothing is cut off, and the map is (0 1 0 0).
    """
    image = torch.tensor([[False, True, True, True, True]])
    attention = torch.tensor([[4.0, 1, 1, 2], [1, 9, 1, 1], [1, 7, 8, 0]])
    attention = torch.nn.functional.pad(attention, (1, 0))[:, None]
    assert evidence(attention, image, 2.0).tolist() == [[0, 0, 1, 0, 0]]
    assert evidence(attention, image, 5.0).tolist() == [[0, 0, 0, 0, 0]]


def test_outliers_are_cut_off_at_three_standard_deviations_of_those_counted() -> None:
    """Of 0 fifteen times and 16 once, the mean is 1 and the deviation sqrt((15 + 225) / 15) = 4: 13 is left."""
    values = torch.tensor([[16.0, *[0.0] * 15, 900.0]])
    among = torch.tensor([[True] * 16 + [False]])
    assert cut_off(values, among).tolist() == [[13.0, *[0.0] * 15, 900.0]]


@pytest.mark.parametrize("heads", [2, 4])
def test_a_first_pass_of_one_token_changes_nothing(heads: int, tiny: Build) -> None:
    tiny_model = tiny("llava", num_key_value_heads=heads)
    end = int(tiny_model.generate().logits[0].argmax())
    plain_answer = tiny_model.generate(eos_token_id=end)
    assert len(plain_answer.logits) == 1
    with attach(tiny_model.model, "ilvad:threshold=1,layers=all", allow_idle=True) as run:
        assert distance(tiny_model.generate(eos_token_id=end), plain_answer) < CLOSE
    assert run.receipt.first_passes == 1
    assert not run.receipt.fired


def test_beams_are_refused_by_name(model: Tiny) -> None:
    with (
        pytest.raises(errors.UnsupportedGeneration, match=r"ilvad .* leave num_beams out"),
        attach(model.model, "ilvad"),
    ):
        model.generate(num_beams=2)
