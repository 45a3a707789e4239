"""One forward over prompt and caption, watched: what each layer's tokens carry, and where its rows attend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.world import Scene
from vlm_kernels import KeyClass

from vlm_app.studies.findings.captions import Caption, picture_of
from vlm_heads import VLM, AttentionCall, Watcher, attach, examine
from vlm_heads.methods import all_weights, require_image_keys
from vlm_heads.profiles import SinkCriterion

BATCH = 8

Numbers = NDArray[np.float32]


@dataclass
class Looked:
    """What was seen of one layer, S scenes one after the other; T tokens of the prompt, N of them image positions.

    A row is a text token after the image: the question's, and the caption's too where nothing else is said.

    Attributes:
        first: `[S, Hq]`, mean weight that a head's rows give the first token.
        first_of_prompt: `[S, Hq]`, the same over the question's rows alone.
        image: `[S, Hq]`, mean weight on the whole image.
        places: `[S, N]`, mean weight on each image position, over rows and heads.
        norm: `[S, T]`, norm of what enters the layer.
        largest: `[S, T]`, its largest absolute value.
        channel: `[S, T]`, where that stands.
        strength: `[S, T]`, the largest over the root mean square.
        usual: `[S]`, what the median token has in the channel where the first one's largest stands, at least its root
            mean square, as in VAR's `criterion=median`.
        sinks: bool `[S, T]`, which tokens the criterion marks.
    """

    first: list[Tensor] = field(default_factory=list)
    first_of_prompt: list[Tensor] = field(default_factory=list)
    image: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)
    norm: list[Tensor] = field(default_factory=list)
    largest: list[Tensor] = field(default_factory=list)
    channel: list[Tensor] = field(default_factory=list)
    strength: list[Tensor] = field(default_factory=list)
    usual: list[Tensor] = field(default_factory=list)
    sinks: list[Tensor] = field(default_factory=list)

    def of(self, name: str) -> NDArray[Any]:
        """Return one of the attributes as an array, all batches together."""
        return torch.cat(getattr(self, name)).cpu().numpy()


@dataclass
class Looks:
    """What was seen of all layers.

    Attributes:
        layers: by number; layers without self-attention are left out.
        prompt_ids: the prompt, as the model reads it; the same for every scene.
        image: columns of the image positions in the prompt.
        scenes: how many were looked at.
    """

    layers: dict[int, Looked]
    prompt_ids: list[int]
    image: list[int]
    scenes: int


def look(
    vlm: VLM,
    pictures: Sequence[Scene],
    captions: Sequence[Caption],
    criterion: SinkCriterion,
    progress: Callable[[int], object] = lambda count: None,
) -> Looks:
    """Return what every layer carries and attends to on scenes and their captions; nothing is changed.

    Raises:
        UnsupportedModel: if the model's self-attention has no image keys.
    """
    anatomy = examine(vlm.model)
    require_image_keys(anatomy)
    watcher = _Watcher(criterion)
    prompt: list[int] = []
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        inputs = vlm.inputs([picture_of(scene) for scene in batch], DESCRIBE)
        prompt = inputs["input_ids"][0].tolist()
        watcher.prompt_length = len(prompt)
        longer = _with_captions(inputs, [caption.ids for caption in captions[start : start + BATCH]])
        with torch.inference_mode(), attach(vlm.model, watch=[watcher]):
            vlm.model(**longer, use_cache=False)
        progress(len(batch))
    return Looks(watcher.seen, prompt, watcher.columns, len(pictures))


def _with_captions(inputs: dict[str, Any], captions: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return inputs with a caption after each prompt; shorter ones are padded on the right.

    Whatever else is as long as the ids, such as token types, goes on with zeros.
    """
    ids: Tensor = inputs["input_ids"]
    longest = max(map(len, captions))
    said = torch.tensor([[*caption, *[0] * (longest - len(caption))] for caption in captions]).to(ids)
    seen = torch.tensor([[1] * len(caption) + [0] * (longest - len(caption)) for caption in captions]).to(ids)
    added = {"input_ids": said, "attention_mask": seen}
    longer = dict(inputs) | {"attention_mask": inputs.get("attention_mask", torch.ones_like(ids))}
    for name, value in longer.items():
        if isinstance(value, Tensor) and value.shape == ids.shape:
            longer[name] = torch.cat([value, added.get(name, torch.zeros_like(said)).to(value.dtype)], dim=1)
    return longer


class _Watcher(Watcher):
    """Gathers `Looked` for every layer."""

    reads_hidden: ClassVar[bool] = True

    def __init__(self, criterion: SinkCriterion) -> None:
        self.criterion = criterion
        self.prompt_length = 0
        self.columns: list[int] = []
        self.seen: dict[int, Looked] = {}

    def see(self, call: AttentionCall) -> None:
        assert call.hidden is not None, "reads_hidden asks for it"
        seen = self.seen.setdefault(call.layer, Looked())
        self.columns = (call.key_map.classes[0] == KeyClass.IMAGE).nonzero()[:, 0].tolist()
        self._note_tokens(seen, call.hidden[:, : self.prompt_length].float())
        self._note_weights(seen, call, all_weights(call))

    def _note_tokens(self, seen: Looked, states: Tensor) -> None:
        sizes = states.abs()
        largest, channel = sizes.max(dim=-1)
        rms = (states.square().mean(dim=-1) + 1e-6).sqrt()
        seen.norm.append(states.norm(dim=-1))
        seen.largest.append(largest)
        seen.channel.append(channel)
        seen.strength.append(largest / rms)
        rows = torch.arange(len(states), device=states.device)
        seen.usual.append(torch.maximum(sizes[rows, :, channel[:, 0]], rms).median(dim=1).values)
        padding = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        seen.sinks.append(self.criterion.sinks(states, padding))

    def _note_weights(self, seen: Looked, call: AttentionCall, weights: Tensor) -> None:
        """Take means of weights `[B, Hq, T, T]` over the rows that are text after the image."""
        columns = torch.arange(weights.shape[2], device=weights.device)
        text = (columns > self.columns[-1]) & (call.key_map.classes != KeyClass.PADDING)
        question = text & (columns < self.prompt_length)
        image = torch.tensor(self.columns, device=weights.device)
        seen.first.append(_row_mean(weights[..., 0], text))
        seen.first_of_prompt.append(_row_mean(weights[..., 0], question))
        seen.image.append(_row_mean(weights[..., image].sum(-1), text))
        seen.places.append(_row_mean(weights[..., image].mean(1).movedim(-1, 1), text))


def _row_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Return the mean over a batch's own rows: values `[B, X, T]`, rows bool `[B, T]`."""
    return (values * rows[:, None]).sum(-1) / rows.sum(-1)[:, None]
