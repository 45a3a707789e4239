"""BranchContrast's second stream, written again: image positions are deleted above a layer, nothing is cached."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.families import Inputs
from tests.support.uncached import grown

Given = dict[int, tuple[Tensor, dict[str, object]]]
Hook = Callable[[nn.Module, tuple[Tensor, ...], dict[str, object]], None]


def branched(model: PreTrainedModel, inputs: Inputs, answer: Tensor, start: int) -> Tensor:
    """Return token logits `[B, V]` after the prompt and the answer so far `[B, t]`, everything computed anew.

    The text's hidden states are taken from a plain pass where layer `start` begins. From there on they go through the
    layers alone, at the positions that they have in the whole sequence.
    """
    count = inputs["input_ids"].shape[0]
    if count == 1:  # a picture may be cut into several rows
        return _of_row(model, inputs, answer, start)
    rows = [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(count)]
    return torch.cat([_of_row(model, one, answer[at : at + 1], start) for at, one in enumerate(rows)])


def _of_row(model: PreTrainedModel, inputs: Inputs, answer: Tensor, start: int) -> Tensor:
    whole = grown(model, inputs, answer)
    layers = list(model.get_decoder().layers)
    with torch.no_grad():
        with _noted(layers) as given:
            model(**whole)
        image = model.config.image_token_id
        text = ((whole["input_ids"] != image) & (whole["attention_mask"] != 0))[0]
        hidden = given[start][0][:, text]
        for index in range(start, len(layers)):
            arguments = {name: _of_text(name, value, text) for name, value in given[index][1].items()}
            output = layers[index].forward(hidden, **arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        with _ending_as(layers[-1], hidden[:, -1]):
            logits: Tensor = model(**whole).logits
    return logits[:, -1].float()


@contextmanager
def _noted(layers: list[nn.Module]) -> Iterator[Given]:
    """Note what every layer is given while the context lasts."""
    given: Given = {}

    def note(index: int) -> Hook:
        def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> None:
            given[index] = (args[0].clone(), kwargs)

        return hook

    handles = [layer.register_forward_pre_hook(note(at), with_kwargs=True) for at, layer in enumerate(layers)]
    yield given
    for handle in handles:
        handle.remove()


@contextmanager
def _ending_as(layer: nn.Module, last: Tensor) -> Iterator[None]:
    """Let a layer's output end with a hidden state `[1, width]` of ours."""

    def replace(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :-1], last[:, None]], dim=1)

    handle = layer.register_forward_hook(replace)
    yield
    handle.remove()


def _of_text(name: str, value: object, text: Tensor) -> object:
    """Return a layer's argument for the text's positions alone, bool `[T]`."""
    if name == "attention_mask" and isinstance(value, Tensor):
        return value[..., text, :][..., text]
    if name == "position_embeddings" and isinstance(value, tuple):
        return tuple(one[..., text, :] for one in value)
    if name == "position_ids" and isinstance(value, Tensor):
        return value[..., text]
    return None if name == "past_key_values" else value
