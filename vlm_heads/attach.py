"""attach(): put interventions into a model's attention, run, and leave the model exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from torch import nn

from vlm_heads.attached.installing import installed
from vlm_heads.attached.layer_edit import Backend
from vlm_heads.attached.refused_modes import refusing
from vlm_heads.attached.tracking import Tracker
from vlm_heads.errors import BadOption, NothingIntervened, UnsupportedModel, suggest
from vlm_heads.families import Anatomy, examine
from vlm_heads.interventions.base import Intervention
from vlm_heads.profile import HeadProfile
from vlm_heads.receipt import InterventionReceipt, Receipt

BACKENDS: tuple[str, ...] = get_args(Backend)


@dataclass(frozen=True)
class Attachment:
    """A model with its interventions in place.

    Attributes:
        anatomy: where the model's parts are.
        receipt: what fired so far.
    """

    anatomy: Anatomy
    receipt: Receipt


@contextmanager
def attach(
    model: nn.Module,
    interventions: Sequence[Intervention],
    *,
    profile: HeadProfile | None = None,
    backend: Backend = "auto",
    allow_idle: bool = False,
) -> Iterator[Attachment]:
    """Let the interventions act on everything the model generates inside the context.

    Nothing about the call to `generate` changes. On the way out, by an exception too, the model is as it was.

    Args:
        model: a vision-language model of transformers whose language attention goes through the attention interface.
        interventions: what to change; gains multiply and boosts add, so their order does not matter.
        profile: head scores to choose heads by, in place of each sample's own.
        backend: who computes edited attention; one that is named is used or raises.
        allow_idle: do not raise where an intervention never fired.

    Raises:
        UnsupportedModel: if the model, or an intervention on this model, cannot work; nothing was changed then.
        BadOption: if an option does not fit the model.
        AlreadyAttached: if the model is inside another attach.
        UnsupportedGeneration: inside, if `generate` is asked for a way that cannot be followed; see `refused_modes`.
        NothingIntervened: on the way out, if an intervention never fired.
    """
    anatomy = examine(model)
    _check(interventions, anatomy, profile, backend)
    receipt = Receipt(
        model_type=anatomy.model_type,
        heads=anatomy.heads,
        interventions=tuple(InterventionReceipt(one.name, _options(one)) for one in interventions),
    )
    with ExitStack() as watching:
        prepared = [watching.enter_context(one.prepared(model, anatomy, profile)) for one in interventions]
        tracker = Tracker(model, anatomy, tuple(interventions), receipt, profile, backend, prepared)
        with installed(anatomy, tracker), refusing(model):
            yield Attachment(anatomy, receipt)
    if not allow_idle and not receipt.fired:
        raise NothingIntervened(_why_idle(receipt, tracker.attention_calls))


def _check(
    interventions: Sequence[Intervention], anatomy: Anatomy, profile: HeadProfile | None, backend: Backend
) -> None:
    if backend not in BACKENDS:
        raise BadOption(f"no backend {backend!r}{suggest(backend, BACKENDS)}; known: {', '.join(BACKENDS)}")
    if backend == "triton" and not torch.cuda.is_available():
        raise UnsupportedModel("backend='triton' needs a CUDA device and none is here; 'auto' falls back by itself")
    if isinstance(interventions, Intervention) or not isinstance(interventions, Sequence):
        raise BadOption("interventions must be a list, as in attach(model, [HeadReinforcement()])")
    for one in interventions:
        if isinstance(one, type) or not isinstance(one, Intervention):
            raise BadOption(f"{one!r} is no intervention; give instances, as in attach(model, [HeadReinforcement()])")
    if profile is not None:
        profile.check(anatomy)
    for one in interventions:
        one.layers_in(anatomy)
        one.check(anatomy, profile)


def _options(intervention: Any) -> dict[str, Any]:
    values = {one.name: getattr(intervention, one.name) for one in fields(intervention)}
    return {
        name: value if isinstance(value, (str, int, float, bool)) else list(value) for name, value in values.items()
    }


def _why_idle(receipt: Receipt, attention_calls: int) -> str:
    idle = ", ".join(one.name for one in receipt.interventions if not one.fired)
    if receipt.generations == 0:
        reason = "the model was not run with a prompt"
    elif attention_calls == 0:
        reason = "its attention never went through the attention interface"
    elif receipt.imageless == receipt.generations:
        reason = "no prompt had image tokens"
    else:
        reason = "no head was chosen on any layer"
    return f"{idle} was attached and never fired: {reason}; pass allow_idle=True if that is intended"
