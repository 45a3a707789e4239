"""Visit: what one visitor has asked for and got."""

from __future__ import annotations

import copy
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlm_app.export import write_run
from vlm_app.pictures import Picture, told_objects
from vlm_app.shared_model import SharedModel
from vlm_app.view.asked import AskedBack, asked_back
from vlm_app.view.facts import Column
from vlm_app.view.hiding import hide
from vlm_app.view.inside import SIDES, Inside, look_inside
from vlm_app.view.looking import Stopped
from vlm_app.view.marks import Named, changed_words
from vlm_app.view.receipts import deeds
from vlm_app.view.recipe import Recipe
from vlm_app.view.side_by_side import Side
from vlm_app.view.truth import Judge, Truth
from vlm_heads import Receipt
from vlm_heads.errors import BadOption

_LOOKS_AGAIN = 0.25  # seconds between two looks at the line of those who wait


@dataclass(frozen=True)
class Screen:
    """What the page shows while a run goes on.

    Attributes:
        plain, mitigated: the two columns; None while there is none.
        status: one line.
        done: whether the run is over.
        truth: what is true of the answers that have ended; None where nobody knows what the picture shows.
    """

    plain: Column | None
    mitigated: Column | None
    status: str
    done: bool = False
    truth: Truth | None = None


@dataclass(eq=False)
class Visit:
    """One visitor: what was asked last, and what came of it.

    Attributes:
        model: shared with all visitors.
        folder: in which each visitor's files get a folder of their own.
        picture, recipe: of the last run.
        sides: plain and mitigated.
        inside: what the model looked at in that run; None before it was looked into.
        said_by: the model whose run it is; the opening run may be another model's.
    """

    model: SharedModel
    folder: Path
    picture: Picture | None = field(init=False, default=None)
    recipe: Recipe = field(init=False, default_factory=Recipe)
    sides: tuple[Side, ...] = field(init=False, default=())
    inside: Inside | None = field(init=False, default=None)
    said_by: str = field(init=False, default="")
    _receipt: Receipt | None = field(init=False, default=None)
    _busy: bool = field(init=False, default=False)
    _stopped: threading.Event = field(init=False, default_factory=threading.Event)
    _files: Path | None = field(init=False, default=None)

    def begin(self) -> str:
        """Forget the last run and make ready for the next; return what to say until it starts."""
        self._stopped.clear()
        self._busy = True
        self.picture, self.sides, self.inside = None, (), None
        self.model.waiting[self] = None
        return self._in_line() or "Starting…"

    def run(self, picture: Picture, recipe: Recipe) -> Iterator[Screen]:
        """Yield the two columns as both answers come.

        Raises:
            VlmHeadsError: if the recipe cannot be carried out; a side that fails alone says so in its column.
        """
        self._busy = True
        try:
            yield from self._running(picture, recipe)
        finally:
            self.model.waiting.pop(self, None)

    def stop(self) -> str:
        """End the run under way, and the look inside it, at the next token; return what to say until then."""
        if self._busy:
            self._stopped.set()
        return "Stopping…" if self._busy else self.screen().status

    def end(self) -> None:
        """Let go of the model, whether the run came about or not."""
        self._busy = False
        self.model.waiting.pop(self, None)

    def changed(self, recipe: Recipe, source: str) -> tuple[str, ...]:
        """Return what differs, in words, between what the answers on the screen were asked with and what is chosen now.

        Args:
            recipe: that is chosen now.
            source: of the picture that is chosen now; see `Picture`.
        """
        if self.picture is None or self.model.vlm.name != self.said_by:
            return ()
        other = () if self.picture.source == source or self.recipe.image != recipe.image else ("another picture",)
        return (*self.recipe.differences(recipe), *other)

    def take(self, other: Visit) -> None:
        """Show another visit's finished run as one's own; what is picked in it from now on is one's own too."""
        self.picture, self.recipe, self.sides = other.picture, other.recipe, other.sides
        self.inside, self.said_by = copy.copy(other.inside), other.model.vlm.name

    def tell(self, text: str) -> None:
        """Say what a visitor's own picture shows, so that the answers that are there can be judged.

        Raises:
            BadOption: if a word names nothing that answers are judged by.
        """
        if self.picture is not None and self.picture.source:
            self.picture = replace(self.picture, objects=told_objects(text))
            if self.inside is not None:
                self.inside.name(dict(zip(SIDES, (self._named(side.text) for side in self.sides), strict=False)))

    def leave(self) -> None:
        """Stop what is under way and remove the files."""
        self._stopped.set()
        self.end()
        if self._files is not None:
            shutil.rmtree(self._files, ignore_errors=True)

    def screen(self) -> Screen:
        """Return the two columns of the run as far as it has come."""
        done = all(side.done for side in self.sides)
        plain, mitigated = (self._column(place, done) for place in range(2))
        status = self._ended() if done else "Answering, plain and mitigated at once…"
        return Screen(plain, mitigated, status, done, self.truth() if self.sides else None)

    def truth(self) -> Truth | None:
        """Return what is true of the answers that have ended; None where nobody knows what the picture shows."""
        if self.picture is None or self.picture.objects is None:
            return None
        judge = self._judge()
        sides = (
            judge.true_of(name.capitalize(), side.text)
            for name, side in zip(SIDES, self.sides, strict=False)
            if side.done and side.text
        )
        known = tuple(side for side in sides if side is not None)
        return Truth(self.picture.image, self._in_order(self.picture), self.picture.boxes, known)

    def look(self) -> Inside | None:
        """Return what the model looked at in the last run; None where there was none, or it was stopped."""
        if self.picture is None or not any(side.answer for side in self.sides):
            return None
        with self.model.turn, suppress(Stopped):
            if self.inside is None:
                self.inside = self._look(self.picture)
        return self.inside

    def pick_token(self, side: str, token: int) -> Inside | None:
        """Look at one token of the last run."""
        if self.inside is not None:
            with self.model.turn:
                try:
                    self.inside.pick_token(side, token)
                except Stopped:  # by leaving
                    return None
        return self.inside

    def pick_patch(self, patch: int) -> Inside | None:
        """Look at which words used a patch in the last run."""
        if self.inside is not None:
            with self.model.turn:
                try:
                    self.inside.pick_patch(patch)
                except Stopped:  # by leaving
                    return None
        return self.inside

    def pick_head(self, layer: int, head: int) -> Inside | None:
        """Look at one head in the last run."""
        if self.inside is not None:
            self.inside.pick_head(layer, head)
        return self.inside

    def export(self) -> list[Path]:
        """Return the files of the last run.

        Raises:
            BadOption: if there is no run yet, or the last one was stopped.
        """
        inside = self.look()
        if inside is None and self._stopped.is_set():
            raise BadOption("the last run was stopped before it was looked into: run it again, to its end")
        if inside is None or self.picture is None:
            raise BadOption("there is nothing to export yet: run the model first")
        with self.model.turn, suppress(Stopped):
            inside.watch_all()
        self._files = self._files or Path(tempfile.mkdtemp(dir=self.folder, prefix="run-"))
        columns = [column for place in range(len(self.sides)) if (column := self._column(place, done=True))]
        return write_run(self._files, self.recipe, self.said_by, self.picture.objects, columns, inside, self.truth())

    def _running(self, picture: Picture, recipe: Recipe) -> Iterator[Screen]:
        while not self.model.turn.acquire(timeout=_LOOKS_AGAIN):
            if self._stopped.is_set():
                break
            yield Screen(None, None, self._in_line() or "Waiting for the model…")
        else:
            try:
                if not self._stopped.is_set():
                    yield from self._answering(picture, recipe)
                    return
            finally:
                self.model.turn.release()
        self.picture = None
        yield Screen(None, None, "Stopped before it began.", done=True)

    def _answering(self, picture: Picture, recipe: Recipe) -> Iterator[Screen]:
        picture = hide(picture, recipe.hidden) if recipe.hidden else picture
        self.picture, self.recipe, self.sides, self.inside = picture, recipe, (), None
        self.said_by, self._receipt = self.model.vlm.name, None
        for sides in self.model.answers(picture.image, recipe, self._stopped, self._follow):
            self.sides = sides
            yield self.screen()

    def _in_line(self) -> str:
        """Return how many asked before this visitor and are not done; empty where nobody is."""
        line = list(self.model.waiting)
        before = line.index(self) if self in line else 0
        return f"{before} before you; waiting for the model…" if before else ""

    def _follow(self, receipt: Receipt) -> None:
        self._receipt = receipt

    def _asked_back(self, side: Side) -> tuple[AskedBack, ...]:
        """Return what the model asked itself: of an answer that is there, or so far."""
        if side.answer is not None:
            return asked_back(((side.answer.receipt or {}).get("check") or {}).get("asked", ()))
        check = self._receipt.check if self._receipt is not None else None
        return asked_back(check.rows[0]) if check is not None and check.rows else ()

    def _ended(self) -> str:
        """Return how the run ended."""
        if self._stopped.is_set():
            return "Stopped."
        if not any(side.answer for side in self.sides):
            return "There is no answer."
        return "Answered; looking inside…" if self.inside is None else "Done."

    def _look(self, picture: Picture) -> Inside:
        answers = {
            name: (self.model.spoken_ids(side), self._named(side.text))
            for name, side in zip(SIDES, self.sides, strict=False)
        }
        last = self.sides[-1].answer
        receipt = last.receipt if last is not None else None
        interventions = self.recipe.mitigation.interventions if receipt is not None else ()
        return look_inside(
            self.model.vlm,
            picture.image,
            self.recipe.prompt,
            answers,
            interventions,
            receipt,
            self.model.sink_criterion,
            self._stopped,
            second_stream=self.recipe.mitigation.contrast is not None,
        )

    def _named(self, text: str) -> list[Named]:
        return self._judge().named(text)

    def _judge(self) -> Judge:
        """Return what judges the answers by what is known of the picture."""
        seen = self.picture
        objects = None if seen is None or seen.objects is None else self._in_order(seen)
        return Judge(self.recipe.prompt, objects, self.model.marker)

    def _in_order(self, picture: Picture) -> tuple[str, ...]:
        """Return what a picture shows: the largest first where that is known, else by the alphabet."""
        objects = picture.objects or frozenset()
        return (*(name for name in picture.boxes if name in objects), *sorted(objects - picture.boxes.keys()))

    def _column(self, place: int, done: bool) -> Column | None:
        """Return one column; the words that differ are known once both answers are there."""
        title = ("Plain", " + ".join(self.recipe.words) or "Nothing attached")[place]
        if place >= len(self.sides):
            return Column(title, Side(done=True)) if done else None
        side = replace(self.sides[place])  # as it is now: the model goes on meanwhile
        objects = self.picture.objects if self.picture else None
        other = self.sides[1 - place].text if len(self.sides) == 2 and done else ""
        return Column(
            title,
            side,
            self._named(side.text),
            changed_words(side.text, other) if other and side.text else (),
            deeds(side.answer.receipt if side.answer else None, self.inside.shares if self.inside else {}),
            checked=objects is not None,
            asked=self._asked_back(side) if place else (),
        )
