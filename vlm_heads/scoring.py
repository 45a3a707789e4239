"""score_heads(): how much each head looks at the image (VHD), averaged over samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads.attached.two_streams import both_streams
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy, examine
from vlm_heads.models.images import ImageSource, load_image
from vlm_heads.models.prompts import DEFAULT_PROMPT, model_inputs
from vlm_heads.profile import HeadProfile
from vlm_heads.toolkit import sensitivity

Sample = ImageSource | tuple[ImageSource, str]


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

    Nothing is reinforced: one plain pass and one image-free pass a batch, compared at the last prompt position.

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
    anatomy = examine(model)
    total = _Sums(
        torch.zeros(anatomy.depth, anatomy.heads, dtype=torch.float64),
        torch.zeros(anatomy.depth, anatomy.heads, dtype=torch.float64),
    )
    for batch in _batches(samples, max(1, batch_size)):
        pairs = [one if isinstance(one, tuple) else (one, prompt) for one in batch]
        inputs = model_inputs(model, processor, [load_image(image) for image, _ in pairs], [text for _, text in pairs])
        total.add(model, anatomy, inputs)
        if progress is not None:
            progress(total.samples)
    if total.samples == 0:
        raise BadOption("no sample to score heads on; give at least one image")
    return HeadProfile(
        scores=(total.awareness / total.samples).float(),
        surges=(total.surges / total.samples).float(),
        samples=total.samples,
        model_type=anatomy.model_type,
    )


@dataclass
class _Sums:
    awareness: Tensor
    surges: Tensor
    samples: int = 0

    def add(self, model: nn.Module, anatomy: Anatomy, inputs: dict[str, Any]) -> None:
        """Add one batch's VHD and TA."""
        sighted, blind = both_streams(model, anatomy, inputs)
        for layer, seen in sighted.outputs.items():
            if layer in blind.outputs:
                unseen = blind.outputs[layer][:, -1]
                awareness = sensitivity.vision_awareness(seen[:, -1], unseen)
                self.awareness[layer] += awareness.sum(dim=0).double().cpu()
                self.surges[layer] += sensitivity.surge(unseen).sum(dim=0).double().cpu()
        self.samples += int(inputs["input_ids"].shape[0])


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    remaining = iter(samples)
    while batch := list(islice(remaining, size)):
        yield batch
