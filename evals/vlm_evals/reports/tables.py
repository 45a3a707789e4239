"""A report as tables, and as its first line."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm_evals.metric import Metric
from vlm_evals.registry import find_metric
from vlm_evals.reports.frontier_tables import frontier_headline, frontier_tables
from vlm_evals.reports.harm import harm_tables
from vlm_evals.reports.table import Table

MOST = 10  # objects listed as invented most often
WIDEST = 5  # splits that stand beside one another; more stand below one another


def metrics_of(report: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics of a report, the one whose figures stand at its top first."""
    named = report["metric"] if report["kind"] in ("paired", "frontier") else report["kind"]
    return [find_metric(name) for name in named.split("+")]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a report, the main one first."""
    first, *more = metrics_of(report)
    if report["kind"] == "frontier":
        return frontier_tables(first, report)
    if report["kind"] != "paired":
        return _single_tables(first, report)
    found = _main_tables(first, [report[side] for side in _SIDES], report.get("splits", {}))
    found[1:1] = _transition_tables(first, report)
    found += _pair_label_tables(first, report)
    for metric in more:
        part = report[metric.name]
        found += _main_tables(metric, [report[side][metric.name] for side in _SIDES], part.get("splits", {}))
        found += [*_transition_tables(metric, part), *_pair_label_tables(metric, part)]
    found += _curve_tables(first, report) + _control_tables(first, report)
    found += harm_tables(report)
    for metric in more:
        found += _control_tables(metric, report[metric.name])
    return found + _invented_tables(report)


TURNS = ("right_to_right", "right_to_wrong", "wrong_to_right", "wrong_to_wrong")
_SIDES = ("plain", "mitigated", "difference")


def _single_tables(metric: Metric, report: Mapping[str, Any]) -> list[Table]:
    splits = report.get("splits", {})
    rows = [
        (metric.label(name), *cells(metric, name, report), *_interval(metric, name, report))
        for name in metric.figures(list(splits))
    ]
    found = [Table(metric.title, ("metric", *columns(metric, report), "95 %"), rows)]
    found += [*split_tables(metric, report), *label_tables(metric, report)]
    invented = {"this run": report["most_invented"]} if "most_invented" in report else {}
    return found + _invented_tables({"most_invented": invented})


def columns(metric: Metric, found: Mapping[str, Any]) -> list[str]:
    """Return the names of the columns of `cells`."""
    beside = found.get("splits", {}) if len(found.get("splits", {})) <= WIDEST else {}
    return [*beside, metric.over_splits if metric.over_splits and metric.over_splits != "pooled" else "value"]


def split_tables(metric: Metric, found: Mapping[str, Any]) -> list[Table]:
    """Return a table with a row a split, where there are too many to stand beside one another."""
    splits = found.get("splits", {})
    if len(splits) <= WIDEST:
        return []
    rows = [
        (split, *(metric.show(name, part[name]) for name in metric.in_splits))
        for split, part in splits.items()
        if _says_something(metric, part)
    ]
    return [Table(f"{metric.title}, by split", ("split", *map(metric.label, metric.in_splits)), rows)]


def _says_something(metric: Metric, part: Mapping[str, Any]) -> bool:
    """Whether a split has any of the figures that are shown of splits."""
    return any(part[name] is not None for name in metric.in_splits)


def cells(metric: Metric, name: str, found: Mapping[str, Any]) -> list[str]:
    """Return a figure as text: within every split, empty where it is of the whole alone, and of the whole.

    Where there are many splits, of the whole alone.
    """
    splits = found.get("splits", {}).values() if len(found.get("splits", {})) <= WIDEST else ()
    return [*(metric.show(name, part[name]) if name in part else "" for part in splits), metric.show(name, found[name])]


def _interval(metric: Metric, name: str, report: Mapping[str, Any]) -> tuple[str]:
    """Return the interval of one figure of a single run; nothing where it has none."""
    low, high = report["intervals"].get(name, (None, None))
    return ("",) if low is None else (f"[{metric.show(name, low)}, {metric.show(name, high)}]",)


def label_tables(metric: Metric, found: Mapping[str, Any]) -> list[Table]:
    """Return a table of the metric's own labels beside each other source's, and one of what changed."""
    tables = []
    for source, other in found.get("labels", {}).items():
        sides = (metric.title, source)
        splits = [*other["splits"], metric.over_splits]
        parts = [part for split in splits for part in (_part(found, split), _part(other, split))]
        counts = dict.fromkeys(name for part in parts for name in part.get("counts", ()))
        rows = [(metric.label(name), *(_exact(part[name]) for part in parts)) for name in metric.ratios]
        rows += [
            (name.replace("_", " "), *(str(part.get("counts", {}).get(name, "")) for part in parts)) for name in counts
        ]
        header = ("metric", *(f"{split}: {side}" for split in splits for side in sides))
        tables += [
            Table(f"{metric.title} and {source}", header, rows),
            _change_table(metric, source, other["label_transition"]),
        ]
    return tables


def _part(found: Mapping[str, Any], split: str | None) -> Mapping[str, Any]:
    """Return the figures of a split, or of the whole."""
    part: Mapping[str, Any] = found["splits"].get(split, found)
    return part


def _change_table(metric: Metric, source: str, transition: Mapping[str, Mapping[str, int]]) -> Table:
    header = ("split", *(name.replace("_", " ") for name in next(iter(transition.values()), ())))
    rows = [(split, *map(str, changes.values())) for split, changes in transition.items()]
    return Table(f"From {metric.title}'s labels to {source}'s", header, rows)


def _exact(value: float | None) -> str:
    """Return a figure as papers print it, in percent with two digits."""
    return "undefined" if value is None else f"{100 * value:.2f}"


def _pair_label_tables(metric: Metric, part: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a comparison under each other source of labels."""
    tables = []
    for source, other in part.get("labels", {}).items():
        own = _main_tables(metric, [other[side] for side in _SIDES], other.get("splits", {}))
        tables += [table._replace(title=f"{table.title}, labels of {source}") for table in own]
        tables.append(_change_table(metric, source, other["label_transition"]["plain"]))
    return tables


