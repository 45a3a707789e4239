"""How a benchmark with questions of its own asks a model: the same for all of them.

    folder --find--> ItemFolder --samples--> answers --read_items, score--> Scored

A run directory keeps the questions that were asked, so that scoring it needs no data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_evals.data.items import Item, ItemFolder, read_items, write_items
from vlm_evals.errors import TaskError
from vlm_evals.metric import Asked, Option, Scored
from vlm_evals.protocol import Protocol
from vlm_evals.records import Answer, Sample
from vlm_evals.runs import require_complete

ITEMS = "items.jsonl"


def _nothing_more(folder: Path, data: Any) -> None:
    return None


def _every(item: Item, protocol: Protocol) -> bool:
    return True


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's own part of asking.

    Attributes:
        name: of its protocol.
        help: the first sentence of `vlm-heads eval NAME --help`.
        data_is: what its folder holds, in words.
        find: reads such a folder.
        score: the scores of texts that answer questions, one each, in a run directory under a protocol.
        write: writes questions with their answers into a folder, as the benchmark's own program reads them.
        prompt: with the place {question}.
        max_new_tokens: tokens an answer may have.
        options: further entries of the protocol, with their defaults.
        batch_size: samples in one generation.
        keep: writes into a run directory what scoring needs beside the questions.
        wanted: whether a protocol asks a question.
    """

    name: str
    help: str
    data_is: str
    find: Callable[[Path], ItemFolder]
    score: Callable[[Path, Sequence[Item], Sequence[str], Protocol], Scored]
    write: Callable[[Path, Sequence[Item], Sequence[str]], None]
    prompt: str = "{question}"
    max_new_tokens: int = 16
    options: tuple[Option, ...] = ()
    batch_size: int = 32
    keep: Callable[[Path, Any], None] = _nothing_more
    wanted: Callable[[Item, Protocol], bool] = _every

    def asked(self) -> Asked:
        """Return how the metric asks a model."""
        return Asked(
            help=self.help,
            max_new_tokens=self.max_new_tokens,
            defaults={"prompt": self.prompt} | {option.name: option.default for option in self.options},
            options=(Option("prompt", "In place of the protocol's, with the place {question}."), *self.options),
            check=_check,
            batch_size=self.batch_size,
            find_data=self.find,
            data_is=self.data_is,
            own_protocol=self.name,
            eligible=_units,
            bound=self._bound,
            samples=self._samples,
            keep=self._keep,
            score=self._score,
            exchange=self._write,
        )

    def _bound(self, protocol: Protocol, data: ItemFolder) -> Protocol:
        """Return the protocol with the units alone about which something is asked."""
        asked = dict.fromkeys(item.unit for item in self._chosen(protocol, data))
        if not asked:
            raise TaskError(f"{data.root}: nothing is asked about the images that were drawn; raise --limit")
        return replace(protocol, image_ids=tuple(unit for unit in protocol.image_ids if str(unit) in asked))

    def _chosen(self, protocol: Protocol, data: ItemFolder) -> list[Item]:
        units = set(map(str, protocol.image_ids))
        return [item for item in data.items if item.unit in units and self.wanted(item, protocol)]

    def _samples(self, protocol: Protocol, data: ItemFolder) -> list[Sample]:
        _check({"prompt": protocol.prompt})
        return [
            Sample(
                sample_id=item.key,
                image=str(data.pictures[item.image]),
                prompt=protocol.prompt.replace("{question}", item.text),
                image_id=item.image,
                split=item.split,
            )
            for item in self._chosen(protocol, data)
        ]

    def _keep(self, folder: Path, protocol: Protocol, data: ItemFolder) -> None:
        write_items(folder / ITEMS, self._chosen(protocol, data))
        self.keep(folder, data)

    def _score(self, folder: Path, protocol: Protocol, answers: Mapping[str, Answer]) -> Scored:
        items, texts = _answered(folder, answers)
        found = self.score(folder, items, texts, protocol)
        lost = sum(not answer.error for answer in answers.values()) - len(items)
        note = f"{lost} answers are left out: another answer of what belongs together could not be had"
        return replace(found, facts={**found.facts, "notes": [*found.facts.get("notes", ()), note]}) if lost else found

    def _write(self, folder: Path, protocol: Protocol, answers: Mapping[str, Answer]) -> None:
        self.write(folder, *_answered(folder, answers))


def _check(entries: Mapping[str, str]) -> None:
    prompt = entries.get("prompt")
    if prompt is not None and "{question}" not in prompt:
        raise TaskError(f"the prompt {prompt!r} has no place {{question}}")


def _units(data: ItemFolder) -> list[str]:
    return list(data.images)


def _answered(folder: Path, answers: Mapping[str, Answer]) -> tuple[list[Item], list[str]]:
    """Return the questions of a run and the texts that answer them, in order, without the units where one failed."""
    items = read_items(folder / ITEMS)
    require_complete(folder, [item.key for item in items], answers)
    failed = {item.unit for item in items if answers[item.key].error}
    there = [item for item in items if item.unit not in failed]
    return there, [answers[item.key].text for item in there]
