"""What each head tells for a decision directly: through the picture, and through all other keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass, attend

from vlm_app.studies.heads.asked import Beginning, Rows
from vlm_app.studies.heads.reading import Reading
from vlm_heads import VLM, AttentionCall, Watcher, attach, examine
from vlm_heads.methods import require_image_keys
from vlm_heads.scorers import told

ROUTES = ("image", "text")
IMAGE_KEYS = [KeyClass.IMAGE_SINK, KeyClass.IMAGE]


def routes(vlm: VLM, beginning: Beginning, rows: Rows, reading: Reading, objects: Sequence[int]) -> dict[str, Tensor]:
    """Return float32 `[L, Hq, n]` by route, "image" and "text": what each head tells for the decision at n places.

    A head's output goes through its slice of the output projection, the final norm with its scale held, and the output
    layer; no later layer has a part in it. Both routes together are the head's whole output.

    Args:
        vlm: the model.
        beginning: of the rows' pictures.
        rows: one for each picture.
        reading: of the model.
        objects: tokens that begin words for objects.

    Raises:
        UnsupportedModel: if the self-attention has no image keys, or an output projection is no plain matrix.
    """
    anatomy = examine(vlm.model)
    require_image_keys(anatomy)
    at = (rows.scenes, beginning.length + rows.columns)
    watcher, states = _Routes(at), list[Tensor]()

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        states.append(args[0][at])

    handle = reading.norm.register_forward_pre_hook(note)
    try:
        with torch.inference_mode(), attach(vlm.model, watch=watcher):
            vlm.model(**joined(beginning, rows), use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    found = {route: torch.zeros((anatomy.depth, anatomy.heads, len(rows.places))) for route in ROUTES}
    with torch.inference_mode():
        directions = reading.directions(states[-1], rows.places, objects)
        for layer, whole in watcher.whole.items():
            image = told(anatomy, layer, watcher.image[layer], directions)
            found["image"][layer] = image
            found["text"][layer] = told(anatomy, layer, whole, directions) - image
    return found


@dataclass
class _Routes(Watcher):
    """Keeps each head's output at places, whole and from the picture's keys alone.

    Attributes:
        at: rows and columns of the places, int64 `[n]` each.
        whole: `[n, Hq, D]` by layer.
        image: `[n, Hq, D]` by layer.
    """

    at: tuple[Tensor, Tensor]
    whole: dict[int, Tensor] = field(default_factory=dict)
    image: dict[int, Tensor] = field(default_factory=dict)

    def see(self, call: AttentionCall) -> None:
        assert call.output is not None, "watchers see it"
        self.whole[call.layer] = call.output[self.at]
        self.image[call.layer] = from_image(call)[0].transpose(1, 2)[self.at]


def from_image(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Return the picture's part of heads' outputs `[B, Hq, Tq, D]`, and its weight `[B, Hq, Tq]`."""
    alone = call.query.new_zeros((*call.query.shape[:2], CLASS_COUNT))
    alone[..., IMAGE_KEYS] = 1.0
    output, seen = attend(
        call.query,
        call.key,
        call.value,
        plan=AttentionPlan(class_gain=alone),
        key_class=call.key_class(),
        mask=call.mask,
        scale=call.scale,
        backend="torch",
        want=("mass",),
    )
    assert seen.mass is not None, "it was asked for"
    return output, seen.mass[..., IMAGE_KEYS].sum(dim=-1)


def joined(beginning: Beginning, rows: Rows) -> dict[str, Any]:
    """Return the inputs of a forward over pictures and rows together."""
    ids: Tensor = beginning.inputs["input_ids"]
    whole = torch.cat([ids, rows.ids], dim=1)
    return {**beginning.inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
