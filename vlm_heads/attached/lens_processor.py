"""Lenses among the logits processors of the model's own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vlm_heads.attached.tracking import Tracker
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.families import Anatomy
from vlm_heads.generate_call import GenerateCall
from vlm_heads.lenses.base import Lens
from vlm_heads.receipt import LensReceipt
from vlm_heads.token_head import TokenHead
from vlm_heads.token_step import TokenStep


class LensWatcher(Watcher):
    """Shows a lens the attention that it reads.

    Args:
        lens: it.
    """

    def __init__(self, lens: Lens) -> None:
        self._lens = lens

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return self._lens.watches(anatomy)

    def see(self, call: AttentionCall) -> None:
        self._lens.see(call)


class LensProcessor(LogitsProcessor):  # type: ignore[misc]
    """Applies one lens to the token logits of one call of `generate`; returns log-probabilities, so that beams compare.

    Args:
        lens: what is applied.
        tracker: knows the forward that the logits come from.
        head: of the model.
        receipt: of the lens.
        anatomy: of the model.
        place: of the memory of the lens's watcher in a generation; None where it has none.
    """

    def __init__(
        self,
        lens: Lens,
        tracker: Tracker,
        head: TokenHead,
        receipt: LensReceipt,
        anatomy: Anatomy,
        place: int | None = None,
    ) -> None:
        self._lens = lens
        self._reads, self._anatomy = lens.reads(anatomy), anatomy
        self._place = place
        self._tracker = tracker
        self._head = head
        self._receipt = receipt
        self._memory: dict[Any, Any] = {}
        self._prompt_length: int | None = None
        self._unsaid: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return log-probabilities `[R, V]`; rows without an image keep their scores.

        Raises:
            UnsupportedGeneration: if the scores are not those of the last forward's rows.
        """
        if self._prompt_length is None:
            self._prompt_length = input_ids.shape[1]
        state = self._tracker.finished
        if state is None or state.key_map.rows != scores.shape[0]:
            rows = "none" if state is None else str(state.key_map.rows)
            raise UnsupportedGeneration(
                f"{self._lens.name} weighs {scores.shape[0]} rows of token logits, and the last forward had {rows}"
            )
        if not state.key_map.any_image:
            return scores
        said = torch.full_like(input_ids[:, 0], input_ids.shape[1] - self._prompt_length)
        said = said if self._unsaid is None else said - self._unsaid
        seen = {} if self._place is None else state.memories[self._place]
        step = TokenStep(
            scores, said, state, self._head, self._memory, self._receipt, self._reads, self._anatomy, seen
        )  # fmt: skip
        weighed = self._lens.weigh(step).log_softmax(dim=-1).to(scores.dtype)
        return torch.where(state.key_map.has_image[:, None], weighed, scores)

    def rewind(self, ids: Tensor, said: Tensor) -> None:
        """Let the next call go on from tokens said earlier; later ones were taken back.

        Args:
            ids: int64 `[R, T]`, those that the next call brings, without their last.
            said: bool `[R, n]`, whether each column is still part of its row: the prompt's last one, and those after
                it.
        """
        self._unsaid = said.shape[1] - said.sum(dim=1)


class AddedLenses:
    """Puts processors of their own for the lenses among those of every `generate`, the lenses in the order given."""

    def __init__(
        self,
        lenses: Sequence[Lens],
        receipts: Sequence[LensReceipt],
        tracker: Tracker,
        head: TokenHead,
        anatomy: Anatomy,
        first_memory: int,
    ) -> None:
        watching = [lens for lens in lenses if lens.watches(anatomy)]
        places = [first_memory + watching.index(lens) if lens in watching else None for lens in lenses]
        self._lenses = list(zip(lenses, receipts, places, strict=True))
        self._made_of = (tracker, head, anatomy)

    def __call__(self, call: GenerateCall) -> dict[str, Any]:
        """Return the arguments of a call of `generate` with the lenses' processors among them.

        Raises:
            UnsupportedGeneration: if guidance is asked for, whose own forward comes before the lenses.
        """
        if call.config.guidance_scale not in (None, 1, 1.0):
            raise UnsupportedGeneration(
                f"{self._lenses[0][0].name} reads the layers of the last forward, and guidance_scale="
                f"{call.config.guidance_scale} runs another one before it: leave guidance_scale out"
            )
        tracker, head, anatomy = self._made_of
        added = [LensProcessor(lens, tracker, head, receipt, anatomy, place) for lens, receipt, place in self._lenses]
        given = call.arguments
        return {**given, "logits_processor": [*(given.get("logits_processor") or ()), *added]}
