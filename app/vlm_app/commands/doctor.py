"""`vlm-heads doctor`: tries what works on a model, and says why the rest does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_app.console import loading, print_json, print_table
from vlm_app.options import DEFAULT_MODEL, DEFAULT_PROMPT, DEFAULT_SEED, AllowMissing, Device, Json, Seed

if TYPE_CHECKING:
    from vlm_app.speed.cost import Cost
    from vlm_heads import VLM


def doctor(
    model: Annotated[str, typer.Argument(help="mini, small, planted, a folder, or a Hugging Face id.")] = DEFAULT_MODEL,
    cost: Annotated[
        bool, typer.Option("--cost", help="Also predict what each intervention costs here, at batch 1, 8 and 32.")
    ] = False,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    allow_missing: AllowMissing = False,
    json: Json = False,
) -> None:
    """Say what works on a model and why the rest does not: every method generates two tokens."""
    from vlm_app.models import load_vlm, look_first

    look_first(model=model, device=device)
    loading(model)
    from vlm_heads import (
        examine,
        known_checks,
        known_contrasts,
        known_interventions,
        known_lenses,
        known_pipelines,
        score_heads,
    )

    vlm = load_vlm(model, device, seed, allow_missing=allow_missing)
    anatomy = examine(vlm.model)
    facts = {
        "model": model,
        "family": anatomy.model_type,
        "layers": anatomy.depth,
        "layers_with_attention": len(anatomy.attentions),
        "heads": anatomy.heads,
        "key_value_heads": anatomy.key_heads,
        "head_size": _head_size(anatomy),
        "image_token_id": anatomy.image_token_id,
        "image_tokens": _image_tokens(vlm, anatomy.image_token_id),
        "attention": str(vlm.model.config.get_text_config()._attn_implementation),
        "device": str(vlm.device),
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in vlm.model.parameters()),
    }
    checks = [
        _try("plain generation", lambda: _answer(vlm, ())),
        _try("head scores (VHD)", lambda: score_heads(vlm.model, vlm.processor, [_picture()])),
        *(
            _try(f"--with {name}", partial(_answer_with, vlm, kind), len(anatomy.attentions))
            for name, kind in known_interventions().items()
        ),
        *(_try(f"--with {name}", partial(_answer, vlm, (kind(),))) for name, kind in known_lenses().items()),
        *(_try(f"--with {name}", partial(_answer_beside, vlm, kind)) for name, kind in known_contrasts().items()),
        *(
            _try(f"--with {name}", partial(_answer, vlm, (kind(),)))
            for name, kind in (known_checks() | known_pipelines()).items()
        ),
    ]
    sinks = _sinks(vlm)
    costs = _costs(vlm) if cost else []
    if json:
        found = facts | {"checks": [asdict(check) for check in checks], "sinks": sinks}
        print_json(found | ({"costs": [one.as_row() for one in costs]} if cost else {}))
        return
    print_table(f"{model}", ("", ""), [(name.replace("_", " "), str(value)) for name, value in facts.items()])
    rows = [(check.what, "yes" if check.works else "no", check.remark) for check in checks]
    print_table("What works", ("", "works", "remark"), rows, prose="remark")
    _print_sinks(sinks)
    if costs:
        _print_costs(costs)


def _costs(vlm: VLM) -> list[Cost]:
    from vlm_app.speed.cost import predict_costs

    return predict_costs(vlm)


def _print_costs(costs: Sequence[Cost]) -> None:
    names = ("extra_prefill_ms", "prefill_ratio", "extra_token_ms", "token_ratio", "kept_mb")
    header = ("intervention", "batch", "layers", "prefill, + ms", "× plain", "token, + ms", "× plain", "kept, MB")
    rows = [
        (one.name, str(one.batch), str(one.layers), *(f"{getattr(one, name):.2f}" for name in names)) for one in costs
    ]
    print_table("Predicted cost on this machine; `vlm-heads bench cost` checks it", header, rows)


def _sinks(vlm: VLM) -> dict[str, Any]:
    """Return the sink channels, how far they stand out, and what sinks take of the attention in each layer.

    By VAR's own criterion, or by "median" where that one finds no channel.
    """
    from vlm_heads import examine
    from vlm_heads.errors import VlmHeadsError
    from vlm_heads.profiles import find_sinks, sink_shares

    try:
        found, criterion = find_sinks(examine(vlm.model))
        if not found.channels:
            return {"channels": [], "why": "no channel of the hidden states stands out at the first token"}
        text, image = sink_shares(vlm.model, vlm.inputs([_picture()], DEFAULT_PROMPT), criterion)
    except VlmHeadsError as error:
        return {"channels": [], "why": str(error)}
    return {
        "channels": list(found.channels),
        "standing_out": list(found.standing_out),
        "source": found.source,
        "criterion": criterion.kind,
        "text_sinks": text.tolist(),
        "image_sinks": image.tolist(),
    }


def _print_sinks(sinks: dict[str, Any]) -> None:
    if not sinks["channels"]:
        print(f"Sinks: none ({sinks['why']})")
        return
    pairs = zip(sinks["channels"], sinks["standing_out"], strict=True)
    listed = ", ".join(f"{channel} (× {times:.1f})" for channel, times in pairs)
    print(f"Sink channels, and how far they stand above the next: {listed}; {sinks['source']}")
    if sinks["criterion"] == "median":
        print(
            "One of them is large at every token: VAR needs criterion=median, and sinks=any where only text has sinks"
        )
    shares = zip(sinks["text_sinks"], sinks["image_sinks"], strict=True)
    rows = [(str(layer), f"{100 * text:.1f}", f"{100 * image:.1f}") for layer, (text, image) in enumerate(shares)]
    print_table("Share of attention that sinks take, percent", ("layer", "text sinks", "image sinks"), rows)


@dataclass(frozen=True)
class Check:
    """One thing that was tried; the remark says why not, or what to know.

    Attributes:
        what: that was tried.
        works: whether it can be used on this model.
        remark: why not, or what to know.
        fired: whether an intervention acted on the trial picture; None where nothing was attached.
    """

    what: str
    works: bool
    remark: str
    fired: bool | None = None


def _try(what: str, attempt: Callable[[], object], layers_with_heads: int = 0) -> Check:
    from vlm_heads.errors import NothingIntervened, VlmHeadsError

    try:
        done = attempt()
    except NothingIntervened:
        return Check(what, True, "attaches, and found nothing to act on in a trial picture", fired=False)
    except VlmHeadsError as error:
        return Check(what, False, str(error))
    receipt = getattr(done, "receipt", None)
    if receipt is None or not receipt["interventions"]:
        return Check(what, True, "")
    layers = receipt["interventions"][0]["layers"]
    return Check(what, True, f"fired on {len(layers)} of {layers_with_heads} layers of a trial picture", fired=True)


def _answer_with(vlm: VLM, kind: type[Any]) -> object:
    return _answer(vlm, (kind(**kind.trial) if kind.needs_profile else kind(),))


def _answer_beside(vlm: VLM, kind: type[Any]) -> object:
    contrast = kind() if kind.needs_inputs_alone else kind(**kind.trial)  # which may write a description first
    return vlm.answer(_picture(), DEFAULT_PROMPT, contrast=contrast, max_new_tokens=2)


def _answer(vlm: VLM, interventions: tuple[Any, ...]) -> object:
    return vlm.answer(_picture(), DEFAULT_PROMPT, interventions, max_new_tokens=2)


def _picture() -> Any:
    """Return a picture with something in it: a red square on grey."""
    from PIL import Image

    picture = Image.new("RGB", (96, 96), (128, 128, 128))
    picture.paste((255, 0, 0), (24, 24, 72, 72))
    return picture


def _image_tokens(vlm: VLM, image_token_id: int) -> int:
    """Return how many positions a 96 × 96 picture takes in the prompt."""
    return int((vlm.inputs([_picture()], DEFAULT_PROMPT)["input_ids"] == image_token_id).sum())


def _head_size(anatomy: Any) -> int:
    projection = next(iter(anatomy.projections.values()))
    return int(projection.weight.shape[1]) // int(anatomy.heads)
