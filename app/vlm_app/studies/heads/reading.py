"""From the last layer's states to words: what is read of a decision, and which way in the stream it lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_app.studies.heads.asked import Place
from vlm_heads import VLM, UnsupportedModel, examine

_FINAL_NORMS = ("norm", "final_layernorm", "ln_f")


class Reading:
    """A model's final norm and its output layer.

    Raises:
        UnsupportedModel: if the final norm is not found, or is another than an RMSNorm.
    """

    def __init__(self, vlm: VLM) -> None:
        decoder = examine(vlm.model).decoder
        found = (getattr(decoder, name, None) for name in _FINAL_NORMS)
        norm = next((one for one in found if isinstance(one, nn.Module)), None)
        if norm is None:
            raise UnsupportedModel(f"{vlm.name}: no final norm of its decoder was found ({', '.join(_FINAL_NORMS)})")
        self.norm: nn.Module = norm
        self._words: nn.Module = vlm.model.get_output_embeddings()
        matrix: Tensor = self._words.weight.detach()
        self._matrix = matrix
        ones = torch.ones(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        with torch.inference_mode():
            self._weight: Tensor = self.norm(ones)
            probe = torch.linspace(-1.0, 2.0, len(ones), dtype=ones.dtype, device=ones.device)[None]
            linear = torch.allclose(self.norm(probe), probe * self._weight * self._scale(probe), atol=1e-3, rtol=1e-2)
        if not linear:
            raise UnsupportedModel(
                f"{vlm.name}: its final norm is no RMSNorm; what heads tell directly is known through such a one alone"
            )

    def values(self, states: Tensor, places: Sequence[Place]) -> Tensor:
        """Return float32 `[n]`: the log-probability of each deciding token; of a question, that of yes minus no's.

        Args:
            states: `[n, width]`, what the last layer gave at each place.
            places: where the model decides.
        """
        with torch.inference_mode():
            said: Tensor = self._words(self.norm(states)).float().log_softmax(dim=-1)
        return torch.stack([_of(said[number], place) for number, place in enumerate(places)])

    def directions(self, states: Tensor, places: Sequence[Place], objects: Sequence[int]) -> Tensor:
        """Return `[n, width]`: what is added to the stream at a place tells for the decision by its product with this.

        A deciding token is set against the mean of all words for objects, yes against no. The final norm's scale is
        held at what it was.

        Args:
            states: `[n, width]`, what the last layer gave at each place.
            places: where the model decides.
            objects: tokens that begin words for objects.
        """
        mean = self._matrix[list(objects)].mean(dim=0)
        said = torch.stack([self._matrix[place.token] for place in places])
        other = torch.stack([mean if place.against is None else self._matrix[place.against] for place in places])
        found: Tensor = (said - other) * self._weight * self._scale(states)
        return found

    def _scale(self, states: Tensor) -> Tensor:
        """Return `[n, 1]`: an RMSNorm gives the weighted state times this."""
        weighted = states * self._weight
        scale: Tensor = (self.norm(states) * weighted).sum(-1, keepdim=True) / weighted.square().sum(-1, keepdim=True)
        return scale


def _of(said: Tensor, place: Place) -> Tensor:
    return said[place.token] if place.against is None else said[place.token] - said[place.against]
