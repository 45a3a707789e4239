"""Runs a model again from any layer on, with heads changed, over the rows that follow pictures.

What a variant has in common with the plain model is computed once. That is the picture, whose positions stay as they
are, and everything below the layer of the head. So a variant costs the rows after the picture, and on average half of
the layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from vlm_app.studies.heads.asked import Beginning, Rows
from vlm_heads import VLM, examine
from vlm_heads.scorers import gained

Received = tuple[tuple[Any, ...], Mapping[str, Any]]


def cached(vlm: VLM, beginning: Beginning) -> Cache:
    """Return the keys and values of pictures, which all that is asked about them share."""
    with torch.inference_mode():
        kept: Cache = vlm.model(**beginning.inputs, use_cache=True).past_key_values
    return kept


class Rerun:
    """Rows that were run once after their pictures, with what every layer received.

    Attributes:
        rows: one for each picture.
        plain: `[n, width]`, what the last layer gave at every place.
        depth: layers of the model.

    Args:
        vlm: the model, not attached.
        cache: of the rows' pictures; it is copied and stays as it is.
        beginning: of the rows' pictures.
        rows: one for each picture.
    """

    def __init__(self, vlm: VLM, cache: Cache, beginning: Beginning, rows: Rows) -> None:
        self.rows = rows
        self._anatomy = examine(vlm.model)
        self.depth = self._anatomy.depth
        self._cache = cache
        self._received: dict[int, Received] = {}
        self._at = (rows.scenes, rows.columns)
        self._image = beginning.inputs["input_ids"] == self._anatomy.image_token_id  # [S, P], keys of the picture
        ids = rows.ids
        mask = torch.ones((len(ids), beginning.length + ids.shape[1]), dtype=torch.int64, device=ids.device)
        inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": copy.deepcopy(cache)}
        with torch.inference_mode(), self._recording():
            vlm.model(**inputs, use_cache=True, logits_to_keep=1)

    def changed(self, gains: Mapping[int, Tensor]) -> Tensor:
        """Return `[n, width]`: what the last layer gives at every place where heads' outputs count more or less.

        The gains act on all rows: on the question and on the caption, not on the picture's positions.

        Args:
            gains: `[S, Hq]` by layer, of layers with heads; without any, the plain model's is returned.
        """
        if not gains:
            return self.plain
        cache, hidden = copy.deepcopy(self._cache), None
        with torch.inference_mode(), ExitStack() as undo:
            for layer, gain in gains.items():
                undo.enter_context(gained(self._anatomy.projections[layer], gain))
            for index in range(min(gains), self._anatomy.depth):
                hidden = self._run(index, hidden, cache)
        assert hidden is not None, "the lowest layer is one of the model's"
        return hidden[self._at]

    def blind_from(self, start: int) -> Tensor:
        """Return `[n, width]`: what the last layer gives where no row sees the picture from a layer on.

        The rows keep what they took from it below. It is the second stream of BranchContrast.

        Args:
            start: the first layer without the picture's keys; the number of layers for the plain model.
        """
        if start == self._anatomy.depth:
            return self.plain
        cache, hidden = copy.deepcopy(self._cache), None
        with torch.inference_mode():
            for index in range(start, self._anatomy.depth):
                hidden = self._run(index, hidden, cache, blind=True)
        assert hidden is not None, "the model has a layer"
        return hidden[self._at]

    def _blind(self) -> Tensor:
        """Return bool `[S, 1, R, P + R]`, true where a row sees a key: those before it that are not the picture's."""
        count = self.rows.ids.shape[1]
        own = torch.ones(count, count, dtype=torch.bool, device=self._image.device).tril()
        before = ~self._image[:, None, None, :].expand(-1, 1, count, -1)
        return torch.cat([before, own.expand(len(before), 1, -1, -1)], dim=-1)

    def _run(self, index: int, hidden: Tensor | None, cache: Cache, *, blind: bool = False) -> Tensor:
        """Return what a layer gives for these states, or for those that it received."""
        args, kwargs = self._received[index]
        states = kwargs.get("hidden_states", args[0] if args else None) if hidden is None else hidden
        rest = {name: cache if isinstance(value, Cache) else value for name, value in kwargs.items()}
        rest.pop("hidden_states", None)
        if blind:
            rest["attention_mask"] = self._blind()
        return _states(self._anatomy.layers[index](states, *args[1:], **rest))

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Keep what every layer receives, and what the last one gives at the places."""

        def note(index: int) -> Callable[..., None]:
            def received(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self._received[index] = (args, kwargs)

            return received

        def given(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            self.plain: Tensor = _states(output)[self._at]

        layers = self._anatomy.layers
        handles = [layer.register_forward_pre_hook(note(at), with_kwargs=True) for at, layer in enumerate(layers)]
        handles.append(layers[-1].register_forward_hook(given))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _states(output: Any) -> Tensor:
    given: Tensor = output[0] if isinstance(output, tuple) else output
    return given
