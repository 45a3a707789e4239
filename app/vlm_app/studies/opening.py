"""The run that the page opens on, found by trying settings on the samples of a model.

In such a run the plain answer invents something and the mitigated one does not. Of several, the best loses nothing that
the plain answer finds, finds most besides, and changes heads rather than adding a stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlm_evals.answer import fingerprint
from vlm_evals.records import read_json, write_json

from vlm_app.models import load_vlm
from vlm_app.pictures import Picture
from vlm_app.session import Session
from vlm_app.view.cards import cards, presets
from vlm_app.view.levers import LEVERS, lever_of
from vlm_app.view.recipe import Recipe
from vlm_app.view.truth import Judged, judged
from vlm_heads import VlmHeadsError

# beside every method at its defaults and what papers print: what validation scenes chose, and milder gains
_BESIDE = (
    ("vhr:gain=0.5",),
    ("vhr:gain=1.5",),
    ("route:image=1.5",),
    ("route:image=1.5,heads=all",),
    ("askback:by=both",),
)
_LIBRARIES = ("vlm-heads", "torch", "transformers")


def find_opening(model: str, *, seed: int, device: str | None) -> dict[str, Any] | None:
    """Return the best run to open on, with what it was found on; None where there is none.

    Args:
        model: by name.
        seed: of every answer.
        device: where the model is put.
    """
    session = Session(load_vlm(model, device, seed), seed)
    try:
        found = [run for name in session.samples for run in _runs(session, session.sample(name))]
    finally:
        session.close()
    if not found:
        return None
    _, best = min(found, key=lambda run: run[0])
    about = {name: version(name) for name in _LIBRARIES}
    weights = fingerprint(session.model.vlm.model)[:8]
    return best | {"weights": weights, "versions": about, "found": f"{datetime.now(UTC):%Y-%m-%d}"}


def keep(path: Path, model: str, found: dict[str, Any] | None) -> None:
    """Put a model's run into the file of openings, or take it out where there is none."""
    kept = dict(read_json(path)) if path.exists() else {}
    kept.pop(model, None)
    write_json(path, dict(sorted((kept | ({} if found is None else {model: found})).items())))


def settings() -> list[tuple[str, ...]]:
    """Return what is tried, in words."""
    return list(dict.fromkeys([*presets().values(), *_BESIDE]))


def _runs(session: Session, picture: Picture) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """Yield every run on a picture that may be opened on, with its rank; the lowest is the best."""
    plain, judged_plain = _said(session, picture, ())
    if not judged_plain.invented:
        return
    for number, words in enumerate(settings()):
        try:
            text, side = _said(session, picture, words)
        except VlmHeadsError:  # a method that this model cannot have is no run
            continue
        if side.invented:
            continue
        lost = len(set(judged_plain.found) - set(side.found))
        rank = (lost, lost - len(side.found), _lever(words), number)
        yield (
            rank,
            {
                "image": picture.name,
                "words": list(words),
                "max_tokens": Recipe().max_tokens,
                "seed": session.seed,
                "plain": plain,
                "mitigated": text,
                "invented": list(judged_plain.invented),
            },
        )


def _said(session: Session, picture: Picture, words: tuple[str, ...]) -> tuple[str, Judged]:
    recipe = Recipe(picture.name, words=words, seed=session.seed)
    answer = session.model.vlm.answer(picture.image, recipe.prompt, recipe.mitigation, **recipe.decoding())
    named = session.model.marker.named(answer.text, picture.objects)
    return answer.text, judged("", named, sorted(picture.objects or ()))


def _lever(words: tuple[str, ...]) -> int:
    """Return where the last of a setting's levers stands among all."""
    known = {card.name: lever_of(card) for card in cards()}
    order = [lever.name for lever in LEVERS]
    return max(order.index(known[word.partition(":")[0]]) for word in words)
