"""`vlm-heads fold`: a plain checkpoint with a reinforced profile's gains in its weights, for any serving engine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_app.console import on_terminal, print_json, remark
from vlm_app.options import DEFAULT_SEED, Device, Json, Seed

PICTURES = ("kitchen", "street", "park")


def fold(
    model: Annotated[str, typer.Argument(help="mini, small, a folder, or a Hugging Face id; in safetensors.")],
    profile: Annotated[Path, typer.Option("--profile", help="A profile with gains, as `vlm-heads calibrate` writes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new checkpoint; must not be there yet.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Load it as any program would and compare it with the attached profile.")
    ] = False,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write a copy of a checkpoint with static gains folded into its output projections."""
    from vlm_app.models import load_profile, look_first

    look_first(model=model, device=device, profile=profile)
    from vlm_heads import fold_checkpoint
    from vlm_heads.models import checkpoint_folder

    gains = load_profile(profile)
    assert gains is not None
    source = checkpoint_folder(model)
    if gains.card.get("model") not in (None, model):
        remark(
            f"the profile was measured on {gains.card['model']}, which is not {model}: its figures are not this one's"
        )
    seen: list[Any] = []

    def check(draft: Path) -> None:
        seen.append(_verified(model, gains, draft, device, seed))

    def copying(file: str) -> None:
        if on_terminal() and not json:
            remark(f"writing {file}")

    folded = fold_checkpoint(source, gains, out, check=check if verify else None, progress=copying)
    if json:
        facts = asdict(folded) | {"folder": str(folded.folder), "verified": seen[0].as_row() if seen else None}
        print_json(facts)
        return
    rounded = (
        "every gain is a power of two: exact" if folded.exact else "each weight was rounded once to its own precision"
    )
    print(f"{len(folded.tensors)} output projections scaled ({rounded})")
    if folded.left_out:
        print(f"left out: {', '.join(folded.left_out)}")
    print(seen[0] if seen else "not verified: add --verify to compare it with the attached profile")
    print(f"checkpoint: {folded.folder}")


def _verified(model: str, profile: Any, draft: Path, device: str | None, seed: int) -> Any:
    from vlm_evals.scenes.samples import sample_path

    from vlm_app.bridges.folding import verify_folded
    from vlm_app.models import load_vlm

    return verify_folded(load_vlm(model, device, seed), profile, draft, [sample_path(name) for name in PICTURES])
