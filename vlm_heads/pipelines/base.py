"""What a pipeline is: a frozen dataclass that answers in place of `generate`, by asking otherwise or by searching."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from vlm_heads.attached.tracking import Tracker
from vlm_heads.families import Anatomy
from vlm_heads.generate_call import GenerateCall
from vlm_heads.receipt import PipelineReceipt
from vlm_heads.toolkit.method import Method

Answered = Callable[[GenerateCall], Any]
Asked = Callable[[GenerateCall, Callable[..., Any], Answered], Any]


class Pipeline(Method):
    """First passes over one or more prompts, and then another prompt in place of the caller's; or a search.

    There is one at a time. Whatever else is attached acts on the last prompt alone.

    Attributes:
        alone: whether it answers by itself, so that nothing else can be attached beside it.
        batched: whether it takes several prompts in one `generate()`.
        streamed: whether what it says can be shown before the end; a search takes words back.
        done: what its receipt says of a call that it answered.
    """

    lever: ClassVar[str] = "asked otherwise"
    alone: ClassVar[bool] = False
    batched: ClassVar[bool] = True
    streamed: ClassVar[bool] = True
    done: ClassVar[str] = "asked otherwise"
    needs: ClassVar[tuple[str, ...]] = ("the processor",)

    def check(self, anatomy: Anatomy) -> None:
        """Raise `UnsupportedModel` if the family cannot be asked so; called before anything changes."""
        return None

    @abstractmethod
    def around(
        self, model: nn.Module, anatomy: Anatomy, processor: Any, tracker: Tracker, receipt: PipelineReceipt
    ) -> Asked:
        """Return what runs in place of `generate`.

        It takes the call, the model's own `generate` for its first passes, and what answers a call as it is attached.
        What it returns has the caller's own prompt in it, as if that had been answered.

        Args:
            model: that generates.
            anatomy: of the model.
            processor: the model's own, or None.
            tracker: follows what is attached.
            receipt: where it is noted what was done.

        Raises:
            BadOption: if a processor is needed and none is given.
            UnsupportedModel: if the model or its processor cannot be used so.
        """
        ...
