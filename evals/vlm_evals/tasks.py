"""Protocols bound to data: which images are drawn, and the samples that are asked about them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from vlm_evals.errors import FileFormatError, TaskError
from vlm_evals.metric import Asked
from vlm_evals.protocol import Protocol, read_protocol
from vlm_evals.records import Sample, read_json
from vlm_evals.registry import find_metric
from vlm_evals.runs import content_hash


@dataclass(frozen=True)
class Template:
    """A built-in protocol before it is bound to data.

    Attributes:
        world: split of the embedded world, or None for other pictures.
        metric: the only metric that it asks for; None for any.
    """

    world: str | None
    metric: str | None = None


TEMPLATES: Mapping[str, Template] = {
    "world-held-out": Template("held-out"),
    "world-validation": Template("validation"),
    "world-shifted": Template("shifted"),
    "world-scrambled": Template("scrambled"),
    "coco": Template(None),
    "opera-500": Template(None, "chair"),
    "pope-500": Template(None, "pope"),
}


@dataclass(frozen=True)
class Published:
    """Pictures that papers report on, and how they are asked about.

    Attributes:
        image_ids: in their order.
        entries: of the protocol.
    """

    image_ids: tuple[int, ...]
    entries: Mapping[str, Any]


@cache
def published(name: str) -> Published | None:
    """Return the pictures of a protocol that names some; None for any other name.

    Raises:
        FileFormatError: if its file does not give the hash that stands in it.
    """
    if name not in TEMPLATES or TEMPLATES[name].metric is None:
        return None
    with as_file(files("vlm_evals") / "protocols" / f"{name}.json") as path:
        stated = read_json(path)
        if content_hash({key: value for key, value in stated.items() if key != "hash"}) != stated["hash"]:
            raise FileFormatError(path, None, "was changed: its entries do not give its hash; install the package anew")
    return Published(tuple(stated["image_ids"]), stated["entries"])


def narrowed(name: str, data: Any) -> Any:
    """Return a folder with the pictures alone that a protocol names; the folder as it is where it names none.

    Raises:
        TaskError: saying how many of them are missing, and where they were looked for.
    """
    found = published(name)
    if found is None:
        return data
    own = data.only(found.image_ids)
    if missing := [image for image in found.image_ids if image not in own.images]:
        raise TaskError(
            f"{name} asks about {len(found.image_ids)} pictures, and {len(missing)} are not in {data.root}, the first "
            f"has the id {missing[0]}{_because(own)}"
        )
    return own


def asked_of(metric: str) -> Asked:
    """Return how a metric asks a model.

    Raises:
        TaskError: if it scores saved answers alone.
        UnknownMetric: if there is no such metric.
    """
    asked = find_metric(metric).asked
    if asked is None:
        raise TaskError(f"{metric} scores saved answers and asks no model: use `vlm-heads judge {metric}`")
    return asked


def bind(name: str, metric: str, data: Any, *, limit: int | None, seed: int, **changes: Any) -> Protocol:
    """Return a built-in protocol over the images of a data folder.

    Args:
        name: one of TEMPLATES, or the metric's own protocol.
        metric: what to measure.
        data: where pictures and annotations are.
        limit: how many images to draw with the seed; None for all. They are drawn among those that the metric can ask
            about: POPE needs three objects.
        seed: see Protocol.
        changes: entries of Protocol to set, for example `prompt` or `pipeline`, and options of the metric.

    Raises:
        TaskError: if the name is unknown, the data are of another split, or there are fewer images than asked for.
    """
    asked = asked_of(metric)
    template = template_named(name, asked, metric)
    own = published(name)
    if own is not None and limit is not None:
        raise TaskError(f"{name} names its images: leave out --limit")
    data = narrowed(name, data)
    if template.world is not None and (data.world or {}).get("split") != template.world:
        raise TaskError(f"{data.root} is no export of the split {template.world!r}, which {name!r} asks about")
    short = asked.world_max_new_tokens if template.world is not None else None
    protocol = Protocol(
        name=name,
        metric=metric,
        data=data.hashes(),
        image_ids=own.image_ids if own else tuple(_draw(asked.eligible(data), limit, seed, data)),
        prompt="",
        max_new_tokens=short or asked.max_new_tokens,
        seed=seed,
        world=data.world if template.world else None,
    )
    return asked.bound(protocol.changed(**{**asked.defaults, **(own.entries if own else {}), **changes}), data)


def template_named(name: str, asked: Asked, metric: str) -> Template:
    """Return a built-in protocol's template.

    Raises:
        TaskError: naming the known ones, or the metric that it asks for.
    """
    if (only := TEMPLATES.get(name, Template(None)).metric) not in (None, metric):
        raise TaskError(f"{name} is a protocol for {only}: use `vlm-heads eval {only}`")
    known = TEMPLATES if asked.own_protocol is None else {asked.own_protocol: Template(None)}
    if name not in known:
        raise TaskError(f"unknown protocol {name!r}: choose one of {', '.join(known)}, or a protocol file")
    return known[name]


def is_file(name: str) -> bool:
    """Whether a protocol's name means a file."""
    return name.endswith(".json") or os.sep in name


