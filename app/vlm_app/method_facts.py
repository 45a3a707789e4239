"""What is known of a method: who published it, what it costs, its options, and what its own text says."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_heads import Method, Paper
    from vlm_heads.methods import Option

KINDS = ("intervention", "lens", "contrast", "check", "pipeline")
OTHER = "other"  # the lever of a method that names none
_SECTION = re.compile(r"^([A-Z][\w ]*):\n((?:(?: {4}.*)?\n?)+)", re.MULTILINE)
_NOT_PLAIN = re.compile(r"""[\s,;"]""")


def facts(kind: type[Method]) -> dict[str, Any]:
    """Return everything about a method as JSON values."""
    summary, sections = own_text(kind)
    paper = kind.paper
    return {
        "name": kind.name,
        "label": label(kind),
        "kind": kind_of(kind),
        "lever": kind.lever,
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "paper": None if paper is None else {**vars(paper), "cited": paper.cited},
        "passes": kind.passes,
        "image_free_pass": needs_image_free_pass(kind),
        "needs_profile": bool(getattr(kind, "needs_profile", False)),
        "cost": cost(kind),
        "needs": needs(kind),
        "options": [
            {
                "name": one.name,
                "kind": one.kind,
                "default": one.default,
                "range": range_of(one),
                "at_least": one.at_least,
                "at_most": one.at_most,
                "words": list(one.words),
                "neutral": one.neutral,
                "help": one.help,
            }
            for one in kind.options()
        ],
        "summary": summary,
        "sections": dict(sections),
    }


def label(kind: type[Method]) -> str:
    """Return what papers and tables call a method."""
    return kind.label or kind.name


def kind_of(kind: type[Method]) -> str:
    """Return whether a method is an intervention, a lens, a contrast, a check or a pipeline."""
    from vlm_heads import Check, Contrast, Intervention, Lens, Pipeline

    bases = zip(
        KINDS, (Intervention, Lens, Contrast, Check, Pipeline), strict=True
    )  # an intervention may be a lens too
    return next(name for name, base in bases if issubclass(kind, base))


def by_lever(kinds: Iterable[type[Method]]) -> dict[str, list[type[Method]]]:
    """Return methods by what they change, in the order of `LEVERS`; those of a lever in alphabetical order."""
    from vlm_heads.methods import LEVERS

    groups: dict[str, list[type[Method]]] = {lever: [] for lever in LEVERS}
    for kind in sorted(kinds, key=lambda kind: kind.name):
        groups.setdefault(kind.lever or OTHER, []).append(kind)
    return {lever: some for lever, some in groups.items() if some}


def means(lever: str) -> str:
    """Return what a lever does, in words."""
    from vlm_heads.methods import LEVERS

    return LEVERS.get(lever, "says nothing of what it changes")


def needs(kind: type[Method]) -> str:
    """Return what a method needs beside the model and its inputs, in words; empty where that is nothing."""
    from vlm_heads import Contrast

    found = ["an image-free pass over the prompt"] if needs_image_free_pass(kind) else []
    if getattr(kind, "compares", False):
        found = ["two more passes over the prompt, with the image and without it"]
    found += ["a profile or a table of the model"] if getattr(kind, "needs_profile", False) else []
    if issubclass(kind, Contrast) and not kind.needs_inputs_alone:
        found.append("the image and the prompt, as VLM.answer has them")
    return ", ".join([*found, *kind.needs])


def needs_image_free_pass(kind: type[Method]) -> bool:
    """Whether a method, with its default options, needs one more prefill without the image."""
    from vlm_heads import Intervention

    return issubclass(kind, Intervention) and kind().image_free(None) is not None


def cost(kind: type[Method]) -> str:
    """Return what a method costs and needs, in words."""
    passes = "1 pass a token" if kind.passes == 1 else f"{kind.passes} streams a token, in one pass where they can be"
    if kind.passes > 1 and kind_of(kind) == "pipeline":
        passes = f"{kind.passes} passes a token"
    asks = ", and what it asks" if kind_of(kind) == "check" else ""
    return passes + asks + (f"; needs {needs(kind)}" if needs(kind) else "")


def source(paper: Paper | None) -> str:
    """Return a paper in full, or whose method it is."""
    if paper is None:
        return "ours"
    place = f"{paper.venue} {paper.year}" if paper.venue else str(paper.year)
    return f"{paper.authors}, {paper.title}, {place}" + (f", arXiv {paper.arxiv}" if paper.arxiv else "")


def default_of(option: Option) -> str:
    """Return the default of an option as it is written on the command line."""
    text = option.write(option.default)
    return json.dumps(text) if not text or _NOT_PLAIN.search(text) else text


def range_of(option: Option) -> str:
    """Return in words what an option may be."""
    if option.kind == "word":
        return f"{', '.join(option.words[:-1])} or {option.words[-1]}" if option.words else "a text"
    if option.kind == "switch":
        return "true or false"
    if option.form is not None:
        return {"layers": "layers", "list": "a list"}.get(option.kind, option.kind)
    if option.at_least is not None and option.at_most is not None:
        span = f" from {option.at_least:g} to {option.at_most:g}"
    elif option.at_least is not None:
        span = f", at least {option.at_least:g}"
    else:
        span = "" if option.at_most is None else f", at most {option.at_most:g}"
    words = "".join(f", or {word}" for word in option.words)
    return ("a whole number" if option.kind == "integer" else "a number") + span + words


def own_text(kind: type) -> tuple[str, Mapping[str, str]]:
    """Return the class's docstring as its paragraphs and its sections; a section is `Name:` and an indented block."""
    text = inspect.cleandoc(kind.__doc__ or "")
    sections = {name: inspect.cleandoc(block) for name, block in _SECTION.findall(text + "\n")}
    return _SECTION.sub("", text + "\n").strip(), sections
