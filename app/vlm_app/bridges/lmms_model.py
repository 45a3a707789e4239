"""The model `vlm_heads` of lmms-eval: any vision-language model, with interventions, asked about one image at a time.

`lmms-eval --model vlm_heads --model_args pretrained=mini,interventions=vhr --tasks pope` finds it by its entry point.
It is written for lmms-eval 0.7.3. A request for generation holds the context, generation arguments, a function from
document to images, the document's number, the task and the split.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from vlm_evals.text.yes_no import parse_answer

from vlm_app.console import progress
from vlm_app.models import chosen_device, parse_mitigations
from vlm_heads import VLM
from vlm_heads.errors import BadOption, BadPrompt, UnsupportedGeneration

FILLED_IN = "\n\n"  # lmms-eval's own entry in `until` where a task says nothing; descriptions have paragraphs
KNOWN = frozenset({"until", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams"})
_ONE_WORD = re.compile(r"\b(single|one) word\b|\byes or no\b", re.IGNORECASE)
_AROUND = " \t\r\n.,!;:'\"*"
_log = logging.getLogger(__name__)


class VlmHeads(lmms):  # type: ignore[misc]
    """A model with interventions, as lmms-eval wants it.

    Tasks that generate from exactly one image per question are answered; others are refused by name. Over several
    processes lmms-eval itself hands out the questions, each process on a GPU of its own.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "mini",
        interventions: str = "",
        profile: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        dtype: str | None = None,
        revision: str | None = None,
        **unknown: Any,
    ) -> None:
        """Load the model.

        Args:
            pretrained: "mini", "planted", a folder or a Hugging Face id.
            interventions: as after `--with`; several are separated by `;`, and where commas are needed brackets go
                around the whole: `[vhr:gain=1.5,layers=paper;vcd]`.
            profile: folder of a head profile.
            device: by default this process's GPU if there is one.
            batch_size: questions asked at once.
            dtype: of the weights, as "bfloat16".
            revision: of the model, on the hub.
            **unknown: nothing else is taken; `max_batch_size`, which lmms-eval adds, is ignored.

        Raises:
            BadOption: for an unknown argument or intervention, or a batch size that is no number.
            UnknownModel: if there is no such model.
        """
        super().__init__()
        unknown.pop("max_batch_size", None)
        if unknown:
            known = "pretrained, interventions, profile, device, batch_size, dtype, revision"
            raise BadOption(f"vlm_heads takes no model argument {sorted(unknown)[0]!r}; it takes {known}")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise BadOption(f"batch_size={batch_size!r}: a number, at least 1, is needed")
        self.batch_size = int(batch_size)
        scores = None if profile is None else Path(profile)
        self.mitigation = parse_mitigations(intervention_words(interventions), scores)
        given: dict[str, Any] = {"dtype": dtype, "revision": revision}
        chosen = {name: value for name, value in given.items() if value is not None}
        # a bare word is ours or a folder; only `owner/name` is worth asking the hub for
        local = "/" not in pretrained
        self.vlm = VLM.from_pretrained(pretrained, device=chosen_device(device), local_files_only=local, **chosen)
        self.device = self.vlm.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return one answer per request, in the requests' order.

        Requests with the same generation arguments share batches. Greedy unless the task samples.

        Raises:
            BadPrompt: if a question does not come with exactly one image.
        """
        answers = [""] * len(requests)
        with progress(f"process {self.rank}", len(requests)) as advance:
            for places in self._batches(requests):
                texts = self._answers([requests[place].args for place in places])
                for place, text in zip(places, texts, strict=True):
                    answers[place] = text
                advance(len(places))
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: an answer to one question about one image is what is asked here.

        Raises:
            UnsupportedGeneration: always.
        """
        raise UnsupportedGeneration("vlm_heads answers one question about one image: tasks in several rounds are left")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse: interventions act on generated text.

        Raises:
            UnsupportedGeneration: always.
        """
        raise UnsupportedGeneration("vlm_heads generates: choose tasks of output type generate_until")

    def clean(self) -> None:
        """Let go of the model; lmms-eval calls it when all is answered."""
        del self.vlm
        super().clean()

    def _batches(self, requests: Sequence[Any]) -> list[list[int]]:
        """Return places of requests, those of one batch together."""
        alike: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(place)
        size = self.batch_size
        return [places[at : at + size] for places in alike.values() for at in range(0, len(places), size)]

    def _answers(self, asked: Sequence[tuple[Any, ...]]) -> list[str]:
        """Return the answers of one batch of arguments that agree in how they generate."""
        stated = asked[0][1] or {}
        images = [self._image(*arguments[2:6]) for arguments in asked]
        found = self.vlm.answer_batch(
            images,
            [str(arguments[0]) for arguments in asked],
            self.mitigation,
            **decoding(stated),
        )
        return [
            handed_over(cut(answer.text, stops(stated)), str(arguments[0]), str(arguments[4]))
            for answer, arguments in zip(found, asked, strict=True)
        ]

    def _image(self, images_of: Any, number: int, task: str, split: str) -> Any:
        images = images_of(self.task_dict[task][split][number]) or []
        if len(images) != 1:
            raise BadPrompt(
                f"{task}, document {number} comes with {len(images)} images, and vlm_heads answers questions about "
                "one: choose another task"
            )
        return images[0]


def handed_over(text: str, question: str, task: str) -> str:
    """Return an answer as the task's scorer takes it: POPE's compares whole answers with `yes` and `no`.

    In a task of POPE an answer that begins with yes or no is handed over as that word. In other tasks a bare "Yes." or
    "No." loses its stop where the question asks for one word. All else stays as the model said it.

    Args:
        text: the answer.
        question: that was asked, with what the task adds to it.
        task: its name.
    """
    reading = parse_answer(text)
    bare = text.strip(_AROUND).lower() == reading
    whole = task.startswith("pope") or (bare and _ONE_WORD.search(question) is not None)
    return reading.capitalize() if whole and reading != "unparsed" else text


def intervention_words(text: str) -> list[str]:
    """Return the single interventions of a model argument: split at `;`, without brackets or quotes around it."""
    bare = str(text).strip()
    for opening, closing in ("[]", "''", '""'):
        if len(bare) > 1 and bare[0] == opening and bare[-1] == closing:
            bare = bare[1:-1]
    return [word.strip() for word in bare.split(";") if word.strip()]


def decoding(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `generate` from a task's generation arguments.

    A temperature of 0 is greedy, as in lmms-eval's own models; then arguments of sampling are left out. Arguments that
    say nothing about decoding, such as `image_aspect_ratio`, are left out and named in the log.
    """
    if strange := sorted(stated.keys() - KNOWN):
        _log.warning("generation arguments that vlm_heads does not know are left out: %s", ", ".join(strange))
    temperature = stated.get("temperature")
    sampled = bool(stated.get("do_sample", bool(temperature))) and temperature != 0
    chosen = {"do_sample": sampled, "max_new_tokens": int(stated.get("max_new_tokens") or 1024)}
    wanted = ("num_beams", *(("temperature", "top_p", "top_k") if sampled else ()))
    return chosen | {name: stated[name] for name in wanted if stated.get(name) is not None}


def stops(stated: Mapping[str, Any]) -> list[str]:
    """Return the strings that end an answer, without the one that lmms-eval fills in by itself."""
    until = stated.get("until") or []
    listed = [until] if isinstance(until, str) else list(until)
    return [stop for stop in listed if stop and stop != FILLED_IN]


def cut(text: str, stop_at: Sequence[str]) -> str:
    """Return a text up to the first of the strings that end it."""
    return text[: min((place for stop in stop_at if (place := text.find(stop)) >= 0), default=len(text))].strip()
