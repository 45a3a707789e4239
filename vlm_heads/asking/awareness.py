"""T-VHD of the words that a batch of drafts names: the control that chooses words by how little they lean on the image.

The same measure as `token_grounding`, for many rows at once. The pictures are encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from vlm_heads import attention
from vlm_heads.asking.judging import Mention
from vlm_heads.asking.whole_prompts import WholePrompts
from vlm_heads.attached.tracking import Tracker
from vlm_heads.attached.two_streams import both_streams
from vlm_heads.families import Anatomy
from vlm_heads.toolkit import sensitivity


def token_awareness(
    model: Any,
    anatomy: Anatomy,
    tracker: Tracker,
    whole: WholePrompts,
    prompts: Sequence[Sequence[int]],
    answers: Mapping[int, Sequence[int]],
    mentions: Sequence[Mention],
) -> list[float]:
    """Return T-VHD of the last token of each mention (He et al. 2025, Eq. 5); nothing is reinforced.

    Args:
        model: that answers.
        anatomy: of the model.
        tracker: follows what is attached, if anything is.
        whole: makes inputs of the batch's pictures.
        prompts: token ids of every row, without padding.
        answers: token ids by row; of rows without mentions they may be missing.
        mentions: what is measured.
    """
    said = [list(answers.get(row, ()))[:-1] for row in range(len(prompts))]
    positions = max(map(len, said)) + 1
    inputs = whole.of([[*prompt, *more] for prompt, more in zip(prompts, said, strict=True)])
    attached = any(attention.is_bound(module) for module in anatomy.attentions.values())
    look = tracker.look_both_ways if attached else partial(both_streams, model, anatomy)
    sighted, blind = look(inputs, positions)
    total = torch.zeros(len(prompts), positions, dtype=torch.float64)
    top = sensitivity.default_top(anatomy.heads)
    for layer, seen in sighted.outputs.items():
        if layer in blind.outputs:
            awareness = sensitivity.vision_awareness(seen, blind.outputs[layer])
            total += sensitivity.token_awareness(awareness, top).double().cpu()
    # the position before a token predicts it; a row's last position predicts its last token
    return [float(total[one.row, positions - len(answers[one.row]) + one.token]) for one in mentions]
