"""One call's edit as both Triton operators take it: every operand a named field, and None where there is none.

None travels into the kernels, which leave out at compilation whatever hangs on an operand that is None. No flag says
a second time what is there. A new operand is a field here, its line in `triton_launch.operands`, and its block in a
kernel.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeVar, get_type_hints

from torch import Tensor

from vlm_kernels.plan import AttentionPlan

Result = TypeVar("Result")


class Edit(NamedTuple):
    """What one call changes and what it is to report; the fields are the last arguments of both operators.

    Sizes are the query's `[B, Hq, Tq, D]` and the keys' `[B, Hkv, Tk, D]`. Plan fields mean what they mean in
    `AttentionPlan` and `Redistribution`.

    Attributes:
        key_class: int8 `[B, Tk]`, see `KeyClass`; None puts every key into class 0.
        mask: bool `[B or 1, 1 or Hq, Tq, Tk]`, True where a key is seen, or floating point and added to the logits;
            None is causal at prefill and shows every key at decode.
        head_gain: float `[B, Hq]`.
        class_gain: float `[B, Hq, classes]`, at most eight classes.
        logit_boost: float `[B or 1, Hq or 1, Tk]`.
        logit_factor: float `[B or 1, Hq or 1, Tk]`.
        key_weight: float `[B or 1, Hq or 1, Tk]`.
        value_gain: float `[B or 1, Hq or 1, Tk]`.
        empty_key: float `[B or 1, Hq or 1, Tq or 1]`.
        plan_rows: int64 `[B]`, the first query row on which class gain, what is stated key by key and the empty key
            act; None means all.
        rule_heads: bool `[B, Hq]`, heads that redistribute; None means all.
        rule_rows: int64 `[B]`, the first query row that may redistribute; None means all.
        moved: share of every sink's weight that is handed on, above 0; None means no redistribution.
        max_sink_share: the most that image sinks may hold of the image mass, 0..1.
        min_image_mass: the least that image keys have to hold, 0..1.
        share_epsilon: added to the image mass once per image key.
        strict: compare with `<` and `>` instead of `<=` and `>=`.
        scale: multiplies the logits.
        classes: number of key classes told apart, the last size of the reported mass.
        want_mass: whether to report each class's mass.
        want_blinded: whether to report the output without image keys.
        want_moved: whether to report the mass that sinks handed on; with a redistribution only.
    """

    key_class: Tensor | None
    mask: Tensor | None
    head_gain: Tensor | None
    class_gain: Tensor | None
    logit_boost: Tensor | None
    logit_factor: Tensor | None
    key_weight: Tensor | None
    value_gain: Tensor | None
    empty_key: Tensor | None
    plan_rows: Tensor | None
    rule_heads: Tensor | None
    rule_rows: Tensor | None
    moved: float | None
    max_sink_share: float
    min_image_mass: float
    share_epsilon: float
    strict: bool
    scale: float
    classes: int
    want_mass: bool
    want_blinded: bool
    want_moved: bool

    @classmethod
    def from_plan(
        cls, plan: AttentionPlan, key_class: Tensor | None, mask: Tensor | None, scale: float, want: Collection[str]
    ) -> Edit:
        """Return the edit of a call; arguments are those of `vlm_kernels.attend`."""
        rule = plan.redistribution if plan.moves_weight else None
        return cls(
            key_class=key_class,
            mask=mask,
            head_gain=plan.head_gain,
            class_gain=plan.class_gain,
            logit_boost=plan.logit_boost,
            logit_factor=plan.logit_factor,
            key_weight=plan.key_weight,
            value_gain=plan.value_gain,
            empty_key=plan.empty_key,
            plan_rows=plan.rows if plan.uses_rows else None,
            rule_heads=rule.heads if rule else None,
            rule_rows=rule.rows if rule else None,
            moved=rule.moved if rule else None,
            max_sink_share=rule.max_sink_share if rule else 0.0,
            min_image_mass=rule.min_image_mass if rule else 0.0,
            share_epsilon=rule.share_epsilon if rule else 0.0,
            strict=rule.strict if rule else False,
            scale=float(scale),
            classes=plan.classes,
            want_mass="mass" in want,
            want_blinded="blinded" in want,
            want_moved="moved" in want and rule is not None,
        )

    @property
    def changes_keys(self) -> bool:
        """Whether anything is stated key by key, so that a kernel loads more than keys and values."""
        changed = self.mask is not None or self.logit_boost is not None or self.logit_factor is not None
        return changed or self.key_weight is not None or self.value_gain is not None


def flat(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return the function with its last argument, an `Edit`, spread over one argument per field.

    Torch reads an operator's schema from a signature, and a schema has no named tuples.
    """
    signature = inspect.signature(function, eval_str=True)
    *states, _ = signature.parameters.values()
    fields = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
        for name, kind in get_type_hints(Edit).items()
    ]

    @functools.wraps(function)
    def spread(*arguments: object) -> Result:
        return function(*arguments[: len(states)], Edit._make(arguments[len(states) :]))

    spread.__signature__ = signature.replace(parameters=[*states, *fields])  # type: ignore[attr-defined]
    return spread
