"""attach(): put interventions into a model's attention, run, and leave the model exactly as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from torch import nn

from vlm_heads import attention
from vlm_heads.errors import AlreadyAttached, BadOption, NothingIntervened, UnsupportedModel
from vlm_heads.families import Anatomy, examine
from vlm_heads.interventions.base import Intervention
from vlm_heads.layer_edit import Backend
from vlm_heads.nearest import suggest
from vlm_heads.placement import require_one_device
from vlm_heads.profile import HeadProfile
from vlm_heads.receipt import InterventionReceipt, Receipt
from vlm_heads.refused_modes import refusing
from vlm_heads.tracking import Tracker

BACKENDS: tuple[str, ...] = get_args(Backend)

_attaching = threading.Lock()


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


@contextmanager
def installed(anatomy: Anatomy, tracker: Tracker) -> Iterator[None]:
    """Switch the language model to our attention function and follow its forwards; undo both."""
    modules = list(anatomy.attentions.values())
    require_one_device(modules)
    with _attaching:
        if any(attention.is_bound(module) for module in modules):
            raise AlreadyAttached("the model is inside another attach; give all interventions to one attach")
        before = _configs(anatomy)
        attention.bind(modules, tracker)
    try:
        for config, base in before:
            # the own value only: a plain string would switch nested configs too
            config._attn_implementation = {"": attention.registered_name(base)}
        with tracker.following():
            yield
    finally:
        for config, base in before:
            config._attn_implementation = {"": base}
        attention.unbind(modules)


def _configs(anatomy: Anatomy) -> list[tuple[Any, str]]:
    """Return every config that the decoder and its attentions read, each once, with its attention implementation.

    Raises:
        UnsupportedModel: if one of them uses an attention whose masks and results we do not know.
    """
    modules = [anatomy.decoder, *anatomy.attentions.values()]
    configs = {id(config): config for module in modules if (config := getattr(module, "config", None)) is not None}
    found = [(config, config._attn_implementation) for config in configs.values()]
    for _, base in found:
        if base not in attention.MASKS:
            raise UnsupportedModel(
                f"the language model uses attn_implementation={base!r}; load it with 'sdpa' (or 'eager'), or call "
                "model.set_attn_implementation('sdpa')"
            )
    return found


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
