"""The run that the page opens on: one in which the plain answer invents something and the mitigated one does not.

`vlm-heads study opening` finds it by trying settings on samples, and keeps it with the versions that it was found on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from vlm_app.view import words
from vlm_app.view.cards import cards
from vlm_app.view.facts import HeadMap
from vlm_app.view.recipe import Recipe
from vlm_app.view.truth import Judged, Truth

STANDS_IN = "planted"  # the model whose run is shown where none was found for the loaded one
FILE = "openings.json"


@dataclass(frozen=True)
class Opening:
    """A run to open on.

    Attributes:
        model: that it is of.
        recipe: that it is asked with.
        found_on: what it was found with: answers, invented objects, weights, versions and date.
    """

    model: str
    recipe: Recipe
    found_on: Mapping[str, Any]


def opening_of(model: str) -> Opening | None:
    """Return the run to open on for a model; None where none was found."""
    kept: dict[str, dict[str, Any]] = json.loads(files("vlm_app").joinpath("assets", FILE).read_text("utf-8"))
    if model not in kept:
        return None
    one = kept[model]
    recipe = Recipe(one["image"], words=tuple(one["words"]), max_tokens=one["max_tokens"], seed=one["seed"])
    return Opening(model, recipe, one)


def story(opening: Opening, truth: Truth | None, found: HeadMap, loaded: str) -> str:
    """Return in words, as HTML, what heads are, what was done here, and what came of it.

    Args:
        opening: that is shown.
        truth: of its answers.
        found: the heads of the model that said what is shown.
        loaded: the model that the page asks; it may be another one.
    """
    layers, heads = found.scores.shape
    what = (
        f"An attention head is one of the small readers inside a model, {layers} layers of {heads} here: at every word "
        "it decides which earlier words and which patches of the picture to take from."
    )
    lines = [what, f"{_done(opening.recipe, len(found.acted))} {_came(truth)}"]
    if opening.model != loaded:
        lines.append(
            f"This run is the {opening.model} model's, whose weights were written by hand to show the mechanism: for "
            f"{loaded} no such run was looked for. Press Run to ask {loaded}."
        )
    return '<div class="vh-story">' + "".join(f"<p>{escape(line)}</p>" for line in lines) + "</div>"


def _done(recipe: Recipe, acted: int) -> str:
    """Return what was attached, with the options that are not at their defaults, and how many heads it changed."""
    known = {card.name: card for card in cards()}
    said = []
    for one in recipe.mitigation.methods():
        turned = [
            f"{option.name} {option.write(value)}: {option.help}"
            for option in type(one).options()
            if (value := getattr(one, option.name)) != option.default
        ]
        said.append(known[one.name].label + (f" ({'; '.join(turned)})" if turned else ""))
    heads = f" It acted on {words.count(acted, 'head')}, the dots on the map below." if acted else ""
    return f"For the second answer, {' and '.join(said)} was attached to the same model.{heads}"


def _came(truth: Truth | None) -> str:
    sides = [one for one in truth.sides if isinstance(one, Judged)] if truth is not None else []
    if len(sides) != 2:
        return ""
    plain, mitigated = sides
    gained = [name for name in mitigated.found if name not in plain.found]
    also = f" It finds the {_listed(gained)} besides." if gained else ""
    if not plain.invented:
        return f"The plain answer invents nothing here, which it did where this run was chosen.{also}"
    if mitigated.invented:
        return f"The plain answer invents a {_listed(plain.invented)}; the other one, a {_listed(mitigated.invented)}."
    return f"The plain answer invents a {_listed(plain.invented)}; the other one does not.{also}"


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
