"""What is asked: a named, hashed protocol, the data it is bound to, and the samples it consists of.

A protocol holds everything that decides the questions and how they are scored, and nothing about who answers them: the
model and its interventions stand beside it in a run directory.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from vlm_evals.data.coco import CocoFolder, TaskError
from vlm_evals.data.formats import Question
from vlm_evals.errors import FileFormatError
from vlm_evals.metrics.pope import STRATEGIES, Parser, Strategy, build_questions
from vlm_evals.records import Sample, read_json
from vlm_evals.runs import content_hash
from vlm_evals.text.objects import Pipeline, VocabularyName

Metric = Literal["chair", "pope"]

DESCRIBE = "Please describe this image in detail."
MIN_OBJECTS = 3  # POPE asks about three objects of an image


@dataclass(frozen=True)
class Protocol:
    """What is asked and how it is scored.

    Attributes:
        name: `world-held-out`, `coco`, or the name a protocol file gives.
        metric: what it measures.
        data: file name -> SHA-256 of everything the truth is made from.
        image_ids: the images, in the order they are asked about.
        prompt: the prompt; for POPE the template with `{question}`.
        decoding: arguments of `generate` beside the token limit.
        max_new_tokens: tokens an answer may have.
        seed: drew the images and the questions, and seeds sampling and the bootstrap.
        pipeline: text pipeline of CHAIR.
        vocabulary: vocabulary of CHAIR.
        parser: yes/no parser of POPE.
        strategies: how POPE's absent objects are drawn.
        questions: SHA-256 of POPE's questions.
        world: `split`, `images` and `seed` of the export of the embedded world that the data are, or None.
    """

    name: str
    metric: Metric
    data: Mapping[str, str]
    image_ids: tuple[int, ...]
    prompt: str
    max_new_tokens: int
    seed: int
    decoding: Mapping[str, Any] = field(default_factory=lambda: {"do_sample": False, "num_beams": 1})
    pipeline: Pipeline | None = None
    vocabulary: VocabularyName | None = None
    parser: Parser | None = None
    strategies: tuple[Strategy, ...] = ()
    questions: str | None = None
    world: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the protocol as JSON values, its hash included."""
        return asdict(self) | {"hash": content_hash(asdict(self))}

    @property
    def hash(self) -> str:
        """SHA-256 over everything above."""
        return content_hash(asdict(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any], path: Path) -> Protocol:
        """Return a protocol read from a file.

        Raises:
            FileFormatError: if entries are missing, unknown, or do not give the hash that stands beside them.
        """
        entries: dict[str, Any] = {
            key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()
        }
        stated = entries.pop("hash", None)
        known = {one.name for one in fields(cls)}
        if unknown := sorted(entries.keys() - known):
            raise FileFormatError(path, None, f"not a protocol: unknown entry {unknown[0]!r}")
        try:
            protocol = cls(**entries)
        except TypeError as error:
            raise FileFormatError(path, None, f"not a protocol ({error})") from error
        if stated is not None and stated != protocol.hash:
            raise FileFormatError(path, None, "was changed: its entries do not give its hash; remove the entry `hash`")
        return protocol


@dataclass(frozen=True)
class Template:
    """A built-in protocol before it is bound to data.

    Attributes:
        world: split of the embedded world, or None for files in COCO's format.
        max_new_tokens: per metric.
    """

    world: str | None
    max_new_tokens: Mapping[Metric, int]


SHORT: Mapping[Metric, int] = {"chair": 96, "pope": 16}
LONG: Mapping[Metric, int] = {"chair": 512, "pope": 16}
TEMPLATES: Mapping[str, Template] = {
    "world-held-out": Template("held-out", SHORT),
    "world-validation": Template("validation", SHORT),
    "world-shifted": Template("shifted", SHORT),
    "world-scrambled": Template("scrambled", SHORT),
    "coco": Template(None, LONG),
}


