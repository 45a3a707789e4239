"""Reads what a model said again, with the image's route gained in some layers, and says what becomes of each word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from vlm_evals.scenes.world import Scene

from vlm_app.studies.findings.captions import shown_in
from vlm_app.studies.heads.asked import Beginning, Place, Rows
from vlm_app.studies.heads.reading import Reading, values_of
from vlm_app.studies.heads.routes import joined, routes
from vlm_app.studies.heads.words import first_tokens, object_tokens
from vlm_heads import VLM, AttentionCall, RouteGain, attach

CLASSES = ("said", "present", "again", "absent", "end", "other")
MENTIONS = ("faithful", "invented")


@dataclass(frozen=True)
class Again:
    """Rows after their pictures, to be read again under gains.

    Attributes:
        vlm: the model, not attached.
        beginning: of the rows' pictures.
        rows: one for each picture.
        pictures: what they show.
        reading: of the model.
        first: int64 `[S]`, the column of each row from which on the gain acts: the last of its prompt.
    """

    vlm: VLM
    beginning: Beginning
    rows: Rows
    pictures: Sequence[Scene]
    reading: Reading
    first: Tensor

    def under(self, layers: Sequence[int], gain: float) -> dict[str, Any]:
        """Return what the model says at every place with the image's route gained on all heads of some layers.

        Args:
            layers: without any, the plain model is read.
            gain: on the image's route.

        Returns:
            values: `[n]`, the log-probability of each deciding token; of a question, that of yes less no's.
            against: `[n]`, the deciding token's logit less the mean of all objects' words; of a question, as `values`.
            shares: `[n][6]`, the probability of each class of `CLASSES` where an object is named or a caption may end;
                zeros at other places.
        """
        said = self.reading.log_chances(self._states(layers, gain)).cpu()
        values = values_of(said, self.rows.places)
        objects = said[:, self._objects].mean(dim=1)
        asked = torch.tensor([place.against is not None for place in self.rows.places])
        return {
            "values": values.tolist(),
            "against": torch.where(asked, values, values - objects).tolist(),
            "shares": self._shares(said.exp()).tolist(),
        }

    def told(self) -> list[list[float]]:
        """Return `[L][n]`: what the image's route of a layer's heads tells for each decision, past all later layers."""
        found = routes(self.vlm, self.beginning, self.rows, self.reading, self._objects)
        by_layer: list[list[float]] = found["image"].sum(dim=1).tolist()
        return by_layer

    def _states(self, layers: Sequence[int], gain: float) -> Tensor:
        """Return `[n, width]`: what the last layer gives at every place."""
        at, kept = (self.rows.scenes, self.beginning.length + self.rows.columns), list[Tensor]()

        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            kept.append(args[0][at])

        acting = attach(self.vlm.model, self._gain(layers, gain)) if layers else nullcontext()
        handle = self.reading.norm.register_forward_pre_hook(note)
        try:
            with torch.inference_mode(), acting:
                self.vlm.model(**joined(self.beginning, self.rows), use_cache=False, logits_to_keep=1)
        finally:
            handle.remove()
        return kept[-1]

    def _gain(self, layers: Sequence[int], gain: float) -> RouteGain:
        """Return RouteGain that acts where it would while the rows are generated: from the prompt's last row on."""
        first = self.beginning.length + self.first

        class FromThere(RouteGain):
            def _rows(self, call: AttentionCall) -> Tensor:
                return first

        return FromThere(image=gain, heads="all", layers=tuple(layers))

    @cached_property
    def _objects(self) -> list[int]:
        return object_tokens(self.vlm.processor.tokenizer)

    def _shares(self, chances: Tensor) -> Tensor:
        """Return `[n, 6]`: the probabilities `[n, V]` by class."""
        found = torch.zeros((len(self.rows.places), len(CLASSES)))
        found.scatter_add_(1, self._classes, chances[:, self._objects].float())
        found[:, CLASSES.index("end")] = chances[:, sorted(_ends(self.vlm))].sum(dim=1)
        found[:, -1] = 1.0 - found[:, :-1].sum(dim=1)
        looked_at = torch.tensor([place.kind in (*MENTIONS, "stop") for place in self.rows.places])
        return found * looked_at[:, None]

    @cached_property
    def _classes(self) -> Tensor:
        """int64 `[n, objects' tokens]`: the class of each of them at each place."""
        owners = first_tokens(self.vlm.processor.tokenizer)
        classes = [self._classes_at(place, owners) for place in self.rows.places]
        return torch.tensor([[CLASSES.index(one[token]) for token in self._objects] for one in classes])

    def _classes_at(self, place: Place, owners: Mapping[int, set[str]]) -> dict[int, str]:
        shown = shown_in(self.pictures[place.scene])
        before = {
            one.node
            for one in self.rows.places
            if one.kind in MENTIONS and one.scene == place.scene and one.column < place.column
        }
        found = {
            token: "present" if names & (shown - before) else "again" if names & before else "absent"
            for token, names in owners.items()
        }
        return found | ({place.token: "said"} if place.kind in MENTIONS and place.token in found else {})


def _ends(vlm: VLM) -> set[int]:
    ends = vlm.model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}


def stops(vlm: VLM, rows: Rows, captions: Sequence[Sequence[int]], prompt: int) -> Rows:
    """Return rows with a place of the kind "stop" behind every full stop of the captions, the last one among them.

    Args:
        vlm: the model.
        rows: of captions; their ids are filled up so that each caption is whole.
        captions: their token ids, without the end.
        prompt: columns of the question before a caption.
    """
    decode, end = vlm.processor.tokenizer.decode, min(_ends(vlm))
    added = [
        Place("stop", number, prompt + at, end, None, "")
        for number, ids in enumerate(captions)
        for at, token in enumerate(ids)
        if decode([token]).strip().endswith(".")
    ]
    longest = max(prompt + len(ids) for ids in captions)
    whole = rows.ids.new_zeros((len(captions), longest))
    whole[:, :prompt] = rows.ids[:, :prompt]
    for number, ids in enumerate(captions):
        whole[number, prompt : prompt + len(ids)] = torch.tensor(ids)
    return Rows(whole, (*rows.places, *added))
