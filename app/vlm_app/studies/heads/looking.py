"""How much each head looks at a picture, scene by scene: VHD, and its weight on the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.world import Scene

from vlm_app.studies.findings.captions import picture_of
from vlm_heads import VLM, examine
from vlm_heads.scorers import Example, parse_scorer

LOOKS = ("vhd", "image_mass")


def looks(vlm: VLM, pictures: Sequence[Scene]) -> dict[str, Tensor]:
    """Return VHD and image mass, `[L, Hq, S]` each, in the last position of the prompt that asks for a description."""
    anatomy = examine(vlm.model)
    examples = [Example(picture_of(scene), DESCRIBE) for scene in pictures]
    found = {}
    for name in LOOKS:
        scorer = parse_scorer(name.replace("_", "-"))
        scorer.check(anatomy)
        seen = scorer.look(vlm.model, vlm.processor, anatomy, examples)
        found[name] = torch.stack([one.right[0] for one in seen if one is not None], dim=-1)
    return found
