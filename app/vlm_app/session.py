"""Session: the model and everything the page shows, without a browser.

One session serves all visitors. The model runs for one of them at a time; what a visitor has asked for and got lies in
that visitor's own `Visit`, and nowhere else.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from PIL import Image
from vlm_evals.scenes.samples import sample_names, sample_path, truth

from vlm_app.export import Column, write_run
from vlm_app.options import DEFAULT_SEED, SAMPLE
from vlm_app.view import html as views
from vlm_app.view.inside import SIDES, Inside
from vlm_app.view.looking import sink_channels_of
from vlm_app.view.marks import Marker, changed_words
from vlm_app.view.recipe import Recipe
from vlm_app.view.side_by_side import Side, race
from vlm_heads import VLM
from vlm_heads.errors import BadImage, BadOption
from vlm_heads.families import examine
from vlm_heads.models.images import load_image

_PLANTED = "planted"


@dataclass(frozen=True)
class Picture:
    """What is asked about.

    Attributes:
        name: `sample:NAME`, or the file name of a visitor's own image.
        image: upright RGB.
        objects: what it shows; None where nobody knows.
    """

    name: str
    image: Image.Image
    objects: frozenset[str] | None = None


@dataclass
class Visit:
    """One visitor: what was asked last, and what came of it.

    Attributes:
        stop: set when the visitor wants no more of the run under way.
        asked: whether a run was asked for and has not ended.
        picture, recipe: of the last run.
        sides: plain and mitigated.
        inside: what the model looked at in that run; None before it was looked into.
        folder: of exported files; None before the first.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    asked: bool = False
    picture: Picture | None = None
    recipe: Recipe = field(default_factory=Recipe)
    sides: tuple[Side, ...] = ()
    inside: Inside | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Screen:
    """What the page shows while a run goes on.

    Attributes:
        plain, mitigated: the two columns, HTML.
        status: one line.
        done: whether the run is over.
    """

    plain: str
    mitigated: str
    status: str
    done: bool = False


