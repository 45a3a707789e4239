"""Looking inside one run: which heads look at the image, which tokens leaned on it, which patches they used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_app.view import html as views
from vlm_app.view.grid import Grid, find_grid
from vlm_app.view.looking import Looks, watch
from vlm_app.view.marks import Named
from vlm_heads import VLM, HeadProfile, TokenGrounding, score_heads, token_grounding
from vlm_heads.errors import VlmHeadsError
from vlm_heads.interventions.base import Intervention

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
        grid: where the image positions lie; None where that cannot be said.
        reason: why nothing is drawn on the picture.
        side, token, head: what was clicked last; head None stands for all heads.
        shares: by intervention, the share of the sinks' mass that it handed on.
    """

    vlm: VLM
    image: Image.Image
    inputs: Mapping[str, Any]
    profile: HeadProfile
    said: dict[str, Said]
    interventions: tuple[Intervention, ...]
    acted: frozenset[tuple[int, int]]
    channels: tuple[int, ...]
    grid: Grid | None = None
    reason: str = ""
    side: str = "plain"
    token: int = 0
    head: tuple[int, int] | None = None
    shares: dict[str, float] = field(default_factory=dict)
    _looks: dict[tuple[str, bool], Looks] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        vlm: VLM,
        image: Image.Image,
        prompt: str,
        answers: Mapping[str, tuple[tuple[int, ...], Sequence[Named]]],
        interventions: Sequence[Intervention],
        receipt: Mapping[str, Any] | None,
        channels: tuple[int, ...],
    ) -> Inside:
        """Return what can be seen in a run; each answer comes with its ids and its mentions of objects.

        Raises:
            VlmHeadsError: if the model's heads cannot be seen at all.
        """
        said = {
            side: Said(ids, tuple(token_grounding(vlm.model, vlm.processor, image, prompt, ids)), tuple(named))
            for side, (ids, named) in answers.items()
            if ids
        }
        profile = score_heads(vlm.model, vlm.processor, [(image, prompt)])
        inputs = vlm.inputs([image], prompt)
        found = cls(vlm, image, inputs, profile, said, tuple(interventions), _acted(receipt), channels)
        found._find_grid()
        found._choose_first()
        found._look()
        return found

    def pick_token(self, side: str, token: int) -> None:
        """Look at one token of one answer; runs the model where that answer was not watched yet."""
        if side in self.said and 0 <= token < len(self.said[side].tokens):
            self.side, self.token = side, token
            self._look()

    def pick_head(self, layer: int, head: int) -> None:
        """Look at one head; the same head again, at all heads."""
        layers, heads = self.profile.scores.shape
        if 0 <= layer < layers and 0 <= head < heads:
            self.head = None if self.head == (layer, head) else (layer, head)

    def strips(self) -> str:
        """Return both answers' tokens, coloured by T-VHD, as HTML."""
        rows = [
            views.token_strip(one.tokens, one.named, side, self.token if side == self.side else None)
            for side, one in self.said.items()
        ]
        return "".join(rows) + views.scale("leaned less on the image (T-VHD)", "more")

    def heads(self) -> str:
        """Return the map of heads as HTML."""
        return views.head_map(self.profile.scores.numpy(), self.acted, self.head) + views.scale("VHD 0", "largest")

    def overlays(self) -> str:
        """Return the picture twice, with what was used before and after, as HTML; or why that cannot be drawn."""
        if self.grid is None or not self.said:
            return views.note(f"Cannot be drawn: {self.reason or 'there is no answer'}.")
        before, after = self.weights()
        top = max(float(before.max()), float(after.max()) if after is not None else 0.0)
        sinks = self.sinks()
        figures = views.overlay("Plain", self.image, self.grid, before, top, sinks)
        if after is not None:
            figures += views.overlay("Mitigated", self.image, self.grid, after, top, sinks)
        return f'<p class="vh-what">{self.what()}</p><div class="vh-pair">{figures}</div>' + views.note(
            self.sinks_said()
        )

    def weights(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return what the chosen token took from each image position, `[N]`, plain and mitigated."""
        scores = self.profile.scores.numpy()
        found = [
            looks.of_head(self.token, *self.head) if self.head is not None else looks.of_token(self.token, scores)
            for mitigated in (False, True)
            if (looks := self._looks.get((self.side, mitigated))) is not None
        ]
        return found[0], found[1] if len(found) > 1 else None

    def sinks(self) -> NDArray[np.int64] | None:
        """Return in how many layers each image position is a sink, `[N]`; None where the model has no sinks."""
        looks = self._looks.get((self.side, False))
        return None if looks is None else looks.sinks

    def what(self) -> str:
        """Return which token and which heads are looked at, as HTML."""
        word = self.said[self.side].tokens[self.token].text.strip() if self.side in self.said else ""
        heads = (
            "all heads, each counted by its VHD" if self.head is None else f"layer {self.head[0]}, head {self.head[1]}"
        )
        return f"Patches used for <b>“{views.escape(word)}”</b> of the {self.side} answer: {heads}."

    def sinks_said(self) -> str:
        """Return what is known about this model's sinks."""
        if not self.channels:
            return "This model has no attention sinks: no channel of its hidden states stands out, so none is outlined."
        sinks = self.sinks()
        count = 0 if sinks is None else int((sinks > 0).sum())
        return (
            f"Outlined: {count} image sink{'' if count == 1 else 's'}, by channel {', '.join(map(str, self.channels))}."
        )

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
                    self.channels,
                )
            except VlmHeadsError as mistake:
                if not mitigated:
                    self.grid, self.reason = None, str(mistake)
                return
            self._looks[self.side, mitigated] = looks
            if looks.sink_share_moved is not None:
                moving = [one.name for one in self.interventions if one.name == "var"]
                self.shares |= dict.fromkeys(moving, looks.sink_share_moved)


def _acted(receipt: Mapping[str, Any] | None) -> frozenset[tuple[int, int]]:
    return frozenset(
        (int(layer), head)
        for one in (receipt or {}).get("interventions", ())
        for layer, counts in one["heads"].items()
        for head, count in enumerate(counts)
        if count
    )
