"""SharedModel: one model that visitors use one after the other."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, partial

from PIL import Image

from vlm_app.view.looking import sink_criterion_of
from vlm_app.view.marks import Marker
from vlm_app.view.recipe import Recipe
from vlm_app.view.side_by_side import Side, race
from vlm_heads import VLM, Receipt, examine
from vlm_heads.profiles import SinkCriterion


class SharedModel:
    """A model and what all visitors know about it.

    Attributes:
        vlm: the model.
        turn: held by whoever uses the model.
        waiting: the visits that have asked for a run which has not ended, who asked first coming first.
        marker: finds objects in answers.
    """

    def __init__(self, vlm: VLM) -> None:
        self.vlm = vlm
        self.turn = threading.Lock()
        self.waiting: dict[object, None] = {}
        self.marker = Marker()

    @cached_property
    def twin(self) -> VLM:
        """A second model that shares the first one's weights, so that one can be edited while the other is not."""
        model = self.vlm.model
        shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
        return VLM(copy.deepcopy(model, shared), self.vlm.processor, self.vlm.name)

    @cached_property
    def sink_criterion(self) -> SinkCriterion:
        """What tells this model's sinks."""
        return sink_criterion_of(self.vlm)

    @property
    def described(self) -> str:
        """The model in one line."""
        anatomy = examine(self.vlm.model)
        return f"{self.vlm.name} ({anatomy.model_type}), {anatomy.depth} layers of {anatomy.heads} heads"

    def answers(
        self, image: Image.Image, recipe: Recipe, stopped: threading.Event, follow: Callable[[Receipt], None]
    ) -> Iterator[tuple[Side, ...]]:
        """Yield the answers of a recipe again and again as they come: plain, and mitigated if anything is attached.

        Args:
            image: upright RGB.
            recipe: what is asked.
            stopped: ends the answers at their next token when set.
            follow: called with the receipt of what is attached, which is filled in as the answer comes.

        Raises:
            VlmHeadsError: if the recipe cannot be carried out; a side that fails alone says so itself.
        """
        mitigation, decoding = recipe.mitigation, recipe.decoding()
        streams = [partial(self.vlm.stream, image, recipe.prompt, **decoding)]
        if mitigation:
            streams.append(partial(self.twin.stream, image, recipe.prompt, mitigation, follow=follow, **decoding))
        yield from race(streams, recipe.seed, stopped)

    def spoken_ids(self, side: Side) -> tuple[int, ...]:
        """Return the ids of an answer without its end token."""
        if side.answer is None:
            return ()
        ids = side.answer.token_ids
        special = set(self.vlm.processor.tokenizer.all_special_ids)
        return ids[:-1] if ids and ids[-1] in special else ids
