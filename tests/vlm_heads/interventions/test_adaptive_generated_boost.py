"""AdaIAT against a plain loop without a cache, in float64; its table read, written and measured."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.compare import distance, equal, rounding
from tests.support.families import CLOSE, Tiny
from tests.support.plain_loop import Whole, loop
from tests.support.scored import account, random_model
from vlm_heads import attach
from vlm_heads.errors import BadOption, BadProfile
from vlm_heads.interventions.adaptive_generated_boost import AdaptiveGeneratedBoost
from vlm_heads.models.prompts import model_inputs
from vlm_heads.profiles import GeneratedAttention, MarkedAnswer, generated_attention
from vlm_heads.scorers import Example

TABLE = GeneratedAttention(
    grounded=torch.tensor([[0.10, 0.08, 0.04, 0.10], [0.20, 0.10, 0.30, 0.10], [0.03, 0.03, 0.03, 0.03]]),
    invented=torch.tensor([[0.05, 0.08, 0.08, 0.025], [0.10, 0.10, 0.10, 0.10], [0.02, 0.02, 0.02, 0.02]]),
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A file with the table of a model of three layers with four heads."""
    TABLE.write(tmp_path / "table.safetensors")
    return tmp_path / "table.safetensors"


def test_ratios_and_thresholds_worked_by_hand() -> None:
    assert TABLE.ratio[0].tolist() == pytest.approx([2.0, 1.0, 0.5, 4.0])
    # layer 0: 0.32 for true words and 0.235 for invented ones; half of the way is 0.2775
    assert TABLE.threshold(0.5).tolist() == pytest.approx([0.2775, 0.55, 0.1])


@pytest.mark.parametrize("strength", [0.7, 6.0])  # at 6 the ratio 0.5 makes the factor 1 - 6 / 2 = -2
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_a_plain_loop(backend: str, strength: float, model: Tiny, table: Path) -> None:
    acted: dict[int, set[bool]] = {layer: set() for layer in range(3)}

    def rule(call: Whole) -> Tensor:
        weights = call.logits.softmax(-1)
        ratio = (TABLE.grounded[call.layer] / TABLE.invented[call.layer]).double()
        for row, generated in call.steps:
            below = bool(weights[:, row, generated].mean(-1).sum() < (0.2775, 0.55, 0.1)[call.layer])
            acted[call.layer].add(below)
            if below:
                weights[:, row, generated] *= (1 + strength * (ratio - 1))[:, None]
                weights[:, row] /= weights[:, row].sum(-1, keepdim=True)
        return weights @ call.value

    expected = loop(model, rule, steps=7)
    assert acted == {0: {True, False}, 1: {True}, 2: {False}}
    made = AdaptiveGeneratedBoost(strength=strength, table=str(table), layers="all")
    with attach(model.model, [made], backend=backend) as run:
        got = model.generate(steps=7)
    assert distance(expected, got) < CLOSE
    assert run.receipt.interventions[0].mass_moved() > 0.1
    assert not equal(got.logits[1], model.generate(steps=7).logits[1])


def test_one_ratio_and_one_threshold_need_no_table(model: Tiny, tmp_path: Path) -> None:
    even = torch.full((3, 4), 0.1)
    GeneratedAttention(1.5 * even, even).write(tmp_path / "even")  # thresholds are 0.5 and ratios 1.5
    with attach(model.model, [AdaptiveGeneratedBoost(table=str(tmp_path / "even"), layers="all")]):
        expected = model.generate()
    with attach(model.model, [AdaptiveGeneratedBoost(ratio=1.5, threshold=0.5, layers="all")]):
        assert distance(expected, model.generate()) < CLOSE


def test_what_is_missing_or_does_not_fit_is_refused(model: Tiny, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="table=FILE"), attach(model.model, [AdaptiveGeneratedBoost()]):
        pass
    with pytest.raises(BadProfile, match="cannot be read"):
        GeneratedAttention.read(tmp_path / "none")
    GeneratedAttention(torch.ones(2, 4), torch.ones(2, 4)).write(tmp_path / "short")
    with (
        pytest.raises(BadOption, match="2 layers of 4 heads"),
        attach(model.model, [AdaptiveGeneratedBoost(table=str(tmp_path / "short"))]),
    ):
        pass
    with pytest.raises(BadProfile, match="same layers"):
        GeneratedAttention(torch.ones(2, 4), torch.ones(4, 2))
    with pytest.raises(BadProfile, match="negative"):
        GeneratedAttention(-torch.ones(2, 4), torch.ones(2, 4))


def test_the_authors_file_is_read_as_numbers_alone(tmp_path: Path) -> None:
    arrays = {"AT_real": TABLE.grounded.half().numpy(), "AT_hul": TABLE.invented.numpy().astype(np.float64)}
    torch.save(arrays | {"AT_mul": np.ones((3, 4))}, tmp_path / "theirs.pt")
    found = GeneratedAttention.read(tmp_path / "theirs.pt")
    assert distance(found.grounded, TABLE.grounded) < 1e-4
    assert equal(found.invented, TABLE.invented)
    torch.save({"AT_real": Path}, tmp_path / "other.pt")
    with pytest.raises(BadProfile, match="arrays alone"):
        GeneratedAttention.read(tmp_path / "other.pt")
    torch.save({"AT_real": TABLE.grounded.numpy()}, tmp_path / "half.pt")
    with pytest.raises(BadProfile, match="invented"):
        GeneratedAttention.read(tmp_path / "half.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK" + pickle.dumps(1))
    with pytest.raises(BadProfile, match="cannot be read"):
        GeneratedAttention.read(tmp_path / "broken.pt")


@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_table_is_measured_where_words_are_predicted(key_heads: int) -> None:
    scored = random_model(key_heads)
    model, processor = scored
    picture = Image.new("RGB", (28, 28))
    answers, expected = [], torch.zeros(2, 4, 4)
    for text, grounded, invented in (("there is a dog", [3], []), ("there is a car and a dog", [6], [0, 3])):
        inputs = model_inputs(model, processor, [picture], ["what is there"])
        ids = torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        answers.append(MarkedAnswer(inputs, ids, invented=invented, grounded=grounded))
        seen = account(scored, Example(picture, "what is there", text))
        for kind, places, words in ((0, grounded, 2), (1, invented, 1)):
            for place in places:
                if place:  # the word that begins the answer has no text before it
                    row = seen.begin + place - 1
                    for layer in range(4):
                        expected[kind, layer] += seen.weights[layer][:, row, seen.begin : row + 1].mean(-1) / words
    found = generated_attention(model, answers)
    close = rounding(torch.float32, terms=64)
    assert distance(found.grounded, expected[0]) < close
    assert distance(found.invented, expected[1]) < close
    assert expected[0].std() > 1e-3
    with pytest.raises(BadOption, match="both kinds"):
        generated_attention(model, answers[:1])
