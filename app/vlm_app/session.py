"""Session: the model, its pictures and its visitors: everything the page shows, without a browser.

One session serves all visitors. The model runs for one of them at a time. What a visitor asked for and got is kept in
that visitor's own `Visit`, and nowhere else.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from vlm_evals.scenes.samples import boxes, sample_names, sample_path, truth

from vlm_app.options import DEFAULT_SEED, SAMPLE
from vlm_app.pictures import Picture, told_objects
from vlm_app.shared_model import SharedModel
from vlm_app.view.opening import STANDS_IN, Opening, opening_of, story
from vlm_app.view.recipe import Recipe
from vlm_app.view.truth import Truth
from vlm_app.visit import Visit
from vlm_heads import VLM
from vlm_heads.errors import BadImage
from vlm_heads.models import load_image

_PLANTED = "planted"


class Session:
    """A model, its samples, its visitors.

    Args:
        vlm: the model.
        seed: where a link or a visitor says none.

    Attributes:
        model: shared by all visitors.
        folder: the temporary folder; `close` removes it.
    """

    def __init__(self, vlm: VLM, seed: int = DEFAULT_SEED) -> None:
        self.model = SharedModel(vlm)
        self.seed = seed
        self.folder = Path(tempfile.mkdtemp(prefix="vlm-heads-"))
        self.opening: Opening | None = None
        self._opened: Visit | None = None
        self._visits: dict[str, Visit] = {}

    def warm_up(self) -> None:
        """Make the opening run, so that no visitor waits for what is done only once.

        Where none was found for the model, it answers and looks once, and the opening run is the planted model's.
        """
        name = self.model.vlm.name
        self.opening = opening_of(name) or opening_of(STANDS_IN)
        if self.opening is None or self.opening.model != name:
            self._run_once(self.model, Recipe(SAMPLE + self.samples[0], max_tokens=2, seed=self.seed))
        if self.opening is not None:
            own = self.opening.model == name
            model = self.model if own else SharedModel(VLM.from_pretrained(self.opening.model))
            self._opened = self._run_once(model, self.opening.recipe)

    def _run_once(self, model: SharedModel, recipe: Recipe) -> Visit:
        visit = Visit(model, self.folder)
        visit.begin()
        for _ in visit.run(_sample(recipe.image.removeprefix(SAMPLE)), recipe):
            pass
        visit.look()
        visit.end()
        return visit

    def open_run(self, key: str) -> Visit | None:
        """Return a visitor's own copy of the opening run; None where there is none."""
        if self._opened is None:
            return None
        visit = self.visit(key)
        visit.take(self._opened)
        return visit

    def close(self) -> None:
        """Stop all runs and remove the temporary folder."""
        for key in list(self._visits):
            self.leave(key)
        with self.model.turn:
            shutil.rmtree(self.folder, ignore_errors=True)

    def visit(self, key: str) -> Visit:
        """Return a visitor's own state; a new visitor has an empty one."""
        return self._visits.setdefault(key, Visit(self.model, self.folder))

    def leave(self, key: str) -> None:
        """Stop what a visitor has under way and forget everything about the visitor."""
        visit = self._visits.pop(key, None)
        if visit is not None:
            visit.leave()

    def story(self, truth: Truth | None) -> str:
        """Return what the opening run shows, as HTML."""
        if self.opening is None or self._opened is None or self._opened.inside is None:
            return ""
        return story(self.opening, truth, self._opened.inside.heads(), self.model.vlm.name)

    @cached_property
    def samples(self) -> tuple[str, ...]:
        """The samples that this model can read."""
        planted = self.model.vlm.name.startswith(_PLANTED)
        return tuple(name for name in sample_names() if name.startswith(_PLANTED) == planted)

    def open_link(self, query: str) -> Recipe:
        """Return the recipe of a link, with the first sample where the link names none that this model can read.

        A visitor's own picture stays one: it is in no link, and no sample takes its place.

        Raises:
            BadOption: if the link holds a name or a value that cannot be read.
        """
        recipe = Recipe.from_query(query, self.seed)
        name = recipe.image.removeprefix(SAMPLE)
        if recipe.own_picture:
            return recipe
        return replace(recipe, image=SAMPLE + (name if name in self.samples else self.samples[0]))

    def missing_picture(self, query: str) -> str:
        """Return what to say of a link whose picture cannot be shown; empty where it is shown, or none is named.

        Raises:
            BadOption: if the link holds a name or a value that cannot be read.
        """
        asked, opened = Recipe.from_query(query, self.seed), self.open_link(query)
        if opened.own_picture:
            return "The picture of this link was somebody's own and is not in the link: choose it, then press Run."
        if not asked.image or asked.image == opened.image:
            return ""
        name, shown = (one.image.removeprefix(SAMPLE) for one in (asked, opened))
        return f"The link names the sample {name[:40]!r}, which this model has not; {shown} is chosen instead."

    def picture(self, image: str, path: str | None, told: str = "") -> Picture:
        """Return the sample or the visitor's own picture that is chosen.

        Args:
            image: `sample:NAME`; anything else means the visitor's own.
            path: of the visitor's own file; None where there is none.
            told: what the visitor says it shows; see `told_objects`.

        Raises:
            BadImage: if there is no picture, or it cannot be read.
            BadOption: if it is said to show what nobody knows.
        """
        if image.startswith(SAMPLE):
            return self.sample(image.removeprefix(SAMPLE))
        if path is None:
            raise BadImage("there is no picture: choose a sample, or drop, paste or take one")
        return self.own(path, told)

    def sample(self, name: str) -> Picture:
        """Return a sample picture with its truth.

        Raises:
            BadImage: if there is none of this name.
        """
        if name not in self.samples:
            raise BadImage(f"no sample {name!r} for this model; there are {', '.join(self.samples)}")
        return _sample(name)

    def sample_file(self, name: str) -> Path:
        """Return a copy of a sample's file in the temporary folder, from which a page may serve it."""
        copied = self.folder / "samples" / f"{name}.png"
        if not copied.is_file():
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(sample_path(name), copied)
        return copied

    def own(self, path: str | Path, told: str = "") -> Picture:
        """Return a visitor's own picture; it shows what the visitor says, or nobody knows.

        Raises:
            BadImage: if it cannot be read.
            BadOption: if it is said to show what nobody knows.
        """
        name = Path(path).name
        try:
            return Picture(name, load_image(path), told_objects(told), source=str(path))
        except BadImage as mistake:
            raise BadImage(str(mistake).replace(str(path), name)) from mistake


def _sample(name: str) -> Picture:
    """Return a sample picture with its truth, whether this model reads it or not."""
    image = load_image(sample_path(name))
    width, height = image.size
    lying = {
        node: tuple((left / width, top / height, wide / width, tall / height) for left, top, wide, tall in places)
        for node, places in boxes()[name].items()
    }
    return Picture(SAMPLE + name, image, frozenset(truth()[name]), boxes=lying)
