"""Looking inside one run: which heads look at the image, which tokens leaned on it, which patches they used."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_app.view.facts import HeadMap, LookedAt, Patches, Strip, Undrawn
from vlm_app.view.grid import Grid, find_grid
from vlm_app.view.looking import Looks, require_going, watch
from vlm_app.view.marks import Named
from vlm_app.view.receipts import heads_acted_on
from vlm_app.view.steps import Step
from vlm_app.view.why import Why, candidates, routes
from vlm_heads import (
    VLM,
    HeadProfile,
    Intervention,
    SinkRedistribution,
    TokenGrounding,
    VlmHeadsError,
    score_heads,
    token_grounding,
)
from vlm_heads.profiles import SinkCriterion

SIDES = ("plain", "mitigated")


@dataclass(frozen=True)
class Said:
    """One answer, traced back to the image.

    Attributes:
        ids: its tokens without the end.
        tokens: with T-VHD.
        named: its mentions of objects.
    """

    ids: tuple[int, ...]
    tokens: tuple[TokenGrounding, ...]
    named: tuple[Named, ...]


@dataclass
class Inside:
    """What a model looked at in one run, and which token and head are looked at now.

    Attributes:
        image: upright.
        profile: VHD of every head on this image and prompt.
        said: the answers by side.
        interventions: of the mitigated side.
        acted: (layer, head) pairs that they acted on.
        criterion: what tells the model's sinks.
        stopped: ends what is being looked at when set.
        second_stream: whether a contrast had a part in the mitigated answer.
        grid: where the image positions lie; None where that cannot be said.
        reason: why nothing is drawn on the picture.
        side, token, head: what was clicked last; head None stands for all heads.
        patch: whose use by all words is looked at; None where each word's T-VHD is.
        shares: by intervention, the share of the sinks' mass that it handed on.
    """

    vlm: VLM
    image: Image.Image
    inputs: Mapping[str, Any]
    profile: HeadProfile
    said: dict[str, Said]
    interventions: tuple[Intervention, ...]
    acted: frozenset[tuple[int, int]]
    criterion: SinkCriterion
    stopped: threading.Event | None = None
    second_stream: bool = False
    grid: Grid | None = field(init=False, default=None)
    reason: str = field(init=False, default="")
    side: str = field(init=False, default="plain")
    token: int = field(init=False, default=0)
    head: tuple[int, int] | None = field(init=False, default=None)
    patch: int | None = field(init=False, default=None)
    shares: dict[str, float] = field(init=False, default_factory=dict)
    _looks: dict[tuple[str, bool], Looks] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._find_grid()
        self._choose_first()
        self._look()

    def pick_token(self, side: str, token: int) -> None:
        """Look at one token of one answer; runs the model where that answer was not watched yet.

        Raises:
            Stopped: if that was ended.
        """
        if side in self.said and 0 <= token < len(self.said[side].tokens):
            self.side, self.token = side, token
            self._look()

    def pick_head(self, layer: int, head: int) -> None:
        """Look at one head; the same head again, at all heads."""
        layers, heads = self.profile.scores.shape
        if 0 <= layer < layers and 0 <= head < heads:
            self.head = None if self.head == (layer, head) else (layer, head)

    def name(self, named: Mapping[str, Sequence[Named]]) -> None:
        """Take the mentions of objects anew, by side: what the picture shows became known."""
        self.said = {side: replace(one, named=tuple(named.get(side, one.named))) for side, one in self.said.items()}

    def pick_patch(self, patch: int) -> None:
        """Look at how much every word used one patch; the same patch again, at T-VHD.

        Raises:
            Stopped: if that was ended.
        """
        if self.grid is not None and 0 <= patch < self.grid.rows * self.grid.columns:
            self.patch = None if self.patch == patch else patch
            self.watch_all()

    def strips(self) -> tuple[Strip, ...]:
        """Return both answers' tokens."""
        used = {} if self.patch is None else {side: self._used(side, self.patch) for side in self.said}
        most = max((share for each in used.values() for share in each), default=1.0)
        return tuple(
            Strip(side, one.tokens, one.named, self.token if side == self.side else None, used.get(side), most)
            for side, one in self.said.items()
        )

    def _used(self, side: str, patch: int) -> list[float]:
        """Return how much of its attention each token of an answer gave to a patch, as that answer was made."""
        looks = self.looks(side)[-1 if side == SIDES[1] else 0]
        scores = self.profile.scores.numpy()
        rows = (
            looks.of_token(token, scores) if self.head is None else looks.of_head(token, *self.head)
            for token in range(len(self.said[side].tokens))
        )
        return [float(row[patch]) for row in rows]

    def heads(self) -> HeadMap:
        """Return how much every head looks at the image."""
        return HeadMap(self.profile.scores.numpy(), self.acted, self.head)

    def looked_at(self) -> LookedAt:
        """Return which token and which heads are looked at."""
        word = self.said[self.side].tokens[self.token].text.strip() if self.side in self.said else ""
        return LookedAt(self.side, self.token, word, self.head)

    def patches(self) -> Patches | Undrawn:
        """Return what the chosen token took from the picture, before and after; or why that cannot be drawn."""
        if self.grid is None or not self.said:
            return Undrawn(self.reason or "there is no answer")
        before, after = self.weights()
        return Patches(
            self.looked_at(), self.image, self.grid, before, after, self.sinks(), self.criterion.channels, self.patch
        )

    def watch_all(self) -> None:
        """Watch every answer that was not watched yet, and leave what is looked at as it is.

        Raises:
            Stopped: if that was ended.
        """
        kept = self.side
        try:
            for side in self.said:
                self.side = side
                self._look()
        finally:
            self.side = kept

    def looks(self, side: str) -> list[Looks]:
        """Return where an answer looked, without the interventions and with them, as far as it was watched."""
        return [found for mitigated in (False, True) if (found := self._looks.get((side, mitigated))) is not None]

    def weights(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return what the chosen token took from each image position, `[N]`, plain and mitigated."""
        scores = self.profile.scores.numpy()
        found = [
            looks.of_head(self.token, *self.head) if self.head is not None else looks.of_token(self.token, scores)
            for mitigated in (False, True)
            if (looks := self._looks.get((self.side, mitigated))) is not None
        ]
        return found[0], found[1] if len(found) > 1 else None

    def why(self) -> Why | None:
        """Return what the chosen token was chosen from; None where that was not watched."""
        looks = [(title, one) for title, one in self._both() if one is not None and self.token < len(one.steps)]
        if not looks:
            return None
        steps = [(title, one.steps[self.token]) for title, one in looks]
        columns = tuple((title, candidates(step, self._texts(step))) for title, step in steps)
        last = steps[-1][1]
        acted = self.acted if len(steps) == 2 else frozenset()
        return Why(
            self._text(last.token),
            self.side,
            columns,
            self._text(last.against),
            routes(last, acted),
            looks[-1][1].unread,
            self.second_stream and self.side == SIDES[1],
        )

    def _both(self) -> list[tuple[str, Looks | None]]:
        return [(side.capitalize(), self._looks.get((self.side, side == SIDES[1]))) for side in SIDES]

    def _texts(self, step: Step) -> list[str]:
        return [*(self._text(token) for token, _ in step.candidates), self._text(step.token)]

    def _text(self, token: int) -> str:
        """Return a token as it reads; the end of the answer in words."""
        tokenizer = self.vlm.processor.tokenizer
        if token in tokenizer.all_special_ids:
            return (
                "end of the answer" if token == tokenizer.eos_token_id else str(tokenizer.convert_ids_to_tokens(token))
            )
        return str(tokenizer.decode([token])).strip() or "a space"

    def sinks(self) -> NDArray[np.int64] | None:
        """Return in how many layers each image position is a sink, `[N]`; None where the model has no sinks."""
        looks = self._looks.get((self.side, False))
        return None if looks is None else looks.sinks

    def _find_grid(self) -> None:
        try:
            self.grid = find_grid(self.vlm, self.image, self.inputs)
        except VlmHeadsError as mistake:
            self.reason = str(mistake)

    def _choose_first(self) -> None:
        """Look at the first object that is not in the picture; else at the first object; else at the first word."""
        marks = [
            (mark.shown is not False, side != "mitigated", place, side)
            for side, one in self.said.items()
            for mark in one.named
            for place, token in enumerate(one.tokens)
            if token.start < mark.end and mark.start < token.end and token.text.strip()
        ]
        if marks:
            _, _, self.token, self.side = min(marks)
        elif self.said:
            self.side = next(iter(self.said))

    def _look(self) -> None:
        """Watch the chosen answer, once without and once with the interventions."""
        if self.grid is None or self.side not in self.said:
            return
        for mitigated in (False, True) if self.interventions else (False,):
            if (self.side, mitigated) in self._looks:
                continue
            try:
                looks = watch(
                    self.vlm,
                    self.inputs,
                    self.said[self.side].ids,
                    self.interventions if mitigated else (),
                    self.criterion,
                    self.stopped,
                )
            except VlmHeadsError as mistake:
                if not mitigated:
                    self.grid, self.reason = None, str(mistake)
                return
            self._looks[self.side, mitigated] = looks
            if looks.sink_share_moved is not None:
                moving = [one.name for one in self.interventions if isinstance(one, SinkRedistribution)]
                self.shares |= dict.fromkeys(moving, looks.sink_share_moved)


def look_inside(
    vlm: VLM,
    image: Image.Image,
    prompt: str,
    answers: Mapping[str, tuple[tuple[int, ...], Sequence[Named]]],
    interventions: Sequence[Intervention],
    receipt: Mapping[str, Any] | None,
    criterion: SinkCriterion,
    stopped: threading.Event | None = None,
    *,
    second_stream: bool = False,
) -> Inside:
    """Return what can be seen in a run.

    Args:
        vlm: the model that answered.
        image: upright.
        prompt: that was asked.
        answers: by side, the token ids without the end, and the mentions of objects.
        interventions: of the mitigated side.
        receipt: of the mitigated side.
        criterion: what tells the model's sinks.
        stopped: ends the look at its next pass or token when set.
        second_stream: whether a contrast had a part in the mitigated answer.

    Raises:
        Stopped: if it was ended.
        VlmHeadsError: if the model's heads cannot be seen at all.
    """
    said = {}
    for side, (ids, named) in answers.items():
        require_going(stopped)
        if ids:
            traced = token_grounding(vlm.model, vlm.processor, image, prompt, ids)
            said[side] = Said(ids, tuple(traced), tuple(named))
    require_going(stopped)
    profile = score_heads(vlm.model, vlm.processor, [(image, prompt)])
    inputs = vlm.inputs([image], prompt)
    require_going(stopped)
    acted = heads_acted_on(receipt)
    return Inside(
        vlm, image, inputs, profile, said, tuple(interventions), acted, criterion, stopped, second_stream
    )  # fmt: skip
