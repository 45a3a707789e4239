"""AvisC against a prompt whose image embeddings are set to zero in float64, and one worked example."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.families import IMAGE, Build, Inputs, Tiny
from tests.support.stream_oracle import Stream, Whole, padded, plainly, streamed
from tests.vlm_heads.contrasts.conftest import Holds
from vlm_heads import attach
from vlm_heads.contrasts.most_attended import MostAttended
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.methods import Asked


def kept(means: Tensor, gamma: float, deviation: float) -> list[bool]:
    """Return which image tokens stay, for the mean weights of each layer `[L, N]`."""
    shares = means.sum(1) / means.sum()
    layers: list[int] = []
    for layer in shares.argsort(descending=True).tolist():
        if layers and sum(float(shares[one]) for one in layers) >= gamma:
            break
        layers.append(layer)
    score = means[layers].mean(0)
    return [bool(one >= score.mean() + deviation * score.std()) for one in score]


def alone(gamma: float, deviation: float) -> Stream:
    """Return the stream of the most attended image tokens."""

    @contextmanager
    def around(model: PreTrainedModel, row: Inputs) -> Iterator[None]:
        means = torch.zeros(3, 4, dtype=torch.float64)

        def look(call: Whole) -> Tensor:
            means[call.layer] = call.logits.softmax(-1)[:, -1, call.image].mean(0)
            return plainly(call)

        streamed(model, row, torch.empty(1, 0).long(), Stream(look))
        stays = torch.ones(row["input_ids"].shape[1], 1, dtype=torch.float64)
        stays[row["input_ids"][0] == IMAGE, 0] = torch.tensor(kept(means, gamma, deviation)).double()

        def zero(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> tuple[object, object]:
            embeddings = kwargs["inputs_embeds"].clone()
            embeddings[0, : len(stays)] *= stays
            return args, {**kwargs, "inputs_embeds": embeddings}

        handle = model.model.language_model.register_forward_pre_hook(zero, with_kwargs=True)
        yield
        handle.remove()

    return Stream(around=around)


@pytest.mark.parametrize(("gamma", "deviation"), [(0.5, 0.5), (0.8, 0.0), (0.0, 1.0)])
def test_other_image_tokens_are_zero(gamma: float, deviation: float, model: Tiny, holds: Holds) -> None:
    contrast = MostAttended(alpha=1.5, gamma=gamma, deviation=deviation)
    holds(contrast, model.model, padded(), [alone(gamma, deviation)], lambda _: (2.5, -1.5), 0.1)


def test_one_worked_example() -> None:
    """Layers hold 0.6, 0.3 and 0.1 of the image's attention.

    gamma 0.5 takes the first layer: its tokens have 0.1, 0.1, 0.1, 0.3. The mean is 0.15, the standard deviation 0.1.
    The last token is above 0.25 and stays; it would not above 0.15 + 2 * 0.1 = 0.35.
    """
    layers = torch.tensor([[0.0, 0.025, 0.025, 0.025, 0.025], [0.0, 0.1, 0.1, 0.1, 0.3], [0.0, 0.0, 0.0, 0.2, 0.1]])
    image = torch.tensor([[False, True, True, True, True]])
    assert MostAttended()._others(layers[None], image).tolist() == [[False, True, True, True, False]]
    assert MostAttended(deviation=2.0)._others(layers[None], image).tolist() == [[False, True, True, True, True]]
    one = torch.tensor([[False, True, False, False, False]])
    assert not MostAttended()._others(layers[None] * one, one).any()


def test_what_cannot_be_done_is_refused_by_name(llava: Tiny, tiny: Build) -> None:
    with pytest.raises(BadOption, match="no prompt has an image"):
        MostAttended().second_stream(Asked(llava.model, {"input_ids": llava.text}))
    with pytest.raises(UnsupportedModel, match="reads the image in cross-attention"):
        attach(tiny("mllama").model, MostAttended())
