"""A report as tables and as Markdown one would paste into a paper."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LABELS = {
    "chair_s": "CHAIR_S",
    "chair_i": "CHAIR_I",
    "chair_i_distinct": "CHAIR_I, distinct objects",
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "mean_tokens": "length, tokens",
    "objects_per_caption": "objects per caption",
    "distinct_per_caption": "distinct objects per caption",
    "repeated_mentions": "repeated mentions",
    "repeated_sentences": "repeated sentences",
    "repeated_4grams": "repeated 4-grams",
    "accuracy": "accuracy",
    "false_yes_rate": "false yes",
    "yes_ratio": "yes ratio",
    "unparsed": "unparsed",
}
CHAIR_METRICS = tuple(LABELS)[:12]
POPE_METRICS = ("accuracy", "precision", "recall", "f1", "false_yes_rate", "yes_ratio", "unparsed")
_TESTED = {"chair_s": "captions that invent something", "accuracy": "questions answered rightly"}
NUMBERS = {"mean_tokens", "objects_per_caption", "distinct_per_caption"}  # the others are fractions, shown in percent


MOST = 10  # objects listed as invented most often


class Table(NamedTuple):
    """A table ready to print: every cell is text."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a report, the main one first."""
    if report["kind"] != "paired":
        return _single_tables(report)
    captions, answers = report["metric"] != "pope", report["metric"] != "chair"
    found: list[Table] = []
    if captions:
        found.append(_paired_table("CHAIR", CHAIR_METRICS, *(report[side] for side in _SIDES)))
    if answers:
        below = [report[side]["pope"] if captions else report[side] for side in _SIDES]
        found.append(_paired_table("POPE, mean over splits", POPE_METRICS, *below))
        found += _split_tables(below[0], below[1], (report["pope"] if captions else report)["splits"])
    return found + _curve_tables(report) + _control_tables(report) + _invented_tables(report)


_SIDES = ("plain", "mitigated", "difference")


def _single_tables(report: Mapping[str, Any]) -> list[Table]:
    if report["kind"] == "chair":
        rows = [(LABELS[name], show(name, report[name]), *_interval(name, report)) for name in CHAIR_METRICS]
        invented = {"this run": report["most_invented"]}
        return [Table("CHAIR", ("metric", "value", "95 %"), rows), *_invented_tables({"most_invented": invented})]
    splits = report["splits"]
    columns = [*splits.values(), report]
    rated = [
        (LABELS[name], *(show(name, part[name]) for part in columns), *_interval(name, report)) for name in POPE_METRICS
    ]
    return [Table("POPE", ("metric", *splits, "mean", "95 %"), rated)]


def _interval(name: str, report: Mapping[str, Any]) -> tuple[str]:
    """Return the interval of one metric of a single run; nothing where it has none."""
    low, high = report["intervals"].get(name, (None, None))
    return ("",) if low is None else (f"[{show(name, low)}, {show(name, high)}]",)


def _paired_table(
    title: str,
    names: Iterable[str],
    plain: Mapping[str, Any],
    mitigated: Mapping[str, Any],
    difference: Mapping[str, Any],
) -> Table:
    rows = [
        (LABELS[name], show(name, plain[name]), show(name, mitigated[name]), show_estimate(name, difference[name]))
        for name in names
    ]
    return Table(title, ("metric", "plain", "mitigated", "difference [95 %]"), rows)


def _split_tables(
    plain: Mapping[str, Any], mitigated: Mapping[str, Any], differences: Mapping[str, Any]
) -> list[Table]:
    if len(differences) < 2:
        return []
    return [
        _paired_table(
            f"POPE, {split}",
            ("accuracy", "f1", "yes_ratio", "unparsed"),
            plain["splits"][split],
            mitigated["splits"][split],
            difference,
        )
        for split, difference in differences.items()
    ]


def _curve_tables(report: Mapping[str, Any]) -> list[Table]:
    if "curve" not in report:
        return []
    names = ("recall", "chair_s", "chair_i", "chair_i_distinct", "mean_tokens")
    points = [
        (f"{point['bias']:+g}" if point["bias"] else "0", *(show(name, point[name]) for name in names))
        for point in report["curve"]["points"]
    ]
    equal = [(LABELS[name], show_estimate(name, estimate)) for name, estimate in report["curve"]["difference"].items()]
    return [
        Table("At equal recall: mitigated minus the plain model's curve", ("metric", "difference [95 %]"), equal),
        Table("The plain model's curve", ("end-of-text bias", *(LABELS[name] for name in names)), points),
    ]


def _control_tables(report: Mapping[str, Any]) -> list[Table]:
    controls = report.get("controls", {}) if report["metric"] != "pope" else {}
    rows = []
    for name, control in controls.items():
        row = [name, show("chair_s", control["chair_s"]), show("recall", control["recall"])]
        row.append(show_estimate("chair_s", control["difference"]["chair_s"]))
        if "curve" in report:
            row.append(show_estimate("chair_s", control["curve_difference"]["chair_s"]))
        row.append(show_estimate("chair_s", control["method_minus_control"]["chair_s"]))
        rows.append(tuple(row))
    equal = ("at equal recall",) if "curve" in report else ()
    header = ("control", "CHAIR_S", "recall", "minus plain", *equal, "method minus control")
    return [Table("Controls, CHAIR_S", header, rows)] if rows else []


