"""What a scorer is: a frozen dataclass that gives every head of a model one number for each sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vlm_heads import attention
from vlm_heads.errors import AlreadyAttached, BadOption
from vlm_heads.families import Anatomy, examine
from vlm_heads.models.prompts import DEFAULT_PROMPT
from vlm_heads.profile import HeadProfile
from vlm_heads.scorers.example import Example, Sample, as_example
from vlm_heads.toolkit.described import Described

Needs = Literal["pictures", "judged", "answers", "objects", "questions"]
NEEDED: dict[Needs, str] = {
    "pictures": "pictures",
    "judged": "answers whose object words have been judged, or yes/no questions with their truth",
    "answers": "answers whose object words have been judged",
    "objects": "judged answers or questions that say on which image positions the objects lie",
    "questions": "yes/no questions with their truth",
}


@dataclass(frozen=True)
class Found:
    """What one sample tells.

    Attributes:
        right: float `[n, L, Hq]`, what counts for a head; where nothing is judged, one table a sample.
        wrong: float `[m, L, Hq]`, what counts against it; of judged samples alone.
        surges: float `[L, Hq]`, norm of each head's output without the image, where the scorer knows it.
    """

    right: Tensor
    wrong: Tensor | None = None
    surges: Tensor | None = None


@dataclass(frozen=True)
class Measured:
    """What a scorer found.

    Attributes:
        profile: of all samples.
        halves: float32 `[L, Hq]` twice, of every second picture and of the others; None where one has nothing to tell.
            Samples that follow one another and are about one picture stay together.
    """

    profile: HeadProfile
    halves: tuple[Tensor, Tensor] | None


class Scorer(Described):
    """Gives every head a number; `parse_scorer` reads its word back.

    A subclass states a name, its options, what it needs, and `look`. Its docstring says what a high score means.

    Attributes:
        needs: what its samples have to be.
        unit: of a score, for tables and pictures.
        cost: of a sample, in words.
        contrasts: whether it needs both what is right and what is wrong: true and invented words, or objects.
    """

    needs: ClassVar[Needs] = "pictures"
    unit: ClassVar[str]
    cost: ClassVar[str] = "1 forward"
    contrasts: ClassVar[bool] = False

    @abstractmethod
    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        """Yield what each example of a batch tells, in order; None for one that tells nothing."""
        ...

    def check(self, anatomy: Anatomy) -> None:
        """Raise `UnsupportedModel` if the heads of this model cannot be scored; called before anything is run."""
        return

    def nothing(self, count: int) -> str:
        """Return what is said where none of `count` samples told anything."""
        return f"{self.name} needs {NEEDED[self.needs]}, and none of {count} samples is of the kind"

    def score(
        self,
        model: nn.Module,
        processor: Any,
        samples: Iterable[Sample],
        *,
        prompt: str = DEFAULT_PROMPT,
        batch_size: int = 8,
        progress: Callable[[int], object] | None = None,
    ) -> HeadProfile:
        """Return the score of every head over samples; see `measure`."""
        return self.measure(model, processor, samples, prompt=prompt, batch_size=batch_size, progress=progress).profile

    def measure(
        self,
        model: nn.Module,
        processor: Any,
        samples: Iterable[Sample],
        *,
        prompt: str = DEFAULT_PROMPT,
        batch_size: int = 8,
        progress: Callable[[int], object] | None = None,
    ) -> Measured:
        """Return the score of every head over samples, and over either half of them.

        It is the mean over everything right, less the mean over everything wrong where there is any. The model is left
        as it was.

        Args:
            model: a vision-language model of transformers.
            processor: its processor.
            samples: images, (image, prompt) pairs, or examples.
            prompt: for samples that bring none.
            batch_size: samples in one pass, where a scorer takes several; the scores do not depend on it.
            progress: called with the number of samples done after each batch.

        Raises:
            AlreadyAttached: if the model is inside an attach, where its heads are not its own.
            BadOption: if there is no sample, or none that tells what the scorer needs.
            BadImage: if an image cannot be read.
            UnsupportedModel: if the model's heads cannot be scored.
        """
        anatomy = examine(model)
        refuse_attached(anatomy)
        self.check(anatomy)
        halves, count, pictures = (_Sums(), _Sums()), 0, _Pictures()
        for batch in _batches(samples, max(1, batch_size)):
            examples = [as_example(one, prompt) for one in batch]
            for example, found in zip(examples, self.look(model, processor, anatomy, examples), strict=True):
                half = pictures.number(example) % 2
                if found is not None:
                    halves[half].add(found)
                count += 1
            if progress is not None:
                progress(count)
        return self._measured(anatomy, halves, count)

    def _measured(self, anatomy: Anatomy, halves: tuple[_Sums, _Sums], count: int) -> Measured:
        total = halves[0].plus(halves[1])
        if count == 0:
            raise BadOption("no sample to score heads on; give at least one image")
        if not total.counts[0] + total.counts[1]:
            raise BadOption(self.nothing(count))
        if self.contrasts and not total.whole:
            kind = "right" if total.counts[1] else "wrong"
            raise BadOption(
                f"{self.name} compares what is shown with what is not, and nothing {kind} is among {count} samples; "
                "give more of them"
            )
        parts = [half.mean() for half in halves if (half.whole if total.whole else any(half.counts))]
        profile = HeadProfile(
            scores=total.mean(),
            surges=None if total.surges is None else (total.surges / count).float(),
            samples=count,
            model_type=anatomy.model_type,
            card=self.card(total.counts),
        )
        return Measured(profile, (parts[0], parts[1]) if len(parts) == 2 else None)

    def card(self, counts: Sequence[int]) -> dict[str, Any]:
        """Return what a profile says of its scores."""
        stated: dict[str, Any] = {"scorer": self.word(), "scorer_label": self.label or self.name, "unit": self.unit}
        if counts[1]:
            stated["counted"] = {"right": counts[0], "wrong": counts[1]}
        return stated


@dataclass
class _Sums:
    """Sums over samples, float64 `[L, Hq]`, of what is right and of what is wrong."""

    tables: list[Tensor | None] = field(default_factory=lambda: [None, None])
    counts: list[int] = field(default_factory=lambda: [0, 0])
    surges: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether there is something right and something wrong."""
        return all(self.counts)

    def add(self, found: Found) -> None:
        for place, tables in enumerate((found.right, found.wrong)):
            if tables is not None and len(tables):
                self.tables[place] = _both(self.tables[place], tables.double().cpu().sum(dim=0))
                self.counts[place] += len(tables)
        if found.surges is not None:
            self.surges = _both(self.surges, found.surges.double().cpu())

    def plus(self, other: _Sums) -> _Sums:
        pairs = zip((*self.tables, self.surges), (*other.tables, other.surges), strict=True)
        right, wrong, surges = (one if two is None else _both(one, two) for one, two in pairs)
        counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        return _Sums([right, wrong], counts, surges)

    def mean(self) -> Tensor:
        means = [None if one is None else one / count for one, count in zip(self.tables, self.counts, strict=True)]
        right, wrong = means
        if right is None:
            assert wrong is not None, "something was found"
            return -wrong.float()
        return (right if wrong is None else right - wrong).float()


