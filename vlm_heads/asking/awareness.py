"""T-VHD of the words that a batch of drafts names: the control that chooses words by how little they lean on the image.

The same measure as `token_grounding`, for many rows at once. The pictures are encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vlm_heads import attention
from vlm_heads.asking.judging import Mention
from vlm_heads.asking.whole_prompts import WholePrompts
from vlm_heads.attached.two_streams import both_streams
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.families import Anatomy
from vlm_heads.toolkit import sensitivity


def token_awareness(
    model: Any,
    anatomy: Anatomy,
    whole: WholePrompts,
    prompts: Sequence[Sequence[int]],
    answers: Mapping[int, Sequence[int]],
    mentions: Sequence[Mention],
) -> list[float]:
    """Return T-VHD of the last token of each mention (He et al. 2025, Eq. 5).

    Args:
        model: that answers.
        anatomy: of the model.
        whole: makes inputs of the batch's pictures.
        prompts: token ids of every row, without padding.
        answers: token ids by row; of rows without mentions they may be missing.
        mentions: what is measured.

    Raises:
        UnsupportedGeneration: if interventions are attached: it compares the plain model with and without the image.
    """
    if any(attention.is_bound(module) for module in anatomy.attentions.values()):
        raise UnsupportedGeneration("by=t_vhd is a control of the plain model: attach no intervention beside it")
    said = [list(answers.get(row, ()))[:-1] for row in range(len(prompts))]
    positions = max(map(len, said)) + 1
    inputs = whole.of([[*prompt, *more] for prompt, more in zip(prompts, said, strict=True)])
    sighted, blind = both_streams(model, anatomy, inputs, positions)
    total = torch.zeros(len(prompts), positions, dtype=torch.float64)
    top = sensitivity.default_top(anatomy.heads)
    for layer, seen in sighted.outputs.items():
        if layer in blind.outputs:
            awareness = sensitivity.vision_awareness(seen, blind.outputs[layer])
            total += sensitivity.token_awareness(awareness, top).double().cpu()
    # the position before a token predicts it; a row's last position predicts its last token
    return [float(total[one.row, positions - len(answers[one.row]) + one.token]) for one in mentions]
