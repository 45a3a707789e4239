"""`vlm-heads score`: how much each head looks at the image (VHD), as a table, a picture and a saved profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_app.console import loading, print_json, print_table, progress, steps
from vlm_app.mistakes import require_place
from vlm_app.options import (
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    DEFAULT_SEED,
    AllowMissing,
    Device,
    Images,
    Json,
    Model,
    Prompt,
    Seed,
)


def score(
    images: Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the profile and the map.")] = Path("profile"),
    prompt: Prompt = DEFAULT_PROMPT,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads to print.")] = 10,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in one pass.")] = 8,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    allow_missing: AllowMissing = False,
    json: Json = False,
) -> None:
    """Score every head by how far its output moves when the image is removed."""
    from vlm_app.models import load_vlm, look_first
    from vlm_app.pictures import find_pictures

    look_first(model=model, device=device)
    pictures = find_pictures(images)
    loading(model)
    from vlm_app.plots import draw_head_map
    from vlm_heads import score_heads

    require_place(out)
    vlm = load_vlm(model, device, seed, allow_missing=allow_missing)
    with progress("scoring heads", len(images)) as advance:
        profile = score_heads(
            vlm.model,
            vlm.processor,
            pictures,
            prompt=prompt,
            batch_size=batch_size,
            progress=steps(advance),
        )
    profile.save_pretrained(out)
    picture = draw_head_map(profile.scores.numpy(), out / "heads.png", title=f"VHD of {model}, {len(images)} images")
    best = profile.top(top)
    if json:
        rows = [{"layer": layer, "head": head, "vhd": vhd} for layer, head, vhd in best]
        scores = profile.scores.tolist()
        print_json({"model": model, "images": len(images), "top": rows, "scores": scores, "out": str(out)})
        return
    middle = profile.scores.median(dim=1).values.tolist()
    lines = [(str(layer), str(head), f"{vhd:.3f}", _times(vhd, middle[layer])) for layer, head, vhd in best]
    header = ("layer", "head", "VHD", "layer median ×")
    print_table(f"Vision-aware heads of {model}, {len(images)} images", header, lines)
    print(f"profile: {out}; map: {picture}")


def _times(value: float, median: float) -> str:
    return f"{value / median:.1f}" if median > 0 else "–"