def _main_tables(metric: Metric, sides: Sequence[Mapping[str, Any]], splits: Mapping[str, Any]) -> list[Table]:
    """Return the table of the whole and of every split."""
    over = f", {metric.over_splits} over splits" if metric.over_splits in ("mean", "sum") else ""
    found = [_paired_table(metric, f"{metric.title}{over}", metric.figures(list(splits)), *sides)]
    if len(splits) < 2:
        return found
    plain, mitigated, _ = sides
    if len(splits) > WIDEST:
        return [*found, *_paired_split_table(metric, plain["splits"], mitigated["splits"], splits)]
    return found + [
        _paired_table(
            metric,
            f"{metric.title}, {split}",
            metric.in_splits,
            plain["splits"][split],
            mitigated["splits"][split],
            difference,
        )
        for split, difference in splits.items()
        if metric.in_splits and _says_something(metric, plain["splits"][split])
    ]


def _paired_split_table(
    metric: Metric, plain: Mapping[str, Any], mitigated: Mapping[str, Any], differences: Mapping[str, Any]
) -> list[Table]:
    """Return one table for many splits, of the first of their figures."""
    name = metric.in_splits[0]
    rows = [
        (
            split,
            metric.show(name, plain[split][name]),
            metric.show(name, mitigated[split][name]),
            metric.show_estimate(name, differences[split][name]),
        )
        for split in plain
        if plain[split][name] is not None
    ]
    header = ("split", "plain", "mitigated", "difference [95 %]")
    return [Table(f"{metric.title}, {metric.label(name)} by split", header, rows)]


def _paired_table(
    metric: Metric,
    title: str,
    names: Iterable[str],
    plain: Mapping[str, Any],
    mitigated: Mapping[str, Any],
    difference: Mapping[str, Any],
) -> Table:
    rows = [
        (
            metric.label(name),
            metric.show(name, plain[name]),
            metric.show(name, mitigated[name]),
            metric.show_estimate(name, difference[name]),
        )
        for name in names
    ]
    return Table(title, ("metric", "plain", "mitigated", "difference [95 %]"), rows)


