"""A second stream of token logits beside a generation: its own inputs, its own cache, and at wish an edit of its own.

Interventions never act in it. A `StreamEdit` acts in it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from vlm_heads import attention
from vlm_heads.attached.cut_cache import cut_cache
from vlm_heads.attached.installing import switched
from vlm_heads.attached.layer_steps import SecondArguments
from vlm_heads.attached.stream_edit import EditedAttention, StreamEdit
from vlm_heads.attention import Attending
from vlm_heads.blind import remembering, untouched
from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy, examine
from vlm_heads.wrappers import unwrapped

Showing = Callable[[], AbstractContextManager[object]]
Noted = Callable[[Callable[[], object]], SecondArguments]


class SecondStream:
    """The same model on other inputs, fed with the tokens that the first stream chose.

    Where its rows ran in the first stream's forward, it is told what came out (`one_pass.py`). Otherwise each token
    costs a forward of its own.

    Attributes:
        begins_with_the_first: whether its prompt runs in the first stream's forward too.
        start: the first layer in which it has rows of its own.
        rows: of its inputs.
        in_one_pass: tokens after the first that it was told of.
        in_two_forwards: tokens after the first that it ran itself.

    Args:
        model: a vision-language model of transformers.
        inputs: what its forward takes, with another image, none, or another prompt; as many rows as the first stream.
        edit: what becomes of its attention; None leaves it plain.
        showing: makes a context around its prompt's forward, in which the picture's features are others; None leaves
            them as they are.

    Raises:
        UnsupportedModel: if the family generates past its own forward, or ignores logits processors, or if the edit
            cannot act on the model.
    """

    begins_with_the_first: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        *,
        edit: StreamEdit | None = None,
        showing: Showing | None = None,
    ) -> None:
        anatomy = examine(model)
        require_second_stream(anatomy)
        self.rows = int(inputs["input_ids"].shape[0])
        self.start = self.in_one_pass = self.in_two_forwards = 0
        self._model: Any = unwrapped(model)
        self._remembering = remembering(self._model)
        self._anatomy = anatomy
        self._attentions = tuple(anatomy.attentions.values())
        self._inputs = dict(inputs)
        self._edited = None if edit is None else EditedAttention(edit, self._model, anatomy, self._inputs)
        self._showing: Showing = nullcontext if showing is None else showing
        self._kwargs: dict[str, Any] = {}
        self._told: Tensor | None = None
        self._reordered = False

    @property
    def cache(self) -> Cache | None:
        """Its own keys and values; None before it began."""
        return self._kwargs.get("past_key_values")

    @property
    def attending(self) -> Attending | None:
        """What computes the attention of its rows; None where it is plain."""
        return None if self._edited is None else self._edited.run

    @property
    def told(self) -> bool:
        """Whether it was told of the token that is asked for next."""
        return self._told is not None

    def begin(self, copies: int) -> Tensor:
        """Return token logits `[B * copies, V]` in float32 after the prompt; each row is repeated for its beams."""
        self._told, self._reordered = None, False
        kwargs = {name: value for name, value in self._inputs.items() if name != "input_ids"}
        ids: Tensor = self._inputs["input_ids"]
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = torch.ones_like(ids)
        kwargs |= {"past_key_values": DynamicCache(config=self._model.config.get_text_config()), "use_cache": True}
        if self._model._supports_logits_to_keep():  # as generate does: a head over the whole prompt is dear
            kwargs["logits_to_keep"] = 1
        if self._edited is not None:
            self._edited.begin()
        with self._showing(), self._aside():
            if "position_ids" not in kwargs and hasattr(self._model, "_prepare_position_ids_for_generation"):
                kwargs["position_ids"] = self._model._prepare_position_ids_for_generation(ids, kwargs)
            logits = self._forward(ids, kwargs, first=True)
        if copies > 1:
            # not batch_repeat_interleave: the states of a linear attention have none
            rows = torch.arange(self.rows, device=ids.device).repeat_interleave(copies)
            self._kwargs["past_key_values"].reorder_cache(rows)
            self._kwargs = {name: self._repeated(name, value, copies) for name, value in self._kwargs.items()}
            if self._edited is not None:
                self._edited.repeat(copies)
        return logits.repeat_interleave(copies, dim=0)

    def step(self, tokens: Tensor, parents: Tensor | None = None) -> Tensor:
        """Return token logits `[R, V]` in float32 after one more token per row.

        Args:
            tokens: int64 `[R]`.
            parents: int64 `[R]`, the row that each row continues where beams were reordered.
        """
        told, self._told = self._told, None
        reordered, self._reordered = self._reordered, False
        if told is not None:
            self.in_one_pass += 1
            return told
        self.in_two_forwards += 1
        if parents is not None and not reordered:
            self._kwargs["past_key_values"].reorder_cache(parents)
        self._grow()
        with self._aside():
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
        if self._edited is not None:
            self._edited.rewind(said)

    def beside_prompt(self, rows: int) -> SecondArguments | None:
        """Return what it gives each layer beside the `rows` rows of the first stream's prompt.

        None says that it runs its prompt in a forward of its own.
        """
        return None

    def beside_token(self, tokens: Tensor, noted: Noted) -> SecondArguments:
        """Return what it gives each layer beside one more token of the first stream, `tokens` int64 `[R, 1]`.

        Args:
            tokens: those of the first stream.
            noted: runs a forward of which no layer runs, and returns what each would be given.
        """

        def forward() -> None:
            with self._aside():
                self._model(**self._prepared(tokens, self._kwargs, first=False), return_dict=True)

        self._grow()
        return noted(forward)

    def reorder(self, parents: Tensor) -> None:
        """Let row `i` go on from row `parents[i]`, int64 `[R]`."""
        self._kwargs["past_key_values"].reorder_cache(parents)
        self._reordered = True

    def tell(self, logits: Tensor, output: ModelOutput) -> None:
        """Take the token logits `[R, V]` of rows that ran in the first stream's forward, which gave this output."""
        self._told = logits.float()
        own = type(output)(past_key_values=self._kwargs["past_key_values"])
        self._kwargs = self._model._update_model_kwargs_for_generation(own, self._kwargs, is_encoder_decoder=False)

    def attending_alone(self) -> AbstractContextManager[None]:
        """Return a context in which forwards of this thread are the second stream's alone."""
        return attention.forwards_aside(self._attentions, self.attending)

    def _grow(self) -> None:
        if self._edited is not None:
            self._edited.grow()

    def _prepared(self, ids: Tensor, kwargs: dict[str, Any], first: bool) -> dict[str, Any]:
        # the families' own steps of generation: they know which inputs grow, and how positions go on
        prepared: dict[str, Any] = self._model.prepare_inputs_for_generation(
            ids, next_sequence_length=ids.shape[1], is_first_iteration=first, **kwargs
        )
        return prepared

    def _forward(self, ids: Tensor, kwargs: dict[str, Any], first: bool) -> Tensor:
        output = self._model(**self._prepared(ids, kwargs, first), return_dict=True)
        self._kwargs = self._model._update_model_kwargs_for_generation(output, kwargs, is_encoder_decoder=False)
        logits: Tensor = output.logits
        return logits[:, -1].float()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Let forwards of this thread be the second stream's, whether something is attached to the model or not."""
        own = self._edited is not None and not attention.is_bound(self._attentions[0])
        ours = switched(self._anatomy) if own else nullcontext()
        with ours, self.attending_alone(), untouched(self._model, self._remembering):
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
