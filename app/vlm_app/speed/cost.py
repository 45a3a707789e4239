"""The cost card: predicts what each intervention will cost on a model here, before anything long is run.

Every intervention does the same work on each layer it acts on, and some read the prompt once more without its image.
So three things are measured here, all short, and put together by counting:

    prefill, extra  =  [a plain pass over the prompt's text; another over all of the prompt]
                       +  layers it acts on  x  one layer's edit of a prompt
    token, extra    =  layers it acts on  x  one layer's edit of a decode step

A layer's edit is measured on a model of the same shapes with few layers and random weights. `vlm-heads bench generate`
times whole generations; the card is checked against it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from vlm_kernels import CLASS_COUNT

from vlm_app.options import DEFAULT_PROMPT
from vlm_app.speed.timing import Way, clock_of, time_ways, wait
from vlm_heads import VLM, Anatomy, attach, examine, known_interventions
from vlm_heads.errors import UnsupportedModel, VlmHeadsError

if TYPE_CHECKING:
    from vlm_heads import Intervention

BATCHES = (1, 8, 32)
FEW_LAYERS = 4
TOKENS = 12
ROUNDS = 5
TOLERANCE = 0.25


@dataclass(frozen=True)
class Cost:
    """What an intervention is predicted to cost at one batch size.

    Attributes:
        name: the intervention, at its defaults.
        batch: prompts at once.
        layers: how many it acts on.
        plain_prefill_ms, plain_token_ms: measured, without it.
        extra_prefill_ms, extra_token_ms: predicted, on top of plain.
        kept_mb: what it keeps for a whole generation: heads of the image-free pass, and gains; what it computes with
            and lets go again is not counted.
    """

    name: str
    batch: int
    layers: int
    plain_prefill_ms: float
    plain_token_ms: float
    extra_prefill_ms: float
    extra_token_ms: float
    kept_mb: float

    @property
    def prefill_ratio(self) -> float:
        """Predicted prefill over plain."""
        return 1 + self.extra_prefill_ms / self.plain_prefill_ms

    @property
    def token_ratio(self) -> float:
        """Predicted time of a further token over plain."""
        return 1 + self.extra_token_ms / self.plain_token_ms

    def as_row(self) -> dict[str, Any]:
        """Return JSON values, the ratios included."""
        return asdict(self) | {"prefill_ratio": self.prefill_ratio, "token_ratio": self.token_ratio}


def predict_costs(vlm: VLM, batches: Sequence[int] = BATCHES, *, rounds: int = ROUNDS) -> list[Cost]:
    """Return the cost of every intervention that can act on the model.

    Each has the options under which it has work to do on any model, and its own layers. A reinforced profile is left
    out: attached it costs VHR's multiplication without its pass, folded nothing.

    Args:
        vlm: the model.
        batches: numbers of prompts at once.
        rounds: how often each thing is timed.

    Raises:
        UnsupportedModel: if no smaller model of its shapes can be built.
    """
    anatomy, small = examine(vlm.model), few_layers(vlm)
    working = {name: one for name, one in interventions(anatomy).items() if _works(small, everywhere(one))}
    return [cost for batch in batches for cost in _at_batch(vlm, small, anatomy, working, batch, rounds)]


def check_costs(vlm: VLM, costs: Sequence[Cost], *, tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Return predicted and measured ratios to plain, and whether both are within a quarter of what was measured."""
    anatomy = examine(vlm.model)
    everyone = interventions(anatomy)
    rows = []
    for batch in sorted({cost.batch for cost in costs}):
        here = [cost for cost in costs if cost.batch == batch]
        inputs, _ = prompts(vlm, anatomy, batch)
        ways = attached(vlm, {cost.name: everyone[cost.name] for cost in here})
        timed = time_ways(vlm, inputs, ways, tokens=tokens, rounds=rounds, clock=clock_of(vlm))
        for cost in here:
            least, plain = timed[cost.name], timed["plain"]
            prefill = least["prefill_least_ms"] / plain["prefill_least_ms"]
            token = least["decode_least_ms"] / plain["decode_least_ms"]
            pairs = ((cost.prefill_ratio, prefill), (cost.token_ratio, token))
            rows.append(
                {
                    "name": cost.name,
                    "batch": batch,
                    "prefill_predicted": cost.prefill_ratio,
                    "prefill_measured": prefill,
                    "token_predicted": cost.token_ratio,
                    "token_measured": token,
                    "within": all(abs(said / found - 1) <= TOLERANCE for said, found in pairs),
                }
            )
    return rows


def _at_batch(
    vlm: VLM, small: VLM, anatomy: Anatomy, working: Mapping[str, Any], batch: int, rounds: int
) -> Iterator[Cost]:
    inputs, text = prompts(vlm, anatomy, batch)
    plain = time_ways(vlm, inputs, {"plain": nullcontext}, tokens=TOKENS, rounds=rounds, clock=clock_of(vlm))["plain"]
    blind, small_blind = (_text_pass(one, text, rounds) for one in (vlm, small))
    edited = {name: everywhere(one) for name, one in working.items()}
    timed = time_ways(small, inputs, attached(small, edited), tokens=TOKENS, rounds=rounds, clock=clock_of(vlm))
    here = len(examine(small.model).attentions)
    for name, one in working.items():
        edit = {
            part: (timed[name][f"{part}_least_ms"] - timed["plain"][f"{part}_least_ms"]) / here
            for part in ("prefill", "decode")
        }
        if one.image_free(None) is not None:  # the small model's pass over the text is no part of its layers' edits
            edit["prefill"] -= small_blind / here
        if one.image_free(None) == "two-pass":  # nor is that over the whole prompt
            edit["prefill"] -= timed["plain"]["prefill_least_ms"] / here
        yield predicted(name, one, anatomy, batch, vlm.model.dtype, plain=plain, edit=edit, text_pass=blind)


