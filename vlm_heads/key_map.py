"""KeyMap: which keys are padding, text, image or generated, per batch row, growing with the cache."""

from __future__ import annotations

import torch
from torch import Tensor
from vlm_kernels import KeyClass


class KeyMap:
    """The class of every key seen so far, for each row of the batch.

    Attributes:
        classes: int8 `[B, T]` with the values of `KeyClass`, `T` keys seen so far.
        prompt_length: columns of the prompt, padding and image positions included.
    """

    def __init__(self, classes: Tensor) -> None:
        self.classes = classes
        self.prompt_length = classes.shape[1]
        image = classes == KeyClass.IMAGE
        self._any_image: bool | None = None
        self.has_image = image.any(dim=1)
        columns = torch.arange(1, classes.shape[1] + 1, device=classes.device)
        self._last = ((classes != KeyClass.PADDING) * columns).amax(dim=1) - 1
        self.after_image = (image * columns).amax(dim=1)

    @classmethod
    def of_prompt(cls, input_ids: Tensor, attention_mask: Tensor | None, image_token_id: int) -> KeyMap:
        """Return the map of a prompt.

        Args:
            input_ids: `[B, T]`, one image token per image position.
            attention_mask: `[B, T]`, 0 where a position is padding; None where nothing is.
            image_token_id: the id of an image position.
        """
        classes = torch.full_like(input_ids, int(KeyClass.TEXT), dtype=torch.int8)
        classes[input_ids == image_token_id] = int(KeyClass.IMAGE)
        if attention_mask is not None:
            classes[attention_mask[:, -input_ids.shape[1] :] == 0] = int(KeyClass.PADDING)
        return cls(classes)

    @property
    def length(self) -> int:
        """Keys seen so far."""
        return self.classes.shape[1]

    @property
    def any_image(self) -> bool:
        """Whether any row has an image. Asked once per prompt, because the answer waits for the device."""
        if self._any_image is None:
            self._any_image = bool(self.has_image.any())
        return self._any_image

    @property
    def last_positions(self) -> Tensor:
        """int64 `[B]`: column of each row's last prompt position, the one that predicts the first token."""
        return self._last

    def grow(self, past: int, count: int) -> None:
        """Append `count` generated keys after the first `past`; keys beyond those were dropped by the caller."""
        rows = self.classes.shape[0]
        fresh = self.classes.new_full((rows, count), int(KeyClass.GENERATED))
        self.classes = torch.cat([self.classes[:, :past], fresh], dim=1)

    def append(self, past: int, classes: Tensor) -> None:
        """Append keys of known classes `[B, count]` after the first `past`, as a next turn's prompt brings them."""
        self.classes = torch.cat([self.classes[:, :past], classes], dim=1)

    def seen_by(self, keys: int, prompt: Tensor | None = None) -> Tensor:
        """Return int8 `[B, keys]`: the classes of the keys that a layer with `keys` keys holds.

        A sliding layer holds the last ones. A static cache is longer than what was seen; its free slots are padding.

        Args:
            keys: how many the layer holds.
            prompt: int8 `[B, T]`, the prompt's classes on this layer where it tells sinks from other keys.
        """
        classes = self.classes
        if prompt is not None:
            classes = torch.cat([prompt[:, : self.length], classes[:, prompt.shape[1] :]], dim=1)
        if keys <= self.length:
            return classes[:, self.length - keys :]
        return torch.nn.functional.pad(classes, (0, keys - self.length), value=int(KeyClass.PADDING))
