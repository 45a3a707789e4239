"""Checkpoints that miss weights, or hold ones that are no numbers, are not run in silence."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm_heads import VLM, errors
from vlm_heads.models.planted import planted_image

WEIGHT = "language_model.model.layers.1.self_attn.v_proj.weight"
Weights = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a whole checkpoint."""
    vlm = VLM.from_pretrained("planted")
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    return tmp_path


def _change(folder: Path, change: Callable[[Weights], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    assert WEIGHT in weights
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _drop_many(weights: Weights) -> None:
    for name in [name for name in weights if "layers.2" in name]:
        weights.pop(name)


def _cut(weights: Weights) -> None:
    weights[WEIGHT] = weights[WEIGHT][:-1].contiguous()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop(WEIGHT), r"layers\.1\.self_attn\.v_proj\.weight are missing in it"),
        (_drop_many, r"layers\.2\..* and \d+ more are missing"),
        (_cut, r"v_proj\.weight \(is \[63, 64\], must be \[64, 64\]\) have another shape"),
    ],
    ids=["one is missing", "many are missing", "another shape"],
)
def test_what_would_be_random_is_refused_by_name(
    change: Callable[[Weights], object], said: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _change(folder, change)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(errors.UnsupportedModel, match=f"{said}.*allow_missing=True") as caught,
    ):
        VLM.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert "LOAD REPORT" not in caplog.text
    vlm = VLM.from_pretrained(folder, allow_missing=True)
    assert vlm.answer(planted_image("car"), max_new_tokens=2).token_ids


def test_a_weight_that_is_more_is_no_harm(folder: Path) -> None:
    _change(folder, lambda weights: weights.update({"somebodys.own": torch.zeros(2)}))
    assert VLM.from_pretrained(folder).answer(planted_image("car")).text == "there is a dog."


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused(value: float, dtype: torch.dtype, folder: Path) -> None:
    _change(folder, lambda weights: weights[WEIGHT].view(-1)[7:8].fill_(value))
    for allowed in (False, True):
        with pytest.raises(errors.UnsupportedModel, match=r"is damaged: .*v_proj\.weight hold values"):
            VLM.from_pretrained(folder, allow_missing=allowed, dtype=dtype)


def test_large_weights_are_numbers(folder: Path) -> None:
    """Their sum leaves the range of float32, and each lies in it."""
    _change(folder, lambda weights: weights[WEIGHT].fill_(3e38))
    VLM.from_pretrained(folder)


@pytest.mark.parametrize("given", [{}, {"num_beams": 2}, {"do_sample": True}])
def test_logits_that_are_no_numbers_are_an_error(given: dict[str, object]) -> None:
    vlm = VLM.from_pretrained("planted")
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight[5] = torch.nan
    with pytest.raises(errors.UnsupportedModel, match="not numbers") as caught:
        vlm.answer(planted_image("car"), "what ?", **given)
    assert "\n" not in str(caught.value)
    if not given:
        with pytest.raises(errors.UnsupportedModel, match="not numbers"):
            next(vlm.stream(planted_image("car"), "what ?"))


def test_logits_that_cease_to_be_numbers_are_an_error() -> None:
    """The embedding of a token that is said, so that the first token is right."""
    vlm = VLM.from_pretrained("planted")
    first = vlm.answer(planted_image("car"), "what ?", max_new_tokens=1)
    with torch.no_grad():
        table = vlm.model.get_input_embeddings()
        table.weight = torch.nn.Parameter(table.weight.clone())
        table.weight[first.token_ids[0]] = torch.nan
    with pytest.raises(errors.UnsupportedModel, match="not numbers"):
        vlm.answer(planted_image("car"), "what ?")