def _transition_tables(metric: Metric, report: Mapping[str, Any]) -> list[Table]:
    """Return what the plain answers became, by split and label."""
    moved = report.get("transition", {})
    rows = [
        (split, f"label {label}", *(str(turns[name]) for name in TURNS))
        for split, by_label in moved.items()
        for label, turns in by_label.items()
        if isinstance(turns, Mapping)
    ]
    names = (name.replace("_", " ") for name in TURNS)
    title = f"{metric.title}, what the plain answers became"
    return [Table(title, ("split", "questions", *names), rows)] if rows else []


def _curve_tables(metric: Metric, report: Mapping[str, Any]) -> list[Table]:
    curve = metric.curve
    if curve is None or "curve" not in report:
        return []
    names = (curve.over, *curve.figures, *curve.beside)
    points = [
        (f"{point['bias']:+g}" if point["bias"] else "0", *(metric.show(name, point[name]) for name in names))
        for point in report["curve"]["points"]
    ]
    equal = [
        (metric.label(name), metric.show_estimate(name, estimate))
        for name, estimate in report["curve"]["difference"].items()
    ]
    return [
        Table("At equal recall: mitigated minus the plain model's curve", ("metric", "difference [95 %]"), equal),
        Table("The plain model's curve", ("end-of-text bias", *(metric.label(name) for name in names)), points),
    ]


def _control_tables(metric: Metric, report: Mapping[str, Any]) -> list[Table]:
    if not (metric.controls and report.get("controls")):
        return []
    head = metric.controls[0]
    differences = ["difference", *(["curve_difference"] if "curve" in report else []), "method_minus_control"]
    rows = [
        (
            name,
            *(metric.show(one, control[one]) for one in metric.controls),
            *(metric.show_estimate(head, control[one][head]) for one in differences),
        )
        for name, control in report["controls"].items()
    ]
    equal = ("at equal recall",) if "curve" in report else ()
    shown = (metric.label(name) for name in metric.controls)
    header = ("control", *shown, "minus plain", *equal, "method minus control")
    return [Table(f"Controls, {metric.label(head)}", header, rows)]


def _invented_tables(report: Mapping[str, Any]) -> list[Table]:
    found = []
    for side, objects in report.get("most_invented", {}).items():
        rows = [(one["object"], one["word"], str(one["mentions"]), str(one["captions"])) for one in objects[:MOST]]
        if rows:
            header = ("object", "most frequent word", "mentions", "captions")
            found.append(Table(f"Invented most often, {side}", header, rows))
    return found


def headline(report: Mapping[str, Any]) -> str:
    """Return the first line of a report: what was shown, before any number."""
    first, *more = metrics_of(report)
    if report["kind"] == "frontier":
        return frontier_headline(first, report)
    if report["kind"] != "paired":
        return f"{first.title} of {report['n']} {first.items}"
    said = [f"{first.title}: {_shown(first, report)}"]
    return "; ".join(said + [f"{metric.title}: {_shown(metric, report[metric.name])}" for metric in more])


def _shown(metric: Metric, part: Mapping[str, Any]) -> str:
    """Return what a comparison showed, against controls and with other labels too."""
    other = [f"with the labels of {name}: {one['verdict']}" for name, one in part.get("labels", {}).items()]
    against = _against_controls(metric, part)
    return "; ".join([part["verdict"], *([against] if against else []), *other])


def _against_controls(metric: Metric, report: Mapping[str, Any]) -> str:
    """Return which controls a method beats; empty where there are none."""
    beats = report.get("beats", {})
    won, lost = ([name for name, one in beats.items() if one is better] for better in (True, False))
    if not beats:
        return ""
    figure = metric.label(metric.accuracy or metric.headline)
    if not lost:
        return f"beats every control in {figure} ({', '.join(won)})"
    if not won:
        return f"beats no control in {figure} ({', '.join(lost)})"
    return f"beats {', '.join(won)} in {figure}, and not {', '.join(lost)}"
