"""Asks the model questions about the pictures of a batch, and compares its yes with its no.

The questions stand behind the picture's own keys: a branch of the answer's cache, cut after the picture. Where that
cannot be, each question is a whole prompt, and the picture is read again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vlm_heads import attention
from vlm_heads.asking.questions import Question, YesNo
from vlm_heads.asking.whole_prompts import WholePrompts
from vlm_heads.attached.cut_cache import branch_cache, can_be_cut
from vlm_heads.attached.tracking import Tracker
from vlm_heads.blind import untouched
from vlm_heads.families import Anatomy

AT_ONCE = 32  # questions in one forward
_FEWEST = 2  # ids of a part of a question; one alone would be read as a generated token is


@dataclass
class Asked:
    """What asking cost so far.

    Attributes:
        questions: how many were asked.
        forwards: in how many forwards, those of what questions begin with included.
        read_again: how many of these read the picture again.
        without_picture: forwards of questions without the picture.
    """

    questions: int = 0
    forwards: int = 0
    read_again: int = 0
    without_picture: int = 0


@dataclass
class _Begun:
    """Rows of prompts as far as they were read.

    Attributes:
        cache: with their keys.
        ids: int64 `[R, columns]`.
        seen: bool `[R, columns]`, which of these they see.
    """

    cache: Any
    ids: Tensor
    seen: Tensor


class Asker:
    """Asks about one batch of prompts.

    Attributes:
        asked: what it cost.

    Args:
        model: that is asked.
        anatomy: of the model.
        tracker: follows what is attached; questions are answered under it.
        words: the tokens that say yes and no.
        inputs: of the batch, `input_ids` `[B, T]` among them.
        mask: `[B, T]`, 0 where a position is padding.
        picture_first: whether the picture comes before the question's words.
    """

    def __init__(
        self,
        model: Any,
        anatomy: Anatomy,
        tracker: Tracker,
        words: YesNo,
        inputs: dict[str, Any],
        mask: Tensor,
        *,
        picture_first: bool,
    ) -> None:
        self.asked = Asked()
        self._model, self._anatomy, self._tracker, self._words = model, anatomy, tracker, words
        self._whole = WholePrompts(inputs, anatomy.vision_token_ids)
        self._ids: Tensor = inputs["input_ids"]
        self._mask = mask.bool()
        self._picture_first = picture_first and not anatomy.quirks.picture_sees_text
        seen = torch.isin(self._ids, torch.tensor(anatomy.vision_token_ids, device=self._ids.device)) & self._mask
        places = torch.arange(1, self._ids.shape[1] + 1, device=self._ids.device)
        self._end = (seen * places).amax(dim=1)  # columns up to and with the last picture position
        self._start = torch.where(seen, places, self._ids.shape[1] + 1).amin(dim=1) - 1

    @property
    def has_picture(self) -> list[bool]:
        """Whether each row has a picture to be asked about."""
        return (self._end > 0).tolist()

    def shares(self, cache: Any) -> bool:
        """Whether questions can stand behind the picture's keys in a cache."""
        return self._picture_first and can_be_cut(cache, cache.get_seq_length())

    def margins(self, cache: Any, rows: Sequence[int], questions: Sequence[Question]) -> list[float]:
        """Return how far the model's yes stands above its no, at each answer's first token, in nats.

        Args:
            cache: of a generation that began with the batch's prompts.
            rows: whose picture each question is about.
            questions: one for each of these.
        """
        self.asked.questions += len(questions)
        ask = self._behind_the_picture if self.shares(cache) else self._as_whole_prompts
        found: dict[int, float] = {}
        for places in self._forwards(cache, rows):
            logits = ask(cache, [rows[one] for one in places], [questions[one] for one in places])
            self.asked.forwards += 1
            found |= dict(zip(places, self.margin_of(logits), strict=True))
        return [found[place] for place in range(len(questions))]

    def without_picture(self, questions: Sequence[Question]) -> list[float]:
        """Return the margins of questions with the picture's positions deleted, under nothing that is attached."""
        found: list[float] = []
        for start in range(0, len(questions), AT_ONCE):
            rows = [[*one.before, *one.after] for one in questions[start : start + AT_ONCE]]
            with attention.plain_forwards(self._anatomy.attentions.values()):
                logits = first_logits(self._model, padded(rows, self._ids))
            self.asked.without_picture += 1
            found += self.margin_of(logits)
        return found

    def margin_of(self, logits: Tensor) -> list[float]:
        """Return the margin of each row of token logits `[R, V]`."""
        yes, no = (logits[:, list(ids)].float().logsumexp(dim=1) for ids in (self._words.yes, self._words.no))
        margins: list[float] = (yes - no).tolist()
        return margins

    def _forwards(self, cache: Any, rows: Sequence[int]) -> list[list[int]]:
        """Return the places of the questions that share a forward; as whole prompts, one of each row."""
        if self.shares(cache):
            return [list(range(at, min(at + AT_ONCE, len(rows)))) for at in range(0, len(rows), AT_ONCE)]
        waves: list[dict[int, int]] = []
        for place, row in enumerate(rows):
            wave = next((one for one in waves if row not in one), None)
            if wave is None:
                waves.append(wave := {})
            wave[row] = place
        return [list(wave.values()) for wave in waves]

    def _behind_the_picture(self, cache: Any, rows: Sequence[int], questions: Sequence[Question]) -> Tensor:
        """Return the token logits `[Q, V]` after questions that go on from the picture's keys.

        What all of them begin with is read once a row, and not once a question. Under interventions it is not: what
        they do to a turn may depend on where it ends.
        """
        own, tails = sorted(set(rows)), [one.after for one in questions]
        alike = 0 if self._tracker.edited or len(own) == len(rows) else _alike(tails)
        begun = self._branch(cache, own if alike else rows)
        if alike:
            first = torch.tensor(tails[0][:alike], device=self._ids.device).to(self._ids).expand(len(own), -1)
            self._read(begun, own, {"input_ids": first, "attention_mask": torch.ones_like(first)})
            self.asked.forwards += 1
            begun = self._again(begun, [own.index(row) for row in rows])
        return self._read(begun, rows, padded([one[alike:] for one in tails], self._ids))

    def _branch(self, cache: Any, rows: Sequence[int]) -> _Begun:
        """Return some rows' prompts up to their picture's last position."""
        chosen = torch.tensor(rows, device=self._ids.device)
        columns = int(self._end[chosen].amax())
        before = torch.arange(columns, device=self._ids.device) < self._end[chosen][:, None]
        found = _Begun(cache, self._ids[chosen, :columns], self._mask[chosen, :columns] & before)
        return self._again(found, range(len(rows)), chosen)

    def _again(self, begun: _Begun, rows: Sequence[int], chosen: Tensor | None = None) -> _Begun:
        """Return what begins as some rows of it do, with a cache of its own.

        Args:
            begun: what was read so far.
            rows: of it.
            chosen: the same rows of its cache, where that has others.
        """
        at = torch.tensor(rows, device=self._ids.device)
        from_cache = at if chosen is None else chosen
        ids, seen = begun.ids[at], begun.seen[at]
        branch = branch_cache(begun.cache, from_cache, ids.shape[1])
        self._tracker.branch(begun.cache, branch, from_cache, seen)
        return _Begun(branch, ids, seen)

    def _read(self, begun: _Begun, rows: Sequence[int], more: dict[str, Any]) -> Tensor:
        """Let rows go on with more ids, which `begun` holds from now on too; return the last token logits `[R, V]`."""
        chosen = torch.tensor(rows, device=self._ids.device)
        begun.ids = torch.cat([begun.ids, more["input_ids"]], dim=1)
        begun.seen = torch.cat([begun.seen, more["attention_mask"].bool()], dim=1)
        with untouched(self._model), _offsets_of(self._model, chosen):
            mask = begun.seen.to(self._ids)
            given = {"attention_mask": mask, "past_key_values": begun.cache, "use_cache": True}
            return _logits(self._model, more["input_ids"], given, begun.ids)[:, -1]

    def _as_whole_prompts(self, cache: Any, rows: Sequence[int], questions: Sequence[Question]) -> Tensor:
        """Return the token logits `[Q, V]` after whole prompts; every row's pictures are read again."""
        self.asked.read_again += 1
        asked = dict(zip(rows, questions, strict=True))
        prompts = [self._prompt(row, asked.get(row, questions[0])) for row in range(len(self._ids))]
        return first_logits(self._model, self._whole.of(prompts))[list(rows)]

    def _prompt(self, row: int, question: Question) -> list[int]:
        """Return a question's ids around a row's own picture; a row without one has nothing between."""
        picture: list[int] = self._ids[row, int(self._start[row]) : int(self._end[row])].tolist()
        return [*question.before, *picture, *question.after]


