"""A contrast added to the model's own `generate`, so that nothing about the call changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from vlm_heads.attached.one_pass import OnePass
from vlm_heads.contrast import ContrastProcessor
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.errors import BadOption
from vlm_heads.generate_call import GenerateCall
from vlm_heads.receipt import SecondStreamReceipt


class AddedContrast:
    """Puts a contrast's processor among the logits processors of every `generate`.

    Attributes:
        uses: how many calls it was added to.

    Args:
        model: that generates.
        contrast: one that needs the model's inputs alone, where no processor is given.
        one_pass: lets the second stream's rows run in the first stream's forwards.
        receipt: where it notes what became of the second stream.
        processor: made for the inputs of the call that is to come.

    Raises:
        BadOption: if the contrast needs the image and the prompt.
    """

    def __init__(
        self,
        model: nn.Module,
        contrast: Contrast,
        one_pass: OnePass,
        receipt: SecondStreamReceipt,
        processor: ContrastProcessor | None = None,
    ) -> None:
        if processor is None and not contrast.needs_inputs_alone:
            raise BadOption(
                f"{contrast.name} makes its second stream from the image and the prompt, and generate() sees neither; "
                "ask through VLM.answer(image, prompt, contrast=...)"
            )
        self.uses = 0
        self._model: Any = model
        self._contrast = contrast
        self._one_pass = one_pass
        self._receipt = receipt
        self._processor = processor

    def __call__(self, call: GenerateCall) -> dict[str, Any]:
        """Return the arguments of a call of `generate` with the contrast's processor among them.

        Raises:
            BadOption: if the call has no token ids.
        """
        processor = self._made(call) if self._processor is None else self._processor
        self._one_pass.begin(processor.streams)
        self.uses += 1
        given = call.arguments
        return {**given, "logits_processor": [*(given.get("logits_processor") or ()), processor]}

    @contextmanager
    def during(self) -> Iterator[None]:
        """Let go of the call's other streams when the context ends, and note what became of them."""
        try:
            yield
        finally:
            streams, why = self._one_pass.end()
            if streams:  # they go the same way
                self._receipt.streams = len(streams)
                self._receipt.note(streams[0].in_one_pass, streams[0].in_two_forwards, why)

    def _made(self, call: GenerateCall) -> ContrastProcessor:
        if "input_ids" not in call.inputs:
            raise BadOption(f"{self._contrast.name} needs input_ids: give generate() the processor's whole output")
        if "inputs_embeds" in call.inputs:
            raise BadOption(f"{self._contrast.name} makes its second stream from input_ids: leave inputs_embeds out")
        return self._contrast.processor(Asked(self._model, call.inputs))