class Session:
    """A model, its samples, its visitors.

    Args:
        vlm: the model.
        seed: where a link or a visitor says none.

    Attributes:
        folder: the temporary folder; `close` removes it.
    """

    def __init__(self, vlm: VLM, seed: int = DEFAULT_SEED) -> None:
        self.vlm = vlm
        self.seed = seed
        self.folder = Path(tempfile.mkdtemp(prefix="vlm-heads-"))
        self.marker = Marker()
        self._model = threading.Lock()
        self._visits: dict[str, Visit] = {}

    def warm_up(self) -> None:
        """Answer and look once, so that the first visitor need not wait for what happens only once."""
        recipe = Recipe(SAMPLE + self.samples[0], max_tokens=2, seed=self.seed)
        for _ in self.run("", self.sample(self.samples[0]), recipe):
            pass
        self.look("")
        self.leave("")

    def close(self) -> None:
        """Stop all runs and remove the temporary folder."""
        for key in list(self._visits):
            self.leave(key)
        with self._model:
            shutil.rmtree(self.folder, ignore_errors=True)

    @cached_property
    def twin(self) -> VLM:
        """A second model that shares the first one's weights, so that one can be edited while the other is not."""
        model = self.vlm.model
        shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
        return VLM(copy.deepcopy(model, shared), self.vlm.processor, self.vlm.name)

    @cached_property
    def sink_channels(self) -> tuple[int, ...]:
        """The channels in which this model's sinks explode."""
        return sink_channels_of(self.vlm)

    @cached_property
    def described(self) -> str:
        """The model in one line."""
        anatomy = examine(self.vlm.model)
        return f"{self.vlm.name} ({anatomy.model_type}), {anatomy.depth} layers of {anatomy.heads} heads"

    @cached_property
    def samples(self) -> tuple[str, ...]:
        """The samples that this model can read."""
        planted = self.vlm.name.startswith(_PLANTED)
        return tuple(name for name in sample_names() if name.startswith(_PLANTED) == planted)

    def visit(self, key: str) -> Visit:
        """Return a visitor's own state."""
        return self._visits.setdefault(key, Visit())

    def leave(self, key: str) -> None:
        """Stop what a visitor has under way and forget everything about the visitor."""
        visit = self._visits.pop(key, None)
        if visit is not None:
            visit.stop.set()
            if visit.folder is not None:
                shutil.rmtree(visit.folder, ignore_errors=True)

    def sample(self, name: str) -> Picture:
        """Return a sample picture with its truth.

        Raises:
            BadImage: if there is none of this name.
        """
        if name not in self.samples:
            raise BadImage(f"no sample {name!r} for this model; there are {', '.join(self.samples)}")
        return Picture(SAMPLE + name, load_image(sample_path(name)), frozenset(truth()[name]))

    def sample_file(self, name: str) -> Path:
        """Return a copy of a sample's file in the temporary folder, from which a page may serve it."""
        copied = self.folder / "samples" / f"{name}.png"
        if not copied.is_file():
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(sample_path(name), copied)
        return copied

    def own(self, path: str | Path) -> Picture:
        """Return a visitor's own picture; what it shows is not known.

        Raises:
            BadImage: if it cannot be read.
        """
        name = Path(path).name
        try:
            return Picture(name, load_image(path))
        except BadImage as mistake:
            raise BadImage(str(mistake).replace(str(path), name)) from mistake

    def run(self, key: str, picture: Picture, recipe: Recipe) -> Iterator[Screen]:
        """Yield the two columns as both answers come.

        Raises:
            VlmHeadsError: if the recipe cannot be carried out; a side that fails alone says so in its column.
        """
        visit = self.visit(key)
        try:
            yield from self._running(visit, picture, recipe)
        finally:
            visit.asked = False

    def _running(self, visit: Visit, picture: Picture, recipe: Recipe) -> Iterator[Screen]:
        mitigation = recipe.mitigation
        with self._model:
            if visit.stop.is_set():
                visit.picture = None
                yield Screen("", "", "Stopped before it began.", done=True)
                return
            visit.picture, visit.recipe, visit.sides, visit.inside = picture, recipe, (), None
            asked = (picture.image, recipe.prompt)
            plain = partial(self.vlm.stream, *asked, **recipe.decoding())
            mitigated = partial(
                self.twin.stream, *asked, mitigation.interventions, contrast=mitigation.contrast, **recipe.decoding()
            )
            streams = (plain, mitigated) if mitigation else (plain,)
            for sides in race(streams, recipe.seed, visit.stop):
                visit.sides = sides
                yield self.screen(visit)

    def screen(self, visit: Visit) -> Screen:
        """Return the two columns of a visitor's run as far as it has come."""
        done = all(side.done for side in visit.sides)
        columns = [self._column(visit, place, done) for place in range(2)]
        stopped = visit.stop.is_set()
        answered = any(side.answer for side in visit.sides)
        looked = "Answered; looking inside…" if answered and visit.inside is None else "Done."
        ended = "Stopped." if stopped else looked if answered else "There is no answer."
        status = ended if done else "Answering, plain and mitigated at once…"
        return Screen(columns[0], columns[1], status, done)

    def look(self, key: str) -> Inside | None:
        """Return what the model looked at in a visitor's last run; None where there was none."""
        visit = self.visit(key)
        if visit.picture is None or not any(side.answer for side in visit.sides):
            return None
        with self._model:
            if visit.inside is None:
                visit.inside = self._inside(visit, visit.picture)
            return visit.inside

    def pick_token(self, key: str, side: str, token: int) -> Inside | None:
        """Look at one token of a visitor's last run."""
        inside = self.visit(key).inside
        if inside is not None:
            with self._model:
                inside.pick_token(side, token)
        return inside

    def pick_head(self, key: str, layer: int, head: int) -> Inside | None:
        """Look at one head in a visitor's last run."""
        inside = self.visit(key).inside
        if inside is not None:
            inside.pick_head(layer, head)
        return inside

    def export(self, key: str) -> list[Path]:
        """Return the files of a visitor's last run, written into the temporary folder.

        Raises:
            BadOption: if there is no run yet.
        """
        visit = self.visit(key)
        inside = self.look(key)
        if inside is None or visit.picture is None:
            raise BadOption("there is nothing to export yet: run the model first")
        visit.folder = visit.folder or Path(tempfile.mkdtemp(dir=self.folder, prefix="run-"))
        columns = [
            Column(title, side, self.marker.named(side.text, visit.picture.objects))
            for title, side in zip(self._titles(visit), visit.sides, strict=False)
        ]
        return write_run(visit.folder, visit.recipe, self.vlm.name, visit.picture.objects, columns, inside)

    def stop(self, key: str) -> None:
        """End a visitor's run at its next token."""
        self.visit(key).stop.set()

    def begin(self, key: str) -> str:
        """Make ready for a visitor's next run; return what to say until it starts."""
        visit = self.visit(key)
        visit.stop.clear()
        before = sum(other.asked for other in self._visits.values() if other is not visit)
        visit.asked = True
        return f"{before} before you; waiting for the model…" if before else "Starting…"

    def ids_of(self, side: Side) -> tuple[int, ...]:
        """Return the ids of an answer without its end token."""
        if side.answer is None:
            return ()
        ids = side.answer.token_ids
        special = set(self.vlm.processor.tokenizer.all_special_ids)
        return ids[:-1] if ids and ids[-1] in special else ids

    def _inside(self, visit: Visit, picture: Picture) -> Inside:
        answers = {
            name: (self.ids_of(side), self.marker.named(side.text, picture.objects))
            for name, side in zip(SIDES, visit.sides, strict=False)
        }
        last = visit.sides[-1].answer
        receipt = last.receipt if last is not None else None
        interventions = visit.recipe.mitigation.interventions if receipt is not None else ()
        return Inside.of(
            self.vlm, picture.image, visit.recipe.prompt, answers, interventions, receipt, self.sink_channels
        )

    def _titles(self, visit: Visit) -> tuple[str, str]:
        return "Plain", " + ".join(visit.recipe.words) or "Nothing attached"

    def _column(self, visit: Visit, place: int, done: bool) -> str:
        title = self._titles(visit)[place]
        if place >= len(visit.sides):
            return views.answer(title, Side(done=True), (), ()) if done else ""
        side = visit.sides[place]
        objects = visit.picture.objects if visit.picture else None
        other = visit.sides[1 - place].text if len(visit.sides) == 2 and done else None
        receipt = side.answer.receipt if side.answer else None
        shares = visit.inside.shares if visit.inside else None
        return views.answer(
            title,
            side,
            self.marker.named(side.text, objects),
            changed_words(side.text, other) if other is not None and other and side.text else (),
            views.receipt_lines(receipt, shares),
            checked=objects is not None,
        )
