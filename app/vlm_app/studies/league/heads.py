"""What the league finds out about a model before the other methods play: AD-HH's heads, and who cannot act."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlm_evals.data.coco import CocoFolder
from vlm_evals.records import Answer
from vlm_evals.runs import answers_in
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.places import pieces_that_mention

from vlm_app.models import parse_mitigations
from vlm_app.studies.able import why_unable
from vlm_app.studies.league.entries import Entry
from vlm_heads import VLM
from vlm_heads.errors import BadOption, NoSinks
from vlm_heads.profiles import MarkedAnswer, attribute_heads, worst_heads
from vlm_heads.scorers import pieces_of

LISTED = 20 / 1024  # AD-HH's authors list about 20 of LLaVA-1.5-7B's 1024 heads
ATTRIBUTED = 100  # judged captions


def heads_that_invent(vlm: VLM, run: Path, data: CocoFolder, prompt: str) -> str | None:
    """Return AD-HH's list for a model, as `14.3+17.0`, from its own plain captions; None where no head pushes.

    Args:
        vlm: the model.
        run: run directory of the plain model's captions.
        data: what stands on the pictures.
        prompt: that was asked.
    """
    said = list(answers_in(run).values())[:ATTRIBUTED]
    try:
        scores = attribute_heads(vlm.model, _judged(vlm, said, data, prompt))
    except BadOption:  # no caption named an object
        return None
    worst = worst_heads(scores, max(1, round(LISTED * scores.numel())))
    return "+".join(f"{layer}.{head}" for layer, head in worst) or None


def _judged(vlm: VLM, said: Sequence[Answer], data: CocoFolder, prompt: str) -> Iterator[MarkedAnswer]:
    import torch

    finder = ObjectFinder()
    for answer in said:
        image = int(answer.sample_id)
        ids = torch.tensor(answer.token_ids)
        pieces = pieces_of(vlm.processor.tokenizer, answer.token_ids)
        shown = set(data.objects[image])
        places: dict[bool, list[int]] = {True: [], False: []}
        for _, last, node in pieces_that_mention(finder, pieces):
            places[node not in shown].append(last)
        inputs = vlm.inputs([data.images[image]], prompt)
        yield MarkedAnswer(inputs, ids, invented=places[True], grounded=places[False])


def why_not(vlm: VLM, entry: Entry) -> str | None:
    """Return in a few words why an entry cannot play on this model; None where it can.

    A method that is given no list or table of this model, and needs one, says so itself.
    """
    try:
        reason = why_unable(vlm, parse_mitigations(entry.words))
    except BadOption as lacking:
        return str(lacking)
    if reason is None:
        return None
    return "no sinks found" if isinstance(reason, NoSinks) else str(reason)
