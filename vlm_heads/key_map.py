"""KeyMap: which keys are padding, text, image or generated, per batch row, growing with the cache."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from vlm_kernels import KeyClass

ROOM = 256  # keys stored ahead as generated, so most steps write nothing


class KeyMap:
    """The class of every key seen so far, for each row of the batch.

    Attributes:
        length: keys seen so far.
        prompt_length: columns of the prompt, padding and image positions included.
        turn_start: columns before the turn that brought the image: 0, or what was said before it. The prompt's forward
            runs the rows from there on.
        rewritten: counts changes other than appended generated keys; a cache built from `classes` is valid only while
            it stays the same.
    """

    def __init__(self, classes: Tensor, turn_start: int = 0) -> None:
        self.length = self.prompt_length = classes.shape[1]
        self.turn_start = turn_start
        self.rewritten = 0
        self._store = classes  # never written to, so that views of it stay what they are
        self._with_prompt: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        image = classes == KeyClass.IMAGE
        self._any_image: bool | None = None
        self._padded: tuple[int, bool] | None = None
        self.has_image = image.any(dim=1)
        columns = torch.arange(1, classes.shape[1] + 1, device=classes.device)
        self._last = ((classes != KeyClass.PADDING) * columns).amax(dim=1) - 1
        self.after_image = (image * columns).amax(dim=1)

    @classmethod
    def of_prompt(cls, input_ids: Tensor, attention_mask: Tensor | None, image_token_id: int, *more: int) -> KeyMap:
        """Return the map of a prompt.

        Args:
            input_ids: `[B, T]`, one image token per image position.
            attention_mask: `[B, T]`, 0 where a position is padding; None where nothing is.
            image_token_id: the id of an image position.
            more: ids of what else is seen, as a video's positions.
        """
        classes = torch.full_like(input_ids, int(KeyClass.TEXT), dtype=torch.int8)
        for token_id in (image_token_id, *more):
            classes[input_ids == token_id] = int(KeyClass.IMAGE)
        if attention_mask is not None:
            classes[attention_mask[:, -input_ids.shape[1] :] == 0] = int(KeyClass.PADDING)
        return cls(classes)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return int(self._store.shape[0])

    @property
    def classes(self) -> Tensor:
        """int8 `[B, T]` with the values of `KeyClass`, `T` keys seen so far."""
        return self._store[:, : self.length]

    @property
    def any_image(self) -> bool:
        """Whether any row has an image. It is found once per prompt, because it waits for the device."""
        if self._any_image is None:
            self._any_image = bool(self.has_image.any())
        return self._any_image

    @property
    def any_padding(self) -> bool:
        """Whether any key seen so far is padding. It is found once per turn, because it waits for the device."""
        if self._padded is None or self._padded[0] != self.rewritten:
            self._padded = (self.rewritten, bool((self.classes < 0).any()))
        return self._padded[1]

    @property
    def last_positions(self) -> Tensor:
        """int64 `[B]`: column of each row's last prompt position, the one that predicts the first token."""
        return self._last

    @property
    def last_rows(self) -> Tensor:
        """int64 `[B]`: row of the prompt's forward at each row's last prompt position."""
        return self._last - self.turn_start if self.turn_start else self._last

    @property
    def rows_after_image(self) -> Tensor:
        """int64 `[B]`: first row of the prompt's forward after the image."""
        return (self.after_image - self.turn_start).clamp_min(0) if self.turn_start else self.after_image

    def turned(self, past: int, turn: KeyMap) -> KeyMap:
        """Return the map of the first `past` keys and a next turn's prompt, which brings the first image."""
        return KeyMap(torch.cat([self._store[:, :past], turn.classes], dim=1), turn_start=past)

    def copied(self) -> KeyMap:
        """Return the same map, to grow on its own."""
        other = copy.copy(self)
        other._with_prompt = {}  # the stores themselves are never written to
        return other

    def branch(self, rows: Tensor, seen: Tensor) -> KeyMap:
        """Return the map of some rows' first keys; what is not seen is padding.

        Args:
            rows: int64 `[R]`, the row that each new one is taken from.
            seen: bool `[R, columns]`, over the first keys.
        """
        classes = self._store[rows, : seen.shape[1]].clone()
        classes[~seen] = int(KeyClass.PADDING)
        return KeyMap(classes)

    def grow(self, past: int, count: int) -> None:
        """Append `count` generated keys after the first `past`; keys beyond those were dropped by the caller."""
        if past != self.length:
            self.rewritten += 1
            self._lay_out(self._store[:, :past], count)
        elif past + count > self._store.shape[1]:
            self._lay_out(self.classes, count)
        self.length = past + count

    def append(self, past: int, classes: Tensor) -> None:
        """Append keys of known classes `[B, count]` after the first `past`, as a next turn's prompt brings them."""
        self.rewritten += 1
        self._lay_out(torch.cat([self._store[:, :past], classes], dim=1), 0)
        self.length = past + classes.shape[1]

    def _lay_out(self, classes: Tensor, count: int) -> None:
        """Store these classes, and after them generated keys: at least `count`, and at least as many as there are."""
        room = max(ROOM, count, classes.shape[1])
        self._store = torch.nn.functional.pad(classes, (0, room), value=int(KeyClass.GENERATED))
        self._with_prompt.clear()

    def seen_by(self, keys: int, prompt: Tensor | None = None) -> Tensor:
        """Return int8 `[B, keys]`: the classes of the keys that a layer with `keys` keys holds.

        A sliding layer holds the last ones. A static cache is longer than what was seen; its free slots are padding.

        Args:
            keys: how many the layer holds.
            prompt: int8 `[B, T]`, the prompt's classes on this layer where it tells sinks from other keys.
        """
        store = self._store if prompt is None else self._marked(prompt)
        if keys <= self.length:
            return store[:, self.length - keys : self.length]
        return torch.nn.functional.pad(store[:, : self.length], (0, keys - self.length), value=int(KeyClass.PADDING))

    def _marked(self, prompt: Tensor) -> Tensor:
        """Return the store with other classes for the prompt; made anew when either of them changed."""
        known = self._with_prompt.get(id(prompt))
        if known is not None and known[0] is prompt and known[1] is self._store:
            return known[2]
        marked = torch.cat([prompt[:, : self._store.shape[1]], self._store[:, prompt.shape[1] :]], dim=1)
        self._with_prompt[id(prompt)] = (prompt, self._store, marked)
        return marked
