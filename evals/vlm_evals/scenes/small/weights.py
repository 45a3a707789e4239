"""What `small` is trained to be, on top of its base: vision tower, projector and adapters, in one file of 16 bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vlm_evals.records import write_whole
from vlm_heads.errors import UnsupportedModel

from .package import WEIGHTS

PARTS = ("tower", "projector", "adapters")


@dataclass(frozen=True)
class Weights:
    """The trained parts of `small`.

    Attributes:
        tower: CLIP's state.
        projector: the projector's state.
        adapters: `layer.down` and `layer.up` for each linear layer of the language model.
        facts: how they came to be, such as the seed and the SHA-256 of the base.
    """

    tower: Mapping[str, Tensor]
    projector: Mapping[str, Tensor]
    adapters: Mapping[str, Tensor]
    facts: Mapping[str, str]


def save_weights(weights: Weights, path: Path) -> None:
    """Write the weights in one step, as float16.

    Raises:
        ValueError: if a weight is beyond float16.
    """
    parts = {"tower": weights.tower, "projector": weights.projector, "adapters": weights.adapters}
    tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    halves = {name: tensor.detach().cpu().to(torch.float16).contiguous() for name, tensor in tensors.items()}
    if not all(bool(half.isfinite().all()) for half in halves.values()):
        raise ValueError(f"{path}: a weight is not finite in 16 bits")
    path.parent.mkdir(parents=True, exist_ok=True)
    # one entry: the format writes several in any order, and the same weights are to give the same bytes
    write_whole(path, save(halves, metadata={"facts": json.dumps(weights.facts)}))


def read_weights(place: Path) -> Weights:
    """Return the weights in a file, or in the `weights.safetensors` of a folder, as float32.

    Raises:
        FileNotFoundError: if there are none.
        UnsupportedModel: if the file is damaged or holds something else.
    """
    path = place / WEIGHTS if place.is_dir() else place
    if not path.is_file():
        raise FileNotFoundError(f"no weights of 'small' at {path}; train them: vlm-heads world train-small DIR")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            for key in file.keys():  # noqa: SIM118 - no mapping
                part, _, name = key.partition(".")
                parts[part][name] = file.get_tensor(key).float()
    except (SafetensorError, KeyError) as failure:
        raise UnsupportedModel(f"{path} holds no weights of 'small': {failure}") from failure
    return Weights(**parts, facts=facts)
