"""Drafts: the model's own `generate`, stopped after a sentence, and gone on from where a word was taken back.

All rows of the batch share one cache. A row that goes on from an earlier token than another leaves columns behind it
that are no part of it any more; its attention mask hides them, and positions follow the mask.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from vlm_heads.asking.sentences import ends_sentence
from vlm_heads.asking.whole_prompts import WholePrompts
from vlm_heads.attached.cut_cache import can_be_cut, cut_cache
from vlm_heads.attached.lens_processor import LensProcessor
from vlm_heads.contrast import ContrastProcessor
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.generate_call import GenerateCall


@dataclass
class Context:
    """What the model goes on from in one row.

    Attributes:
        prompt: token ids, without padding.
        columns: where each token of the prompt, and of what was said, lies in the cache.
        said: token ids after the prompt.
        chances: log-probability of each of these.
        seconds: log-probability of the best other token that might have stood there.
        begun: how many of them belong to sentences that are over.
        barred: tokens that may not stand at a place of `said`, with the log-probability they had there.
        unsayable: sequences of tokens that may not be completed in this sentence.
        closed: whether nothing more is drafted.
    """

    prompt: list[int]
    columns: list[int]
    said: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    begun: int = 0
    barred: dict[int, dict[int, float]] = field(default_factory=dict)
    unsayable: list[list[int]] = field(default_factory=list)
    closed: bool = False

    def take(self, draft: Draft, count: int) -> None:
        """Say the first tokens of a draft, and let the draft begin after them."""
        self.said += draft.ids[:count]
        self.chances += draft.chances[:count]
        self.seconds += draft.seconds[:count]
        self.columns += draft.columns[:count]
        del draft.ids[:count], draft.chances[:count], draft.seconds[:count], draft.columns[:count]

    def start_sentence(self) -> None:
        """Begin a sentence where the last one ended: what was barred in that one is barred no more."""
        self.begun = len(self.said)
        self.barred, self.unsayable = {}, []

    def go_back(self, place: int, draft: Draft, word: Sequence[int]) -> None:
        """Go on from a place of `said`, or of the draft behind it, where a word stood that may not be said again.

        Args:
            place: where the word began.
            draft: that is given up from there on.
            word: its token ids.
        """
        chance = (self.chances + draft.chances)[place]
        self.take(draft, max(0, place - len(self.said)))
        del self.said[place:], self.chances[place:], self.seconds[place:], self.columns[len(self.prompt) + place :]
        self.barred = {at: tokens for at, tokens in self.barred.items() if at <= place}
        self.barred.setdefault(place, {})[word[0]] = chance
        self.unsayable.append(list(word))

    def lead_at(self, place: int, draft: Draft) -> float:
        """Return how far the word at a place, or one barred there, stood above the best that is left, in nats."""
        best = max([(self.chances + draft.chances)[place], *self.barred.get(place, {}).values()])
        return best - (self.seconds + draft.seconds)[place]


@dataclass
class Draft:
    """What was drafted in one row.

    Attributes:
        ids: token ids, an end token included.
        chances: log-probability of each, before anything is barred.
        seconds: log-probability of the best other token that might have stood there.
        columns: where each lies in the cache.
        over: whether the answer ends with it: by an end token, the limit, or the caller's own criteria.
    """

    ids: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    over: bool = False


class Drafts:
    """Writes drafts of one call of `generate`.

    Attributes:
        contexts: one per row.
        ends: ids that end an answer.
        cache: of the last draft.
        written: how many drafts were written.

    Args:
        model: that generates.
        generate: its own, unguarded.
        call: as the caller made it.
        tokenizer: the model's own.
        picture: ids of picture positions.
        say_more: taken off the logits of the end tokens.
    """

    def __init__(
        self,
        model: Any,
        generate: Callable[..., Any],
        call: GenerateCall,
        tokenizer: Any,
        picture: Collection[int],
        *,
        say_more: float = 0.0,
    ) -> None:
        self._model, self._generate, self._call, self._tokenizer = model, generate, call, tokenizer
        self._say_more = say_more
        self._config = _config_of_drafts(call.config)
        ids: Tensor = call.inputs["input_ids"]
        self._mask = prompt_mask(call)
        self._width = int(ids.shape[1])
        given = call.config.eos_token_id
        self.ends = set(given if isinstance(given, list | tuple) else [] if given is None else [given])
        self.contexts = [
            Context([int(one) for one in row[seen]], seen.nonzero()[:, 0].tolist())
            for row, seen in zip(ids.cpu(), self._mask.bool().cpu(), strict=True)
        ]
        self.limit = call.limit(self._width)
        self.cache: Any = None
        self.written = 0
        self._whole = WholePrompts(call.inputs, picture)

    @property
    def goes_on(self) -> bool:
        """Whether the cache can be cut, so that a draft goes on from it; otherwise every draft reads its prompt."""
        return self.cache is not None and can_be_cut(self.cache, self.cache.get_seq_length() + self.limit)

    def write(self, *, one_sentence: bool) -> list[Draft]:
        """Return a draft for every row; those of closed rows are empty.

        Args:
            one_sentence: stop each row where its sentence ends; otherwise at the answer's end.
        """
        following = _Following(self, self._tokenizer, one_sentence, self._call.arguments.get("stopping_criteria") or ())
        inputs, first = self._inputs()
        rules = _Rules(self, following, self._say_more)
        given = list(self._call.arguments.get("logits_processor") or ())
        output = self._generate(
            **inputs,
            generation_config=self._config,
            logits_processor=[_Hearing(following.hear), *given, rules, _Hearing(following.hear_last)],
            stopping_criteria=[following],
        )
        self.cache = output.past_key_values
        self.written += 1
        for draft in following.drafts:
            draft.columns = list(range(first, first + len(draft.ids)))
        return following.drafts

    def _inputs(self) -> tuple[dict[str, Any], int]:
        """Return the arguments of the next draft, and the column of its first new token."""
        own = {"generation_config", "logits_processor", "stopping_criteria", "streamer"}
        given = {
            name: value
            for name, value in self._call.arguments.items()
            if name not in own and not hasattr(self._config, name)
        }
        left = self.limit - min((len(one.said) for one in self.contexts if not one.closed), default=0)
        self._config.max_new_tokens = left
        if not self.written:
            return given, self._width
        rest = {name: value for name, value in given.items() if name not in {*self._call.inputs, "inputs"}}
        if self.goes_on:
            return self._going_on(rest)
        self._require_no_second_stream()
        return rest | self._whole.of([one.prompt + one.said for one in self.contexts]), 0

    def _going_on(self, rest: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Cut the cache, and return what goes on from it: each open row's last token again, behind what it kept."""
        kept = max(one.columns[-2] + 1 for one in self.contexts if not one.closed)
        mask = self._mask.new_zeros(len(self.contexts), kept + 1)
        mask[:, kept] = 1
        for row, one in enumerate(self.contexts):
            mask[row, [column for column in one.columns[:-1] if column < kept]] = 1
            one.columns[-1] = kept
        cut_cache(self.cache, kept)
        ids = self._side_by_side(kept + 1)
        for processor in self._call.arguments.get("logits_processor") or ():
            if isinstance(processor, ContrastProcessor | LensProcessor):
                processor.rewind(ids[:, :-1], mask[:, self._width - 1 : kept].bool())
        inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": self.cache}
        return {**rest, **inputs, **self._kinds(kept + 1)}, kept + 1

    def _side_by_side(self, columns: int) -> Tensor:
        """Return every row's tokens without what was taken back, at the right edge, int64 `[B, columns]`.

        The model reads the last one alone; the others are for processors, which count and compare tokens.
        """
        ids: Tensor = self._call.inputs["input_ids"]
        rows = [[*one.prompt, *one.said][-columns:] for one in self.contexts]
        filled = [[int(first)] * (columns - len(row)) + row for first, row in zip(ids[:, 0], rows, strict=True)]
        return torch.tensor(filled, dtype=ids.dtype, device=ids.device)

    def _kinds(self, columns: int) -> dict[str, Any]:
        """Return what tells text from pictures, as long as the ids; a family may ask for it at every step."""
        found = {}
        for name in ("token_type_ids", "mm_token_type_ids"):
            kinds = self._call.inputs.get(name)
            if isinstance(kinds, Tensor):
                last = kinds[:, -1:] if name == "token_type_ids" else torch.zeros_like(kinds[:, -1:])
                found[name] = torch.cat([kinds, last.expand(-1, max(0, columns - self._width))], dim=1)[:, :columns]
        return found

    def _require_no_second_stream(self) -> None:
        given = self._call.arguments.get("logits_processor") or ()
        if any(isinstance(one, ContrastProcessor | LensProcessor) for one in given):
            raise UnsupportedGeneration(
                "this family's cache cannot be cut, so a draft with a contrast or a lens cannot go on from a word that "
                "is taken back: give askback max_rounds=0 and when=end, or leave it out"
            )


