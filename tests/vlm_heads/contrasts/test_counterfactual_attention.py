"""CausalMM against a vision map and language weights written out in float64."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.families import Build, Inputs, Tiny
from tests.support.stream_oracle import Stream, Whole, padded
from tests.vlm_heads.contrasts.conftest import Holds
from vlm_heads import attach
from vlm_heads.contrasts.counterfactual_attention import CounterfactualAttention
from vlm_heads.errors import BadOption, UnsupportedModel


def drawn(seed: int, *places: int) -> float:
    """Return the number from 0 to 1 at a place, of which every bit is mixed with Python's own integers."""

    def mixed(value: int) -> int:
        value &= 0xFFFFFFFF
        value ^= value >> 16
        value = value * 0x7FEB352D & 0xFFFFFFFF
        value ^= value >> 15
        value = value * 0x846CA68B & 0xFFFFFFFF
        return value ^ value >> 16

    number = mixed(seed)
    for place in places:
        number = mixed(number + place)
    return (number >> 8) / 2**24


def resized(grid: Tensor, side: int) -> Tensor:
    """Return a square map `[T, T]` at `side * side` places, each between its four nearest entries."""
    size = len(grid)
    found = torch.zeros(side, side, dtype=grid.dtype)
    for row in range(side):
        for column in range(side):
            y, x = ((place + 0.5) * size / side - 0.5 for place in (row, column))
            top, left = int(y), int(x)
            below, right = min(top + 1, size - 1), min(left + 1, size - 1)
            upper = grid[top, left] * (1 - x + left) + grid[top, right] * (x - left)
            lower = grid[below, left] * (1 - x + left) + grid[below, right] * (x - left)
            found[row, column] = upper * (1 - y + top) + lower * (y - top)
    return found


def edited(own: Tensor, kind: str, seed: int) -> Tensor:
    """Return the maps `[heads, T, T]` of a tower's layer as CausalMM edits them."""
    heads, size, _ = own.shape
    if kind == "reversed":
        return own.amax(dim=(1, 2), keepdim=True) - own
    if kind == "uniform":
        return own.mean(dim=(1, 2), keepdim=True).expand_as(own)
    numbers = torch.tensor([[drawn(seed, head, place) for place in range(size * size)] for head in range(heads)])
    if kind == "random":
        return 2 * numbers.double().view_as(own)
    return own.flatten(1).gather(1, numbers.argsort(dim=1)).view_as(own)


def seeing(kind: str, seed: int = 0) -> Stream:
    """Return the stream whose patches are multiplied by an edited vision map."""

    @contextmanager
    def around(model: PreTrainedModel, row: Inputs) -> Iterator[None]:
        tower = model.model.vision_tower
        tower.set_attn_implementation("eager")
        own = tower(row["pixel_values"], output_attentions=True).attentions[-2][0]
        factors = torch.stack([resized(one, 2) for one in edited(own, kind, seed)]).mean(0).flatten()

        def multiply(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0] * factors[:, None],)

        handle = model.model.multi_modal_projector.register_forward_pre_hook(multiply)
        yield
        handle.remove()

    return Stream(around=around)


def weighing(kind: str, mode: str, seed: int = 0) -> Stream:
    """Return the stream whose rows weigh keys otherwise; row `t` of the prompt may know of all its `prompt` keys."""

    def rule(call: Whole) -> Tensor:
        heads, rows, _ = call.logits.shape
        weights = torch.zeros_like(call.logits)
        for head in range(heads):
            for row in range(rows):
                own = call.logits[head, row].softmax(-1)[: row + 1]
                keys = max(call.prompt, row + 1)  # of the forward in which the row was new
                if kind == "reversed":
                    new, total = own.max() - own, (own.max() - own).sum()
                else:
                    numbers = [drawn(seed, head + call.layer * heads, row + 1, key + 1) for key in range(keys)]
                    every = torch.tensor(numbers if kind == "random" else [1.0] * keys).double()
                    new, total = every[: row + 1], (every[: row + 1] if mode == "paper" else every).sum()
                if mode == "paper" and total == 0:
                    new = own
                elif mode == "paper" or kind != "reversed":
                    new = new / total
                weights[head, row, : row + 1] = new
        return weights @ call.value

    return Stream(rule)


@pytest.mark.parametrize("kind", ["shuffle", "random", "uniform", "reversed"])
def test_the_picture_through_another_vision_map(kind: str, model: Tiny, holds: Holds) -> None:
    contrast = CounterfactualAttention(gamma=0.5, vision=kind, language="none", seed=3, bound=0.2)
    holds(contrast, model.model, padded(), [seeing(kind, 3)], lambda _: (1.5, -0.5), 0.2)


@pytest.mark.parametrize("kind", ["random", "uniform", "reversed"])
@pytest.mark.parametrize("mode", ["paper", "code"])
def test_other_weights_in_the_language_model(mode: str, kind: str, model: Tiny, holds: Holds) -> None:
    contrast = CounterfactualAttention(vision="none", language=kind, mode=mode, seed=5)
    holds(contrast, model.model, padded(), [weighing(kind, mode, 5)], lambda _: (2.0, -1.0), 0.1)


def test_both_at_once_and_the_programs_one_token(model: Tiny, holds: Holds) -> None:
    """Under mode="code" the vision stream weighs nothing after the first token: (3, -1, -1), then (2, 0, -1)."""
    for mode in ("paper", "code"):
        streams = [seeing("shuffle"), weighing("uniform", mode)]

        def weights(step: int, mode: str = mode) -> tuple[float, float, float]:
            return (2.0, 0.0, -1.0) if mode == "code" and step else (3.0, -1.0, -1.0)

        holds(CounterfactualAttention(mode=mode), model.model, padded(), streams, weights, 0.1)


def test_what_cannot_be_done_is_refused_by_name(tiny: Build) -> None:
    with pytest.raises(BadOption, match="leave no stream"):
        attach(tiny("llava").model, CounterfactualAttention(vision="none", language="none"))
    with pytest.raises(UnsupportedModel, match="no vision tower with a class token"):
        attach(tiny("qwen2_vl").model, CounterfactualAttention())
    attach(tiny("qwen2_vl").model, CounterfactualAttention(vision="none"), allow_idle=True).detach()
    internvl = tiny("internvl")
    with (
        pytest.raises(UnsupportedModel, match="one position for each patch"),
        attach(internvl.model, CounterfactualAttention(), allow_idle=True),
    ):
        internvl.generate()
