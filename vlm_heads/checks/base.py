"""What a check is: a frozen dataclass that drafts an answer, finds out what is wrong with it, and drafts again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from torch import nn

from vlm_heads.attached.tracking import Tracker
from vlm_heads.families import Anatomy
from vlm_heads.generate_call import GenerateCall
from vlm_heads.receipt import CheckReceipt
from vlm_heads.toolkit.method import Method

Checked = Callable[[GenerateCall, Callable[..., Any]], Any]


class Check(Method):
    """A check of the model's words, around its own `generate`, beside any interventions and a contrast."""

    lever: ClassVar[str] = "check"
    needs: ClassVar[tuple[str, ...]] = ("the processor",)

    def check(self, anatomy: Anatomy) -> None:
        """Raise `UnsupportedModel` if the family cannot be checked; called before anything changes."""
        return None

    @abstractmethod
    def around(
        self, model: nn.Module, anatomy: Anatomy, processor: Any, tracker: Tracker, receipt: CheckReceipt
    ) -> Checked:
        """Return what runs in place of `generate`: it takes the call and the unguarded `generate`.

        Args:
            model: that generates.
            anatomy: of the model.
            processor: the model's own.
            tracker: follows what is attached.
            receipt: where it is noted what was done.

        Raises:
            BadOption: if an option cannot be used on this machine.
            UnsupportedModel: if the model or its processor cannot be checked.
        """
        ...

    def controls(self) -> Mapping[str, Self]:
        """Return controls by name: the same check, with what it looks at replaced by something that knows nothing."""
        return {}
