"""`vlm-heads methods`: every method, who published it, what it costs and what can be turned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_app.console import print_json, print_table
from vlm_app.options import DEFAULT_SEED, Device, Json, Seed

if TYPE_CHECKING:
    from vlm_heads import Method


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method, in full.")] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write them all as a Markdown page, and scorers.md beside it.")
    ] = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Print every method: its paper, cost and options. No model runs: --seed and --device change nothing."""
    from vlm_app import scorer_page
    from vlm_app.method_facts import facts
    from vlm_app.method_page import write_page
    from vlm_heads import known_methods

    chosen = [_found(name)] if name is not None else list(known_methods().values())
    if write is not None:
        if name is not None:
            raise typer.BadParameter("--write writes every method: leave out the name")
        write_page(write)
        scorer_page.write_page(write)
    if json:
        print_json([facts(kind) for kind in chosen] if name is None else facts(chosen[0]))
    elif name is not None:
        _print_in_full(chosen[0])
    elif write is None:
        _print_list(chosen)
    else:
        print(f"methods: {write}; scorers: {write.with_name(scorer_page.PAGE)}")


def _found(name: str) -> type[Method]:
    from vlm_heads import known_methods
    from vlm_heads.errors import BadOption, suggest

    known = known_methods()
    if name not in known:
        raise BadOption(f"no method {name!r}{suggest(name, known)}; known: {', '.join(known)}")
    return known[name]


def _print_list(kinds: list[type[Method]]) -> None:
    from vlm_app.method_facts import by_lever, cost, default_of, kind_of, label, means

    width = max(len(kind.name) for kind in kinds) + 2
    for lever, some in by_lever(kinds).items():
        print(f"{lever.capitalize()}: {means(lever)}\n")
        for kind in some:
            cited = "ours" if kind.paper is None else kind.paper.cited
            print(f"{kind.name:{width}}{label(kind)} ({cited}), {kind_of(kind)}: {cost(kind)}")
            print(" " * width + ", ".join(f"{one.name}={default_of(one)}" for one in kind.options()))
        print()
    print("Several interventions may be combined, with one contrast, one check and one pipeline beside them.")
    print("One in full: vlm-heads methods NAME. To use one: --with NAME:OPTION=VALUE,…")


def _print_in_full(kind: type[Method]) -> None:
    from vlm_app.method_facts import cost, default_of, label, means, own_text, range_of, source

    summary, sections = own_text(kind)
    print(f"{kind.name}: {label(kind)}\nPaper: {source(kind.paper)}\nCost: {cost(kind)}")
    print(f"Lever: {kind.lever}, {means(kind.lever)}\n\n{summary}")
    for title, text in sections.items():
        indented = text.replace("\n", "\n    ")
        print(f"\n{title}:\n    {indented}")
    header = ("option", "default", "range", "changes nothing at", "what")
    rows = [
        (one.name, default_of(one), range_of(one), "" if one.neutral is None else one.write(one.neutral), one.help)
        for one in kind.options()
    ]
    print()
    print_table("Options", header, rows, prose="what")