class _Pictures:
    """Counts pictures as they come; one that stays the same is counted once."""

    def __init__(self) -> None:
        self._last: object = None
        self._count = -1

    def number(self, example: Example) -> int:
        """Return the number of an example's picture, from 0."""
        same = self._last is example.image or (isinstance(self._last, str | Path) and self._last == example.image)
        self._last = example.image
        self._count += not same
        return self._count


def refuse_attached(anatomy: Anatomy) -> None:
    """Raise `AlreadyAttached` inside an attach."""
    if attention.runner_of(next(iter(anatomy.attentions.values()))) is not None:
        raise AlreadyAttached("the model is inside an attach; score its heads outside, where they are as they are")


def _both(one: Tensor | None, other: Tensor) -> Tensor:
    return other if one is None else one + other


def empty(anatomy: Anatomy, count: int = 1) -> Tensor:
    """Return zeros float32 `[count, L, Hq]`, where layers without heads stay 0."""
    return torch.zeros(count, anatomy.depth, anatomy.heads)


def sorted_out(decided: Tensor, right: Sequence[bool]) -> Found:
    """Return tables `[n, L, Hq]` as right ones and wrong ones."""
    mask = torch.tensor(list(right), dtype=torch.bool)
    return Found(decided[mask], decided[~mask])


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    remaining = iter(samples)
    while batch := list(islice(remaining, size)):
        yield batch
