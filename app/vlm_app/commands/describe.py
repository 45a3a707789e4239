"""`vlm-heads describe`: what a model says about images, as it says it; plain and mitigated side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from vlm_app.console import loading, print_json, print_table, remark
from vlm_app.options import (
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    DEFAULT_SEED,
    AllowMissing,
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
    from vlm_app.view.truth import Judge
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
    allow_missing: AllowMissing = False,
    json: Json = False,
) -> None:
    """Say what is in images, streaming the answer."""
    from vlm_app.models import load_vlm, look_first, parse_mitigations, say_tuned_elsewhere
    from vlm_app.pictures import find_pictures, truth_of

    look_first(model=model, device=device, words=words, profile=profile)
    pictures = find_pictures(images)
    loading(model)
    from vlm_app.view.marks import Marker
    from vlm_app.view.truth import Judge
    from vlm_heads import Mitigation

    marker = Marker()
    mitigation = parse_mitigations(words or (["vhr"] if compare else None), profile)
    vlm = load_vlm(model, device, seed, allow_missing=allow_missing)
    say_tuned_elsewhere(words, vlm)
    if not mitigation.streamed and mitigation.pipeline is not None:
        remark(f"{mitigation.pipeline.name} takes words back: its answer is printed whole, when it is found")
    arguments: dict[str, Any] = {"max_new_tokens": max_tokens}
    if temperature > 0.0:
        arguments |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    found = []
    for image, picture in zip(images, pictures, strict=True):
        if not json and len(images) > 1:
            print(f"\n{image}")
        sides = [Mitigation(), mitigation] if compare else [mitigation]
        judge = Judge(prompt, truth_of(image), marker)
        printing = None if json or compare else _printing(judge)
        answers = [_say(vlm, picture, prompt, side, arguments, seed, printing) for side in sides]
        if compare and not json:
            _print_side_by_side(answers, words or ["vhr"], judge)
        found.append({"image": image, "prompt": prompt, "model": model, "with": words or []} | _row(answers, judge))
    if json:
        print_json(found)


class _Printing(NamedTuple):
    """What is called with every piece of an answer, and at its end."""

    add: Callable[[str], object]
    end: Callable[[], object]


def _printing(judge: Judge) -> _Printing:
    """Return what prints an answer as it comes; on a terminal with a mark on what the picture does not show."""
    if judge.objects is None or not sys.stdout.isatty():
        return _Printing(_write, lambda: _write("\n"))
    from rich.console import Console

    from vlm_app.view.terminal import Painter

    painter = Painter(Console(highlight=False), judge)
    return _Printing(painter.add, painter.end)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(
    vlm: VLM,
    image: Path,
    prompt: str,
    mitigation: Mitigation,
    arguments: dict[str, Any],
    seed: int,
    printing: _Printing | None,
) -> Answer:
    """Return an answer, printing its pieces as they come; each answer draws from the same seed."""
    import torch

    torch.manual_seed(seed)
    pieces: Generator[str, None, Answer] = vlm.stream(
        image,
        prompt,
        mitigation,
        **arguments,
    )
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            if printing is not None:
                printing.end()
            answer: Answer = end.value
            return answer
        if printing is not None:
            printing.add(piece)


def _row(answers: Sequence[Answer], judge: Judge) -> dict[str, Any]:
    sides = [
        {"text": one.text, "token_ids": list(one.token_ids), "seconds": one.seconds, "receipt": one.receipt}
        | _objects(one.text, judge)
        for one in answers
    ]
    return sides[0] if len(sides) == 1 else {"plain": sides[0], "mitigated": sides[1]}


def _objects(text: str, judge: Judge) -> dict[str, Any]:
    """Return where a text names objects and whether the picture shows them; nothing where that is not known."""
    return {} if judge.objects is None else {"objects": [asdict(one) for one in judge.named(text)]}


def _print_side_by_side(answers: Sequence[Answer], words: Sequence[str], judge: Judge) -> None:
    """Print both answers, and what each found, missed and invented where that is known."""
    from rich.console import Console

    from vlm_app.view.terminal import lines, panels

    texts = [one.text for one in answers]
    console = Console()
    if console.is_terminal:
        console.print(panels(console, ("plain", ", ".join(words)), texts, judge))
        return
    below = list(zip_longest(*(lines(text, judge) for text in texts), fillvalue=""))
    print_table("", ("plain", "mitigated"), [texts, *([("", "")] if below else []), *below], prose="mitigated")
