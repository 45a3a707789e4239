"""attach(): put a mitigation into a model, run, and leave the model exactly as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, get_args

import torch
from torch import nn
from vlm_kernels import Backend

from vlm_heads.attached.copies import no_copies
from vlm_heads.attached.first_forward import require_first_forward
from vlm_heads.attached.first_passes import FirstPasses
from vlm_heads.attached.installing import holding, installed
from vlm_heads.attached.lens_processor import AddedLenses, LensWatcher
from vlm_heads.attached.one_pass import OnePass
from vlm_heads.attached.refused_modes import Change, During, refuse_beams, refusing
from vlm_heads.attached.stream_hooks import StreamHooks
from vlm_heads.attached.tracking import Tracker
from vlm_heads.attached.turns import ModelTurn, turn_of
from vlm_heads.attached.watcher import Watcher
from vlm_heads.checks.base import Check
from vlm_heads.contrast import ContrastProcessor
from vlm_heads.contrasts.added import AddedContrast
from vlm_heads.errors import BadOption, NothingIntervened, UnsupportedModel, suggest
from vlm_heads.families import Anatomy, examine
from vlm_heads.generate_call import GenerateCall
from vlm_heads.interventions.base import Intervention
from vlm_heads.lenses.base import require_lens
from vlm_heads.mitigation import Mitigated, Mitigation
from vlm_heads.pipelines.base import Pipeline
from vlm_heads.profile import HeadProfile
from vlm_heads.receipt import (
    CheckReceipt,
    InterventionReceipt,
    LensReceipt,
    PipelineReceipt,
    Receipt,
    SecondStreamReceipt,
)
from vlm_heads.steering.base import Steering
from vlm_heads.token_head import TokenHead
from vlm_heads.toolkit.method import Method
from vlm_heads.tower import tower_mlps
from vlm_heads.wrappers import unwrapped

BACKENDS: tuple[str, ...] = get_args(Backend)


class Attachment:
    """A model with a mitigation in place: a context manager, or an object to `detach()`.

    Attributes:
        anatomy: where the model's parts are.
        receipt: what fired so far.
        tracker: follows the model's forwards.
    """

    def __init__(
        self, anatomy: Anatomy, receipt: Receipt, tracker: Tracker, added: AddedContrast | None, turn: ModelTurn
    ) -> None:
        self.anatomy = anatomy
        self.receipt = receipt
        self.tracker = tracker
        self._added = added
        self._turn = turn
        self._undo: ExitStack | None = None
        self._require_innermost: Callable[[], None] = lambda: None
        self._allow_idle = False

    def detach(self) -> None:
        """Leave the model exactly as it was before; do nothing if that was done already.

        What another thread generates is said to its end first.

        Raises:
            NothingIntervened: afterwards, if a method never acted and `allow_idle` is off.
            AlreadyAttached: if another attach was made inside this one and is still in place.
        """
        if self._undone() and not self._allow_idle:
            self._require_fired()

    def __repr__(self) -> str:
        state = "attached" if self._undo is not None else "detached"
        return f"<Attachment to {self.anatomy.model_type}, {state}: {self.receipt!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if failure is None:
            self.detach()
        else:
            self._undone()

    def _undone(self) -> bool:
        """Undo what was done to the model; return whether there was anything to undo."""
        if self._undo is not None:
            self._require_innermost()
        undo, self._undo = self._undo, None
        if undo is None:
            return False
        with self._turn.ending():
            undo.close()
        return True

    def _require_fired(self) -> None:
        if not self.receipt.fired:
            raise NothingIntervened(_why_idle(self.receipt, self.tracker.attention_calls))
        if self._added is not None and not self._added.uses:
            raise NothingIntervened("the contrast was attached and never used: generate() was not called inside")
        pipeline = self.receipt.pipeline
        if pipeline is not None and not pipeline.calls:
            raise NothingIntervened(
                f"{pipeline.name} was attached and asked nothing: generate() was not called inside with a picture; "
                "pass allow_idle=True if that is intended"
            )
        check = self.receipt.check
        if check is not None and not check.calls:
            raise NothingIntervened(
                f"{check.name} was attached and checked nothing: generate() was not called inside with a picture; pass "
                "allow_idle=True if that is intended"
            )


def attach(
    model: nn.Module,
    *what: Mitigated | Sequence[Mitigated],
    profile: HeadProfile | None = None,
    backend: Backend = "auto",
    allow_idle: bool = False,
    watch: Watcher | Sequence[Watcher] = (),
    one_pass: bool = True,
    processor: Any = None,
) -> Attachment:
    """Let a mitigation act on everything the model generates, until the `with` ends or `detach()` is called.

        with attach(model, "vhr:gain=2"):
            output = model.generate(**inputs)

    Nothing about the call to `generate` changes. On the way out, by an exception too, the model is as it was.

    Args:
        model: a vision-language model of transformers whose language attention goes through the attention interface;
            PEFT's wrapper for adapters, `torch.compile`'s and DistributedDataParallel may be around it.
        what: interventions, lenses, a contrast that needs the model's inputs alone, a check, a pipeline, words for
            them, or a `Mitigation`; one, several, or a list. Gains multiply and boosts add, so their order does not
            matter; that of lenses does.
        profile: head scores to choose heads by, in place of each sample's own and of the mitigation's.
        backend: what computes edited attention; a named one is used, or it raises.
        allow_idle: do not raise where an intervention never fired.
        watch: one or several that read each attention call and change nothing.
        one_pass: let a contrast's second stream run in the first stream's forwards, where they can hold it; the receipt
            says which way it took. False gives it forwards of its own.
        processor: the model's own; checks and pipelines read and ask with it.

    Raises:
        UnsupportedModel: if the model, or a method on this model, cannot work; then nothing was changed.
        BadOption: if an option does not fit the model, or a contrast needs more than the model's inputs.
        AlreadyAttached: if the model is inside another attach; inside, if it is copied or pickled.
        UnsupportedGeneration: inside, if `generate` is asked for what cannot be followed; see `refused_modes`.
        NothingIntervened: on the way out, if an intervention, a lens or a contrast never acted.
    """
    mitigation = Mitigation.of(*what, profile=profile)
    watchers = [watch] if isinstance(watch, Watcher) else list(watch)
    return attach_mitigation(
        model, mitigation, backend=backend, allow_idle=allow_idle, watchers=watchers, one_pass=one_pass,
        processor=processor,
    )  # fmt: skip


def attach_mitigation(
    model: nn.Module,
    mitigation: Mitigation,
    *,
    backend: Backend = "auto",
    allow_idle: bool = False,
    watchers: Sequence[Watcher] = (),
    one_pass: bool = True,
    processor: Any = None,
    contrast_processor: ContrastProcessor | None = None,
) -> Attachment:
    """Attach a mitigation; see `attach`.

    Args:
        model: see `attach`.
        mitigation: all that is done to it.
        backend: see `attach`.
        allow_idle: see `attach`.
        watchers: read each attention call.
        one_pass: see `attach`.
        processor: see `attach`.
        contrast_processor: of the mitigation's contrast, made for the one call of `generate` to come; None makes
            one for each call.
    """
    model = unwrapped(model)
    interventions, profile = mitigation.interventions, mitigation.profile
    anatomy = examine(model)
    _check(interventions, anatomy, profile, backend)
    lenses, check = mitigation.weighing(), mitigation.check
    for lens in lenses:
        require_lens(anatomy)
        lens.reads(anatomy)
        lens.watches(anatomy)
    if check is not None:
        check.check(anatomy)
    pipeline = mitigation.pipeline
    if pipeline is not None:
        pipeline.check(anatomy)
        _check_beside(pipeline, mitigation, watchers)
    receipt = Receipt(
        model_type=anatomy.model_type,
        heads=anatomy.heads,
        interventions=tuple(InterventionReceipt(one.name, _options(one)) for one in interventions),
        check=None if check is None else CheckReceipt(check.name, _options(check)),
        lenses=tuple(LensReceipt(one.name, _options(one)) for one in lenses),
        pipeline=None if pipeline is None else PipelineReceipt(pipeline.name, _options(pipeline), done=pipeline.done),
    )
    steering = {index: one for index, one in enumerate(interventions) if isinstance(one, Steering)}
    head = TokenHead.of(model, anatomy) if lenses or steering else None
    tower = tower_mlps(model, anatomy) if any(one.in_tower for one in steering.values()) else ()
    added: AddedContrast | None = None
    if mitigation.contrast is not None:
        mitigation.contrast.check(anatomy)
        mitigation.contrast.check_model(model, anatomy)
        if interventions and not mitigation.contrast.weighs_the_first:
            raise BadOption(
                f"{mitigation.contrast.name} weighs streams of its own and not the first, and {interventions[0].name} "
                "acts in the first alone: name one of them"
            )
        receipt.second_stream = SecondStreamReceipt(mitigation.contrast.name)
    with turn_of(model).between(), ExitStack() as undo:
        innermost = undo.enter_context(holding(model, shares=check is None and pipeline is None))
        prepared = [undo.enter_context(one.prepared(model, anatomy, profile)) for one in interventions]
        seeing = [*(LensWatcher(one) for one in lenses if one.watches(anatomy)), *watchers]
        tracker = Tracker(model, anatomy, interventions, receipt, profile, backend, prepared, seeing)
        first = FirstPasses(anatomy, interventions, tracker, receipt)
        around = None
        if check is not None and receipt.check is not None:
            around = check.around(model, anatomy, processor, tracker, receipt.check)
        asked = None
        if pipeline is not None and receipt.pipeline is not None:
            asked = pipeline.around(model, anatomy, processor, tracker, receipt.pipeline)
        if interventions or watchers or lenses or pipeline is not None:
            undo.enter_context(installed(anatomy, tracker))
        weighing = None
        if head is not None:
            hooks = StreamHooks(anatomy, tracker, head, receipt, lenses, steering, prepared, tower)
            undo.enter_context(hooks.installed())
            if lenses:
                weighing = AddedLenses(lenses, receipt.lenses, tracker, head, anatomy, len(interventions))
        if mitigation.contrast is not None and receipt.second_stream is not None:
            apart = _why_apart(one_pass, check, interventions, anatomy, between_layers=head is not None)
            together = OnePass(model, anatomy, apart)
            added = AddedContrast(model, mitigation.contrast, together, receipt.second_stream, contrast_processor)
            undo.enter_context(together.installed())
        remembering = [one.name for one in interventions if one.remembers_steps]
        calling = _calling(first, tracker, added, remembering)
        undo.enter_context(refusing(model, _changes(weighing, added), calling, around, asked))
        undo.enter_context(no_copies([model, *anatomy.attentions.values()]))
        attachment = Attachment(anatomy, receipt, tracker, added, turn_of(model))
        attachment._require_innermost = innermost
        attachment._undo, attachment._allow_idle = undo.pop_all(), allow_idle
    return attachment


def _calling(first: FirstPasses, tracker: Tracker, added: AddedContrast | None, remembering: Sequence[str]) -> During:
    """Return what makes a context for each call of `generate`; methods that remember steps refuse beams."""

    @contextmanager
    def calling(call: GenerateCall, generate: Callable[..., Any]) -> Iterator[None]:
        for name in remembering:
            refuse_beams(call, name)
        with (
            first.before(call, generate),
            tracker.calling(call),
            nullcontext() if added is None else added.during(),
        ):
            yield

    return calling


def _changes(*changes: Change | None) -> Change | None:
    """Return one change of a call of `generate` that makes all of these, one after the other; None for none."""
    wanted = [one for one in changes if one is not None]

    def change(call: GenerateCall) -> Mapping[str, Any]:
        for one in wanted:
            call = replace(call, arguments=one(call))
        return call.arguments

    return change if wanted else None


def _why_apart(
    one_pass: bool,
    check: Check | None,
    interventions: Sequence[Intervention],
    anatomy: Anatomy,
    *,
    between_layers: bool,
) -> str:
    """Return why both streams are not to run in one forward, whatever the model can; empty where they may."""
    if check is not None:
        return "a check takes words back"
    if between_layers:
        return "what is between the first stream's layers is read or steered"
    ahead = next((one.name for one in interventions if one.first_forward(anatomy) is not None), None)
    if ahead is not None:
        return f"{ahead} runs each forward twice"
    return "" if one_pass else "as was asked for"


def _check(
    interventions: Sequence[Intervention], anatomy: Anatomy, profile: HeadProfile | None, backend: Backend
) -> None:
    if backend not in BACKENDS:
        raise BadOption(f"no backend {backend!r}{suggest(backend, BACKENDS)}; known: {', '.join(BACKENDS)}")
    if backend == "triton" and not torch.cuda.is_available():
        raise UnsupportedModel("backend='triton' needs a CUDA device and none is here; 'auto' falls back by itself")
    if profile is not None:
        profile.check(anatomy)
    for one in interventions:
        one.layers_in(anatomy)
        one.check(anatomy, profile)
        if one.first_forward(anatomy) is not None:
            require_first_forward(anatomy, one.name)


def _check_beside(pipeline: Pipeline, mitigation: Mitigation, watchers: Sequence[Watcher]) -> None:
    """Raise `BadOption` where a pipeline that answers by itself is to have others beside it."""
    beside = [one.name for one in mitigation.methods() if one is not pipeline]
    beside += [type(one).__name__ for one in watchers]
    if pipeline.alone and beside:
        raise BadOption(
            f"{pipeline.name} answers by itself, so {beside[0]} could not act beside it: name one of them alone"
        )


def _options(method: Method) -> dict[str, Any]:
    return {one.name: _plain(getattr(method, one.name)) for one in method.options()}


def _plain(value: Any) -> Any:
    """Return an option's value as JSON has it; of a function its name."""
    if isinstance(value, str | int | float):
        return value
    return getattr(value, "__qualname__", repr(value)) if callable(value) else list(value)


def _why_idle(receipt: Receipt, attention_calls: int) -> str:
    idle = ", ".join(receipt.unfired)
    if receipt.generations == 0:
        reason = "the model was not run with a prompt"
    elif attention_calls == 0:
        reason = "its attention never went through the attention interface"
    elif receipt.imageless == receipt.generations:
        reason = "no prompt had image tokens"
    elif all(one.fired for one in receipt.interventions):
        reason = "generate() was not called inside"
    else:
        reason = "no head was chosen on any layer, and nothing else was found to act on"
    return f"{idle} was attached and never fired: {reason}; pass allow_idle=True if that is intended"
