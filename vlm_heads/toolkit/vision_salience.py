"""Which patches the vision tower itself finds salient: its class token's attention, and what each patch receives.

The tower runs stock attention, which returns no weights. So queries and keys of two of its layers are recorded at their
projections, and the weights are computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from vlm_kernels import KeyClass

from vlm_heads.errors import UnsupportedModel

CLASS_TOKEN_NAMES = ("class_embedding", "cls_token")


@dataclass
class TowerAttention:
    """What the tower's last forward projected in its first and its second-last layer.

    Attributes:
        heads: of the tower.
        recorded: query and key `[N, 1 + P, width]` by "first" and "late"; the class token comes first.
    """

    heads: int
    recorded: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def weights(self, layer: str) -> Tensor:
        """Return `[N, 1 + P, 1 + P]`: softmax weights, the mean over heads; see `head_weights`."""
        return self.head_weights(layer).mean(dim=1)

    def head_weights(self, layer: str) -> Tensor:
        """Return `[N, heads, 1 + P, 1 + P]`: softmax weights in float32.

        Raises:
            UnsupportedModel: if the tower has not run since the attach began.
        """
        if (layer, "k_proj") not in self.recorded:
            raise UnsupportedModel("the image was encoded before attach, so its vision attention was not seen")
        query, key = (self._split(self.recorded[layer, name]) for name in ("q_proj", "k_proj"))
        return (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)

    def _split(self, projected: Tensor) -> Tensor:
        images, tokens, width = projected.shape
        return projected.float().view(images, tokens, self.heads, width // self.heads).transpose(1, 2)


@contextmanager
def listening(model: nn.Module, decoder: nn.Module) -> Iterator[TowerAttention]:
    """Record what the vision tower of a model projects while the context lasts.

    Raises:
        UnsupportedModel: if there is no tower with a class token and separate query and key projections.
    """
    layers = _tower_layers(model, decoder)
    tower = TowerAttention(heads=int(_number_of_heads(layers[0])))
    handles = [
        getattr(attention, name).register_forward_hook(_keep(tower.recorded, (place, name)))
        for place, attention in (("first", layers[0]), ("late", layers[-2]))
        for name in ("q_proj", "k_proj")
    ]
    try:
        yield tower
    finally:
        for handle in handles:
            handle.remove()


def salient_patches(tower: TowerAttention, local_share: float, spatial: bool) -> tuple[Tensor, Tensor]:
    """Return the local and the summary patches, bool `[N, P]` each; no patch is both (PAINT, Arif et al. 2025).

    Local are those that the class token attends to most in the first layer and, where `spatial`, those that receive
    most attention there in all. Summary are the outliers of the class token's attention in the second-last layer,
    above the third quartile by 1.5 times the distance of the quartiles.

    Args:
        tower: after a forward.
        local_share: of the patches, for each of the two local streams; one patch at least.
        spatial: take the spatial stream. The public program sums each query's weights, which are always 1; what a
            patch receives is the sum over queries.
    """
    first = tower.weights("first")
    late = tower.weights("late")[:, 0, 1:]
    count = max(1, round(local_share * late.shape[1]))
    local = _largest(first[:, 0, 1:], count)
    if spatial:
        local = local | _largest(first[:, 1:, 1:].sum(dim=1), count)
    quartiles = torch.quantile(late, torch.tensor([0.25, 0.75], device=late.device), dim=1)
    summary = late > (quartiles[1] + 1.5 * (quartiles[1] - quartiles[0]))[:, None]
    return local & ~summary, summary


def over_prompt(patches: Tensor, classes: Tensor) -> Tensor:
    """Return values of patches `[N, P]` at the image positions of a prompt, `[B, T]`, and 0 elsewhere.

    Beams and several answers repeat rows of the prompt, but the tower has seen each image once.

    Args:
        patches: one value per patch, images in the order of the batch.
        classes: int8 `[B, T]`, of the prompt's keys.

    Raises:
        UnsupportedModel: if image positions are not one per patch, as where tiles, pooling or a resampler come between.
    """
    image = classes == KeyClass.IMAGE
    images, size = patches.shape
    counts: list[int] = image.sum(dim=1).tolist()  # waits for the device, once per prompt
    total = sum(counts) // size
    if any(count % size for count in counts) or total % images or len(counts) % max(1, total // images):
        raise UnsupportedModel(
            f"the vision tower saw {images} images of {size} patches, but the prompts hold {counts} image positions; "
            "one position per patch is needed"
        )
    repeats = total // images
    values = patches.new_zeros(classes.shape)
    start = 0
    for row in range(0, len(counts), max(1, repeats)):
        own = patches[start : start + counts[row] // size].flatten()
        start += counts[row] // size
        for copy in range(row, row + repeats):
            values[copy, image[copy]] = own
    return values


def _largest(values: Tensor, count: int) -> Tensor:
    chosen = torch.zeros_like(values, dtype=torch.bool)
    return chosen.scatter_(1, values.topk(count, dim=1).indices, True)


def _keep(recorded: dict[tuple[str, str], Tensor], place: tuple[str, str]) -> Callable[[Any, Any, Tensor], None]:
    def keep(_: Any, __: Any, output: Tensor) -> None:
        recorded[place] = output.detach()

    return keep


def require_class_token(model: nn.Module, decoder: nn.Module) -> None:
    """Raise `UnsupportedModel` if there is no tower with a class token and separate query and key projections."""
    _tower_layers(model, decoder)


def _tower_layers(model: nn.Module, decoder: nn.Module) -> list[Any]:
    """Return the attention modules of the vision tower's layers, in order."""
    inside_decoder = set(decoder.modules())
    for tower in model.modules():
        embeddings = getattr(tower, "embeddings", None)
        if tower in inside_decoder or not any(hasattr(embeddings, name) for name in CLASS_TOKEN_NAMES):
            continue
        found = [
            module
            for module in tower.modules()
            if isinstance(getattr(module, "q_proj", None), nn.Linear) and hasattr(module, "k_proj")
        ]
        if len(found) >= 2:
            return found
    raise UnsupportedModel("no vision tower with a class token whose attention can be seen was found in this model")


def _number_of_heads(attention: Any) -> int:
    return int(getattr(attention, "num_heads", None) or attention.num_attention_heads)