def bind(name: str, metric: Metric, data: CocoFolder, *, limit: int | None, seed: int, **changes: Any) -> Protocol:
    """Return a built-in protocol over the images of a data folder.

    Args:
        name: one of TEMPLATES.
        metric: what to measure.
        data: where pictures and annotations are.
        limit: how many images to draw with the seed; None for all. POPE draws among images with three objects or more.
        seed: see Protocol.
        changes: entries of Protocol to set, for example `prompt` or `pipeline`.

    Raises:
        TaskError: if the name is unknown, the data are of another split, or there are fewer images than asked for.
    """
    template = template_named(name)
    if template.world is not None and (data.world or {}).get("split") != template.world:
        raise TaskError(f"{data.root} is no export of the split {template.world!r}, which {name!r} asks about")
    protocol = Protocol(
        name=name,
        metric=metric,
        data=data.hashes(),
        image_ids=tuple(_draw(_eligible(metric, data), limit, seed, data.root)),
        prompt=DESCRIBE if metric == "chair" else "{question}",
        max_new_tokens=template.max_new_tokens[metric],
        seed=seed,
        pipeline="chair-2018" if metric == "chair" else None,
        vocabulary="published" if metric == "chair" else None,
        parser="strict-neither" if metric == "pope" else None,
        strategies=STRATEGIES if metric == "pope" else (),
        world=data.world if template.world else None,
    )
    protocol = replace(protocol, **changes)
    if metric == "pope":
        asked = questions(protocol, data)
        drawn = tuple(dict.fromkeys(int(question.image) for question in asked))
        protocol = replace(protocol, image_ids=drawn, questions=_questions_hash(asked))
    return protocol


def template_named(name: str) -> Template:
    """Return a built-in protocol's template.

    Raises:
        TaskError: naming the known ones.
    """
    if name not in TEMPLATES:
        raise TaskError(f"unknown protocol {name!r}: choose one of {', '.join(TEMPLATES)}, or a protocol file")
    return TEMPLATES[name]


def read_protocol(path: Path) -> Protocol:
    """Return the protocol of a JSON file: a protocol alone, or a run directory's `protocol.json`.

    Raises:
        FileFormatError: if it is none.
    """
    value = read_json(path)
    if isinstance(value, dict) and isinstance(value.get("protocol"), dict):
        value = value["protocol"]
    if not isinstance(value, dict):
        raise FileFormatError(path, None, "not a protocol: no JSON object")
    return Protocol.from_json(value, path)


def samples(protocol: Protocol, data: CocoFolder) -> list[Sample]:
    """Return everything a protocol asks, in its order.

    Raises:
        TaskError: if the data folder is not the one the protocol was bound to.
    """
    if changed := sorted(name for name, value in data.hashes().items() if protocol.data.get(name) != value):
        raise TaskError(f"{data.root / changed[0]} is not the file the protocol {protocol.name!r} was made with")
    if gone := [image for image in protocol.image_ids if image not in data.images]:
        raise TaskError(f"{data.root}: {len(gone)} images of the protocol are missing, the first has the id {gone[0]}")
    if protocol.metric == "chair":
        return [
            Sample(str(image), str(data.images[image]), protocol.prompt, str(image)) for image in protocol.image_ids
        ]
    asked = questions(protocol, data)
    if _questions_hash(asked) != protocol.questions:
        raise TaskError(f"the protocol {protocol.name!r} asks other questions than its seed and data give here")
    return [_pope_sample(question, protocol, data) for question in asked]


def questions(protocol: Protocol, data: CocoFolder) -> list[Question]:
    """Return POPE's questions of every strategy, built from all annotations of the folder with the protocol's seed.

    Every strategy asks about the same images; how frequent an object is, is counted over the whole folder.
    """
    annotations = [{"image": str(image), "objects": data.objects[image]} for image in sorted(data.images)]
    count = len(protocol.image_ids)
    sample = None if count == len(_eligible("pope", data)) else count
    return [
        Question(str(row["question_id"]), row["image"], row["text"], row["label"], strategy)
        for strategy in protocol.strategies
        for row in build_questions(annotations, strategy=strategy, sample=sample, seed=protocol.seed)
    ]


def _questions_hash(asked: Iterable[Question]) -> str:
    return content_hash([asdict(question) for question in asked])


def _pope_sample(question: Question, protocol: Protocol, data: CocoFolder) -> Sample:
    return Sample(
        sample_id=f"{question.split}/{question.question_id}",
        image=str(data.images[int(question.image)]),
        prompt=protocol.prompt.format(question=question.text),
        image_id=question.image,
        label=question.label,
        split=question.split,
    )


def _eligible(metric: Metric, data: CocoFolder) -> list[int]:
    if metric == "chair":
        return sorted(data.images)
    return sorted(image for image, objects in data.objects.items() if len(objects) >= MIN_OBJECTS)


def _draw(images: Sequence[int], limit: int | None, seed: int, root: Path) -> Iterable[int]:
    if not images:
        raise TaskError(f"{root}: none of the annotated images is there that could be asked about")
    if limit is None or limit == len(images):
        return images
    if not 0 < limit < len(images):
        raise TaskError(f"{root} has {len(images)} images to ask about, not {limit}: set --limit to 1..{len(images)}")
    return sorted(random.Random(seed).sample(images, limit))
