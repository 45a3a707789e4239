"""How much each head looks at a picture, scene by scene: VHD, and its weight on the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.world import Scene

from vlm_app.studies.findings.captions import picture_of
from vlm_app.studies.heads.routes import from_image
from vlm_heads import VLM, AttentionCall, Watcher, attach, examine, score_heads

LOOKS = ("vhd", "image_mass")


def looks(vlm: VLM, pictures: Sequence[Scene]) -> dict[str, Tensor]:
    """Return VHD and image mass, `[L, Hq, S]` each, in the last position of the prompt that asks for a description."""
    anatomy = examine(vlm.model)
    images = [picture_of(scene) for scene in pictures]
    vhd = [score_heads(vlm.model, vlm.processor, [image], prompt=DESCRIBE).scores for image in images]
    watcher = _LastRow()
    with torch.inference_mode(), attach(vlm.model, watch=watcher):
        vlm.model(**vlm.inputs(images, DESCRIBE), use_cache=False, logits_to_keep=1)
    mass = torch.zeros((anatomy.depth, anatomy.heads, len(images)))
    for layer, seen in watcher.mass.items():
        mass[layer] = seen.T
    return {"vhd": torch.stack(vhd, dim=-1), "image_mass": mass}


class _LastRow(Watcher):
    """Keeps the heads' weight on the picture in a prompt's last position, `[S, Hq]` by layer."""

    def __init__(self) -> None:
        self.mass: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        self.mass[call.layer] = from_image(call)[1][:, :, -1].float().cpu()