class _Following(StoppingCriteria):  # type: ignore[misc]
    """Reads each new token, and ends a row where its draft is to end.

    Attributes:
        drafts: one per row, as far as they have come.
        in_first_sentence: whether the sentence that the draft began in is not over.
    """

    def __init__(self, drafts: Drafts, tokenizer: Any, one_sentence: bool, given: Sequence[Any]) -> None:
        self.drafts = [Draft() for _ in drafts.contexts]
        self._of, self._tokenizer, self._one_sentence, self._given = drafts, tokenizer, one_sentence, given
        self._open = [not one.closed for one in drafts.contexts]
        self.in_first_sentence = [True] * len(drafts.contexts)
        self._chances = self._best = torch.empty(0)

    def hear(self, scores: Tensor) -> None:
        """Keep the log-probabilities of a step."""
        self._chances = scores.log_softmax(dim=-1)

    def hear_last(self, scores: Tensor) -> None:
        """Keep the two best tokens of a step, those that are barred left out."""
        self._best = scores.topk(2, dim=-1).indices

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        """Return bool `[B]`: the rows that are over."""
        tokens: list[int] = input_ids[:, -1].tolist()
        chosen = input_ids[:, -1:]
        other = torch.where(self._best[:, :1] == chosen, self._best[:, 1:], self._best[:, :1])
        pairs: list[list[float]] = self._chances.gather(1, torch.cat([chosen, other], dim=1)).tolist()
        ended = [False] * len(tokens)
        for criterion in self._given:
            fired = torch.as_tensor(criterion(input_ids, scores, **more)).expand(len(tokens)).tolist()
            ended = [before or now for before, now in zip(ended, fired, strict=True)]
        for row, token in enumerate(tokens):
            if self._open[row]:
                self.drafts[row].ids.append(token)
                self.drafts[row].chances.append(pairs[row][0])
                self.drafts[row].seconds.append(pairs[row][1])
                self._open[row] = not self._closes(row, token, ended[row])
        return torch.tensor([not one for one in self._open], device=input_ids.device)

    def _closes(self, row: int, token: int, ended: bool) -> bool:
        context, draft = self._of.contexts[row], self.drafts[row]
        draft.over = ended or token in self._of.ends or len(context.said) + len(draft.ids) >= self._of.limit
        if not draft.over and self.in_first_sentence[row] and (self._one_sentence or context.unsayable):
            sentence = context.said[context.begun :] + draft.ids
            self.in_first_sentence[row] = not ends_sentence(self._tokenizer.decode(sentence, skip_special_tokens=True))
        return draft.over or (self._one_sentence and not self.in_first_sentence[row])


