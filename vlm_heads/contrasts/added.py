"""A contrast added to the model's own `generate`, so that nothing about the call changes."""

from __future__ import annotations

from typing import Any

from torch import nn

from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.errors import BadOption
from vlm_heads.generate_call import GenerateCall


class AddedContrast:
    """Puts a contrast's processor among the logits processors of every `generate`.

    Attributes:
        uses: how many calls it was added to.

    Args:
        model: that generates.
        contrast: one that needs the model's inputs alone.

    Raises:
        BadOption: if the contrast needs the image and the prompt.
    """

    def __init__(self, model: nn.Module, contrast: Contrast) -> None:
        if not contrast.needs_inputs_alone:
            raise BadOption(
                f"{contrast.name} makes its second stream from the image and the prompt, and generate() sees neither; "
                "ask through VLM.answer(image, prompt, contrast=...)"
            )
        self.uses = 0
        self._model: Any = model
        self._contrast = contrast

    def __call__(self, call: GenerateCall) -> dict[str, Any]:
        """Return the arguments of a call of `generate` with the contrast's processor among them.

        Raises:
            BadOption: if the call has no token ids.
        """
        if "input_ids" not in call.inputs:
            raise BadOption(f"{self._contrast.name} needs input_ids: give generate() the processor's whole output")
        if "inputs_embeds" in call.inputs:
            raise BadOption(f"{self._contrast.name} makes its second stream from input_ids: leave inputs_embeds out")
        processor = self._contrast.processor(Asked(self._model, call.inputs))
        self.uses += 1
        given = call.arguments
        return {**given, "logits_processor": [*(given.get("logits_processor") or ()), processor]}