def predicted(
    name: str,
    intervention: Any,
    anatomy: Anatomy,
    batch: int,
    dtype: torch.dtype,
    *,
    plain: Mapping[str, float],
    edit: Mapping[str, float],
    text_pass: float,
) -> Cost:
    """Return an intervention's cost, put together from what was measured.

    Args:
        name: of the intervention.
        intervention: on its own layers.
        anatomy: of the whole model.
        batch: prompts at once.
        dtype: of the model.
        plain: `prefill_least_ms` and `decode_least_ms` of the whole model.
        edit: `prefill` and `decode`, milliseconds that one layer's edit takes; noise below zero counts as nothing.
        text_pass: milliseconds of a plain pass of the whole model over the prompt's text.
    """
    layers, blind = len(intervention.layers_in(anatomy)), intervention.image_free(None)
    passes, again = int(blind is not None), int(blind == "two-pass")
    return Cost(
        name=name,
        batch=batch,
        layers=layers,
        plain_prefill_ms=plain["prefill_least_ms"],
        plain_token_ms=plain["decode_least_ms"],
        extra_prefill_ms=passes * text_pass + again * plain["prefill_least_ms"] + layers * max(0.0, edit["prefill"]),
        extra_token_ms=layers * max(0.0, edit["decode"]),
        kept_mb=_kept_bytes(anatomy, batch, layers, passes, dtype) / 1e6,
    )


def interventions(anatomy: Anatomy) -> dict[str, Any]:
    """Return the interventions with work to do on a model of any content, on their own layers."""
    made = {name: kind(**kind.trial) for name, kind in known_interventions().items() if not kind.needs_profile}
    return {name: one for name, one in made.items() if _fits(one, anatomy)}


def everywhere(intervention: Any) -> Any:
    """Return an intervention on all layers."""
    return replace(intervention, layers="all")


def attached(vlm: VLM, chosen: Mapping[str, Intervention]) -> dict[str, Way]:
    """Return ways to generate: plain, and with each intervention alone."""
    ways: dict[str, Way] = {"plain": nullcontext}
    for name, one in chosen.items():
        ways[name] = lambda it=one: attach(vlm.model, [it], allow_idle=True)  # type: ignore[misc]
    return ways


def prompts(vlm: VLM, anatomy: Anatomy, batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs of a batch of one prompt with an image, and of its text alone."""
    inputs = vlm.inputs([Image.new("RGB", (96, 96), (90, 120, 60))] * batch, DEFAULT_PROMPT)
    ids = inputs["input_ids"]
    text = ids[ids != anatomy.image_token_id].view(batch, -1)
    return inputs, {"input_ids": text, "attention_mask": torch.ones_like(text)}


def few_layers(vlm: VLM, layers: int = FEW_LAYERS) -> VLM:
    """Return a model of the same shapes with few decoder layers and random weights, on the same device.

    Raises:
        UnsupportedModel: if the family's config does not allow it.
    """
    config = copy.deepcopy(vlm.model.config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:layers]
    before = torch.get_default_dtype()
    torch.set_default_dtype(vlm.model.dtype)
    try:
        model = type(vlm.model)(config).eval().to(vlm.device)
    except (ValueError, IndexError, TypeError) as failure:
        raise UnsupportedModel(f"no {layers}-layer model of this family can be built: {failure}") from failure
    finally:
        torch.set_default_dtype(before)
    return VLM(model, vlm.processor, f"{layers} layers of {vlm.name}")


def _fits(intervention: Any, anatomy: Anatomy) -> bool:
    try:
        intervention.layers_in(anatomy)
        intervention.check(anatomy, None)
    except VlmHeadsError:
        return False
    return True


def _works(vlm: VLM, intervention: Any) -> bool:
    inputs, _ = prompts(vlm, examine(vlm.model), 1)
    try:
        with torch.inference_mode(), attach(vlm.model, [intervention], allow_idle=True):
            vlm.model.generate(**inputs, do_sample=False, max_new_tokens=2)
    except VlmHeadsError:
        return False
    return True


def _text_pass(vlm: VLM, text: dict[str, Any], rounds: int) -> float:
    """Return the least milliseconds of a plain pass over the prompt's text, the first one left out."""
    spent, clock = [], clock_of(vlm)
    for _ in range(2 * rounds + 1):
        wait(vlm.device)
        start = clock()
        with torch.inference_mode():
            vlm.model(**text, use_cache=False, logits_to_keep=1)
        wait(vlm.device)
        spent.append(clock() - start)
    return 1000 * min(spent[1:])


def _kept_bytes(anatomy: Anatomy, batch: int, layers: int, passes: int, dtype: torch.dtype) -> int:
    """Return what lives as long as a generation: the image-free heads of every layer, and a gain for each class."""
    projection: Any = next(iter(anatomy.projections.values()))
    heads = batch * int(projection.weight.shape[1])
    gains = batch * anatomy.heads * CLASS_COUNT
    return (passes * len(anatomy.attentions) * heads + layers * gains) * dtype.itemsize
