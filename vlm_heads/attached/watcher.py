"""Watchers: read every attention call of a generation and change nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy


class Watcher(ABC):
    """Sees each attention call after it was computed, edited or plain; for `attach(model, ..., watch=[watcher])`.

    Image-free passes and second streams are not shown. A watcher may keep what it sees. It must not write to the
    tensors of a call: they belong to the model.

    Attributes:
        reads_hidden: whether `see` reads `AttentionCall.hidden`.
    """

    reads_hidden: ClassVar[bool] = False

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        """Return the layers whose calls are shown; all where a watcher says nothing else."""
        return frozenset(anatomy.attentions)

    @abstractmethod
    def see(self, call: AttentionCall) -> None:
        """Look at one call.

        `call.planned` is the combined plan, or None; `call.output` is what the model receives; `call.memory` is this
        watcher's own, empty when a generation starts.
        """
        ...
