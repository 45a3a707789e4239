"""The state of a training, in one file that is whole or not there, so that a killed training goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from vlm_evals.records import write_whole


def save_state(path: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW, done: int) -> None:
    """Write parameters, both of Adam's averages and the number of steps taken.

    No generator's state is needed: every step draws from the seed and its own number alone.
    """
    tensors = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        tensors[f"{name}:value"] = parameter.detach()
        tensors |= {f"{name}:{kind}": value for kind, value in state.items()}
    content = save({key: value.cpu().contiguous() for key, value in tensors.items()}, metadata={"done": str(done)})
    write_whole(path, content)


@torch.no_grad()
def load_state(path: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW) -> int:
    """Put a saved state into the parameters and the optimiser; return the number of steps taken."""
    with safe_open(path, framework="pt") as file:
        done = int(file.metadata()["done"])
        for key in file.keys():  # noqa: SIM118 - no mapping
            name, _, kind = key.rpartition(":")
            parameter = parameters[name]
            if kind == "value":
                parameter.copy_(file.get_tensor(key))
            else:
                held = file.get_tensor(key)  # Adam counts its steps on the CPU, wherever the parameters are
                optimizer.state[parameter][kind] = held if kind == "step" else held.to(parameter.device)
    return done
