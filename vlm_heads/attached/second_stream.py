"""A second stream of token logits beside a generation: its own inputs, its own cache, never edited by an attach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vlm_heads import attention
from vlm_heads.attached.cut_cache import cut_cache
from vlm_heads.blind import untouched
from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy, examine
from vlm_heads.wrappers import unwrapped


class SecondStream:
    """The same model on other inputs, fed with the tokens that the first stream chose.

    Args:
        model: a vision-language model of transformers.
        inputs: what its forward takes, with another image, none, or another prompt; as many rows as the first stream.

    Raises:
        UnsupportedModel: if the family generates past its own forward, or ignores logits processors.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        anatomy = examine(model)
        require_second_stream(anatomy)
        self.rows = int(inputs["input_ids"].shape[0])
        self._model: Any = unwrapped(model)
        self._attentions = tuple(anatomy.attentions.values())
        self._inputs = dict(inputs)
        self._kwargs: dict[str, Any] = {}

    def begin(self, copies: int) -> Tensor:
        """Return token logits `[B * copies, V]` in float32 after the prompt; each row is repeated for its beams."""
        kwargs = {name: value for name, value in self._inputs.items() if name != "input_ids"}
        ids: Tensor = self._inputs["input_ids"]
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = torch.ones_like(ids)
        kwargs |= {"past_key_values": DynamicCache(config=self._model.config.get_text_config()), "use_cache": True}
        with self._plain():
            if "position_ids" not in kwargs and hasattr(self._model, "_prepare_position_ids_for_generation"):
                kwargs["position_ids"] = self._model._prepare_position_ids_for_generation(ids, kwargs)
            logits = self._forward(ids, kwargs, first=True)
        if copies > 1:
            # not batch_repeat_interleave: the states of a linear attention have none
            rows = torch.arange(self.rows, device=ids.device).repeat_interleave(copies)
            self._kwargs["past_key_values"].reorder_cache(rows)
            self._kwargs = {name: self._repeated(name, value, copies) for name, value in self._kwargs.items()}
        return logits.repeat_interleave(copies, dim=0)

    def step(self, tokens: Tensor, parents: Tensor | None = None) -> Tensor:
        """Return token logits `[R, V]` in float32 after one more token per row.

        Args:
            tokens: int64 `[R]`.
            parents: int64 `[R]`, the row that each row continues where beams were reordered.
        """
        if parents is not None:
            self._kwargs["past_key_values"].reorder_cache(parents)
        with self._plain():
            return self._forward(tokens[:, None], self._kwargs, first=False)

    def rewind(self, said: Tensor) -> None:
        """Go back to where the last of these columns ends; the next step goes on from there.

        Args:
            said: bool `[R, n]`, whether each column is still part of its row: the prompt's last one, and those after
                it. What lies beyond them is dropped.
        """
        start = int(self._inputs["input_ids"].shape[1]) - 1
        end = start + said.shape[1]
        cut_cache(self._kwargs["past_key_values"], end)
        mask, positions = self._kwargs["attention_mask"], self._kwargs.get("position_ids")
        self._kwargs["attention_mask"] = torch.cat([mask[:, :start], said.to(mask), mask.new_ones(len(mask), 1)], dim=1)
        if positions is not None:
            following = positions[..., start] + said.sum(dim=1)
            filler = positions[..., :end].clone()
            self._kwargs["position_ids"] = torch.cat([filler, following[..., None].to(filler)], dim=-1)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if (kinds := self._kwargs.get(name)) is not None:
                self._kwargs[name] = kinds[:, : end + 1]

    def _forward(self, ids: Tensor, kwargs: dict[str, Any], first: bool) -> Tensor:
        # the families' own steps of generation: they know which inputs grow, and how positions go on
        inputs = self._model.prepare_inputs_for_generation(
            ids, next_sequence_length=ids.shape[1], is_first_iteration=first, **kwargs
        )
        output = self._model(**inputs, return_dict=True)
        self._kwargs = self._model._update_model_kwargs_for_generation(output, kwargs, is_encoder_decoder=False)
        logits: Tensor = output.logits
        return logits[:, -1].float()

    @contextmanager
    def _plain(self) -> Iterator[None]:
        with attention.plain_forwards(self._attentions), untouched(self._model):
            yield

    def _repeated(self, name: str, value: Any, copies: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        rows = value.dim() - 2 if name == "position_ids" else 0  # positions may carry a leading axis of sections
        return value.repeat_interleave(copies, dim=rows) if value.shape[rows] == self.rows else value


def require_second_stream(anatomy: Anatomy) -> None:
    """Raise `UnsupportedModel` if the family generates past its own forward, or ignores logits processors."""
    if anatomy.quirks.blind_from_decoder:
        raise UnsupportedModel(
            f"{anatomy.model_type} generates past its own forward, so a second stream cannot be run beside it"
        )
    if anatomy.quirks.drops_processors:
        raise UnsupportedModel(
            f"the generate() of {anatomy.model_type} drops logits processors, so a second stream would be ignored"
        )
