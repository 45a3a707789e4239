"""score_heads(): how much each head looks at the image (VHD), averaged over samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from vlm_heads.models.prompts import DEFAULT_PROMPT
from vlm_heads.profile import HeadProfile
from vlm_heads.scorers.example import Sample
from vlm_heads.scorers.vision_awareness import VisionAwareness


def score_heads(
    model: nn.Module,
    processor: Any,
    samples: Iterable[Sample],
    *,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    progress: Callable[[int], object] | None = None,
) -> HeadProfile:
    """Return the mean VHD of every head over samples, `[L, Hq]` float32 (He et al. 2025, Eq. 4).

    Nothing is reinforced: one plain pass and one image-free pass a batch, compared at the last prompt position. It is
    the scorer `vhd` of `vlm_heads.scorers`, where the others stand.

    Args:
        model: a vision-language model of transformers.
        processor: its processor.
        samples: images, or (image, prompt) pairs.
        prompt: for samples that bring none.
        batch_size: samples in one pass; the scores do not depend on it.
        progress: called with the number of samples done after each batch.

    Raises:
        BadOption: if there is no sample.
        BadImage: if an image cannot be read.
        UnsupportedModel: if the model's attention cannot be seen.
    """
    scorer = VisionAwareness()
    return scorer.score(model, processor, samples, prompt=prompt, batch_size=batch_size, progress=progress)
