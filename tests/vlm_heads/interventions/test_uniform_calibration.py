"""UAC against a plain loop without a cache, in float64; its table read, written and measured."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.compare import distance, equal, rounding
from tests.support.families import CLOSE, Build, Inputs, Tiny
from tests.support.plain_loop import Whole, loop
from tests.support.scored import account, random_model
from vlm_heads import attach
from vlm_heads.errors import BadOption, BadProfile, UnsupportedGeneration, UnsupportedModel
from vlm_heads.families import examine
from vlm_heads.interventions.uniform_calibration import UniformCalibration
from vlm_heads.profiles import BlankAttention, blank_attention
from vlm_heads.scorers import Example

torch.manual_seed(11)
TABLE = BlankAttention(torch.rand(3, 4, 4).square() + 0.01)  # three layers, four heads, four image positions


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A file with the table of a model of three layers with four heads."""
    TABLE.write(tmp_path / "blank.safetensors")
    return str(tmp_path / "blank.safetensors")


def test_a_table_worked_by_hand() -> None:
    found = BlankAttention(torch.tensor([[[0.1, 0.2, 0.4, 0.1], [0.0, 0.3, 0.3, 0.0]], [[0.0] * 4] * 2]))
    # the mean of head 0 is 0.2; head 1 is blind to two positions, which are left alone: 0.15 / 0.3 for the others
    assert found.calibration[0, 0].tolist() == pytest.approx([2.0, 1.0, 0.5, 2.0])
    assert found.calibration[0, 1].tolist() == pytest.approx([1.0, 0.5, 0.5, 1.0])
    assert found.calibration[1].tolist() == [[1.0] * 4] * 2  # a layer without self-attention


def test_a_blank_picture_is_seen_evenly() -> None:
    weights = TABLE.weights / TABLE.weights.sum(-1, keepdim=True)
    assert distance(weights * TABLE.calibration, weights.mean(-1, keepdim=True).expand_as(weights)) < 1e-6


def _padded() -> tuple[Inputs, list[Inputs]]:
    """Return a left-padded batch of a prompt with two pictures and one with one, and its rows alone."""
    torch.manual_seed(3)
    image, pixels = [150] * 4, torch.randn(3, 3, 28, 28)
    rows = [[1, *image, 6, *image, 9, 12, 13], [1, 5, *image, 7, 8]]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    alone = [{"input_ids": torch.tensor([row])} for row in rows]
    shown = [one | {"pixel_values": own} for one, own in zip(alone, (pixels[:2], pixels[2:]), strict=True)]
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": pixels}, shown


@pytest.mark.parametrize(("layers", "strength"), [((0, 1, 2), 1.0), ((1,), 0.6)])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_a_plain_loop(backend: str, layers: tuple[int, ...], strength: float, model: Tiny, table: str) -> None:
    def rule(call: Whole) -> Tensor:
        weights = call.logits.softmax(-1)
        if call.layer in layers:
            own = TABLE.weights[call.layer].double()
            factor = (own.mean(-1, keepdim=True) / own) ** strength
            for row in range(call.prompt - 1, weights.shape[1]):
                weights[:, row, call.image] *= factor
                weights[:, row] /= weights[:, row].sum(-1, keepdim=True)
        return weights @ call.value

    expected = loop(model, rule, steps=6)
    with attach(model.model, [UniformCalibration(strength=strength, table=table, layers=layers)], backend=backend):
        got = model.generate(steps=6)
    assert distance(expected, got) < CLOSE
    assert distance(model.generate(steps=1).logits[0], got.logits[0]) > 10 * CLOSE


@pytest.mark.parametrize("key_heads", [4, 2])
def test_each_picture_of_a_padded_batch_is_calibrated(key_heads: int, tiny: Build, table: str) -> None:
    model = tiny("llava", num_key_value_heads=key_heads)
    batch, rows = _padded()
    made = UniformCalibration(table=table, layers="all")
    with attach(model.model, [made]):
        together = model.generate(**batch)
    for index, row in enumerate(rows):
        with attach(model.model, [made], backend="reference"):
            alone = model.generate(**row)
        for ours, theirs in zip(together.logits, alone.logits, strict=True):
            assert distance(ours[index], theirs[0]) < CLOSE


def test_the_layer_in_the_middle_is_the_default(tiny: Build, table: str) -> None:
    assert UniformCalibration(table=table).layers_in(examine(tiny("llava").model)) == {1}
    assert UniformCalibration(table=table).layers_in(examine(tiny("qwen3_5").model)) == {1}  # the one with heads


def test_what_is_missing_or_does_not_fit_is_refused(model: Tiny, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="table=FILE"), attach(model.model, [UniformCalibration()]):
        pass
    with pytest.raises(BadProfile, match="blank_attention makes it"):
        BlankAttention.read(tmp_path / "none")
    with pytest.raises(BadProfile, match="negative"):
        BlankAttention(-torch.ones(3, 4, 4))
    BlankAttention(torch.ones(2, 4, 4)).write(tmp_path / "short")
    with (
        pytest.raises(BadOption, match="2 layers of 4 heads"),
        attach(model.model, [UniformCalibration(table=str(tmp_path / "short"))]),
    ):
        pass
    BlankAttention(torch.ones(3, 4, 9)).write(tmp_path / "large")
    with (
        pytest.raises(UnsupportedGeneration, match="9 image positions, and a prompt has 4"),
        attach(model.model, [UniformCalibration(table=str(tmp_path / "large"))]),
    ):
        model.generate()


def test_a_model_without_image_keys_is_refused(tiny: Build) -> None:
    model = tiny("mllama").model
    with pytest.raises(UnsupportedModel, match="cross-attention"), attach(model, [UniformCalibration(table="random")]):
        pass
    with pytest.raises(UnsupportedModel, match="cross-attention"):
        blank_attention(model, None)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_table_is_measured_where_the_first_token_is_predicted(key_heads: int) -> None:
    scored = random_model(key_heads)
    blank = Image.new("RGB", (28, 28), "white")
    found = blank_attention(*scored, picture=blank, prompt="what is there")
    seen = account(scored, Example(blank, "what is there", "dog"))
    expected = torch.stack([weights[:, seen.begin - 1, seen.image] for weights in seen.weights])
    assert distance(found.weights, expected) < rounding(torch.float32, terms=64)
    assert found.positions == expected.shape[2]
    assert expected.std() > 1e-3


def test_a_measured_table_makes_a_blank_picture_seen_evenly(tmp_path: Path) -> None:
    """With what was measured on a picture, the weights on this picture's positions come out equal."""
    model, processor = random_model(4)
    blank = Image.new("RGB", (28, 28), "white")
    found = blank_attention(model, processor, picture=blank, prompt="what is there")
    found.write(tmp_path / "blank")
    assert equal(BlankAttention.read(tmp_path / "blank").weights, found.weights)
    image = account((model, processor), Example(blank, "what is there", "dog"))
    weights = image.weights[2][:, image.begin - 1]
    calibrated = weights.clone()
    calibrated[:, image.image] *= found.calibration[2]
    even = calibrated[:, image.image]
    assert distance(even, even.mean(-1, keepdim=True).expand_as(even)) < 1e-6
    assert distance(even.sum(-1), weights[:, image.image].sum(-1)) < 1e-6  # the mass on the picture is what it was
