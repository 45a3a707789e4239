"""What a method sees: one layer's attention in one forward, and the generation that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan, KeyClass

from vlm_heads.blind import GainRule, LockstepStream, Recording, last_positions
from vlm_heads.key_map import KeyMap
from vlm_heads.receipt import LayerTally

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile


@dataclass
class GenerationState:
    """What belongs to one `generate()` call: the keys seen, the passes made at its start, and the memories.

    Attributes:
        key_map: class of every key so far.
        prefill: whether this forward is the prompt's.
        blind: head outputs at the prompt's end without the image.
        sighted: the same with the image and without reinforcement; only where an intervention asks for "two-pass".
        lockstep: the image-free stream that runs beside the image's; only where an intervention asks for it.
        memories: one dictionary per attached intervention.
        touched: whether any plan was applied in this forward.
        marked: int8 `[B, T]` by layer, the prompt's classes where an intervention told sinks from other keys.
        entering: `[B, width]` by layer, what entered it in the last column of the last forward; only of layers that a
            lens reads.
    """

    key_map: KeyMap
    prefill: bool = True
    blind: Recording | None = None
    sighted: Recording | None = None
    lockstep: LockstepStream | None = None
    memories: list[dict[Any, Any]] = field(default_factory=list)
    touched: bool = False
    marked: dict[int, Tensor] = field(default_factory=dict)
    entering: dict[int, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class AttentionCall:
    """One layer's attention in one forward, as an intervention sees it.

    Attributes:
        layer: zero-based.
        module: the attention module.
        query: `[B, Hq, Tq, D]`.
        key: `[B, Hkv, Tk, D]`, not repeated.
        value: `[B, Hkv, Tk, D]`.
        mask: as transformers gives it, or None.
        state: of this generation.
        profile: given to `attach`, or None.
        compute: plain attention of this call.
        memory: this intervention's own dictionary, empty when a generation starts. A tensor whose first axis is as long
            as the batch is taken to hold a value for each row.
        tally: where this intervention notes what it did on this layer.
        scale: multiplies the logits; None is `D ** -0.5`.
        hidden: `[B, Tq, width]`, what enters the layer, before its norm; only at prefill, and only where an
            intervention reads it.
        planned: what the interventions before this one want changed in this call, or None. A watcher sees the plan of
            all of them.
        output: `[B, Tq, Hq, D]`, the heads' outputs as the model receives them; only watchers see it.
    """

    layer: int
    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    state: GenerationState
    profile: HeadProfile | None
    compute: Callable[[], tuple[Tensor, Tensor | None]]
    memory: dict[Any, Any]
    tally: LayerTally
    scale: float | None = None
    hidden: Tensor | None = None
    computed: tuple[Tensor, Tensor | None] | None = None
    planned: AttentionPlan | None = None
    output: Tensor | None = None

    @property
    def key_map(self) -> KeyMap:
        """The keys seen so far in this generation."""
        return self.state.key_map

    @property
    def prefill(self) -> bool:
        """Whether the rows of this call are the prompt's."""
        return self.state.prefill

    @property
    def decoding(self) -> bool:
        """Whether the call has one row, which predicts the next token."""
        return self.query.shape[2] == 1

    def once_per_step(self, make: Callable[[AttentionCall], Tensor]) -> Tensor:
        """Return `make(call)`, made once a step for all layers that hold the same number of keys.

        Args:
            make: a function or method with a name of its own; its result may depend on the keys alone.
        """
        # a static cache holds as many keys in every step
        keys, name = (self.key.shape[2], self.key_map.length), make.__qualname__
        known: tuple[tuple[int, int], Tensor] | None = self.memory.get(name)
        if known is None or known[0] != keys:
            known = self.memory[name] = (keys, make(self))
        return known[1]

    def note_all_heads(self) -> None:
        """Note at prefill that every head of a row with an image is acted on."""
        if self.prefill:
            self.tally.note(self.key_map.has_image[:, None].expand(self.query.shape[:2]))

    def key_class(self) -> Tensor:
        """Return int8 `[B, Tk]`: what each key of this layer is."""
        return self.key_map.seen_by(self.key.shape[2], self.state.marked.get(self.layer))

    def mark_sinks(self, sinks: Tensor) -> None:
        """Tell text and image sinks, bool `[B, T]` over the prompt, from other keys on this layer from now on."""
        self.state.marked[self.layer] = self.classes_with_sinks(sinks)

    def classes_with_sinks(self, sinks: Tensor) -> Tensor:
        """Return int8 `[B, T]`: the prompt's classes with these sinks, bool `[B, T]`; nothing is remembered."""
        classes = self.state.marked.get(self.layer, self.key_map.classes[:, : self.key_map.prompt_length]).clone()
        classes[sinks & (classes == KeyClass.TEXT)] = int(KeyClass.TEXT_SINK)
        classes[sinks & (classes == KeyClass.IMAGE)] = int(KeyClass.IMAGE_SINK)
        return classes

    def plain(self) -> Tensor:
        """Return plain attention `[B, Tq, Hq, D]`, computed at most once a call."""
        return self.plain_with_weights()[0]

    def plain_with_weights(self) -> tuple[Tensor, Tensor | None]:
        """Return plain attention and, where the model computes them anyway, its weights."""
        if self.computed is None:
            self.computed = self.compute()
        return self.computed

    def sighted_output(self) -> Tensor:
        """Return `[B, Hq, D]`: the heads at the prompt's last position, earlier layers reinforced."""
        return last_positions(self.plain(), self.key_map.last_rows)[:, 0]

    def unreinforced_output(self) -> Tensor:
        """Return `[B, Hq, D]`: the heads at the prompt's last position with nothing reinforced ("two-pass" only)."""
        assert self.state.sighted is not None, "image_free() did not ask for two passes"
        return self.state.sighted.outputs[self.layer][:, -1]

    def blind_output(self) -> Tensor:
        """Return `[B, Hq, D]`: the heads at the prompt's last position without the image."""
        assert self.state.blind is not None, "image_free() did not ask for an image-free pass"
        return self.state.blind.outputs[self.layer][:, -1]

    def blind_in_lockstep(self, rule: GainRule) -> None:
        """Run the image-free stream through this layer; `rule` sees its heads `[B, Hq, D]` and returns their gain."""
        assert self.state.lockstep is not None, "image_free() did not ask for lockstep"
        self.state.lockstep.advance(self.layer, rule)

    def gains(self, chosen: Tensor, gain: float) -> Tensor:
        """Return `[B, Hq]` in the dtype of the outputs: `gain` where `chosen`, 1 elsewhere."""
        one = torch.ones((), dtype=self.query.dtype, device=self.query.device)
        return torch.where(chosen, one * gain, one)
