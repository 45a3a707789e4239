"""Saved captions asked back through a server that gives log-probabilities: no model is loaded here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_evals.endpoint import chances
from vlm_evals.endpoint.asking import EndpointAsking
from vlm_evals.endpoint.at_once import at_once
from vlm_evals.endpoint.client import Client, Refused
from vlm_evals.endpoint.pictures import data_url
from vlm_evals.errors import RunError, TaskError
from vlm_heads import Answer, AskBack

_WORDS = ("yes", "no")


@dataclass
class _Caption:
    """One caption while its objects are asked about.

    Attributes:
        picture: the file.
        text: the caption.
        asked: by object; words that name it, question, and margin once it is known.
    """

    picture: Path
    text: str
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)


def ask_back(
    asking: EndpointAsking,
    pictures: Sequence[Path],
    captions: Sequence[str],
    check: AskBack,
    *,
    progress: Callable[[int], None] = lambda asked: None,
) -> list[Answer]:
    """Return saved captions without the objects that a server's model, asked about each, does not stand by.

    See `VLM.ask_back`; only the answer to the question counts, for a server does not tell how probable a caption's own
    words were. A question is a prompt of its own there: an intervention that chooses heads by the prompt chooses them
    for the question, where `VLM.ask_back` keeps the caption's. A word that is not among the server's alternatives
    counts as the least of them.

    Args:
        asking: the server; its mitigation is sent along.
        pictures: one a caption.
        captions: what was said about them.
        check: how strictly.
        progress: called with the number of captions whose objects have been asked about.

    Raises:
        TaskError: if the check needs more than the questions' answers.
        RunError: if the server does not answer, or gives no log-probabilities.
        BadImage: if a picture cannot be read.
    """
    if check.by != "question" or check.calibrated or check.control != "none":
        raise TaskError(
            "askback through a server looks at answers to questions alone: leave by, calibrated and control out"
        )
    start = time.perf_counter()
    found = [
        _Caption(picture, text, {name: {"said": said, "question": asked} for name, (said, asked) in about.items()})
        for picture, text in zip(pictures, captions, strict=True)
        for about in [check.questions(text)]
    ]
    asyncio.run(_ask_all(asking, found, progress))
    seconds = time.perf_counter() - start
    return [_reviewed(one, check, seconds) for one in found]


async def _ask_all(asking: EndpointAsking, captions: Sequence[_Caption], progress: Callable[[int], None]) -> None:
    async with Client(asking.endpoint) as client:
        jobs = (_ask(asking, client, one, name) for one in captions for name in one.asked)
        left = {id(one): len(one.asked) for one in captions}
        progress(sum(not one.asked for one in captions))
        async with aclosing(at_once(jobs, asking.endpoint.concurrency)) as groups:
            async for done in groups:
                for task in done:
                    caption = task.result()
                    left[id(caption)] -= 1
                    progress(int(left[id(caption)] == 0))


async def _ask(asking: EndpointAsking, client: Client, caption: _Caption, name: str) -> _Caption:
    """Ask about one object of a caption, and note the margin; return the caption."""
    noted = caption.asked[name]
    more = {"max_tokens": 1, "temperature": 0, **chances.WANTED}
    try:
        reply = await client.complete(asking.request(more, data_url(str(caption.picture)), noted["question"]))
    except Refused as refusal:
        raise RunError(f"{asking.where} refuses a question about {caption.picture.name} ({refusal})") from refusal
    asking.require_mitigated(reply)
    if not chances.given(reply.body):
        raise RunError(f"{asking.where} gives no log-probabilities: askback needs a server that does, as vLLM and ours")
    noted["margin"] = chances.margin(reply.body, _WORDS, bounded=True)
    return caption


def _reviewed(caption: _Caption, check: AskBack, seconds: float) -> Answer:
    """Return what is left of a caption; an object whose question got neither word stays."""
    unwanted = {
        name for name, one in caption.asked.items() if one["margin"] is not None and one["margin"] < check.least
    }
    fates = check.fates(caption.text, unwanted)
    asked = [
        {"object": name, **one, "score": one["margin"], "fate": fates[name]} for name, one in caption.asked.items()
    ]
    receipt = {"check": {"name": check.name, "asked": asked, "questions": len(asked)}}
    return Answer(check.without(caption.text, unwanted), (), seconds, receipt)
