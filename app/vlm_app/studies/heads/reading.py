"""From the last layer's states to words: what is read of a decision, and which way in the stream it lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_app.studies.heads.asked import Place
from vlm_heads import VLM, examine
from vlm_heads.scorers import OutputLayer


class Reading:
    """A model's final norm and its output layer.

    Raises:
        UnsupportedModel: if the final norm is not found, or is another than an RMSNorm.
    """

    def __init__(self, vlm: VLM) -> None:
        self._output = OutputLayer(vlm.model, examine(vlm.model))
        self.norm: nn.Module = self._output.norm

    def values(self, states: Tensor, places: Sequence[Place]) -> Tensor:
        """Return float32 `[n]`: the log-probability of each deciding token; of a question, that of yes minus no's.

        Args:
            states: `[n, width]`, what the last layer gave at each place.
            places: where the model decides.
        """
        return values_of(self.log_chances(states), places)

    def log_chances(self, states: Tensor) -> Tensor:
        """Return float32 `[n, V]`: log-probabilities of all tokens, for states `[n, width]` of the last layer."""
        return self._output.log_chances(states)

    def directions(self, states: Tensor, places: Sequence[Place], objects: Sequence[int]) -> Tensor:
        """Return `[n, width]`: what is added to the stream at a place tells for the decision by its product with this.

        A deciding token is set against the mean of all words for objects, yes against no. The final norm's scale is
        held at what it was.

        Args:
            states: `[n, width]`, what the last layer gave at each place.
            places: where the model decides.
            objects: tokens that begin words for objects.
        """
        matrix = self._output.matrix
        mean = matrix[list(objects)].mean(dim=0)
        said = torch.stack([matrix[place.token] for place in places])
        other = torch.stack([mean if place.against is None else matrix[place.against] for place in places])
        return self._output.through_norm(said - other, states)


def values_of(said: Tensor, places: Sequence[Place]) -> Tensor:
    """Return `[n]`: what counts at each place, of log-probabilities `[n, V]`; see `Reading.values`."""
    return torch.stack([_of(said[number], place) for number, place in enumerate(places)])


def _of(said: Tensor, place: Place) -> Tensor:
    return said[place.token] if place.against is None else said[place.token] - said[place.against]
