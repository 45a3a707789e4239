"""What heads are scored on: a picture, what is asked about it, and what is known of the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.models.images import ImageSource, load_image
from vlm_heads.models.prompts import DEFAULT_PROMPT, model_inputs, with_answer


@dataclass(frozen=True)
class Mention:
    """An object that an answer names, or that a question asks about.

    Attributes:
        word: as it stands in the text, "hot dog".
        shown: whether the picture shows it.
        places: image positions on which it lies, from 0; empty where nobody knows.
    """

    word: str
    shown: bool
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class Example:
    """A picture with a prompt; for some scorers an answer that somebody judged, or a question with its truth.

    Attributes:
        image: the picture.
        prompt: what is asked.
        answer: the text that follows, or its token ids as they were generated.
        mentions: objects that the answer names, each found where it stands first. Of a yes/no question, the object
            that the prompt asks about.
        truth: of a yes/no question, whether yes is right; None where nothing of the kind is asked.
    """

    image: ImageSource
    prompt: str = DEFAULT_PROMPT
    answer: str | tuple[int, ...] = ""
    mentions: tuple[Mention, ...] = ()
    truth: bool | None = None


Sample = ImageSource | tuple[ImageSource, str] | Example


def as_example(sample: Sample, prompt: str) -> Example:
    """Return a sample as an example; one without a prompt gets this one."""
    if isinstance(sample, Example):
        return sample
    return Example(*sample) if isinstance(sample, tuple) else Example(sample, prompt)


@dataclass(frozen=True)
class Decision:
    """A place where the model decides for a token.

    Attributes:
        column: the position that predicts it.
        token: its id; None is the one that the model says itself.
        right: whether it tells what the picture shows.
    """

    column: int
    token: int | None
    right: bool


@dataclass(frozen=True)
class Named:
    """Where a mention stands.

    Attributes:
        columns: the positions of its tokens.
        mention: what is mentioned.
    """

    columns: tuple[int, ...]
    mention: Mention


@dataclass(frozen=True)
class Case:
    """An example as the model reads it, one row.

    Attributes:
        inputs: of a forward over the prompt and the answer.
        begin: columns of the prompt.
        answer: token ids of the answer.
        decisions: of a judged answer, the first token of each mention. Of a question, yes and no, at the prompt's last
            position. Where nothing is judged, the token that the model says next.
        named: where mentions stand.
    """

    inputs: Mapping[str, Any]
    begin: int
    answer: tuple[int, ...]
    decisions: tuple[Decision, ...]
    named: tuple[Named, ...]


def case_of(model: nn.Module, processor: Any, anatomy: Anatomy, example: Example) -> Case:
    """Return an example as the model reads it.

    Raises:
        BadOption: if a mention does not stand in its text, or the answer carries an image token.
    """
    inputs = model_inputs(model, processor, [load_image(example.image)], [example.prompt])
    prompt: list[int] = inputs["input_ids"][0].tolist()
    ids = answer_ids(processor.tokenizer, example.answer)
    if any(token in anatomy.vision_token_ids for token in ids):
        raise BadOption("the answer carries the image token; give the answer alone")
    begin, text = len(prompt), Text(processor.tokenizer, [*prompt, *ids], anatomy, len(prompt) if ids else 0)
    named = [Named(text.columns_of(mention.word, last=not ids), mention) for mention in example.mentions]
    decisions = _decisions(processor.tokenizer, example, [*prompt, *ids], begin, named)
    return Case(with_answer(inputs, ids) if ids else inputs, begin, tuple(ids), decisions, tuple(named))


def _decisions(
    tokenizer: Any, example: Example, ids: Sequence[int], begin: int, named: Sequence[Named]
) -> tuple[Decision, ...]:
    if example.truth is not None:
        yes, no = yes_and_no(tokenizer)
        return Decision(begin - 1, yes, example.truth), Decision(begin - 1, no, not example.truth)
    if len(ids) > begin:
        first = [(one.columns[0], one.mention.shown) for one in named]
        return tuple(Decision(column - 1, ids[column], shown) for column, shown in first)
    return (Decision(begin - 1, None, True),)


def answer_ids(tokenizer: Any, answer: str | Sequence[int]) -> list[int]:
    """Return the token ids of an answer."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"] if isinstance(answer, str) else answer
    return [int(one) for one in ids]


def yes_and_no(tokenizer: Any) -> tuple[int, int]:
    """Return the tokens that begin the answers yes and no.

    Raises:
        UnsupportedModel: if the vocabulary cannot tell them apart.
    """
    yes, no = (answer_ids(tokenizer, word)[0] for word in ("Yes", "No"))
    if yes == no:
        raise UnsupportedModel("the vocabulary has no words for yes and no, so questions cannot be scored")
    return yes, no


class Text:
    """The text of a row from a column on, as its tokens give it; what stands for the picture is left out.

    Args:
        tokenizer: the model's own.
        ids: of the row.
        anatomy: of the model.
        begin: first column.
    """

    def __init__(self, tokenizer: Any, ids: Sequence[int], anatomy: Anatomy, begin: int) -> None:
        self._columns = [at for at, one in enumerate(ids) if at >= begin and one not in anatomy.vision_token_ids]
        self._tokenizer, self._ids = tokenizer, [ids[at] for at in self._columns]
        self._pieces = pieces_of(tokenizer, self._ids)

    def columns_of(self, word: str, *, last: bool) -> tuple[int, ...]:
        """Return the columns of the tokens where a word stands first, or last; case does not count.

        A word of which the vocabulary lacks a part is found by its tokens: decoding leaves unknown ones out.

        Raises:
            BadOption: if it does not stand there.
        """
        text = "".join(self._pieces)
        found = list(re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))
        if not found and (columns := self._columns_by_tokens(word, last=last)):
            return columns
        if not found:
            raise BadOption(f"the word {word!r} does not stand in the text {text[:200]!r}")
        begin, end = found[-1 if last else 0].span()
        starts = [0, *accumulate(map(len, self._pieces))]
        spans = zip(self._columns, pairwise(starts), strict=True)
        return tuple(column for column, (start, stop) in spans if start < end and begin < stop)

    def _columns_by_tokens(self, word: str, *, last: bool) -> tuple[int, ...]:
        """Return the columns of a word's tokens; none where they do not stand there, or all of them are known."""
        before, whole = (self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", f"a {word}"))
        wanted = whole[len(before) :]
        if self._tokenizer.unk_token_id not in wanted:
            return ()
        starts = [
            at for at in range(len(self._ids) - len(wanted) + 1) if self._ids[at : at + len(wanted)] == list(wanted)
        ]
        if not starts:
            return ()
        first = starts[-1 if last else 0]
        return tuple(self._columns[first : first + len(wanted)])


def pieces_of(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the piece of text that each token adds to the decoded beginning."""
    texts = [tokenizer.decode(ids[:end], skip_special_tokens=True) for end in range(len(ids) + 1)]
    return [after[len(before) :] for before, after in pairwise(texts)]


def repeated(inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return the inputs of `count` rows that are all this one row."""
    return {name: torch.cat([one] * count) if isinstance(one, Tensor) else one for name, one in inputs.items()}
