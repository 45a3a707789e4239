"""A plain, uncached loop in float64 that writes the next token from what entered every layer."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.families import Inputs, Tiny
from tests.support.uncached import grown


@dataclass
class Seen:
    """One row's step.

    Attributes:
        step: tokens of the answer before it.
        logits: the model's own, `[V]`.
        first: those of the first step, `[V]`.
        entering: what entered each layer where the token is predicted, `[width]` each.
        norm: the model's last norm.
        head: its output embedding.
    """

    step: int
    logits: Tensor
    first: Tensor
    entering: list[Tensor]
    norm: nn.Module
    head: nn.Module


Rule = Callable[[Seen], Tensor]


def greedy_loop(model: PreTrainedModel, inputs: Inputs, rule: Rule, steps: int = 5) -> tuple[Tensor, list[Tensor]]:
    """Return the answer `[B, steps]` and the log-probabilities `[B, V]` that each of its tokens was chosen from."""
    wide = copy.deepcopy(model).double()
    inputs = {name: one.double() if one.is_floating_point() else one for name, one in inputs.items()}
    rows = len(inputs["input_ids"])
    answer, first, scores = inputs["input_ids"].new_empty(rows, 0), None, []
    for step in range(steps):
        with torch.no_grad():
            output = wide(**grown(wide, inputs, answer), output_hidden_states=True)
            logits = output.logits[:, -1]
            first = logits if first is None else first
            states = [state[:, -1] for state in output.hidden_states[:-1]]
            said = [
                rule(
                    Seen(
                        step, logits[row], first[row], [state[row] for state in states],
                        wide.get_decoder().norm, wide.get_output_embeddings(),
                    )
                )
                for row in range(rows)
            ]  # fmt: skip
        scores.append(torch.stack(said).log_softmax(-1))
        answer = torch.cat([answer, scores[-1].argmax(-1, keepdim=True)], 1)
    return answer, scores


def vivid(built: Tiny) -> PreTrainedModel:
    """Return the model with larger weights, so that its layers differ in what they would say."""
    with torch.no_grad():
        built.model.get_input_embeddings().weight *= 20
        for layer in built.decoder_layers:
            for path in ("mlp.down_proj", "self_attn.o_proj"):
                layer.get_parameter(f"{path}.weight").mul_(40)
    return built.model