class _Hearing(LogitsProcessor):  # type: ignore[misc]
    """Lets a method read a step's scores, and changes nothing.

    transformers asks for the signature of `__call__` at every step. That of a bound method is made anew from text each
    time, which takes a seventh of a small model's step; a class's own is ten times as fast.
    """

    def __init__(self, hear: Callable[[Tensor], None]) -> None:
        self._hear = hear

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores `[B, V]` as they are."""
        self._hear(scores)
        return scores


class _Rules(LogitsProcessor):  # type: ignore[misc]
    """Bars what was taken back, and makes ending less likely."""

    def __init__(self, drafts: Drafts, following: _Following, say_more: float) -> None:
        self._of, self._following, self._say_more = drafts, following, say_more

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits `[B, V]` that the next tokens are chosen by."""
        barred = [(row, token) for row, one in enumerate(self._of.contexts) for token in self._barred(row, one)]
        if not barred and not self._say_more:
            return scores
        scores = scores.clone()
        if self._say_more:
            scores[:, sorted(self._of.ends)] -= self._say_more
        for row, token in barred:
            scores[row, token] = -torch.inf
        return scores

    def _barred(self, row: int, context: Context) -> set[int]:
        """Return the tokens that may not come next in a row."""
        drafted = self._following.drafts[row].ids
        found = set(context.barred.get(len(context.said) + len(drafted), ()))
        if context.unsayable and self._following.in_first_sentence[row]:
            tail = context.said[context.begun :] + drafted
            found |= {last for *start, last in context.unsayable if tail[len(tail) - len(start) :] == start}
        return found


def prompt_mask(call: GenerateCall) -> Tensor:
    """Return the prompts' attention mask int64 `[B, T]`; as transformers has it where the caller gave none."""
    ids: Tensor = call.inputs["input_ids"]
    mask = call.inputs.get("attention_mask")
    if isinstance(mask, Tensor):
        return mask.to(ids.dtype)
    pad = call.config.pad_token_id
    ends = call.config.eos_token_id
    told_apart = pad is not None and pad not in (ends if isinstance(ends, list | tuple) else [ends])
    return (ids != pad).to(ids.dtype) if told_apart and bool((ids == pad).any()) else torch.ones_like(ids)


def _config_of_drafts(config: Any) -> Any:
    drafted = copy.deepcopy(config)
    drafted.return_dict_in_generate, drafted.use_cache, drafted.max_length = True, True, None
    return drafted
