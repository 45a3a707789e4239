"""Captions that somebody has saved: each object is asked about, and what the model does not stand by is left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vlm_heads.asking.asking import forward
from vlm_heads.asking.judging import Judge, Mention, Verdict
from vlm_heads.asking.leaving_out import leave_out
from vlm_heads.asking.named import Named
from vlm_heads.asking.read_along import read_along
from vlm_heads.asking.sentences import sentences_of
from vlm_heads.asking.short_answers import answers_yes_or_no
from vlm_heads.asking.whole_prompts import WholePrompts
from vlm_heads.errors import BadPrompt

Names = Callable[[str], list[Named]]
WENT_ALONG = "went with it"


@dataclass(frozen=True)
class Saved:
    """A batch of prompts and captions, read by the model.

    Attributes:
        captions: as they were saved.
        ids: token ids of each.
        spans: which characters of its caption each token stands for.
        chances: log-probability of each token.
        inputs: of the prompts, and of the captions too where both were read in one forward.
        cache: of what was read.
    """

    captions: Sequence[str]
    ids: Sequence[Sequence[int]]
    spans: Sequence[Sequence[tuple[int, int]]]
    chances: Sequence[Sequence[float]]
    inputs: Mapping[str, Any]
    cache: Any


@dataclass
class Reviewed:
    """One caption.

    Attributes:
        text: what is left of it.
        verdicts: by object.
        fates: by object; see `fates_of`.
    """

    text: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    fates: dict[str, str] = field(default_factory=dict)


def read_saved(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    captions: Sequence[str],
    picture: Collection[int],
    *,
    edited: bool = False,
) -> Saved:
    """Return captions behind their prompts, read in one forward, or as they would have been generated.

    Args:
        model: that is asked.
        tokenizer: the model's own, a fast one.
        inputs: of the prompts, one picture a row.
        prompts: their token ids without padding.
        captions: one a row.
        picture: ids of picture positions.
        edited: whether something attached acts otherwise on a prompt than on what is said behind it.

    Raises:
        BadPrompt: if a caption carries the image token.
    """
    written = [tokenizer(one, add_special_tokens=False, return_offsets_mapping=True) for one in captions]
    ids: list[list[int]] = [one["input_ids"] for one in written]
    if any(token in picture for one in ids for token in one):
        raise BadPrompt("a caption carries the image token; give the text alone")
    spans = [one["offset_mapping"] for one in written]
    if edited:
        chances, cache = read_along(model, inputs, ids)
        return Saved(captions, ids, spans, chances, inputs, cache)
    whole = WholePrompts(inputs, picture).of([[*prompt, *more] for prompt, more in zip(prompts, ids, strict=True)])
    cache = DynamicCache(config=model.config.get_text_config())
    logits = forward(model, whole, cache, last=max(map(len, ids)) + 1)
    chances = [_chances(row, one) for row, one in zip(logits, ids, strict=True)]
    return Saved(captions, ids, spans, chances, whole, cache)


def _chances(logits: Tensor, ids: Sequence[int]) -> list[float]:
    """Return the log-probability of each of a row's last tokens, from its last token logits `[n, V]`."""
    before = logits[len(logits) - len(ids) - 1 : -1].float().log_softmax(dim=-1)
    found: list[float] = before.gather(1, torch.tensor([ids], device=logits.device).T)[:, 0].tolist()
    return found


def review(saved: Saved, judge: Judge, names: Names, margin: float) -> list[Reviewed]:
    """Return each caption without the phrases whose objects score below the margin; all questions in one batch."""
    found = [Reviewed(text) for text in saved.captions]
    mentions = [one for row in range(len(found)) for one in _mentions(saved, row, names)]
    if mentions:
        for verdict in judge.verdicts(saved.cache, mentions, dict(enumerate(saved.ids))):
            found[verdict.mention.row].verdicts[verdict.mention.name] = verdict
    for one in found:
        unwanted = frozenset(name for name, verdict in one.verdicts.items() if verdict.score < margin)
        one.text = without(one.text, names, unwanted)
        one.fates = fates_of(one.verdicts, unwanted, named_first(one.text, names))
    return found


def fates_of(said: Iterable[str], unwanted: Container[str], left: Container[str]) -> dict[str, str]:
    """Return what became of each object of a text: left out, kept, or gone with the clause of another.

    Args:
        said: the objects that it named.
        unwanted: those that were to be left out.
        left: those that it still names.
    """
    return {name: "left out" if name in unwanted else "kept" if name in left else WENT_ALONG for name in said}


def without(text: str, names: Names, unwanted: frozenset[str]) -> str:
    """Return a caption without the phrases that name unwanted objects; as it was where there are none."""
    if not unwanted:
        return text
    return "".join(_left(piece, names, unwanted) for piece in sentences_of(text)).strip()


def named_first(text: str, names: Names) -> dict[str, tuple[int, int]]:
    """Return where a caption first names each object, by the object; nowhere where it answers with yes or no."""
    found: dict[str, tuple[int, int]] = {}
    if answers_yes_or_no(text):
        return found
    start = 0
    for piece in sentences_of(text):
        for one in names(piece):
            found.setdefault(one.name, (start + one.start, start + one.end))
        start += len(piece)
    return found


def _left(piece: str, names: Names, unwanted: frozenset[str]) -> str:
    """Return a sentence with the space behind it, without some of its objects; nothing where nothing is left."""
    if all(one.name not in unwanted for one in names(piece)):
        return piece
    left = leave_out(piece, names, unwanted)
    return left + piece[len(piece.rstrip()) :] if left else ""


def _mentions(saved: Saved, row: int, names: Names) -> list[Mention]:
    """Return the first mention of each object in a caption."""
    text, found = saved.captions[row], []
    for name, (start, end) in named_first(text, names).items():
        tokens = _tokens(saved.spans[row], start, end)
        chance = min(saved.chances[row][at] for at in tokens)
        found.append(Mention(row, name, text[start:end], chance, tokens[-1]))
    return found


def _tokens(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """Return the tokens that stand for some characters; the nearest before them where none does."""
    inside = [at for at, (first, last) in enumerate(spans) if first < end and last > start]
    return inside or [max((at for at, (first, _) in enumerate(spans) if first <= start), default=0)]
