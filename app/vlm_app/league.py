"""The league: every setting on the same scenes, each against the plain model's trade-off curve at its own recall.

    python -m vlm_app.league --out runs/league

A sweep on validation scenes chooses one setting per method, the one with the lowest CHAIR_S at equal recall; the
published setting, the chosen ones and their controls are then measured on scenes that nothing was chosen on. Stopped
and started again it goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from vlm_evals.answer import Asking, Processes
from vlm_evals.coco import CocoFolder
from vlm_evals.pairs import compare_chair, compare_pope
from vlm_evals.records import write_json, write_text
from vlm_evals.runs import answers_in
from vlm_evals.scenes.export import export_world
from vlm_evals.scored import score_run
from vlm_evals.tasks import bind

from vlm_app.experiment import BIASES, Arm, ask_arms, bias_name
from vlm_app.models import load_vlm, parse_interventions
from vlm_heads import score_heads

PROFILE_SCENES = 64
SEED = 7


@dataclass(frozen=True)
class Entry:
    """One row of the league.

    Attributes:
        method: what it is a setting of; one setting per method is chosen.
        words: the interventions, as on the command line.
        controls: whether the same gain on other heads is measured beside it.
    """

    method: str
    words: tuple[str, ...]
    controls: bool = True

    @property
    def name(self) -> str:
        """Folder and row name."""
        return "+".join(self.words).replace(":", " ").replace(",", " ")

    @property
    def reads_profile(self) -> bool:
        """Whether its heads come from one profile for all samples."""
        return any("heads=fixed" in word for word in self.words)

    def on(self, heads: str) -> Entry:
        """Return the control: the same setting on other heads."""
        parted = (word.partition(":") for word in self.words)
        kept = [
            (name, [one for one in rest.split(",") if one and not one.startswith("heads=")]) for name, _, rest in parted
        ]
        return replace(self, words=tuple(f"{name}:{','.join([*rest, f'heads={heads}'])}" for name, rest in kept))


def sweep_of_settings() -> list[Entry]:
    """Return what is tried on validation scenes: gains, layer sets, and heads per sample, fixed, or all."""
    vhr = [
        Entry(f"VHR, {how}", (f"vhr:gain={gain},layers={layers},heads={heads}",))
        for heads, how in (("vhd", "heads per sample"), ("fixed", "fixed heads"))
        for layers in ("paper", "all")
        for gain in (0.5, 1.5, 2.0, 3.0)
    ]
    route = [
        Entry(f"RouteGain, {how}", (f"route:image={gain},layers=last-half,heads={heads}",), controls=heads != "all")
        for heads, how in (("vhd", "heads per sample"), ("all", "all heads"))
        for gain in (1.5, 2.0, 3.0)
    ]
    return [*vhr, *route]


PUBLISHED = Entry("VHR", ("vhr:gain=2.0,layers=paper,heads=vhd",))
OTHERS = [Entry(name, (word,), controls=False) for name, word in (
    ("PAI", "pai"), ("PAINT", "paint"), ("ClearSight", "vaf"), ("Devils", "devils"), ("SPIN", "spin"),
)]  # fmt: skip


@dataclass(frozen=True)
class Round:
    """What is measured on one split: how many scenes are captioned, and how many are asked about."""

    split: str
    captions: int
    asked: int = 0


def measure(
    asking: Asking, entries: Sequence[Entry], where: Round, out: Path, profile: Any, place: Processes
) -> dict[str, Any]:
    """Return a comparison of every entry with the plain model on one split: CHAIR with its curve, and POPE if asked."""
    data = _world(where, out, place)
    found: dict[str, Any] = {"split": where.split, "captions": where.captions, "asked": where.asked}
    protocol = bind(f"world-{where.split}", "chair", data, limit=where.captions, seed=SEED)
    curve = [Arm("plain"), *(Arm(bias_name(bias), end_bias=bias) for bias in BIASES)]
    arms = [Arm(entry.name, parse_interventions(entry.words)) for entry in entries]
    fixed = [arm for arm, entry in zip(arms, entries, strict=True) if entry.reads_profile]
    free = [arm for arm, entry in zip(arms, entries, strict=True) if not entry.reads_profile]
    folder = out / where.split / "chair"
    for some, reads in (([*curve, *free], None), (fixed, profile)):
        ask_arms(replace(asking, profile=reads), protocol, data, some, folder, place)
    scores = {arm.name: score_run(folder / arm.name).captions for arm in (*curve, *arms)}
    points = {bias: scores[bias_name(bias)] for bias in BIASES}
    rows = {arm.name: scores[arm.name] for arm in arms}
    found["chair"] = compare_chair(scores["plain"], scores["plain"], curve=points, controls=rows, seed=SEED)
    found["seconds"] = {name: _seconds(folder / name) for name in ("plain", *rows)}
    if where.asked:
        protocol = bind(f"world-{where.split}", "pope", data, limit=where.asked, seed=SEED)
        folder = out / where.split / "pope"
        for some, reads in (([curve[0], *free], None), (fixed, profile)):
            ask_arms(replace(asking, profile=reads), protocol, data, some, folder, place)
        answers = {arm.name: score_run(folder / arm.name).answers for arm in (curve[0], *arms)}
        others = {arm.name: answers[arm.name] for arm in arms}
        found["pope"] = compare_pope(answers["plain"], answers["plain"], controls=others, seed=SEED)
    return found


def _world(where: Round, out: Path, place: Processes) -> CocoFolder:
    folder = out / "data" / where.split
    if place.first and not (folder / "captions.json").is_file():
        export_world(folder, split=where.split, images=max(where.captions, 2 * where.asked), seed=SEED)
    place.wait()
    return CocoFolder.find(folder)


def _seconds(folder: Path) -> float:
    """Return the mean seconds an answer took."""
    spent = [answer.seconds for answer in answers_in(folder).values() if answer.seconds is not None]
    return math.fsum(spent) / len(spent)


def choose(sweep: Sequence[Entry], measured: Mapping[str, Any]) -> list[Entry]:
    """Return one entry per method: the lowest CHAIR_S at equal recall; none for one that left the curve."""
    best: dict[str, tuple[float, Entry]] = {}
    for entry in sweep:
        off = measured["chair"]["controls"][entry.name]["curve_difference"]["chair_s"]["estimate"]
        if off is not None and (entry.method not in best or off < best[entry.method][0]):
            best[entry.method] = (off, entry)
    return [entry for _, entry in best.values()]


def table(entries: Sequence[tuple[str, Entry]], measured: Mapping[str, Any]) -> str:
    """Return a Markdown table of one split; numbers in percent, intervals at 95 %."""
    chair, pope = measured["chair"], measured.get("pope")
    header = [
        "setting",
        "CHAIR_S",
        "CHAIR_I distinct",
        "recall",
        "words",
        "CHAIR_S at equal recall",
        "CHAIR_I distinct, equal recall",
    ]
    header += ["repeated", *(["POPE accuracy", "yes"] if pope else []), "time"]
    plain_pope = [_percent(pope["plain"]["accuracy"]), _percent(pope["plain"]["yes_ratio"])] if pope else []
    lines = [_line(header), _line(["---"] * len(header))]
    lines.append(
        _line(
            [
                "plain (greedy)",
                *_numbers(chair["plain"]),
                "0",
                "0",
                _percent(chair["plain"]["repeated_mentions"]),
                *plain_pope,
                "1.00",
            ]
        )
    )
    for label, entry in entries:
        row = chair["controls"][entry.name]
        cells = [f"{label}: `{' '.join(entry.words)}`", *_numbers(row)]
        cells += [_interval(row["curve_difference"][name]) for name in ("chair_s", "chair_i_distinct")]
        cells.append(_percent(row["repeated_mentions"]))
        if pope:
            answered = pope["controls"][entry.name]
            cells += [
                f"{_percent(answered['accuracy'])} ({_interval(answered['difference']['accuracy'])})",
                _percent(answered["yes_ratio"]),
            ]
        lines.append(_line([*cells, f"{measured['seconds'][entry.name] / measured['seconds']['plain']:.2f}"]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _numbers(row: Mapping[str, Any]) -> list[str]:
    return [*(_percent(row[name]) for name in ("chair_s", "chair_i_distinct", "recall")), f"{row['mean_tokens']:.1f}"]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["estimate"] is None:
        return "off the curve"
    return f"{100 * estimate['estimate']:+.1f} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def play(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs and the tables.")] = Path("runs/league"),
    model: Annotated[str, typer.Option("--model", help="mini, an id or a folder.")] = "mini",
    device: Annotated[str | None, typer.Option("--device")] = None,
    scale: Annotated[float, typer.Option("--scale", help="Share of the full number of scenes.")] = 1.0,
    asked: Annotated[int, typer.Option("--asked", help="Held-out scenes to ask POPE's questions about.")] = 150,
    others: Annotated[bool, typer.Option(help="Also the other methods at their defaults.")] = True,
) -> None:
    """Play the league and write league.md and league.json; `accelerate launch` shares the work between processes."""
    place = Processes.current(device)
    asking = Asking(load_vlm(model, device, SEED), batch_size=50)
    rounds = [
        Round(where.split, max(20, round(scale * where.captions)), round(scale * where.asked))
        for where in (Round("validation", 300), Round("held-out", 600, asked), Round("shifted", 500))
    ]
    pictures = list(_world(rounds[0], out, place).images.values())[:PROFILE_SCENES]
    profile = score_heads(asking.vlm.model, asking.vlm.processor, [str(path) for path in pictures])
    sweep = sweep_of_settings()
    validated = measure(asking, sweep, rounds[0], out, profile, place)
    finalists = _finalists(choose(sweep, validated), OTHERS if others else [])
    entries = [entry for _, entry in finalists]
    results = [measure(asking, entries, where, out, profile, place) for where in rounds[1:]]
    if not place.first:
        return
    sections = [
        f"## Sweep on {rounds[0].captions} validation scenes\n\n{table([(e.method, e) for e in sweep], validated)}"
    ]
    sections += [f"## {found['split']}, {found['captions']} scenes\n\n{table(finalists, found)}" for found in results]
    write_text(out / "league.md", "\n".join(sections))
    write_json(out / "league.json", {"sweep": validated, "final": results})
    print(f"league: {out / 'league.md'}")


def _finalists(chosen: Sequence[Entry], others: Sequence[Entry]) -> list[tuple[str, Entry]]:
    """Return (label, entry) of the published setting, the chosen ones, their controls, and the other methods."""
    labelled = []
    for label, entry in [("VHR as published", PUBLISHED), *((f"{entry.method}, chosen", entry) for entry in chosen)]:
        labelled.append((label, entry))
        if entry.controls:
            labelled += [(f"control: {heads} heads", entry.on(heads)) for heads in ("bottom", "random")]
    labelled += [(f"{entry.method}, default", entry) for entry in others]
    once: dict[str, tuple[str, Entry]] = {}
    for label, entry in labelled:
        once.setdefault(entry.name, (label, entry))
    return list(once.values())


if __name__ == "__main__":
    typer.run(play)
