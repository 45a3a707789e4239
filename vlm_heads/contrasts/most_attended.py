"""AvisC: the stream of the most attended image tokens alone is taken off (Woo et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlm_heads.attached.image_features import embeddings_kept
from vlm_heads.attached.looked import image_weights
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.families import Anatomy, examine
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import require_image_keys


@dataclass(frozen=True)
class MostAttended(Contrast):
    """AvisC: `(1 + alpha) z - alpha z2`, where the second stream has the most attended image tokens alone.

    A few image tokens take most of the attention whatever is asked; the paper calls them blind. In the second stream
    they stay, and the embeddings of all other image tokens are zero. Which they are is found once, where the prompt
    ends, in a plain pass of its own.

    Formula:
        a[l, j]  = mean over heads i of w[l, i, j]   after softmax, in the prompt's last row, for image keys j
        layers   = those with the most of a, in the fewest layers that hold the share gamma of it
        s[j]     = mean over these layers l of a[l, j]
        x[j]     <- 0   for image tokens j with s[j] < mean s + deviation * std s, where they enter the language model
        z <- (1 + alpha) * z - alpha * z2   among tokens with p >= bound * max p

    Paper and program:
        No disagreement is known. The program's `deviation` is 1 in its scripts, and 0.99 or 0.95 in the defaults of its
        parsers. It takes mean and std over all rows of a batch, and runs batches of one; here they are each row's own.
        It samples. `std` divides by the number of image tokens less one; where there is one alone, it stays.
    """

    name: ClassVar[str] = "avisc"
    label: ClassVar[str] = "AvisC"
    paper: ClassVar[Paper | None] = Paper(
        "Woo et al.",
        "Don't Miss the Forest for the Trees: Attentional Vision Calibration for Large Vision Language Models",
        2024,
        arxiv="2405.17820",
    )

    alpha: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast")
    gamma: float = option(0.5, at_least=0.0, at_most=1.0, help="share of the image's attention that the layers hold")
    deviation: float = option(1.0, help="how many standard deviations above the mean a token stays")

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        require_image_keys(anatomy)

    def second_stream(self, asked: Asked) -> SecondStream:
        return asked.again(showing=partial(self._shown, asked))

    def weights(self, step: int) -> tuple[float, float]:
        return 1.0 + self.alpha, -self.alpha

    @contextmanager
    def _shown(self, asked: Asked) -> Iterator[None]:
        """Show the language model the most attended tokens alone while the context lasts."""
        weights = [layer.mean(dim=1) for layer in image_weights(asked.model, asked.inputs).values()]
        zeroed = self._others(torch.stack(weights, dim=1), asked.image_positions())
        with embeddings_kept(examine(asked.model), ~zeroed):
            yield

    def _others(self, weights: Tensor, image: Tensor) -> Tensor:
        """Return bool `[B, T]`: image tokens that do not stay, for weights `[B, L, T]` that are 0 at other keys."""
        held = weights.sum(dim=-1)
        ordered, order = (held / held.sum(dim=-1, keepdim=True)).sort(dim=-1, descending=True)
        chosen = pad(ordered.cumsum(dim=-1)[:, :-1], (1, 0)) < self.gamma  # what the layers before hold
        chosen[:, 0] = True
        layers = torch.zeros_like(held).scatter_(1, order, chosen.to(held))
        score = (layers[..., None] * weights).sum(dim=1) / layers.sum(dim=-1, keepdim=True)
        count = image.sum(dim=1, keepdim=True)
        mean = (score * image).sum(dim=1, keepdim=True) / count
        std = (((score - mean) ** 2 * image).sum(dim=1, keepdim=True) / (count - 1)).sqrt()
        return image & (score < mean + self.deviation * std)  # of one token alone it is undefined
