"""How much attention the sinks of a model take, layer by layer, on a prompt at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan, KeyClass, attend

from vlm_heads.attach import attach
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.families import examine
from vlm_heads.toolkit.row_attention import require_image_keys
from vlm_heads.toolkit.sink_criterion import SinkCriterion


def sink_shares(model: nn.Module, inputs: Mapping[str, Any], criterion: SinkCriterion) -> tuple[Tensor, Tensor]:
    """Return what text sinks and image sinks take in each layer, float32 `[L]` twice, 0..1.

    The mean over heads, over the batch and over the text rows after the image. Layers without self-attention are 0.

    Args:
        model: a vision-language model of transformers.
        inputs: of its forward, each row with an image.
        criterion: which tokens are sinks; `find_sink_channels` finds its channels.

    Raises:
        UnsupportedModel: if the model's self-attention has no image keys.
    """
    anatomy = examine(model)
    require_image_keys(anatomy)
    watcher = _SinkMass(criterion)
    with torch.no_grad(), attach(model, watch=[watcher]):
        model(**{**inputs, "use_cache": False})
    shares = torch.zeros(2, anatomy.depth)
    for layer, mass in watcher.mass.items():
        shares[:, layer] = mass.float().cpu()
    return shares[0], shares[1]


class _SinkMass(Watcher):
    """Keeps the mean mass of text sinks and image sinks of every layer."""

    reads_hidden: ClassVar[bool] = True

    def __init__(self, criterion: SinkCriterion) -> None:
        self.criterion = criterion
        self.mass: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        assert call.hidden is not None, "reads_hidden asks for it"
        padding = call.key_map.classes == KeyClass.PADDING
        sinks = self.criterion.sinks(call.hidden, padding)
        classes = call.key_map.seen_by(call.key.shape[2], call.classes_with_sinks(sinks))
        _, seen = attend(
            call.query,
            call.key,
            call.value,
            plan=AttentionPlan(),
            key_class=classes,
            mask=call.mask,
            scale=call.scale,
            want=("mass",),
        )
        assert seen.mass is not None
        columns = torch.arange(call.query.shape[2], device=classes.device)
        text = (columns >= call.key_map.after_image[:, None]) & ~padding
        rows = seen.mass.mean(dim=1)[text]  # [rows, classes]
        self.mass[call.layer] = rows.mean(dim=0)[[KeyClass.TEXT_SINK, KeyClass.IMAGE_SINK]]
