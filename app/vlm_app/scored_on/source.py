"""Where a scorer's samples come from: pictures given, a folder in COCO's format, or the embedded world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlm_evals.data.coco import CocoFolder

from vlm_app.console import progress
from vlm_app.mistakes import UsageError
from vlm_app.scored_on.examples import About, captions_of, questions_of
from vlm_app.scored_on.shown import Shown, of_folder, of_world, pictures_of
from vlm_heads import VLM
from vlm_heads.scorers import Example, Sample, Scorer

SPLIT = "validation"  # of the embedded world; what is measured elsewhere is measured on held-out scenes


@dataclass
class Samples:
    """What a model's heads are scored on; made once for all scorers that need the same.

    Attributes:
        vlm: the model.
        prompt: of pictures.
        given: pictures named on the command line; empty for those of the data.
        shown: pictures with what they show.
        about: what judged samples are; None for captions, and for plain pictures where these are enough.
        seed: draws the questions.
    """

    vlm: VLM
    prompt: str
    given: Sequence[Path] = ()
    shown: Sequence[Shown] = ()
    about: About | None = None
    seed: int = 0
    _made: dict[str, list[Example]] = field(default_factory=dict)

    def of(self, scorer: Scorer) -> Sequence[Sample]:
        """Return what a scorer is given.

        Raises:
            UsageError: if it needs to know what pictures show, and they were given alone.
        """
        kind = self._kind(scorer)
        if kind is None:
            images = self.given or pictures_of(self.shown)
            return [Example(image, self.prompt) for image in images]
        if self.given:
            raise UsageError(
                f"{scorer.name} has to know what pictures show: leave them out, and give --data a folder in COCO's "
                "format, or nothing for the embedded world"
            )
        if kind not in self._made:
            self._made[kind] = self._judged(kind)
        return self._made[kind]

    def _kind(self, scorer: Scorer) -> About | None:
        if scorer.needs == "questions":
            return "questions"
        if scorer.needs == "answers":
            return "captions"
        return self.about or (None if scorer.needs == "pictures" else "captions")

    def _judged(self, kind: About) -> list[Example]:
        if kind == "questions":
            return list(questions_of(self.vlm, self.shown, self.seed))
        with progress("captions", len(self.shown)) as advance:
            return captions_of(self.vlm, self.shown, advance)


def shown_in(data: CocoFolder | None, seed: int, count: int) -> list[Shown]:
    """Return pictures of a folder, or scenes of the embedded world."""
    return of_world(SPLIT, seed, count) if data is None else of_folder(data, seed, count)