def _invented_tables(report: Mapping[str, Any]) -> list[Table]:
    found = []
    for side, objects in report.get("most_invented", {}).items():
        rows = [(one["object"], one["word"], str(one["mentions"]), str(one["captions"])) for one in objects[:MOST]]
        if rows:
            header = ("object", "most frequent word", "mentions", "captions")
            found.append(Table(f"Invented most often, {side}", header, rows))
    return found


def show(name: str, value: float | None) -> str:
    """Return a metric as text: percent with one digit, counts per caption with two."""
    if value is None:
        return "undefined"
    return f"{value:.2f}" if name in NUMBERS else f"{100 * value:.1f}"


def show_estimate(name: str, estimate: Mapping[str, Any]) -> str:
    """Return a difference with its sign and interval."""
    if estimate["estimate"] is None:
        return "undefined"
    scale, digits = (1, 2) if name in NUMBERS else (100, 1)
    value, low, high = (scale * estimate[key] for key in ("estimate", "low", "high"))
    return f"{value:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def headline(report: Mapping[str, Any]) -> str:
    """Return the first line of a report: what was shown, before any number."""
    if report["kind"] != "paired":
        return f"{report['kind'].upper()} of {report['n']} {'captions' if report['kind'] == 'chair' else 'answers'}"
    if report["metric"] == "pope":
        return f"POPE: {report['verdict']}"
    line = f"CHAIR: {report['verdict']}"
    return f"{line}; POPE: {report['pope']['verdict']}" if "pope" in report else line


def markdown(report: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """Return a report as Markdown: the verdict, the settings, the tables, what is undefined, the plots."""
    lines = [f"# {headline(report)}", ""]
    lines += [line if line.startswith("  - ") else f"- {line}" for line in _facts(report)]
    for table in tables(report):
        lines += ["", f"## {table.title}", "", *_grid(table)]
    undefined = _undefined(report)
    if undefined:
        lines += ["", "## Undefined", "", *(f"- {name}: {reason}" for name, reason in undefined.items())]
    if report["failures"]:
        lines += ["", "## Not answered", ""]
        lines += [f"- {_cell(sample)}: {_cell(reason)}" for sample, reason in report["failures"].items()]
    for plot in plots:
        lines += ["", f"![{plot.removesuffix('.png')}]({plot})"]
    return "\n".join(lines) + "\n"


def _facts(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader needs beside the numbers, one fact a line."""
    facts = []
    for name, value in report["settings"].items():
        if name == "notes":
            facts += list(value)
        elif name == "protocol" and isinstance(value, Mapping):
            facts.append(f"protocol: {value.get('name', '')}, hash `{value.get('hash', 'none')}`")
            facts += [f"  - {key}: {_brief(entry)}" for key, entry in value.items() if key not in ("name", "hash")]
        elif isinstance(value, Mapping):
            facts.append(f"{name}: " + ", ".join(f"{key} {_cell(entry)}" for key, entry in value.items()))
        elif value not in (None, "", (), []):
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            facts.append(f"{name}: {_cell(shown)}")
    facts.append(f"n: {report['n']}" + (f", {len(report['failures'])} not answered" if report["failures"] else ""))
    if report["kind"] == "paired":
        facts.append(
            f"differences are mitigated minus plain, {report['level']:.0%} bootstrap intervals "
            f"({report['resamples']} resamples of images, seed {report['seed']}); rates in percent"
        )
        for name, test in report["mcnemar"].items():
            facts.append(
                f"McNemar's exact test, {_TESTED[name]}: {test['only_plain']} in the plain run alone, "
                f"{test['only_mitigated']} in the mitigated run alone, p = {test['p']:.3g}"
            )
    return facts


def _brief(value: object) -> str:
    """Return a protocol's entry on one line: long lists by their length, hashes by their beginning."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_brief(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list | tuple):
        return f"{len(value)} of them" if len(value) > 6 else ", ".join(map(_brief, value)) or "none"
    text = _cell(value)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def _undefined(report: Mapping[str, Any]) -> dict[str, str]:
    sides = [report[side] for side in ("plain", "mitigated")] if report["kind"] == "paired" else [report]
    reasons: dict[str, str] = {}
    for side in sides:
        for part in (side, *side.get("splits", {}).values(), side.get("pope", {})):
            reasons |= {LABELS[name]: reason for name, reason in part.get("undefined", {}).items()}
    for name, estimate in report.get("curve", {}).get("difference", {}).items():
        if "undefined" in estimate:
            reasons[f"{LABELS[name]} at equal recall"] = estimate["undefined"]
    return reasons


def _grid(table: Table) -> list[str]:
    lines = ["| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
