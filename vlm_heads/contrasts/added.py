"""A contrast added to the model's own `generate`, so that nothing about the call changes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from transformers import GenerationConfig

from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.errors import BadOption


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
        generate: Any = model.generate
        self._accepted = inspect.signature(self._model.forward).parameters
        self._own = inspect.signature(generate).parameters

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of a call of `generate` with the contrast's processor among them."""
        processor = self._contrast.processor(Asked(self._model, self._inputs(args, kwargs)))
        self.uses += 1
        return {**kwargs, "logits_processor": [*(kwargs.get("logits_processor") or ()), processor]}

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call that go to the model's forward; those about how to generate are left out."""
        config = GenerationConfig()
        given = {"input_ids": args[0]} if args else {}
        given |= {"input_ids": kwargs["inputs"]} if kwargs.get("inputs") is not None else {}
        for name, value in kwargs.items():
            of_the_model = name in self._accepted or name not in self._own
            if of_the_model and value is not None and not hasattr(config, name) and name != "past_key_values":
                given[name] = value
        if "input_ids" not in given:
            raise BadOption(f"{self._contrast.name} needs input_ids: give generate() the processor's whole output")
        return given
