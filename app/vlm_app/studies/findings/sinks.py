"""Sinks of every layer: the tokens with massive activations, and the image positions that draw attention by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vlm_evals.scenes.catalog import CATEGORIES
from vlm_evals.scenes.world import IMAGE_SIZE, Scene, patch_classes

from vlm_app.studies.findings.looking import Looked, Looks
from vlm_heads import SinkRedistribution
from vlm_heads.profiles import SinkCriterion

MOST_OFTEN = 0.5  # of scenes in which a position sink is the most attended position of the image
ABOVE_EVEN = 3.0  # times the weight that it had if the image's were spread evenly
SOME_LAYERS = 0.1  # of a model's layers in which a position has to be a sink to be proposed

Bools = NDArray[np.bool_]


def sinks_by_layer(looks: Looks, pictures: Sequence[Scene], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return what is known of each layer's sinks as plain data.

    Args:
        looks: at scenes.
        pictures: the same scenes.
        names: text of the tokens, by id.

    Returns:
        Per layer: `activation`, the largest |x| / RMS(x) over tokens and channels (at most the root of the width), and
        `first_token`, the largest mean weight that any head gives the first token over the question's rows. `largest`:
        the largest |x|, its channel, and where it stands. `over_median`: the first token's norm over the median
        token's, the same in the channel of its largest value (as `criterion=median` has it), and the norms of the
        largest other text token and image position. `mass`: mean weight on the first token, on the image, and on each
        of its positions. `most_attended`: the position that most often is the image's most attended one. `marked`:
        tokens that the criterion marks, per scene.
    """
    shown = shows_objects(pictures, len(looks.image))
    return [
        {"layer": layer}
        | _activation(looks, seen)
        | {"mass": _mass(seen), "most_attended": most_attended(seen.of("places"), shown)}
        | {"marked": _marked(looks, seen, names)}
        for layer, seen in sorted(looks.layers.items())
    ]


