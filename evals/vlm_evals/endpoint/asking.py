"""Asks a server everything that a protocol asks: many requests at once, from where an earlier start ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlm_evals.answer import PLAIN, Asking, Processes, check_fired, seed_of
from vlm_evals.endpoint import chances
from vlm_evals.endpoint.address import Endpoint
from vlm_evals.endpoint.at_once import at_once
from vlm_evals.endpoint.client import Client, Refused, Reply
from vlm_evals.endpoint.pictures import data_url, url_of
from vlm_evals.endpoint.taking import Reached, Taking
from vlm_evals.endpoint.whole import require_whole
from vlm_evals.errors import RunError, TaskError
from vlm_evals.protocol import Protocol
from vlm_evals.records import Answer, Sample
from vlm_evals.runs import Run
from vlm_evals.tasks import asked_of
from vlm_heads import Intervention, Mitigation
from vlm_heads.errors import BadImage


@dataclass(frozen=True)
class EndpointAsking:
    """How a server is asked.

    Attributes:
        endpoint: the server.
        model: as the server calls it.
        weights: a hash of its weights, where the server tells one.
        ends: ids of the tokens that end an answer, where the server tells them.
        mitigation: what the server is to do to the model in every answer; only `vlm-heads serve` can.
        end_bias: added to the end tokens' logits at every step.
        first_word: what only a model of our own can be asked with.
        max_failures: samples without an answer that a run may hold before it is given up.
        allow_idle: whether an intervention may find nothing to act on in the whole share.
    """

    endpoint: Endpoint
    model: str
    weights: str | None = None
    ends: tuple[int, ...] = ()
    mitigation: Mitigation = PLAIN
    end_bias: float = 0.0
    first_word: tuple[int, float] | None = None
    max_failures: int = 20
    allow_idle: bool = False

    def __post_init__(self) -> None:
        if self.first_word is not None:
            raise TaskError("a server biases no first word: leave out the controls of first words")
        if self.end_bias and not self.ends:
            raise TaskError(
                f"{self.endpoint.url} does not tell which tokens end an answer, so that they cannot be biased: leave "
                "--curve out"
            )
        if self.mitigation.profile is not None:
            raise TaskError(
                "a profile cannot be sent: give it to the server, as in vlm-heads serve MODEL --profile FOLDER"
            )

    @classmethod
    def find(cls, endpoint: Endpoint, model: str | None, **more: Any) -> EndpointAsking:
        """Return how a server is asked for a model that it lists.

        Args:
            endpoint: the server.
            model: as the server calls it; None for the only one it has.
            **more: see the class.

        Raises:
            RunError: if the server does not answer.
            TaskError: if it does not serve the model, or none was named and there are several.
        """
        listed = asyncio.run(_models(endpoint))
        if listed is None:
            if model is None:
                raise TaskError(f"{endpoint.url} lists no models: {_no_list(endpoint.url)}")
            return cls(endpoint, model, **more)
        names = [one["id"] for one in listed]
        if model is None and len(names) != 1:
            raise TaskError(f"{endpoint.url} serves {', '.join(names) or 'nothing'}: name one with --served-model")
        chosen = next((one for one in listed if model in (None, one["id"])), None)
        if chosen is None:
            raise TaskError(f"{endpoint.url} serves no model {model!r}, but {', '.join(names)}")
        weights, ends = chosen.get("weights"), chosen.get("end_tokens")
        told = weights if isinstance(weights, str) else None
        known = tuple(ends) if isinstance(ends, list) and all(type(one) is int for one in ends) else ()
        return cls(endpoint, chosen["id"], told, known, **more)

    @property
    def where(self) -> str:
        """Address of the server."""
        return self.endpoint.url

    def stated(self) -> dict[str, Any]:
        """Return whom it asks, as JSON; not where, for a server may move."""
        return {"model": self.model, "weights": self.weights, "asked": "chat completions"}

    def named(self, token: int) -> str:
        """Return a token by its number: its word is known to the server alone."""
        return str(token)

    def answer(
        self,
        protocol: Protocol,
        samples: Sequence[Sample],
        run: Run,
        *,
        processes: Processes,
        progress: Callable[[int], None],
    ) -> None:
        """Answer this process's share of the samples that the run has no answer to, and write each as it comes.

        A picture that cannot be read, and a request that the server refuses, are recorded with their error; a server
        that refuses everything ends the run, and nothing is recorded.

        Args:
            protocol: prompt, decoding and seed.
            samples: everything the protocol asks.
            run: where the answers go, opened as this process's shard.
            processes: those that share the work.
            progress: called with the number of samples of this share that have an answer, as they come.

        Raises:
            TaskError: if the protocol decodes in a way that a server cannot be asked for.
            RunError: if the server does not answer, or refuses the first prompt with any picture or all that it is
                asked, or does not know mitigations; or if more samples fail than `max_failures`.
            NothingIntervened: if an intervention found nothing to act on in the whole share, unless that is allowed.
        """
        share = samples[processes.index :: processes.count]
        rest = [sample for sample in share if sample.sample_id not in run.answers]
        progress(len(share) - len(rest))
        if rest:
            asyncio.run(self._ask_all(self._decoding(protocol), protocol, rest, run, progress))
        if not self.allow_idle:
            own = {sample.sample_id for sample in share}
            check_fired(self.mitigation, [answer for name, answer in run.answers.items() if name in own])

    async def _ask_all(
        self,
        decoding: Mapping[str, Any],
        protocol: Protocol,
        samples: Sequence[Sample],
        run: Run,
        progress: Callable[[int], None],
    ) -> None:
        async with Client(self.endpoint) as client:
            words = await self._try(client, decoding, samples[0].prompt, self._margin_words(protocol))
            wanted = chances.WANTED if words is not None else {}
            jobs = (
                self._ask(client, {**decoding, **wanted, "seed": seed_of(protocol, sample)}, sample, words)
                for sample in samples
            )
            taking = Taking(run, self.max_failures, self.where)
            async with aclosing(at_once(jobs, self.endpoint.concurrency)) as groups:
                async for done in groups:
                    taking.take(done)
                    progress(len(done))
            taking.end()

    async def _ask(
        self, client: Client, decoding: Mapping[str, Any], sample: Sample, words: tuple[str, str] | None
    ) -> Reached:
        try:
            request = self.request(decoding, data_url(sample.image), sample.prompt)
            return Reached(self._answer(sample, await client.complete(request), words, request["max_tokens"]))
        except (BadImage, Refused) as failure:
            return Reached(Answer(sample.sample_id, "", error=str(failure)), refused=isinstance(failure, Refused))

    def _margin_words(self, protocol: Protocol) -> tuple[str, str] | None:
        """Return the words whose margin a metric asks for; none where a server chooses tokens by other numbers."""
        acting = self.mitigation.methods()
        return (
            asked_of(protocol.metric).controls.margin if all(isinstance(one, Intervention) for one in acting) else None
        )

    async def _try(
        self, client: Client, decoding: Mapping[str, Any], prompt: str, words: tuple[str, str] | None
    ) -> tuple[str, str] | None:
        """Ask for one token about a grey picture: what is refused there is no sample's error.

        Returns:
            The words, where the server gives log-probabilities that their margin can be read from.
        """
        grey = self.request(decoding, url_of(Image.new("RGB", (64, 64), "grey")), prompt) | {"max_tokens": 1}
        reply = None
        if words is not None:
            with suppress(Refused):  # what else is refused is seen without them
                reply = await client.complete({**grey, **chances.WANTED})
        try:
            reply = reply or await client.complete(grey)
        except Refused as refusal:
            raise RunError(f"{self.endpoint.url} refuses what is to be asked ({refusal})") from refusal
        self.require_mitigated(reply)
        return words if chances.given(reply.body) else None

    def require_mitigated(self, reply: Reply) -> None:
        """Raise `RunError` where a server has ignored the mitigation, as most servers ignore what they do not know."""
        word = self.mitigation.word()
        if word and reply.body.get("mitigation") != word:
            raise RunError(
                f"{self.endpoint.url} knows no mitigations, and its answers would be the plain model's: serve the "
                "model with vlm-heads serve, or leave --with out"
            )

    def request(self, decoding: Mapping[str, Any], picture: str, prompt: str) -> dict[str, Any]:
        """Return the body of a request.

        Args:
            decoding: what it says about how tokens are chosen.
            picture: a data URL.
            prompt: what is asked.
        """
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": prompt}]
        words = {"mitigation": self.mitigation.word()} if self.mitigation else {}
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **decoding, **words}

    def _decoding(self, protocol: Protocol) -> dict[str, Any]:
        """Return what a request says about how tokens are chosen.

        Raises:
            TaskError: naming what a server cannot be asked for.
        """
        asked = dict(protocol.decoding)
        sampled, beams = asked.pop("do_sample", False), asked.pop("num_beams", 1)
        if beams not in (None, 1):
            raise TaskError(f"num_beams={beams}: a server searches with no beams; leave --beams out")
        if unknown := sorted(asked.keys() - _SAMPLING.keys()):
            raise TaskError(f"{unknown[0]}={asked[unknown[0]]}: a server cannot be asked for it; leave it out")
        tokens: dict[str, Any] = {"max_tokens": protocol.max_new_tokens}
        if self.end_bias:
            tokens["logit_bias"] = {str(token): self.end_bias for token in self.ends}
        if not sampled:
            return tokens | {"temperature": 0}
        chosen = _SAMPLING | asked
        # servers call it -1 where all tokens may be drawn, and have defaults of their own where nothing is said
        return tokens | chosen | {"top_k": chosen["top_k"] or -1}

    def _answer(self, sample: Sample, reply: Reply, words: tuple[str, str] | None, most: int) -> Answer:
        """Return what a reply says; it may have `most` tokens.

        Raises:
            Refused: if it holds no answer, or a part of one.
        """
        choices = reply.body.get("choices")
        listed = choices[0] if isinstance(choices, list) and choices else None
        first = listed if isinstance(listed, dict) else {}
        message = first.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("content") or "", str):
            raise Refused("the server sent no answer")
        usage = reply.body.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        counted = {name: usage[name] for name in _COUNTED if type(usage.get(name)) is int and usage[name] >= 0}
        require_whole(first.get("finish_reason"), counted.get("completion_tokens"), most)
        receipt = reply.body.get("receipt") if self.mitigation else None
        margin = None if words is None else chances.margin(reply.body, words)
        either = None if words is None else chances.either(reply.body, words)
        text, seconds = (message.get("content") or "").strip(), round(reply.seconds, 6)
        return Answer(sample.sample_id, text, (), seconds, receipt, margin=margin, usage=counted, either=either)


Asker = Asking | EndpointAsking


def _no_list(url: str) -> str:
    """Return what to do about a server without a list of models; most have one, below /v1."""
    if url.endswith("/v1"):
        return "name one with --served-model"
    return f"is it {url}/v1? If not, name one with --served-model"


_COUNTED = ("prompt_tokens", "completion_tokens")
_SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


async def _models(endpoint: Endpoint) -> list[dict[str, Any]] | None:
    async with Client(endpoint) as client:
        return await client.models()
