"""What is asked: a named, hashed protocol.

A protocol holds everything that decides the questions and how they are scored. It holds nothing about who answers them:
the model and what is done to it stand beside it in a run directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vlm_evals.errors import FileFormatError
from vlm_evals.records import read_json
from vlm_evals.runs import content_hash

DESCRIBE = "Please describe this image in detail."


def sampling(temperature: float) -> dict[str, Any]:
    """Return arguments of `generate` for sampling among all tokens."""
    return {"do_sample": True, "num_beams": 1, "temperature": temperature, "top_k": 0, "top_p": 1.0}


@dataclass(frozen=True)
class Protocol:
    """What is asked and how it is scored. A metric uses the entries that it names, and leaves the others empty.

    Attributes:
        name: `world-held-out`, `coco`, or the name a protocol file gives.
        metric: the name of what it measures.
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
        questions: SHA-256 of the questions, where a metric makes them.
        world: `split`, `images` and `seed` of the export of the embedded world that the data are, or None.
        options: a metric's further options by name; no part of the hash where there are none.
    """

    name: str
    metric: str
    data: Mapping[str, str]
    image_ids: tuple[int, ...]
    prompt: str
    max_new_tokens: int
    seed: int
    decoding: Mapping[str, Any] = field(default_factory=lambda: {"do_sample": False, "num_beams": 1})
    pipeline: str | None = None
    vocabulary: str | None = None
    parser: str | None = None
    strategies: tuple[str, ...] = ()
    questions: str | None = None
    world: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the protocol as JSON values, its hash included."""
        return self._entries() | {"hash": self.hash}

    @property
    def hash(self) -> str:
        """SHA-256 over everything above."""
        return content_hash(self._entries())

    def _entries(self) -> dict[str, Any]:
        entries = asdict(self)
        if not self.options:  # protocols without them keep the hash they always had
            del entries["options"]
        return entries

    def changed(self, **changes: Any) -> Protocol:
        """Return the protocol with some entries set; a name that is no entry of `Protocol` is set in `options`."""
        own = {one.name for one in fields(self)}
        more = {name: value for name, value in changes.items() if name not in own}
        rest = {name: value for name, value in changes.items() if name in own}
        return replace(self, **rest, options={**self.options, **more}) if more else replace(self, **rest)

    def option(self, name: str) -> Any:
        """Return an entry or an option by its name; None where it is not set."""
        return self.options[name] if name in self.options else getattr(self, name, None)

    @classmethod
    def from_json(cls, value: Any, path: Path) -> Protocol:
        """Return a protocol read from a file.

        Raises:
            FileFormatError: if entries are missing, unknown, or do not give the hash that stands beside them.
        """
        if not isinstance(value, dict):
            raise FileFormatError(path, None, "not a protocol: no JSON object")
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
        if wrong := [name for name, fits in _KINDS.items() if not fits(getattr(protocol, name))]:
            reason = f"not a protocol: the entry {wrong[0]!r} cannot be {getattr(protocol, wrong[0])!r:.80}"
            raise FileFormatError(path, None, reason)
        try:
            found = protocol.hash
        except (ValueError, RecursionError) as error:
            raise FileFormatError(path, None, f"not a protocol ({error})") from error
        if stated is not None and stated != found:
            raise FileFormatError(path, None, "was changed: its entries do not give its hash; remove the entry `hash`")
        return protocol


def _is_count(value: object) -> bool:
    return type(value) is int


def _is_word(value: object) -> bool:
    return isinstance(value, str)


def _is_word_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_world(value: Any) -> bool:
    if value is None:
        return True
    named = isinstance(value, dict) and value.keys() == {"split", "images", "seed"}
    return named and _is_word(value["split"]) and _is_count(value["images"]) and _is_count(value["seed"])


# What an entry may be; a metric of another package may name its images as it likes.
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "name": _is_word,
    "metric": _is_word,
    "data": lambda value: isinstance(value, dict) and all(map(_is_word, value.values())),
    "image_ids": lambda value: isinstance(value, tuple) and all(type(one) in (int, str) for one in value),
    "prompt": _is_word,
    "max_new_tokens": lambda value: _is_count(value) and value > 0,
    "seed": _is_count,
    "decoding": lambda value: isinstance(value, dict),
    "pipeline": _is_word_or_none,
    "vocabulary": _is_word_or_none,
    "parser": _is_word_or_none,
    "strategies": lambda value: isinstance(value, tuple) and all(map(_is_word, value)),
    "questions": _is_word_or_none,
    "world": _is_world,
    "options": lambda value: isinstance(value, dict),
}


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
