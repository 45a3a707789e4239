"""Reports: one run, two or many on the same items, as JSON, Markdown, LaTeX, and plots in PNG and SVG.

A report is plain data first; Markdown, plots and the command line's tables are drawn from that data alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.metric import Metric
from vlm_evals.records import Score, write_json, write_text
from vlm_evals.reports.labels import pair_under_labels, under_labels
from vlm_evals.reports.latex import latex
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import Comparison, intervals

Settings = Mapping[str, Any]
_NONE: Mapping[str, str] = {}


def single_report(
    metric: Metric,
    scores: Sequence[Score],
    *,
    settings: Settings,
    failures: Mapping[str, str] = _NONE,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the report of one run.

    Args:
        metric: whose scores they are.
        scores: of every answer.
        settings: what a reader needs to repeat it: `protocol` (with `hash`), `model`, `interventions`, the facts of
            the scores, `notes` (a list of sentences); entries are printed as they are.
        failures: sample id -> why it was not answered; counted, listed and not scored.
        seed: of the bootstrap.

    Returns:
        `kind` (the metric's name), `settings`, `n`, `failures`, every figure with what it was made of and `intervals`,
        and what else the metric finds; `labels` (source -> the same under its labels) and `alerts` (sentences for the
        first lines) where there are any.
    """
    found: dict[str, Any] = {"kind": metric.name, "settings": dict(settings), "n": len(scores)}
    found |= {"failures": dict(failures), **metric.corpus(scores)}
    found |= {"intervals": intervals(metric, scores, seed=seed), **metric.findings(scores)}
    found |= under_labels(metric, scores, seed=seed)
    return found | alerting(metric.alerts(scores))


def alerting(alerts: Sequence[str]) -> dict[str, list[str]]:
    """Return the entry of a report for what its first lines say; nothing where there is nothing to say."""
    return {"alerts": list(alerts)} if alerts else {}


def paired_report(
    comparisons: Sequence[Comparison], *, settings: Settings, failures: Mapping[str, str] = _NONE
) -> dict[str, Any]:
    """Return the report of a plain and a mitigated run on the same items, of one metric or of several.

    An item that failed in either run is in neither: leave it out of all scores and name it in `failures`.

    Args:
        comparisons: one a metric.
        settings: as in `single_report`.
        failures: sample id -> why it was not answered.

    Returns:
        `kind` "paired", `settings`, `failures`, `metric` and what `Comparison.pair` gives, with what else the metric
        finds of each side. Of further metrics the figures stand in each side under their names, and so does the rest.
    """
    first, *more = comparisons
    named = "+".join(one.metric.name for one in comparisons)
    found: dict[str, Any] = {"kind": "paired", "settings": dict(settings), "failures": dict(failures), "metric": named}
    found |= first.pair() | first.findings() | pair_under_labels(first)
    for one in more:
        _add(found, one)
    return found | alerting([alert for one in comparisons for alert in one.alerts()])


def _add(found: dict[str, Any], comparison: Comparison) -> None:
    """Put a further metric into a report."""
    metric, part = comparison.metric, comparison.pair()
    for side in ("plain", "mitigated", "difference"):
        found[side] = found[side] | {metric.name: part[side]}
    found["mcnemar"] = found.get("mcnemar", {}) | part.get("mcnemar", {})
    kept = ("verdict", "n", metric.counted, "splits", "transition", "beats", "controls")
    found[metric.name] = {name: part[name] for name in kept if name in part} | pair_under_labels(comparison)


def write_report(folder: Path | str, report: Mapping[str, Any], *, plots: bool = True) -> list[Path]:
    """Write report.json, report.md, report.tex and the plots; return what was written, in that order.

    Each file is replaced in one step, so a reader never sees half a report.
    """
    folder = Path(folder)
    write_json(folder / "report.json", report)
    drawn: list[Path] = []
    if plots:
        from vlm_evals.reports.plots import draw_plots  # matplotlib is slow to import, and a judge needs none

        drawn = draw_plots(folder, report)
    texts = {"report.md": markdown(report, [path.name for path in drawn if path.suffix == ".png"])}
    texts["report.tex"] = latex(report)
    for name, text in texts.items():
        write_text(folder / name, text.encode(errors="backslashreplace").decode())  # half a surrogate is no text
    return [folder / "report.json", *(folder / name for name in texts), *drawn]
