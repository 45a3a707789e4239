"""Follows a model's forwards: which generation each belongs to, and what becomes of its attention calls.

A generation is known by its cache object, so two generations that take turns on one model do not mix. The extra
passes at its start run nested inside the prompt's forward.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from vlm_kernels import Backend

from vlm_heads.attached.by_layer import acting_by_layer, watching_by_layer
from vlm_heads.attached.cached import cached_length, prefix
from vlm_heads.attached.checkpointing import refuse_checkpointing, refuse_stray
from vlm_heads.attached.first_forward import look_ahead
from vlm_heads.attached.generations import Generations, TrackedGeneration, rows_repeated
from vlm_heads.attached.of_one_thread import OfOneThread
from vlm_heads.attached.turns import ForwardTurns
from vlm_heads.attached.uncached import Uncached
from vlm_heads.attached.watcher import Watcher
from vlm_heads.attention import PlainAttention
from vlm_heads.blind import LayerInputs, LockstepStream, Recording, TextOnly, refuse_sound, untouched
from vlm_heads.call import AttentionCall
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.families import Anatomy
from vlm_heads.generate_call import GenerateCall
from vlm_heads.interventions.base import Intervention
from vlm_heads.key_map import KeyMap
from vlm_heads.profile import HeadProfile
from vlm_heads.receipt import LayerTally, Receipt
from vlm_heads.toolkit.first_pass import FirstForward, FirstPass


class Tracker:
    """Follows one model's forwards while attached, and computes its attention.

    Attributes:
        attention_calls: how often transformers asked for the attention of a bound module.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        interventions: tuple[Intervention, ...],
        receipt: Receipt,
        profile: HeadProfile | None = None,
        backend: Backend = "auto",
        prepared: Sequence[Mapping[Any, Any]] = (),
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.attention_calls = 0
        self._mine = OfOneThread()
        self._prepared = [*prepared, *({} for _ in watchers)]
        self._hidden: Tensor | None = None
        self._model = model
        self._anatomy = anatomy
        self._receipt = receipt
        self._profile = profile
        self._backend = backend
        self._modes = {mode for one in interventions if (mode := one.image_free(profile)) is not None}
        self._layer_of = {id(module): layer for layer, module in anatomy.attentions.items()}
        self._acting = acting_by_layer(interventions, anatomy, receipt)
        self._watching = watching_by_layer(watchers, anatomy, first_memory=len(interventions))
        self._generations = Generations()
        self._idle_tally = LayerTally()  # of watchers, which act on nothing
        self._current: TrackedGeneration | None = None
        self._turns = ForwardTurns()
        self._recording: Recording | None = None
        self._ahead: FirstForward | None = None
        self._remembering = {at for at, one in enumerate(interventions) if one.remembers_steps}
        self._looking_ahead = [(at, one) for at, one in enumerate(interventions) if one.first_forward(anatomy)]
        self._stream: LockstepStream | None = None
        self._entry = anatomy.decoder if anatomy.quirks.blind_from_decoder else model
        self._signature = inspect.signature(self._entry.forward)

    @property
    def paused(self) -> bool:
        """Whether forwards of this thread are plain and belong to no generation."""
        return self._mine.paused

    @paused.setter
    def paused(self, on: bool) -> None:
        self._mine.paused = on

    @property
    def looking(self) -> bool:
        """Whether an extra pass runs, beside the model's answer."""
        return self._recording is not None

    @property
    def edited(self) -> bool:
        """Whether an intervention is attached, so that a forward may be another than the plain model's."""
        return bool(self._receipt.interventions)

    @property
    def under_way(self) -> TrackedGeneration | Recording | None:
        """What the forward that this thread runs belongs to: a generation, an extra pass, or nothing that is followed.

        First passes and first forwards are plain, so they belong to nothing.
        """
        plain = not self._turns.mine or self.paused or self._ahead is not None or self._mine.reading is not None
        return None if plain else self._recording or self._current

    @property
    def encoding(self) -> bool:
        """Whether a vision tower that runs in this thread does so for a generation, in its forward or ahead of it."""
        return isinstance(self.under_way, TrackedGeneration) if self._turns.mine else self._mine.ahead

    @property
    def finished(self) -> TrackedGeneration | None:
        """The generation of this thread's last forward."""
        return self._mine.finished

    def edits(self, module: nn.Module) -> bool:
        """Whether an intervention acts on this module's layer."""
        return self._layer_of[id(module)] in self._acting

    @contextmanager
    def calling(self, call: GenerateCall) -> Iterator[None]:
        """Let this thread's forwards belong to one call of `generate` while the context lasts."""
        if "inputs_embeds" in call.inputs:  # the model is then given these alone
            self._mine.embedded_ids = call.inputs.get("input_ids")
        try:
            with self._mine.holding(uncached=Uncached(whole_call=True), called=True):
                yield
        finally:
            self._mine.embedded_ids = self._mine.finished = None

    def reading(self, first: FirstPass) -> AbstractContextManager[None]:
        """Let this thread's forwards be plain and seen by a first pass alone while the context lasts."""
        return self._mine.holding(reading=first)

    def told(self, found: Sequence[Mapping[Any, Any]]) -> AbstractContextManager[None]:
        """Let generations of this thread begin with what first passes found, by intervention."""
        return self._mine.holding(told=found)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Watch the model's forwards while the context lasts."""
        enter, leave = (torch.compiler.disable(one) for one in (self._enter, self._leave))  # type: ignore[no-untyped-call]
        handles = [
            self._entry.register_forward_pre_hook(enter, with_kwargs=True),
            self._entry.register_forward_hook(leave, with_kwargs=True, always_call=True),
        ]
        for layer in self._layers_that_read_hidden():
            module = self._anatomy.layers[layer]
            handles.append(module.register_forward_pre_hook(self._note_hidden, with_kwargs=True))
        if self._anatomy.quirks.blind_from_decoder:
            embedding: nn.Module = self._model.get_input_embeddings()  # type: ignore[operator]
            handles.append(embedding.register_forward_pre_hook(self._note_ids, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._generations.forget()

    def run(
        self,
        plain: PlainAttention,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        settings: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Return one attention call's output `[B, Tq, Hq, D]`, edited by every intervention that acts on its layer."""
        self.attention_calls += 1
        compute = partial(plain, module, query, key, value, mask, **settings)
        layer, state = self._layer_of[id(module)], self._current
        if self._recording is not None:
            output, weights = compute()
            self._recording.keep(layer, output)
            return output, weights
        if self._stream is not None and self._stream.walking:
            return self._stream.reinforced(compute()[0]), None
        acting = self._acting.get(layer, ()) if state is not None and state.key_map.any_image else ()
        watching = self._watching.get(layer, ()) if state is None or not state.aside else ()
        if state is None or not (acting or watching or self._mine.reading):
            if state is None:
                refuse_stray()
            return compute()
        call = AttentionCall(
            layer, module, query, key, value, mask, state, self._profile, compute, {}, self._idle_tally
        )
        call.scale, call.hidden = settings.get("scaling"), self._hidden
        reading = self._ahead or self._mine.reading
        if reading is not None:
            return reading.attend(call)
        moving = self._plan(call, state, acting)
        output, weights = state.edits.edit_for(layer, call.planned).apply(call, moving, self._backend)
        for index, watcher in watching:
            call.memory, call.output = state.memories[index], output
            watcher.see(call)
        return output, weights

    def _plan(
        self, call: AttentionCall, state: TrackedGeneration, acting: Sequence[tuple[int, Intervention, LayerTally]]
    ) -> LayerTally | None:
        """Combine the plans of a layer into `call.planned`; return the tally of the one that moves weight, if any."""
        moving: LayerTally | None = None
        for index, intervention, tally in acting:
            call.memory, call.tally = state.memories[index], tally
            part = intervention.plan(call)
            if part is not None:
                before = call.planned
                call.planned = (
                    part if before is None else state.edits.combined(call.layer, before, part, intervention.name)
                )
                moving = tally if part.moves_weight else moving
        return moving

    def _layers_that_read_hidden(self) -> list[int]:
        acting = {layer for layer, some in self._acting.items() if any(one.reads_hidden for _, one, _ in some)}
        watching = {layer for layer, some in self._watching.items() if any(one.reads_hidden for _, one in some)}
        return sorted(acting | watching)

    def look_both_ways(self, inputs: dict[str, Any], positions: int) -> tuple[Recording, Recording]:
        """Return the heads at each row's last `positions` with the image and without it, nothing changed."""
        key_map = self._key_map(inputs["input_ids"], inputs)
        refuse_sound(inputs["input_ids"], self._anatomy)
        text = TextOnly.of_classes(key_map.classes)
        with_image = Recording(positions, key_map.last_positions)
        self._record(with_image, self._model, {**inputs, "use_cache": False})
        if self._entry is self._anatomy.decoder:
            embedding: nn.Module = self._model.get_input_embeddings()  # type: ignore[operator]
            inputs = {**inputs, "inputs_embeds": embedding(inputs["input_ids"])}
        without = Recording(positions)
        self._record(without, self._entry, self._blind_inputs(text, inputs))
        return with_image, without

    def branch(self, cache: Cache, to: Cache, rows: Tensor, seen: Tensor) -> None:
        """Let a cache that holds some rows' first keys of another go on as their generation would.

        Args:
            cache: of a generation that is followed; nothing is done where it is not.
            to: the new cache, for a question that no watcher sees.
            rows: int64 `[R]`, the row of `cache` that each row of `to` is taken from.
            seen: bool `[R, columns]`, which of its keys each row sees.
        """
        state = self._generations.of(cache)
        if state is not None:
            self._generations.keep(to, state.branched(rows, seen, self._prepared, self._remembering))

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._turns.take()
        if self._recording is not None or self._ahead is not None or self.paused:
            return
        inputs = {**self._signature.bind_partial(*args).arguments, **kwargs} if args else kwargs
        cache = inputs.get("past_key_values")
        self._current = None
        known = self._generations.of(cache) if cache is not None else None
        past = cached_length(cache, known, inputs)
        ids = self._prompt_ids(inputs)
        if past == 0:
            self._current = self._begin(ids, inputs, cached=cache is not None)
        elif known is None:
            raise UnsupportedGeneration(
                "the cache was filled outside of attach, or by a generation begun before it, so nothing is known about "
                "its image; start the conversation inside attach"
            )
        else:
            self._current = self._go_on(known, past, ids, inputs)
        if cache is not None:
            self._generations.keep(cache, self._current)
        if self._looking_ahead and self._current.key_map.any_image and self._mine.reading is None:
            self._look_ahead(self._current, inputs)

    def _look_ahead(self, state: TrackedGeneration, inputs: dict[str, Any]) -> None:
        """Run the first forwards that the interventions asked for, on this forward's input."""
        for place, one in self._looking_ahead:
            self._ahead = first = one.first_forward(self._anatomy)
            assert first is not None, "a method asks for it at every forward, or at none"
            try:
                state.memories[place] |= look_ahead(self._model, inputs, state.key_map, state.prefill, first)
            finally:
                self._ahead = None

    def _leave(self, _: nn.Module, __: tuple[Any, ...], ___: dict[str, Any], output: Any) -> None:
        try:
            self._finish(output)
        finally:
            self._turns.give_back()

    def _finish(self, output: Any) -> None:
        if self._recording is not None or self._ahead is not None or self.paused or self._current is None:
            return
        state, self._current = self._current, None
        self._mine.finished = state
        self._stream = state.lockstep = self._hidden = None  # they hold the prompt's activations
        self._receipt.steps += state.touched
        state.touched = False
        cache = getattr(output, "past_key_values", None)
        if isinstance(cache, Cache):
            self._generations.keep(cache, state)

    def _note_ids(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input")
        if isinstance(ids, Tensor) and not self._turns.mine and not self.paused:
            self._mine.embedded_ids = ids

    def _note_hidden(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        looking = self._recording is not None or self._ahead is not None or self.paused
        if not looking and self._current is not None and self._current.prefill:
            self._hidden = args[0] if args else kwargs["hidden_states"]

    def _prompt_ids(self, inputs: dict[str, Any]) -> Tensor | None:
        """Return the ids of this forward `[B, T]`, as they were embedded where the model's own forward is bypassed."""
        ids: Tensor | None = inputs.get("input_ids")
        embeddings = inputs.get("inputs_embeds")
        if ids is None and self._mine.embedded_ids is not None and embeddings is not None:
            seen, self._mine.embedded_ids = self._mine.embedded_ids, None
            if seen.shape[1] == embeddings.shape[1]:
                ids = seen.repeat_interleave(embeddings.shape[0] // seen.shape[0], dim=0)
        return ids

    def _begin(self, ids: Tensor | None, inputs: dict[str, Any], cached: bool) -> TrackedGeneration:
        if ids is None:
            raise UnsupportedGeneration(
                "the prompt came as inputs_embeds without input_ids, so its image positions are not known; give the ids"
            )
        uncached = None if cached else self._mine.uncached
        if uncached is not None and not inputs.get("use_cache"):
            previous = uncached.continued(ids, inputs)
            if previous is not None:
                previous.key_map.grow(ids.shape[1] - 1, 1)
                previous.prefill = False
                return previous
        refuse_checkpointing(self._anatomy.decoder)
        state = self._begun(self._key_map(ids, inputs), {**inputs, "input_ids": ids})
        if uncached is not None:
            uncached.begin(ids, inputs, state)
        return state

    def _begun(self, key_map: KeyMap, inputs: dict[str, Any]) -> TrackedGeneration:
        """Return a new generation, its extra passes made."""
        if self._mine.reading is not None:
            return TrackedGeneration(key_map)
        told = [rows_repeated(found, key_map.rows) for found in self._mine.told]
        nothing: Mapping[Any, Any] = {}
        known = zip_longest(self._prepared, told, fillvalue=nothing)
        state = TrackedGeneration(key_map, memories=[{**prepared, **found} for prepared, found in known])
        self._receipt.generations += 1
        self._receipt.imageless += not key_map.any_image
        if key_map.any_image and self._modes:
            self._look_without_image(state, inputs)
        return state

    def _go_on(
        self, state: TrackedGeneration, past: int, ids: Tensor | None, inputs: dict[str, Any]
    ) -> TrackedGeneration:
        """Let the map grow by a generated token or the prompt of a next turn; return the generation of this forward."""
        given = inputs["inputs_embeds"] if ids is None else ids
        rows, count = given.shape[:2]
        if rows != state.key_map.rows:
            raise UnsupportedGeneration(
                f"the cache was filled by {state.key_map.rows} rows and goes on with {rows}: repeat the rows of the "
                "prompt instead of those of its cache"
            )
        state.prefill = False
        if count == 1 or ids is None:
            state.key_map.grow(past, count)
            return state
        turn = self._key_map(ids, inputs)
        if turn.any_image and not state.key_map.any_image:
            return self._first_image(state.key_map, past, turn, {**inputs, "input_ids": ids})
        if bool((turn.has_image & ~state.key_map.has_image).any()):
            raise UnsupportedGeneration(
                "a row is given its first image in a later turn, and another row had one before: give each "
                "conversation a cache of its own"
            )
        state.key_map.append(past, turn.classes)
        return state

    def _first_image(self, before: KeyMap, past: int, turn: KeyMap, inputs: dict[str, Any]) -> TrackedGeneration:
        """Return the generation that begins where a conversation is given its first image.

        Raises:
            UnsupportedGeneration: if a method reads of the earlier turns what no cache holds.
        """
        reading = [one.name for some in self._acting.values() for _, one, _ in some if one.reads_hidden]
        if reading:
            raise UnsupportedGeneration(
                f"{reading[0]} reads the hidden states of the whole prompt, and the image comes after a cached one: "
                "give the image in the first turn, or the conversation so far without its cache"
            )
        if "lockstep" in self._modes:
            raise UnsupportedGeneration(
                "blind='lockstep' walks an image-free stream from the first turn on, and the image comes after a "
                "cached one: take blind='plain'"
            )
        return self._begun(before.turned(past, turn), inputs)

    def _key_map(self, ids: Tensor, inputs: dict[str, Any]) -> KeyMap:
        mask = inputs.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        return KeyMap.of_prompt(ids, mask, *self._anatomy.vision_token_ids)

    def _look_without_image(self, state: TrackedGeneration, inputs: dict[str, Any]) -> None:
        """Make the extra passes that the interventions asked for."""
        refuse_sound(inputs["input_ids"], self._anatomy)
        start = state.key_map.turn_start
        text = TextOnly.of_classes(state.key_map.classes[:, start:])
        recorded = LayerInputs()
        state.blind = Recording()
        recording = recorded.recording(self._anatomy.layers) if "lockstep" in self._modes else nullcontext()
        with recording:
            self._record(state.blind, self._entry, self._blind_inputs(text, inputs) | prefix(text, state, inputs))
        self._receipt.blind_passes += 1
        if "lockstep" in self._modes:
            self._stream = state.lockstep = LockstepStream(self._anatomy.layers, recorded)
        if "two-pass" in self._modes:
            state.sighted = Recording(ends=state.key_map.last_rows)
            again = {name: value for name, value in inputs.items() if name != "past_key_values"}
            if start:
                again["past_key_values"] = copy.deepcopy(inputs["past_key_values"])
            if inputs.get("inputs_embeds") is not None:
                again.pop("input_ids")
            self._record(state.sighted, self._entry, {**again, "use_cache": False})
            self._receipt.extra_passes += 1

    def _blind_inputs(self, text: TextOnly, inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs.get("inputs_embeds") is not None:
            return text.of_embeddings(inputs["inputs_embeds"])
        return text.of_inputs(inputs, self._signature.parameters)

    def _record(self, recording: Recording, entry: nn.Module, inputs: dict[str, Any]) -> None:
        self._turns.take()
        self._recording = recording
        try:
            with untouched(self._model):
                entry(**inputs)
        finally:
            self._recording = None
            self._turns.give_back()
