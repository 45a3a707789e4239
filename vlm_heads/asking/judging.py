"""What speaks for a word: the answer to a question about it, its own probability, both, or a control's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

from vlm_heads.asking.asking import Asker
from vlm_heads.asking.questions import Question, QuestionWriter

By = Literal["question", "confidence", "both"]
Control = Literal["none", "random", "t_vhd", "blind"]


@dataclass(frozen=True)
class Mention:
    """An object that a draft names for the first time.

    Attributes:
        row: of the batch.
        name: of the object.
        said: the words that name it.
        chance: the least log-probability of their tokens.
        token: index of the last of these tokens in the row's answer.
    """

    row: int
    name: str
    said: str
    chance: float
    token: int


@dataclass(frozen=True)
class Verdict:
    """What was found out about an object.

    Attributes:
        mention: that it was asked about.
        score: compared with the margin.
        question: as it was asked; None where nothing was.
        margin: yes over no, in nats; None where nothing was asked.
        without_picture: the same without the picture; None where that was not asked.
    """

    mention: Mention
    score: float
    question: str | None = None
    margin: float | None = None
    without_picture: float | None = None


Answers = Mapping[int, Sequence[int]]  # token ids of a row's answer up to the end of its draft
TokenAwareness = Callable[[Answers, Sequence[Mention]], list[float]]


@dataclass(frozen=True)
class Judge:
    """Finds out what speaks for the objects that a batch of drafts names.

    Attributes:
        by: what is looked at.
        control: what is looked at in its place, by a control.
        weight: of the log-probability beside the margin, where both are.
        calibrated: take the margin without the picture off.
        seed: of the random control.
        writer: writes questions; None where nothing is asked.
        asker: asks them; None where nothing is asked.
        awareness: T-VHD of mentions; only the control by it calls it.
    """

    by: By
    control: Control
    weight: float
    calibrated: bool
    seed: int
    writer: QuestionWriter | None
    asker: Asker | None
    awareness: TokenAwareness

    @property
    def weighs_chances(self) -> bool:
        """Whether a verdict depends on where a word was said."""
        return self.by in ("confidence", "both")

    def verdicts(self, cache: Any, mentions: Sequence[Mention], answers: Answers) -> list[Verdict]:
        """Return one verdict each, in order; all questions in one batch."""
        nothing = [None] * len(mentions)
        asked: Sequence[Question | None] = nothing
        margins: Sequence[float | None] = nothing
        without: Sequence[float | None] = nothing
        if self.writer is not None and self.asker is not None:
            asked = questions = [self.writer.write(one.name) for one in mentions]
            if self.by != "confidence":
                margins = self.asker.margins(cache, [one.row for one in mentions], questions)
            if self.calibrated or self.control == "blind":
                without = self.asker.without_picture(questions)
        scores = self._scores(mentions, margins, without)
        if self.control != "none":
            scores = _dealt_out(mentions, scores, self._seen(mentions, without, answers))
        return [
            Verdict(one, score, None if question is None else question.text, margin, blind)
            for one, score, question, margin, blind in zip(mentions, scores, asked, margins, without, strict=True)
        ]

    def _scores(
        self, mentions: Sequence[Mention], margins: Sequence[float | None], without: Sequence[float | None]
    ) -> list[float]:
        if self.by == "confidence":
            return [one.chance for one in mentions]
        taken_off = [(blind or 0.0) if self.calibrated else 0.0 for blind in without]
        answered = [(margin or 0.0) - blind for margin, blind in zip(margins, taken_off, strict=True)]
        weight = self.weight if self.by == "both" else 0.0
        return [score + weight * one.chance for score, one in zip(answered, mentions, strict=True)]

    def _seen(self, mentions: Sequence[Mention], without: Sequence[float | None], answers: Answers) -> Sequence[float]:
        """Return what a control looks at."""
        if self.control == "t_vhd":
            return self.awareness(answers, mentions)
        if self.control == "blind":
            return [blind or 0.0 for blind in without]
        return [float(crc32(f"{one.name}/{one.token}/{one.chance:.3f}".encode(), self.seed)) for one in mentions]


def _dealt_out(mentions: Sequence[Mention], scores: Sequence[float], seen: Sequence[float]) -> list[float]:
    """Return the scores of each row in the order of what a control has seen of its mentions.

    So a control takes back as many words of each draft as the check would, and other ones.
    """
    found = list(scores)
    for row in {one.row for one in mentions}:
        places = [at for at, one in enumerate(mentions) if one.row == row]
        order = sorted(places, key=lambda at: seen[at])
        for place, score in zip(order, sorted(scores[at] for at in places), strict=True):
            found[place] = score
    return found
