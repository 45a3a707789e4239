"""What every token of an answer took from every patch, head by head: the answer is generated again, and watched."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria
from vlm_kernels import AttentionPlan, KeyClass, attend

from vlm_app.view.steps import Step, Steps
from vlm_heads import VLM, AttentionCall, Intervention, UnsupportedGeneration, Watcher, attach, examine
from vlm_heads.methods import require_image_keys
from vlm_heads.profiles import SinkCriterion, find_sinks

MOST_BYTES = 256 * 2**20  # of one answer's weights


@dataclass(frozen=True)
class Looks:
    """Where one answer looked.

    Attributes:
        weights: float16 `[T, L, Hq, N]`, by which each head multiplied the value of each image position when the token
            was predicted: its softmax weight, times the gains where an intervention acts.
        sinks: int `[N]`, in how many layers each image position is a sink; None where the model has no sink channels.
        sink_share_moved: the share of the sinks' mass that was handed on; None where no method does so.
        steps: what each token was chosen from.
        unread: why heads cannot be read as words; empty where they can.
    """

    weights: NDArray[np.float16]
    sinks: NDArray[np.int64] | None
    sink_share_moved: float | None
    steps: tuple[Step, ...] = ()
    unread: str = ""

    def of_head(self, token: int, layer: int, head: int) -> NDArray[np.float64]:
        """Return `[N]`: one head's weights when a token was predicted."""
        return np.asarray(self.weights[token, layer, head], dtype=np.float64)

    def of_token(self, token: int, awareness: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return `[N]`: the mean over all heads, each counted by its VHD `[L, Hq]`."""
        share = np.asarray(awareness, dtype=np.float64) / max(float(awareness.sum()), 1e-12)
        summed = np.tensordot(share, np.asarray(self.weights[token], dtype=np.float64), axes=2)
        return np.asarray(summed, dtype=np.float64)


def watch(
    vlm: VLM,
    inputs: Mapping[str, Any],
    token_ids: Sequence[int],
    interventions: Sequence[Intervention] = (),
    criterion: SinkCriterion | None = None,
    stopped: threading.Event | None = None,
) -> Looks:
    """Return where an answer looked, token by token, with the interventions in place.

    Args:
        vlm: not inside another attach.
        inputs: of one prompt with one image.
        token_ids: the answer; every one is forced, so that any answer can be watched with any interventions.
        interventions: as in `attach`.
        criterion: what tells sinks; see `sink_criterion_of`.
        stopped: ends the watching at its next token when set.

    Raises:
        Stopped: if it was ended before all tokens were watched.
        UnsupportedModel: if the model's self-attention has no image keys, or an intervention cannot act on it.
        UnsupportedGeneration: if the weights of so many tokens would not fit.
    """
    anatomy = examine(vlm.model)
    require_image_keys(anatomy)
    positions = int((inputs["input_ids"] == anatomy.image_token_id).sum())
    needed = len(token_ids) * anatomy.depth * anatomy.heads * positions * 2
    if needed > MOST_BYTES:
        raise UnsupportedGeneration(
            f"the attention of {len(token_ids)} tokens would take {needed / 2**20:.0f} MB; ask for fewer tokens"
        )
    steps = Steps(vlm)
    weights = np.zeros((len(token_ids), anatomy.depth, anatomy.heads, positions), np.float16)
    watcher = _Watcher(criterion, weights, steps)
    with torch.inference_mode(), steps.reading(), attach(vlm.model, interventions, allow_idle=True, watch=[watcher]):
        vlm.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=len(token_ids),
            min_new_tokens=len(token_ids),
            logits_processor=[_Forced(token_ids, steps)],
            stopping_criteria=[_Until(stopped)],
        )
    require_going(stopped)
    seen = watcher.seen
    moved = seen.moved / seen.mass if seen.redistributes and seen.mass > 0 else None
    return Looks(watcher.weights, seen.sinks, moved, tuple(steps.found), steps.reason)


def sink_criterion_of(vlm: VLM) -> SinkCriterion:
    """Return what tells this model's sinks; it has no channels where the model has no sinks."""
    with torch.inference_mode():
        return find_sinks(examine(vlm.model))[1]


class Stopped(Exception):  # noqa: N818  # it says what happened, and nothing went wrong
    """Somebody pressed Stop, or left, before all was looked at."""


def require_going(stopped: threading.Event | None) -> None:
    """Raise `Stopped` if the event is set."""
    if stopped is not None and stopped.is_set():
        raise Stopped


class _Until(StoppingCriteria):  # type: ignore[misc]
    """Ends a generation once the event is set."""

    def __init__(self, stopped: threading.Event | None) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        ended = self._stopped is not None and self._stopped.is_set()
        return torch.full((input_ids.shape[0],), ended, dtype=torch.bool, device=input_ids.device)


class _Forced(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token to choose from at each step, once it is noted what there was to choose from."""

    def __init__(self, token_ids: Sequence[int], steps: Steps) -> None:
        self._remaining, self._steps = iter(token_ids), steps

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = next(self._remaining)
        self._steps.note(scores[0], token)
        forced = torch.full_like(scores, -torch.inf)
        forced[:, token] = 0.0
        return forced


@dataclass
class _Seen:
    """What a watcher gathers beside the weights."""

    token: int = -1
    sinks: NDArray[np.int64] | None = None
    image: Tensor | None = None
    redistributes: bool = False
    mass: float = 0.0
    moved: float = 0.0


class _Watcher(Watcher):
    """Gathers what the last row attends to at every token, as the interventions left it."""

    reads_hidden: ClassVar[bool] = True

    def __init__(self, criterion: SinkCriterion | None, weights: NDArray[np.float16], steps: Steps) -> None:
        self.criterion, self.weights, self.seen, self.steps = criterion, weights, _Seen(), steps

    def see(self, call: AttentionCall) -> None:
        seen = self.seen
        if call.memory.get("last", call.layer) >= call.layer:  # the lowest layer comes again: a new token
            seen.token += 1
        call.memory["last"] = call.layer
        if call.prefill:
            seen.image = (call.key_map.classes[0] == KeyClass.IMAGE).nonzero()[:, 0]
            self._note_sinks(call)
        if 0 <= seen.token < len(self.weights):
            self.weights[seen.token, call.layer] = self._last_row(call).cpu().numpy()

    def _note_sinks(self, call: AttentionCall) -> None:
        seen = self.seen
        if self.criterion is None or not self.criterion.channels or call.hidden is None or seen.image is None:
            return
        sinks = self.criterion.sinks(call.hidden, call.key_map.classes == KeyClass.PADDING)
        found = sinks[0, seen.image].long().cpu().numpy()
        seen.sinks = found if seen.sinks is None else seen.sinks + found

    def _last_row(self, call: AttentionCall) -> Tensor:
        """Return `[Hq, N]`: what the last row's output is made of, by attending to values that tell their position."""
        seen, plan = self.seen, call.planned or AttentionPlan()
        assert seen.image is not None, "the prompt was watched first"
        # one row is left, and it comes after every first edited row
        rule = None if plan.redistribution is None else replace(plan.redistribution, rows=None)
        plan = replace(plan, rows=None, redistribution=rule)
        keys = call.key.shape[2]
        places = seen.image - max(0, call.key_map.length - keys)
        telling = call.value.new_zeros(keys, len(places))
        visible = (places >= 0).nonzero()[:, 0]  # a sliding layer has let go of earlier keys
        telling[places[visible], visible] = 1.0
        output, known = attend(
            call.query[:, :, -1:],
            call.key,
            telling.expand(1, call.key.shape[1], -1, -1),
            plan=plan,
            key_class=call.key_class(),
            mask=None if call.mask is None else call.mask[:, :, -1:],
            scale=call.scale,
            backend="reference",
            want=("mass", "moved"),
        )
        if rule is not None and known.mass is not None and known.moved is not None:
            seen.redistributes = True
            seen.mass += float(known.mass[..., [KeyClass.TEXT_SINK, KeyClass.IMAGE_SINK]].sum())
            seen.moved += float(known.moved.sum())
        self.steps.see(call, output[0, :, 0][:, visible], places[visible])
        return output[0, :, 0]