def _alike(tails: Sequence[Sequence[int]]) -> int:
    """Return with how many ids all tails begin; 0 where a part of them would be too short to be read by itself."""
    shortest = min(map(len, tails))
    count = next((at for at in range(shortest) if len({one[at] for one in tails}) > 1), shortest)
    count = min(count, shortest - _FEWEST)
    return count if count >= _FEWEST else 0


def first_logits(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Return the token logits `[B, V]` that `generate` would choose the first token by."""
    return forward(model, inputs, DynamicCache(config=model.config.get_text_config()))[:, -1]


def forward(model: Any, inputs: dict[str, Any], cache: Any, last: int = 1) -> Tensor:
    """Return the token logits `[B, last, V]` at the end of whole prompts, which fill an empty cache."""
    given = {name: value for name, value in inputs.items() if name not in ("input_ids", "position_ids")}
    with untouched(model):
        return _logits(model, inputs["input_ids"], {**given, "past_key_values": cache, "use_cache": True}, last=last)


def padded(rows: Sequence[Sequence[int]], like: Tensor) -> dict[str, Any]:
    """Return token ids and mask `[R, T]` of rows of different lengths, padded on the left."""
    width = max(map(len, rows))
    filled = [[one[0]] * (width - len(one)) + list(one) for one in rows]
    mask = [[0] * (width - len(one)) + [1] * len(one) for one in rows]
    ids, seen = (torch.tensor(value, dtype=like.dtype, device=like.device) for value in (filled, mask))
    return {"input_ids": ids, "attention_mask": seen}


@contextmanager
def _offsets_of(model: nn.Module, rows: Tensor) -> Iterator[None]:
    """Let the offsets between cache slots and positions that a family keeps on the model be those of some rows.

    They are put back by `untouched`, which has to be around it.
    """
    for module in model.modules():
        deltas = getattr(module, "rope_deltas", None)
        if isinstance(deltas, Tensor):
            module.rope_deltas = deltas[rows.to(deltas.device)]
    yield


def _logits(model: Any, ids: Tensor, given: dict[str, Any], whole: Tensor | None = None, last: int = 1) -> Tensor:
    """Return the last token logits `[R, last, V]` of a forward, prepared as the family's own `generate` does.

    Args:
        model: that is asked.
        ids: int64 `[R, T]`, what the forward reads.
        given: its other inputs, the cache among them.
        whole: int64 `[R, past + T]`, where it goes on from a cache.
        last: positions whose logits are wanted.
    """
    if hasattr(model, "_prepare_position_ids_for_generation"):
        given["position_ids"] = model._prepare_position_ids_for_generation(ids if whole is None else whole, given)
    step = model.prepare_inputs_for_generation(
        ids, next_sequence_length=ids.shape[1], is_first_iteration=whole is None, **given
    )
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        step["logits_to_keep"] = last
    logits: Tensor = model(**step, return_dict=True).logits
    return logits[:, -last:]
