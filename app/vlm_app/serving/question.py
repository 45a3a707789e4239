"""From a request to a job: who said what about which picture, how tokens are chosen, and what is done to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlm_app.serving.job import Event, Job, Sampling
from vlm_app.serving.pictures import Remote, of_data
from vlm_app.serving.refusals import Refusal
from vlm_app.serving.wire import ChatRequest, Message, PicturePart, TextPart
from vlm_heads import Intervention, ListedHeads, Mitigation
from vlm_heads.models import Conversation, Turn

USUAL_LENGTH = 256  # tokens, as `VLM.answer` has it


@dataclass(frozen=True)
class Rules:
    """What requests are held to.

    Attributes:
        name: of the served model.
        mitigation: what is done to the model where a request says nothing; its profile goes with every request.
        most_tokens: an answer may have.
        remote: fetches remote pictures; None where they are refused.
    """

    name: str
    mitigation: Mitigation = field(default_factory=Mitigation)
    most_tokens: int = 4096
    remote: Remote | None = None


async def job_of(request: ChatRequest, rules: Rules, deliver: Callable[[Event], None]) -> Job:
    """Return the job of a request.

    Raises:
        Refusal, VlmHeadsError: if it asks for what cannot be had.
    """
    if request.model != rules.name:
        raise Refusal(404, f"no model {request.model[:80]!r} is served here, but {rules.name!r}", param="model")
    mitigation = _mitigation(request.mitigation, rules.mitigation)
    alternatives = (request.top_logprobs or 0) if request.logprobs else None
    if alternatives is not None and not all(isinstance(one, Intervention) for one in mitigation.methods()):
        raise Refusal(
            400,
            f"logprobs: {mitigation.word()} chooses tokens by other numbers; leave one of them out",
            param="logprobs",
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    biases = _biases(request.logit_bias or {})
    if biases and mitigation.check is not None:
        raise Refusal(
            400, f"logit_bias: {mitigation.check.name} drafts several times; leave one out", param="logit_bias"
        )
    return Job(
        await _picture(request.messages, rules.remote),
        _conversation(request.messages),
        mitigation,
        _limit(request, rules.most_tokens),
        _sampling(request),
        _stops(request.stop),
        bool(request.stream),
        alternatives,
        biases,
        deliver,
    )


def _mitigation(words: str | None, usual: Mitigation) -> Mitigation:
    """Return what is done to the model for one request; the server's profile goes with it."""
    if words is None:
        return usual
    asked = Mitigation.parse(words)
    if any(isinstance(one, ListedHeads) and _names_file(one) for one in asked.interventions):
        raise Refusal(403, "mitigation: a request may name no file of the server; list the heads themselves")
    return replace(asked, profile=usual.profile)


def _names_file(one: ListedHeads) -> bool:
    return one.format_list != "profile" or one.image_list != "none"


def _conversation(messages: Sequence[Message]) -> Conversation:
    return Conversation(tuple(_turn(message) for message in messages))


def _turn(message: Message) -> Turn:
    """Return a turn; its picture goes before its text, as `VLM.answer` puts it, and pieces of text get lines each."""
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return Turn(role, message.content)
    texts = [part.text for part in message.content if isinstance(part, TextPart)]
    return Turn(role, "\n".join(texts), image=len(texts) < len(message.content))


async def _picture(messages: Sequence[Message], remote: Remote | None) -> bytes:
    parts = [part for one in messages if not isinstance(one.content, str) for part in one.content]
    urls = [part.image_url.url for part in parts if isinstance(part, PicturePart)]
    if len(urls) != 1:
        raise Refusal(400, f"messages: {len(urls)} pictures were sent, and the model is asked about exactly one")
    if urls[0][:5].lower() == "data:":
        return of_data(urls[0])
    if remote is None:
        raise Refusal(403, "image_url: only data URLs are taken here; vlm-heads serve --allow-remote fetches others")
    return await remote.fetch(urls[0])


def _limit(request: ChatRequest, most: int) -> int:
    limit = request.max_completion_tokens or request.max_tokens or min(USUAL_LENGTH, most)
    if limit > most:
        raise Refusal(400, f"max_tokens: {limit} is more than the {most} tokens allowed here", param="max_tokens")
    return limit


def _sampling(request: ChatRequest) -> Sampling | None:
    """Return how tokens are drawn; None for greedy, at temperature 0 or where a request says nothing of it."""
    if not request.temperature:
        return None
    drawn: dict[str, Any] = {"do_sample": True, "num_beams": 1, "temperature": request.temperature}
    drawn |= {"top_p": request.top_p or 1.0, "top_k": max(request.top_k or 0, 0)}
    drawn |= {"min_p": request.min_p} if request.min_p else {}
    return Sampling(request.seed, drawn)


def _biases(given: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Return token ids with what is added to their logits, where that is anything."""
    if wrong := next((token for token in given if not (token.isascii() and token.isdecimal())), None):
        raise Refusal(400, f"logit_bias: {wrong[:20]!r} is no token id", param="logit_bias")
    return tuple(sorted((int(token), bias) for token, bias in given.items() if bias))


def _stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(stops):
        raise Refusal(400, "stop: an empty text stops nothing; leave it out", param="stop")
    return stops
