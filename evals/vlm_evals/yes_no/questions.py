"""The questions that POPE asks: published ones, or made from annotations; and how a run directory keeps them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.formats import Question, label_of
from vlm_evals.data.pope_folder import PopeFolder
from vlm_evals.data.pope_questions import PER_IMAGE, build_questions
from vlm_evals.data.tabular import rows_of
from vlm_evals.errors import FileFormatError, TaskError
from vlm_evals.protocol import Protocol
from vlm_evals.records import Label, Sample, image_key, write_rows
from vlm_evals.runs import content_hash

QUESTIONS = "questions.jsonl"


def sample_id(question: Question) -> str:
    """Return the name under which a question is asked and its score is paired."""
    return f"{question.split}/{question.question_id}"


def questions(protocol: Protocol, data: CocoFolder) -> list[Question]:
    """Return the published questions beside a folder, or those of every strategy, built with the protocol's seed.

    Every strategy asks about the same images. The frequency of an object is counted over these.
    """
    if published := _published(data):
        chosen = set(protocol.image_ids)
        return [question for question in published if _image_id(question) in chosen]
    annotations = [{"image": str(image), "objects": data.objects[image]} for image in sorted(data.images)]
    count = len(protocol.image_ids)
    sample = None if count == len(eligible(data)) else count
    strategies: tuple[Any, ...] = protocol.strategies
    return [
        Question(str(row["question_id"]), row["image"], row["text"], row["label"], strategy)
        for strategy in strategies
        for row in build_questions(annotations, strategy=strategy, sample=sample, seed=protocol.seed)
    ]


def eligible(data: CocoFolder) -> list[int]:
    """Return the images of the published questions, or those with enough objects to ask about.

    Raises:
        TaskError: if a question is published about an image that is not there.
    """
    if published := _published(data):
        asked = dict.fromkeys(_image_id(question) for question in published)
        if gone := [image for image in asked if image not in data.images]:
            raise TaskError(
                f"{data.root}: {len(gone)} of the {len(asked)} images that --questions ask about are not there, the "
                f"first has the id {gone[0]}"
            )
        return sorted(asked)
    return sorted(image for image, objects in data.objects.items() if len(objects) >= PER_IMAGE)


def _published(data: CocoFolder) -> list[Question]:
    files = data.asked if isinstance(data, PopeFolder) else None
    return [question for asked in (files or {}).values() for question in asked]


def _image_id(question: Question) -> int:
    key = image_key(question.image)
    if not key.isdecimal():
        raise TaskError(f"question {question.question_id} is about {question.image!r}, which is no name of COCO's")
    return int(key)


def bound(protocol: Protocol, data: CocoFolder) -> Protocol:
    """Return a protocol with the images, the splits and the hash of what it asks."""
    asked = questions(protocol, data)
    drawn = tuple(dict.fromkeys(_image_id(question) for question in asked))
    splits = tuple(dict.fromkeys(question.split for question in asked))
    _labels_of(protocol, data, asked)
    return replace(protocol, image_ids=drawn, questions=_hash(asked), strategies=splits)


def _labels_of(protocol: Protocol, data: CocoFolder, asked: Sequence[Question]) -> list[Label | None] | None:
    """Return the other label of every question; None where the protocol names no other labels.

    Raises:
        TaskError: if it names some, and none are given.
        AnswerMismatch: if they are of other questions.
    """
    name = protocol.option("labels")
    if name is None:
        return None
    given = data.labels if isinstance(data, PopeFolder) else None
    if given is None:
        raise TaskError(f"the protocol {protocol.name!r} scores with {name} too: say --labels {name} --labels-from DIR")
    return given.of(asked)


def _hash(asked: Sequence[Question]) -> str:
    return content_hash([asdict(question) for question in asked])


def samples(protocol: Protocol, data: CocoFolder) -> list[Sample]:
    """Return every question as a sample.

    Raises:
        TaskError: if the questions or the labels are not the protocol's, or its prompt has no place for a question.
    """
    asked = questions(protocol, data)
    if _hash(asked) != protocol.questions:
        raise TaskError(f"the protocol {protocol.name!r} asks other questions than its seed and data give here")
    _labels_of(protocol, data, asked)
    if "{question}" not in protocol.prompt:
        raise TaskError(f"the prompt {protocol.prompt!r} of {protocol.name!r} has no place {{question}}")
    return [
        Sample(
            sample_id=sample_id(question),
            image=str(data.images[_image_id(question)]),
            prompt=protocol.prompt.replace("{question}", question.text),
            image_id=question.image,
            label=question.label,
            split=question.split,
        )
        for question in asked
    ]


def keep_questions(folder: Path, protocol: Protocol, data: CocoFolder) -> None:
    """Write the questions into a run directory, with their other labels where the protocol names some."""
    asked = questions(protocol, data)
    other = _labels_of(protocol, data, asked)
    rows = [{"category": question.split, **asdict(question)} for question in asked]
    for row, label in zip(rows, other or (), strict=bool(other)):
        row["labels"] = {protocol.option("labels"): label}
    write_rows(folder / QUESTIONS, ({key: value for key, value in row.items() if key != "split"} for row in rows))


def kept_labels(folder: Path, name: str) -> dict[tuple[str, str], Label | None]:
    """Return (split, question id) -> other label, as `keep_questions` wrote it."""
    path = folder / QUESTIONS
    found: dict[tuple[str, str], Label | None] = {}
    for line, row in rows_of(path):
        labels = row.get("labels")
        if not isinstance(labels, dict) or name not in labels:
            raise FileFormatError(path, line, f"has no label of {name}: start the same eval again")
        label = labels[name]
        found[str(row.get("category")), str(row.get("question_id"))] = None if label is None else label_of(label)
    return found
