"""`vlm-heads describe`: what a model says about images, as it says it; plain and mitigated side by side."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_app.console import loading, print_json, print_table
from vlm_app.options import (
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    DEFAULT_SEED,
    Device,
    Images,
    Json,
    Model,
    Profile,
    Prompt,
    Seed,
    With,
)

if TYPE_CHECKING:
    from vlm_heads import VLM, Answer, Mitigation


def describe(
    images: Images,
    prompt: Prompt = DEFAULT_PROMPT,
    words: With = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Plain and mitigated side by side; with vhr where no --with is given.")
    ] = False,
    profile: Profile = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens an answer may have.")] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="Sample with this temperature; 0 is greedy.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.01, max=1.0, help="Share of the probability that is sampled from.")
    ] = 1.0,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Say what is in images, streaming the answer."""
    from vlm_app.models import load_profile, load_vlm, look_first, parse_mitigations
    from vlm_app.pictures import find_pictures

    look_first(model=model, device=device, words=words, profile=profile)
    pictures = find_pictures(images)
    loading(model)
    from vlm_heads import Mitigation

    mitigation = parse_mitigations(words or (["vhr"] if compare else None))
    vlm = load_vlm(model, device, seed)
    arguments: dict[str, Any] = {"max_new_tokens": max_tokens, "profile": load_profile(profile)}
    if temperature > 0.0:
        arguments |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    found = []
    for image, picture in zip(images, pictures, strict=True):
        if not json and len(images) > 1:
            print(f"\n{image}")
        sides = [Mitigation(), mitigation] if compare else [mitigation]
        answers = [_say(vlm, picture, prompt, side, arguments, seed, aloud=not json and not compare) for side in sides]
        if compare and not json:
            _print_side_by_side(answers, words or ["vhr"])
        found.append({"image": image, "prompt": prompt, "model": model, "with": words or []} | _row(answers))
    if json:
        print_json(found)


def _say(
    vlm: VLM, image: Path, prompt: str, mitigation: Mitigation, arguments: dict[str, Any], seed: int, *, aloud: bool
) -> Answer:
    """Return an answer, writing its pieces to standard output as they come if aloud; each draws from the same seed."""
    import torch

    torch.manual_seed(seed)
    pieces: Generator[str, None, Answer] = vlm.stream(
        image,
        prompt,
        mitigation.interventions,
        contrast=mitigation.contrast,
        **(arguments if mitigation.interventions else arguments | {"profile": None}),
    )
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            if aloud:
                sys.stdout.write("\n")
            answer: Answer = end.value
            return answer
        if aloud:
            sys.stdout.write(piece)
            sys.stdout.flush()


def _row(answers: Sequence[Answer]) -> dict[str, Any]:
    sides = [
        {"text": one.text, "token_ids": list(one.token_ids), "seconds": one.seconds, "receipt": one.receipt}
        for one in answers
    ]
    return sides[0] if len(sides) == 1 else {"plain": sides[0], "mitigated": sides[1]}


def _print_side_by_side(answers: Sequence[Answer], words: Sequence[str]) -> None:
    from rich.columns import Columns
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    plain, mitigated = answers
    console = Console()
    if not console.is_terminal:
        print_table("", ("plain", "mitigated"), [(plain.text, mitigated.text)], prose="mitigated")
        return
    width = max(30, console.width // 2 - 2)
    titles = ("plain", ", ".join(words))
    panels = [Panel(Text(answer.text), title=title, width=width) for title, answer in zip(titles, answers, strict=True)]
    console.print(Columns(panels))