def shows_objects(pictures: Sequence[Scene], positions: int) -> Bools | None:
    """Return bool `[S, N]`: whether an image position shows an object; None where positions are no grid of the picture.

    A position shows the object that owns at least a fifth of its pixels.
    """
    side = round(positions**0.5)
    if side == 0 or side * side != positions or IMAGE_SIZE % side:
        return None
    return np.stack([patch_classes(scene, IMAGE_SIZE // side) < len(CATEGORIES) for scene in pictures])


def most_attended(places: NDArray[np.float32], shown: Bools | None) -> dict[str, Any]:
    """Return which position most often draws most of the image's attention, and whether that depends on what it shows.

    Args:
        places: `[S, N]`, weight on each position.
        shown: bool `[S, N]`, whether it shows an object; None where nobody knows.

    Returns:
        `position`; `scenes`, the share of scenes in which it is the most attended; `share`, its mean share of the
        image's weight, also `on_object` and `on_background`, None where it never shows that; `shows_object`, how often
        it shows one, and `objects`, how often any position does; `even`, the share of a position in an even image.
    """
    shares = places / np.maximum(places.sum(axis=1, keepdims=True), 1e-12)
    best = shares.argmax(axis=1)
    position = int(np.bincount(best, minlength=shares.shape[1]).argmax())
    here = shares[:, position]
    objects = None if shown is None else shown[:, position]
    return {
        "position": position,
        "scenes": float((best == position).mean()),
        "share": float(here.mean()),
        "on_object": None if objects is None or not objects.any() else float(here[objects].mean()),
        "on_background": None if objects is None or objects.all() else float(here[~objects].mean()),
        "shows_object": None if objects is None else float(objects.mean()),
        "objects": None if shown is None else float(shown.mean()),
        "even": 1 / shares.shape[1],
    }


def position_sinks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return image positions that draw attention by their place, each with its layers, the most frequent first.

    In a layer it is a position that is the most attended in at least half of the scenes and holds at least three times
    its even share. A position is proposed where that is so in a tenth of the layers.
    """
    found: dict[int, list[int]] = {}
    for row in rows:
        one = row["most_attended"]
        if one["scenes"] >= MOST_OFTEN and one["share"] >= ABOVE_EVEN * one["even"]:
            found.setdefault(one["position"], []).append(row["layer"])
    listed = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"position": position, "layers": layers, "proposed": len(layers) >= SOME_LAYERS * len(rows)}
        for position, layers in listed
    ]


def var_for(
    criterion: SinkCriterion, rows: Sequence[Mapping[str, Any]], positions: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return VAR in the words under which it acts on the sinks that were found; None where there are none.

    Args:
        criterion: of the model's sinks.
        rows: of `sinks_by_layer`.
        positions: of `position_sinks`.
    """
    proposed = tuple(one["position"] for one in positions if one["proposed"])
    if not (criterion.channels or proposed):
        return None
    found: dict[str, Any] = {"position_sinks": proposed} if proposed else {}
    if criterion.channels:
        found |= {"threshold": "relative"} if criterion.kind == "phi" else {"criterion": "median"}
        if not any(row["marked"]["image"] >= MOST_OFTEN for row in rows):
            found["sinks"] = "any"
    return SinkRedistribution(**found).word()


def _activation(looks: Looks, seen: Looked) -> dict[str, Any]:
    largest, channel, norm, strength = (seen.of(name) for name in ("largest", "channel", "norm", "strength"))
    scenes = np.arange(len(largest))
    where = largest.argmax(axis=1)
    ratio = norm / _lower_median(norm)[:, None]
    image = np.isin(np.arange(norm.shape[1]), looks.image)
    text = ~image
    text[0] = False
    kinds = Counter(_kind(looks, place) for place in where.tolist())
    of_first = largest[:, 0] / seen.of("usual")
    return {
        "activation": float(strength.max()),
        "first_token": float(seen.of("first_of_prompt").mean(axis=0).max()),
        "largest": {
            "value": float(largest[scenes, where].mean()),
            "over_rms": float(strength[scenes, where].mean()),
            "channel": int(np.bincount(channel[scenes, where]).argmax()),
            "at": {kind: count / len(largest) for kind, count in kinds.most_common()},
        },
        "over_median": {
            "first": float(ratio[:, 0].mean()),
            "first_channel": int(np.bincount(channel[:, 0]).argmax()),
            "first_in_channel": float(of_first.mean()),
            "other_text": float(ratio[:, text].max(axis=1).mean()),
            "image": float(ratio[:, image].max(axis=1).mean()),
        },
    }


def _kind(looks: Looks, column: int) -> str:
    return "first" if column == 0 else "image" if column in looks.image else "text"


def _mass(seen: Looked) -> dict[str, Any]:
    places = seen.of("places")
    return {
        "first": float(seen.of("first").mean()),
        "image": float(seen.of("image").mean()),
        "places": [float(value) for value in places.mean(axis=0)],
    }


def _marked(looks: Looks, seen: Looked, names: Mapping[int, str]) -> dict[str, Any]:
    """Return how many tokens of a scene are sinks by the criterion, and which text tokens are, by text."""
    marked = seen.of("sinks")
    image = np.isin(np.arange(marked.shape[1]), looks.image)
    tokens: dict[str, float] = {}
    for column in np.flatnonzero(marked.any(axis=0) & ~image).tolist():
        name = "the first" if column == 0 else names[looks.prompt_ids[column]]
        tokens[name] = tokens.get(name, 0.0) + float(marked[:, column].mean())
    return {
        "text": float(marked[:, ~image].sum(axis=1).mean()),
        "image": float(marked[:, image].sum(axis=1).mean()),
        "tokens": tokens,
        "positions": np.flatnonzero(marked[:, image].mean(axis=0) >= MOST_OFTEN).tolist(),
    }


def _lower_median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the lower median of each row, `[S]`."""
    lower: NDArray[np.float32] = np.sort(values, axis=1)[:, (values.shape[1] - 1) // 2]
    return lower