def read_named(name: str, metric: str, limit: int | None) -> Protocol:
    """Return the protocol of a file that is asked for by name.

    Raises:
        FileFormatError: if the file holds none.
        EvaluationError: if one of its entries cannot be used.
        TaskError: if it is another metric's, or a limit stands beside it.
    """
    protocol = read_protocol(Path(name))
    if protocol.metric != metric:
        raise TaskError(f"{name} is a protocol for {protocol.metric}: use `vlm-heads eval {protocol.metric}`")
    if limit is not None:
        raise TaskError(f"{name} names its images: leave out --limit")
    asked = asked_of(metric)
    entries = {option.name: protocol.option(option.name) for option in asked.options}
    for option in asked.options:
        option.check(entries[option.name])
    asked.check(entries)
    return protocol


def require_data(name: str, metric: str, given: Path | None, *, limit: int | None) -> None:
    """Look whether a protocol is known, or its file can be used, and whether its data are there; no model is needed.

    Raises:
        FileFormatError, TaskError: saying what is missing.
    """
    asked = asked_of(metric)
    world = read_named(name, metric, limit).world if is_file(name) else template_named(name, asked, metric).world
    if given is not None:
        asked.find_data(given)
    elif world is None:
        raise TaskError(f"the protocol {name!r} needs --data: a folder with {asked.data_is}")


def samples(protocol: Protocol, data: Any) -> list[Sample]:
    """Return everything a protocol asks, in its order.

    Raises:
        TaskError: if the data folder is not the one the protocol was bound to, or lacks some of its pictures.
    """
    if changed := sorted(name for name, value in data.hashes().items() if protocol.data.get(name) != value):
        raise TaskError(f"{data.root / changed[0]} is not the file the protocol {protocol.name!r} was made with")
    if gone := [image for image in protocol.image_ids if image not in data.images]:
        reason = f"{len(gone)} images of the protocol are missing, the first has the id {gone[0]}{_because(data)}"
        raise TaskError(f"{data.root}: {reason}")
    return asked_of(protocol.metric).samples(protocol, narrowed(protocol.name, data))


def shortfall(data: Any) -> str | None:
    """Return how many pictures a data folder lacks and where they were looked for; None where it lacks none."""
    said: str | None = getattr(data, "shortfall", None)
    return said


def _because(data: Any) -> str:
    said = shortfall(data)
    return f"; {said}" if said else ""


def _draw(images: Sequence[int], limit: int | None, seed: int, data: Any) -> Iterable[int]:
    root = data.root
    if not images:
        raise TaskError(f"{root}: none of the annotated images is there that could be asked about{_because(data)}")
    if limit is None or limit == len(images):
        return images
    if not 0 < limit < len(images):
        most = len(images)
        raise TaskError(f"{root} has {most} images to ask about, not {limit}: set --limit to 1..{most}{_because(data)}")
    return sorted(random.Random(seed).sample(images, limit))
