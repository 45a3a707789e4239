"""`vlm-heads askback`: saved captions without the objects that a model, asked about each, does not stand by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_app.console import loading, print_json, print_table, progress, remark
from vlm_app.endpoint import named_server
from vlm_app.mistakes import require_place
from vlm_app.options import (
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    DEFAULT_SEED,
    AllowMissing,
    Concurrency,
    Device,
    EndpointUrl,
    Json,
    KeyFrom,
    Model,
    Profile,
    Prompt,
    Seed,
    ServedModel,
    Timeout,
)

if TYPE_CHECKING:
    from vlm_evals.data.formats import Caption
    from vlm_evals.endpoint.address import Endpoint

    from vlm_heads import Answer, Mitigation

_EXAMPLES = 3


def askback(
    captions: Annotated[Path, typer.Argument(help="Captions with image ids: JSON lines, a JSON list, or a table.")],
    images: Annotated[Path, typer.Option("--images", help="The folder with their pictures, by id or file name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines that `judge chair` reads.")] = Path(
        "askback.jsonl"
    ),
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            "-w",
            metavar="NAME[:OPTION=VALUE,…]",
            help="Options of the check, as askback:by=both, and interventions to ask under; several may be given.",
        ),
    ] = None,
    profile: Profile = None,
    prompt: Prompt = DEFAULT_PROMPT,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Captions in one forward.")] = 16,
    model: Model = DEFAULT_MODEL,
    endpoint: EndpointUrl = None,
    served_model: ServedModel = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 600.0,
    key_from: KeyFrom = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    allow_missing: AllowMissing = False,
    json: Json = False,
) -> None:
    """Leave out of saved captions what a model, asked about each object, does not stand by; any model's captions."""
    from vlm_evals.data.captioned import pictures_of
    from vlm_evals.data.formats import read_captions

    from vlm_app.models import load_vlm, look_first, say_tuned_elsewhere

    look_first(model=model, device=device, words=words, profile=profile)
    require_place(out, "file")
    server = named_server(endpoint, served_model, model, key_from, concurrency, timeout)
    saved = read_captions(captions)
    pictures = pictures_of(saved, images)
    whole = _mitigation(words, profile)
    if server is not None:
        loading(server.url)
        with progress("asking back", len(saved)) as advance:
            texts = [one.text for one in saved]
            found = _through(server, served_model, pictures, texts, whole, advance)
        _write(saved, found, out, json)
        return
    check = whole.check_of_saved()
    loading(model)
    vlm = load_vlm(model, device, seed, allow_missing=allow_missing)
    say_tuned_elsewhere(words, vlm)
    given: dict[str, Any] = {"prompts": prompt, "interventions": replace(whole, check=None)}
    found = []
    with progress("asking back", len(saved)) as advance:
        for at in range(0, len(saved), batch_size):
            texts = [one.text for one in saved[at : at + batch_size]]
            found += vlm.ask_back(pictures[at : at + batch_size], texts, check, **given)
            advance(len(texts))
    _write(saved, found, out, json)


def _through(
    server: Endpoint,
    served: str | None,
    pictures: Sequence[Path],
    captions: Sequence[str],
    whole: Mitigation,
    advance: Callable[[int], None],
) -> list[Answer]:
    """Return captions that a server was asked about."""
    from vlm_evals.endpoint.ask_back import ask_back
    from vlm_evals.endpoint.asking import EndpointAsking

    from vlm_heads import AskBack

    how = whole.check
    assert isinstance(how, AskBack)  # there is no other, see `_mitigation`
    asking = EndpointAsking.find(server, served, mitigation=replace(whole, check=None))
    return ask_back(asking, pictures, captions, how, progress=advance)


def _write(saved: Sequence[Caption], found: Sequence[Answer], out: Path, json: bool) -> None:
    from vlm_evals.records import write_rows

    rows = [
        {"image_id": one.image_id, "caption": said.text, "before": one.text, "asked": _asked(said)}
        for one, said in zip(saved, found, strict=True)
    ]
    write_rows(out, rows)
    _report(rows, found, out, json)


def _mitigation(words: Sequence[str] | None, profile: Path | None) -> Mitigation:
    """Return what words and folders name, with the plain check where they name none."""
    from vlm_app.models import parse_mitigations
    from vlm_heads import AskBack

    found = parse_mitigations(words, profile)
    return replace(found, check=AskBack()) if found.check is None else found


def _asked(said: Answer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (said.receipt or {})["check"]["asked"]
    return found


def _report(rows: Sequence[dict[str, Any]], found: Sequence[Answer], out: Path, as_json: bool) -> None:
    asked = [one for row in rows for one in row["asked"]]
    changed = [row for row in rows if row["caption"] != row["before"]]
    facts = {
        "captions": len(rows),
        "changed": len(changed),
        "emptied": sum(not row["caption"] for row in changed),
        "objects": len(asked),
        "left_out": sum(one["fate"] == "left out" for one in asked),
        "went_along": sum(one["fate"] == "went with it" for one in asked),
    }
    if as_json:
        print_json(facts | {"out": str(out)})
        return
    print_table("Asked back", ("", ""), [(name.replace("_", " "), str(value)) for name, value in facts.items()])
    for row in changed[:_EXAMPLES]:
        print(f"{row['image_id']}, before: {row['before']}\n{row['image_id']}, after:  {row['caption']}")
    if any((one.receipt or {})["check"].get("read_again") for one in found[:1]):
        remark("this family's pictures cannot be shared by questions: each was read again for its questions")
    print(f"captions: {out}")
