"""Attention calls of awkward shapes, with plans by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan, Aux, KeyClass, Redistribution, attend
from vlm_kernels.dispatch import Backend
from vlm_kernels.plan import PER_KEY

WANT = ("mass", "blinded", "moved")


@dataclass(frozen=True)
class Shape:
    """One call's sizes and what is awkward about it."""

    batch: int = 2
    kv_heads: int = 2
    group: int = 1
    rows: int = 1
    keys: int = 40
    size: int = 64
    mask: str = "none"
    classes: str = "usual"


SHAPES = {
    "decode": Shape(),
    "decode-80-group-4": Shape(size=80, group=4, keys=33),
    "decode-96-group-7": Shape(size=96, group=7, keys=130),
    "decode-128-split": Shape(size=128, kv_heads=1, keys=200),
    "decode-256": Shape(size=256, group=2, keys=17, batch=1),
    "decode-padded": Shape(mask="padding", group=4),
    "decode-padding-by-class-only": Shape(classes="padding", group=2),
    "decode-static-cache": Shape(mask="unused cache", keys=64),
    "decode-float-mask": Shape(mask="float", group=2),
    "decode-all-masked": Shape(mask="one batch row hidden"),
    "decode-one-key": Shape(keys=1, classes="image only"),
    "prefill": Shape(rows=17, keys=17),
    "prefill-96-group-4": Shape(rows=96, keys=96, group=4, batch=1, kv_heads=1),
    "prefill-128-group-7": Shape(rows=17, keys=17, group=7, size=128, batch=1),
    "prefill-80": Shape(rows=17, keys=17, size=80),
    "prefill-padded": Shape(rows=17, keys=17, mask="padding"),
    "prefill-continued": Shape(rows=17, keys=40, mask="continued", group=2),
    "prefill-sliding": Shape(rows=17, keys=40, mask="sliding"),
    "prefill-static-cache": Shape(rows=17, keys=40),
    "prefill-float-mask": Shape(rows=17, keys=17, mask="float"),
    "no-sinks": Shape(classes="no sinks", rows=17, keys=17),
    "no-image": Shape(classes="no image"),
    "all-sinks": Shape(classes="all sinks"),
    "image-sinks-only": Shape(classes="image sinks only", rows=17, keys=17),
}


class Arguments(TypedDict):
    """What `attend` takes of a call."""

    query: Tensor
    key: Tensor
    value: Tensor
    key_class: Tensor
    mask: Tensor | None
    plan: AttentionPlan


@dataclass(frozen=True)
class Call:
    """Tensors of one call, ready to be handed to a backend."""

    query: Tensor
    key: Tensor
    value: Tensor
    key_class: Tensor
    mask: Tensor | None
    plan: AttentionPlan

    def to(self, where: torch.device | torch.dtype) -> Call:
        moved = replace(self, query=self.query.to(where), key=self.key.to(where), value=self.value.to(where))
        if isinstance(where, torch.dtype):
            return moved
        mask = None if self.mask is None else self.mask.to(where)
        return replace(moved, key_class=self.key_class.to(where), mask=mask, plan=plan_on(self.plan, where))

    def arguments(self) -> Arguments:
        return {
            "query": self.query,
            "key": self.key,
            "value": self.value,
            "key_class": self.key_class,
            "mask": self.mask,
            "plan": self.plan,
        }

    def run(self, backend: Backend, want: tuple[str, ...] = WANT) -> tuple[Tensor, Aux]:
        return attend(**self.arguments(), backend=backend, want=want)


def plan_on(plan: AttentionPlan, device: torch.device) -> AttentionPlan:
    """Move a plan to a device, but its rows, which are read on the CPU."""
    rule = plan.redistribution
    if rule is not None and rule.heads is not None:
        rule = replace(rule, heads=rule.heads.to(device))
    names = ("head_gain", "class_gain", "empty_key", "head_source", *PER_KEY)
    moved = {name: getattr(plan, name).to(device) for name in names if getattr(plan, name) is not None}
    return replace(plan, redistribution=rule, **moved)


def classes_of(shape: Shape, generator: torch.Generator) -> Tensor:
    only = {
        "usual": range(5),
        "padding": range(5),
        "image only": [KeyClass.IMAGE],
        "no sinks": [KeyClass.TEXT, KeyClass.IMAGE, KeyClass.GENERATED],
        "no image": [KeyClass.TEXT, KeyClass.TEXT_SINK, KeyClass.GENERATED],
        "all sinks": [KeyClass.TEXT_SINK, KeyClass.IMAGE_SINK],
        "image sinks only": [KeyClass.TEXT, KeyClass.IMAGE_SINK],
    }[shape.classes]
    picks = torch.randint(len(only), (shape.batch, shape.keys), generator=generator)
    key_class = torch.tensor([int(number) for number in only], dtype=torch.int8)[picks]
    if shape.mask == "padding" or shape.classes == "padding":
        key_class[0, :5] = KeyClass.PADDING
    if shape.mask == "unused cache":
        key_class[:, -20:] = KeyClass.PADDING
    if shape.mask == "one batch row hidden":
        key_class[0] = KeyClass.PADDING
    return key_class


