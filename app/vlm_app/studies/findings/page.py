"""docs/findings.md, written from what was measured; no number is copied by hand.

findings/MODEL.json             what was measured, as `vlm-heads study findings` wrote it
pictures/findings-MODEL-….png   drawn from it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.errors import TaskError
from vlm_evals.records import read_json, write_json, write_text

from vlm_app.studies.findings.measure import FILE
from vlm_app.studies.findings.pictures import draw_findings

Found = Mapping[str, Any]

KEPT, PICTURES = "findings", "pictures"  # folders beside the page
LARGE, RATHER = 3.0, 1.5  # times a layer's median VHD
_HEAD = """# Findings

What is true of the embedded models inside: where they look, which tokens carry massive activations, which heads are
vision-aware, and what that tells about what they say. One command measures a model and writes its part of this page:

    vlm-heads study findings --model mini --write docs/findings.md

The numbers are kept in [findings/](findings/). `vlm-heads study findings-page docs/findings.md` writes the page from
them again, without a model.

*Rows* are the text tokens after the image: the question's, and those of the model's own greedy caption. *Times the
median* compares a token with the median token of the same prompt. Intervals are 95 % bootstrap intervals over captions.
"""
_SCORERS = {"vhd": "VHD", "image_mass": "attention on the image", "image_route": "norm of the image's contribution"}


def write_page(page: Path, runs: Sequence[Path] = ()) -> list[Path]:
    """Write the page and its pictures from what is kept beside it, and return the files written.

    Args:
        page: to write; `findings` beside it keeps what was measured.
        runs: folders with a findings.json each, which are kept from now on.

    Raises:
        TaskError: if a run holds nothing measured, or nothing is kept at all.
    """
    missing = [run for run in runs if not (run / FILE).is_file()]
    if missing:
        raise TaskError(f"{missing[0]} holds no {FILE}: measure it first with vlm-heads study findings")
    kept = page.parent / KEPT
    for run in runs:
        found = read_json(run / FILE)
        write_json(kept / f"{found['about']['model']}.json", found)
    models = [read_json(path) for path in sorted(kept.glob("*.json"))]
    if not models:
        raise TaskError(
            f"{kept} keeps nothing to write {page.name} from: measure a model with vlm-heads study findings"
        )
    pictures = [path for found in models for path in draw_findings(found, page.parent / PICTURES).values()]
    write_text(page, page_text(models))
    return [page, *pictures]


def page_text(models: Sequence[Found]) -> str:
    """Return the page about models, in their order."""
    return "\n".join([_HEAD, *(_about(found) for found in models)])


def _about(found: Found) -> str:
    facts = found["about"]
    scenes = facts["scenes"]
    where = (
        f"{facts['layers']} layers of {facts['heads']} heads, {facts['width']} wide; weights {facts['weights']}. "
        f"Measured on {facts['date']}: {scenes['captioned']} held-out scenes captioned, heads scored on "
        f"{scenes['scored']}, attention looked at on {scenes['looked_at']}, seed {facts['seed']}."
    )
    recall = found["recall"]
    looks = (
        f"Its captions recall {_percent(recall['own'])} % of the objects shown, and "
        f"{_percent(recall['shuffled'])} % of those in another picture."
    )
    parts = [f"## `{facts['model']}`", where, looks]
    for section in (_sinks, _positions, _heads, _grounding, _scorers):
        parts += section(found)
    return "\n\n".join(parts) + "\n"


def _sinks(found: Found) -> list[str]:
    rows = found["sinks"]
    first, image = ([row["mass"][name] for row in rows] for name in ("first", "image"))
    where = (
        f"Over layers, rows give the first token {_span(first)} % of their attention and the whole image "
        f"{_span(image)} %."
    )
    table = _table(
        ("layer", "largest value", "in channel", "at", "over its RMS", "first token: norm", "in its channel",
         "next text token", "image", "attention: first", "image", "sinks: text", "image"),
        [
            (
                row["layer"], f"{row['largest']['value']:.0f}", row["largest"]["channel"],
                next(iter(row["largest"]["at"])), f"{row['largest']['over_rms']:.1f}",
                *(f"{row['over_median'][name]:.1f}" for name in ("first", "first_in_channel", "other_text", "image")),
                f"{_percent(row['mass']['first'])}", f"{_percent(row['mass']['image'])}",
                f"{row['marked']['text']:.1f}", f"{row['marked']['image']:.1f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    legend = (
        "*Largest value*: of any token and channel, and the kind of token it stands at most often. The four columns "
        "after its ratio to the root mean square are times the median token. Attention in percent. *Sinks*: how many "
        "tokens of a prompt the criterion marks."
    )
    return ["### Sinks and massive activations", _criterion(found), where, _picture(found, "attention"), table, legend]


def _criterion(found: Found) -> str:
    """Return by which criterion the model has sinks, and which tokens those are."""
    criterion, rows = found["criterion"], found["sinks"]
    if not criterion["channels"]:
        top = max(rows, key=lambda row: row["over_median"]["first_in_channel"])
        strongest = max(row["activation"] for row in rows)
        return (
            "It has no sinks by either criterion of VAR: at the first token of a few prompts no channel stands three "
            f"times above all others. The largest activation is {strongest:.1f} times its root mean square. In its "
            f"largest channel the first token has at most {top['over_median']['first_in_channel']:.1f} times what the "
            f"median token has (layer {top['layer']})."
        )
    channels = ", ".join(map(str, criterion["channels"]))
    by = "the paper's criterion" if criterion["kind"] == "phi" else "`criterion=median`"
    marking = [row for row in rows if row["marked"]["text"] + row["marked"]["image"] > 0]
    tokens = _sums(row["marked"]["tokens"] for row in marking)
    listed = ", ".join(f"{_quoted(name)} in {count:.0f}" for name, count in tokens.items() if count >= 0.5)
    image = [row["layer"] for row in rows if row["marked"]["image"] >= 0.5]
    shown = (
        f"An image position is one in layers {_layers(image)}." if image else "No image position is one in any layer."
    )
    var = f" VAR acts on what was found with `--with {found['var']}`."
    return (
        f"By {by} it has sinks in channel {channels}, on {len(marking)} of {len(rows)} layers. Text tokens that are "
        f"sinks, and in how many layers: {listed or 'none'}. {shown}{var}"
    )


def _positions(found: Found) -> list[str]:
    """Return which image positions draw attention by their place."""
    parts = ["### Position sinks", _picture(found, "positions")]
    sinks = found["position_sinks"]
    if not sinks:
        row = max(found["sinks"], key=lambda row: row["most_attended"]["share"] / row["most_attended"]["even"])
        one = row["most_attended"]
        return [
            *parts,
            "No image position is a position sink: none is the most attended in half of the scenes with three times "
            f"its even share. The nearest is position {one['position']} in layer {row['layer']}, most attended in "
            f"{_percent(one['scenes'])} % of scenes, with {one['share'] / one['even']:.1f} times its even share.",
        ]
    header = ("position", "layer", "most attended in scenes, %", "times its even share", "where it shows an object",
              "background", "shows an object, % of scenes", "any position does, %")  # fmt: skip
    by_layer = {row["layer"]: row["most_attended"] for row in found["sinks"]}
    rows = [
        (
            str(sink["position"]), str(layer), _percent(one["scenes"]), f"{one['share'] / one['even']:.1f}",
            *(_times(one[name], one["even"]) for name in ("on_object", "on_background")),
            *(_percent(one[name]) for name in ("shows_object", "objects")),
        )
        for sink in sinks
        for layer in sink["layers"]
        for one in [by_layer[layer]]
    ]  # fmt: skip
    listed = [sink["position"] for sink in sinks if sink["proposed"]]
    proposal = (
        f"Proposed: `position_sinks={'+'.join(map(str, sorted(listed)))}`."
        if listed
        else "None is proposed: none is one in a tenth of the layers."
    )
    text = (
        "A position sink of a layer is the most attended position of the image in at least half of the scenes and "
        f"holds at least three times its even share of the image's attention, whatever it shows. {proposal}"
    )
    return [*parts, text, _table(header, rows)]


def _heads(found: Found) -> list[str]:
    ratios = [row["max_over_median"] for row in found["heads"] if row["max_over_median"] is not None]
    top = max(found["heads"], key=lambda row: row["share"])
    halves = found["stability"]["halves"]
    spread = (
        f"The largest VHD of a layer is {min(ratios):.1f} to {max(ratios):.1f} times the layer's median; it is above "
        f"{LARGE:g} in {sum(ratio > LARGE for ratio in ratios)} and above {RATHER:g} in "
        f"{sum(ratio > RATHER for ratio in ratios)} of {len(ratios)} layers. Layer {top['layer']} holds most of all "
        f"VHD, {_percent(top['share'])} %; an even share is {100 / len(found['heads']):.1f} %."
    )
    stable = (
        "Heads ranked on one half of the scenes and on the other agree: Spearman's correlation is "
        f"{_number(halves['all'])} over all heads and {_number(halves['within_layers'])} within a layer."
        if (halves["within_layers"] or 0) >= 0.9
        else "Between the two halves of the scenes the ranks of heads have Spearman's correlation "
        f"{_number(halves['all'])} over all heads and {_number(halves['within_layers'])} within a layer."
    )
    parts = ["### Vision-aware heads", spread, stable, _picture(found, "heads")]
    trainings = found["stability"]["trainings"]
    if trainings:
        rows = [(f"`{one['model']}`", _number(one["all"]), _number(one["within_layers"])) for one in trainings]
        parts += [
            "Against other trainings of the same model:",
            _table(("training", "all heads", "within a layer"), rows),
        ]
    return parts


def _grounding(found: Found) -> list[str]:
    table = found["auc"]
    gap = table["difference"]
    if gap["high"] < 0:
        verdict = "The token's plain probability tells them apart better."
    elif gap["low"] > 0:
        verdict = "T-VHD tells them apart better than the token's plain probability."
    else:
        verdict = "Which of the two tells them apart better cannot be said."
    place = found["mean_position"]
    text = (
        f"Of {found['first_mentions']:,} first mentions of objects {found['invented']} are invented. AUC is the chance "
        f"that a faithful mention scores higher than an invented one. {verdict} Invented mentions come at token "
        f"{place['invented']:.1f} of a caption on average, faithful ones at {place['faithful']:.1f}."
    )
    names = {"t_vhd": "T-VHD", "probability": "the token's probability", "difference": "difference, paired"}
    rows = [(label, _interval(table[name], signed=name == "difference")) for name, label in names.items()]
    return ["### T-VHD against the token's probability", text, _table(("score", "AUC"), rows)]


def _scorers(found: Found) -> list[str]:
    rows = [
        (*(_SCORERS[name] for name in one["pair"]), _number(one["all"]), _number(one["within_layers"]))
        for one in found["agreement"]
    ]
    text = (
        "Spearman's correlation of three scores of every head, at the prompt's last position. Within a layer is what "
        "matters to a method that chooses heads layer by layer."
    )
    return ["### Do scorers name the same heads?", text, _table(("score", "and", "all heads", "within a layer"), rows)]


def _picture(found: Found, what: str) -> str:
    name = found["about"]["model"]
    return f"![{name}: {what}]({PICTURES}/findings-{name}-{what}.png)"


def _sums(counted: Iterator[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of every name's counts, the largest first."""
    sums: dict[str, float] = {}
    for one in counted:
        for name, count in one.items():
            sums[name] = sums.get(name, 0.0) + count
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _quoted(name: str) -> str:
    return name if name == "the first" else f"`{name!r}`"


def _layers(numbers: Sequence[int]) -> str:
    """Return layers in short: `2, 12-29`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _span(values: Sequence[float]) -> str:
    return f"{100 * min(values):.0f} to {100 * max(values):.0f}"


def _times(value: float | None, even: float) -> str:
    return "–" if value is None else f"{value / even:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(estimate: Mapping[str, float], *, signed: bool) -> str:
    sign = "+" if signed else ""
    return f"{estimate['auc']:{sign}.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