def mask_of(shape: Shape, key_class: Tensor) -> Tensor | None:
    if shape.mask == "none":
        return None
    causal = torch.ones(shape.rows, shape.keys, dtype=torch.bool).tril(shape.keys - shape.rows)
    if shape.mask == "sliding":
        causal = causal.triu(shape.keys - shape.rows - 8)
    mask = causal & (key_class >= 0)[:, None, None, :]
    if shape.mask == "float":
        return torch.where(mask, 0.25, -torch.inf)
    return mask


def plan_of(name: str, shape: Shape, generator: torch.Generator) -> AttentionPlan:
    def rand(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator)

    heads = shape.kv_heads * shape.group
    first = torch.arange(shape.batch) * 3 if shape.rows > 1 else torch.arange(shape.batch)
    head_gain = 2.0 * rand(shape.batch, heads)
    rule = Redistribution(moved=0.6, max_sink_share=0.5, min_image_mass=0.2)
    dropping = 2.0 * rand(shape.batch, heads, shape.keys) * (rand(shape.batch, 1, shape.keys) > 0.3)
    source = torch.randint(heads, (shape.batch, heads), generator=generator)
    plans = {
        "head-gain": AttentionPlan(head_gain=head_gain),
        "redistribution": AttentionPlan(redistribution=rule),
        "redistribution-strict": AttentionPlan(redistribution=replace(rule, strict=True, share_epsilon=1e-2)),
        "redistribution-picked": AttentionPlan(
            redistribution=replace(rule, heads=rand(shape.batch, heads) > 0.5, rows=first), head_gain=head_gain
        ),
        "class-gain": AttentionPlan(class_gain=2.0 * rand(shape.batch, heads, 5), rows=first),
        "eight-classes": AttentionPlan(class_gain=2.0 * rand(shape.batch, heads, 8)),
        "boost": AttentionPlan(logit_boost=rand(shape.batch, heads, shape.keys), rows=first),
        "shared-boost": AttentionPlan(logit_boost=rand(1, 1, shape.keys)),
        "factor": AttentionPlan(logit_factor=0.5 + rand(1, 1, shape.keys), rows=first),
        "factor-and-boost": AttentionPlan(
            logit_factor=0.5 + rand(shape.batch, heads, shape.keys), logit_boost=rand(shape.batch, 1, shape.keys)
        ),
        "everything": AttentionPlan(
            head_gain=head_gain,
            class_gain=2.0 * rand(shape.batch, heads, 4),
            redistribution=replace(rule, rows=first.flip(0), max_sink_share=0.7),
            logit_boost=rand(shape.batch, heads, shape.keys),
            rows=first,
        ),
        "key-weight": AttentionPlan(key_weight=dropping, rows=first),
        "shared-key-weight": AttentionPlan(key_weight=2.0 * rand(1, 1, shape.keys), redistribution=rule),
        "value-gain": AttentionPlan(value_gain=2.0 * rand(shape.batch, 1, shape.keys), rows=first),
        "empty-key": AttentionPlan(empty_key=rand(shape.batch, heads, shape.rows), redistribution=rule),
        "copied-heads": AttentionPlan(head_source=source, head_gain=head_gain),
        "counted": AttentionPlan(
            head_gain=head_gain,
            class_gain=2.0 * rand(shape.batch, heads, 4),
            redistribution=replace(rule, rows=first.flip(0), max_sink_share=0.7),
            rows=first,
            key_weight=2.0 * rand(shape.batch, 1, shape.keys),
            value_gain=2.0 * rand(1, heads, shape.keys),
            empty_key=40.0 * rand(1, 1, 1),
            head_source=source[:1],
        ),
    }
    return plans[name]


PLAN_NAMES = (
    "head-gain", "redistribution", "redistribution-strict", "redistribution-picked", "class-gain", "eight-classes",
    "boost", "shared-boost", "factor", "factor-and-boost", "everything", "key-weight", "shared-key-weight",
    "value-gain", "empty-key", "copied-heads", "counted",
)  # fmt: skip


def call_of(shape_name: str, plan_name: str, seed: int = 0) -> Call:
    shape = SHAPES[shape_name]
    generator = torch.Generator().manual_seed(seed)
    heads = shape.kv_heads * shape.group
    query = torch.randn(shape.batch, heads, shape.rows, shape.size, generator=generator)
    key, value = torch.randn(2, shape.batch, shape.kv_heads, shape.keys, shape.size, generator=generator)
    key_class = classes_of(shape, generator)
    mask = mask_of(shape, key_class)
    if plan_name in ("head-gain", "copied-heads") and shape.classes == "padding":
        mask = (key_class >= 0)[:, None, None, :]  # rows without an edit of their weights go by the mask alone
    return Call(query, key, value, key_class, mask, plan_of(plan_name, shape, generator))
