"""A metric: what a score counts, which figures the counts give, and how figures are compared and shown.

    file --Judging.read--> Scored --sums per unit--> counts --ratios--> figures        `vlm-heads judge NAME`
    run directory --Asked.score--> Scored --…                                          `vlm-heads eval NAME`

A metric is one frozen `Metric` in one file of `metrics/`, or in a package of its own. `registry` finds it by name, and
nothing else needs to know it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import EvaluationError
from vlm_evals.protocol import Protocol
from vlm_evals.ratios import Counts, Formula, Mean, Sum, counts_of, evaluate, total
from vlm_evals.records import Answer, Sample, Score

OverSplits = Literal["mean", "sum", "pooled"]


@dataclass(frozen=True)
class Option:
    """An option of a metric's own, as the command line offers it.

    Attributes:
        name: of the value, as `per_caption`; it is written `--per-caption`.
        help: one line.
        kind: `str`, `int`, `float`, `bool` or `Path`.
        default: the value where none is given.
        required: whether a value must be given.
        several: whether it may be given several times; its value is a list then.
        choices: the values that are allowed; empty for any.
        short: a second, short way to write it, such as `-q`.
        written: whether a `Path` is a file to write.
    """

    name: str
    help: str
    kind: type = str
    default: Any = None
    required: bool = False
    several: bool = False
    choices: tuple[str, ...] = ()
    short: str = ""
    written: bool = False

    def check(self, value: Any) -> None:
        """Refuse a value that is none of the choices.

        Raises:
            EvaluationError: naming them.
        """
        if self.choices and value is not None and value not in self.choices:
            raise EvaluationError(f"unknown {self.name} {value!r}; choose one of {', '.join(self.choices)}")


@dataclass(frozen=True)
class Scored:
    """Scores, and what a reader needs beside them.

    Attributes:
        scores: one for each answer.
        facts: how the answers were read, where the truth came from: plain data, printed and written as it is.
    """

    scores: Sequence[Score]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judging:
    """How a metric scores somebody's saved answers.

    Attributes:
        help: the first sentence of `vlm-heads judge NAME --help`.
        file: the answers, as an argument of the command.
        options: what it needs beside them: the truth, the questions, how to read an answer.
        read: is called with the file and the options by name.
    """

    help: str
    file: Option
    read: Callable[..., Scored]
    options: tuple[Option, ...] = ()


def _as_it_is(protocol: Protocol, data: Any) -> Protocol:
    return protocol


def _nothing_beside(data: Any, given: Mapping[str, Any]) -> Any:
    return data


def _nothing_to_check(entries: Mapping[str, Any]) -> None:
    return None


@dataclass(frozen=True)
class Controls:
    """What `--controls` asks of the plain model for a metric, beside what methods have controls of their own for.

    Attributes:
        added: control -> sentence added to every prompt.
        margin: two words whose margin is recorded with every answer, as yes against no; None where none is needed.
        first_word: added to the logits of the word that most plain answers begin with, a control for each number.
    """

    added: Mapping[str, str] = field(default_factory=dict)
    margin: tuple[str, str] | None = None
    first_word: tuple[float, ...] = ()


@dataclass(frozen=True)
class Asked:
    """How a metric asks a model. `data` is what `find_data` gave.

    Attributes:
        help: the first sentence of `vlm-heads eval NAME --help`.
        max_new_tokens: tokens an answer may have.
        eligible: the ids of the images that can be asked about, from the data; of sets of images where these belong
            together.
        samples: everything a protocol asks, in its order.
        keep: writes into a run directory what its answers will be scored against, so that no data is needed then.
        score: scores the answers of a run directory; it raises `RunError` where answers are missing.
        exchange: writes the answers into the run directory as other evaluators read them.
        defaults: entries of the protocol, its prompt among them.
        options: entries of the protocol that the command line may set.
        world_max_new_tokens: tokens for the embedded world, whose descriptions are short; None for the same.
        bound: completes a protocol that is bound to data, as with the hash of the questions.
        check: refuses entries that cannot work, before a model is loaded.
        batch_size: samples in one generation.
        find_data: the data in a folder.
        data_is: what such a folder holds, in words.
        files: options that name files beside the data; they are no entries of the protocol, their hashes are.
        beside: completes data with what the options name, those of the protocol and of files alike.
        controls: what is asked of the plain model to see what a method is worth.
        own_protocol: the name of a protocol for data in the metric's own format; None where it asks about any images
            in COCO's format, the embedded world's among them.
    """

    help: str
    max_new_tokens: int
    eligible: Callable[[Any], list[Any]]
    samples: Callable[[Protocol, Any], list[Sample]]
    keep: Callable[[Path, Protocol, Any], None]
    score: Callable[[Path, Protocol, Mapping[str, Answer]], Scored]
    exchange: Callable[[Path, Protocol, Mapping[str, Answer]], None]
    defaults: Mapping[str, Any]
    options: tuple[Option, ...] = ()
    world_max_new_tokens: int | None = None
    bound: Callable[[Protocol, Any], Protocol] = _as_it_is
    check: Callable[[Mapping[str, Any]], None] = _nothing_to_check
    batch_size: int = 16
    find_data: Callable[[Path], Any] = CocoFolder.find
    data_is: str = "COCO's pictures and annotations"
    files: tuple[Option, ...] = ()
    beside: Callable[[Any, Mapping[str, Any]], Any] = _nothing_beside
    controls: Controls = field(default_factory=Controls)
    own_protocol: str | None = None


@dataclass(frozen=True)
class Curve:
    """The plain model's trade-off, drawn over end-of-text biases.

    Attributes:
        over: the figure that falls where the model stops earlier.
        figures: what is compared at an equal value of it; the first speaks for a comparison.
        beside: further figures in the table of its points.
    """

    over: str
    figures: tuple[str, ...]
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plane:
    """The plane that many runs are drawn in.

    Attributes:
        over: the figure that should be high: what is rightly said.
        shown: the figure that should be low: what is invented.
        length: of an answer; runs are compared at an equal value of it too. None where answers have no length to speak
            of.
    """

    over: str
    shown: str
    length: str | None = None


@dataclass(frozen=True)
class Derived:
    """A control that is made of the answers of the plain run, and asks no model.

    Attributes:
        scores: in the order of the plain run's.
        said: a sentence on how they came about.
    """

    scores: Sequence[Score]
    said: str


@dataclass(frozen=True)
class Relabelled:
    """The same answers under other labels.

    Attributes:
        scores: of the answers whose questions these labels keep.
        transition: split -> change of a label, or of an answer's worth -> how many.
    """

    scores: Sequence[Score]
    transition: Mapping[str, Mapping[str, int]]


def _key(score: Score) -> str:
    return score.key


def _summed(scores: Sequence[Score]) -> Mapping[str, int]:
    return total([score.counts for score in scores])


def _no_more(splits: Sequence[str]) -> Mapping[str, Formula]:
    return {}


def _no_alerts(scores: Sequence[Score]) -> list[str]:
    return []


def _no_findings(scores: Sequence[Score]) -> Mapping[str, Any]:
    return {}


def _no_transition(plain: Sequence[Score], other: Sequence[Score]) -> Mapping[str, Any]:
    return {}


def _no_derived(plain: Sequence[Score], method: Sequence[Score]) -> Mapping[str, Derived]:
    return {}


def _no_labels(scores: Sequence[Score]) -> Mapping[str, Relabelled]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric.

    Attributes:
        name: on the command line and in reports, as "chair".
        title: in tables, as "CHAIR".
        items: what is scored, in the plural, as "captions".
        ratios: figure -> how it comes from counts, in the order of the tables.
        labels: figure -> its name in tables and plots.
        judging: how saved answers are scored.
        meanings: figure -> what it is, in half a sentence, for the words of a report.
        asked: how a model is asked; None for a metric that scores saved answers alone.
        headline: the figure that a comparison is about.
        units: what the bootstrap draws, in the plural, as "images" or "pairs".
        higher_is_better: of the headline; else it counts inventions.
        recall: the figure of what is rightly said; fewer inventions must not cost it. None where there is none.
        accuracy: the figure of right answers; None where there is none.
        tested: (figure, its items in words): McNemar's exact test of the figure's numerator; None for no test.
        over_splits: how the figures of splits give those of the whole: their mean, their sum, or their counts taken
            together; None for a metric without splits.
        whole_only: splits -> further figures that the whole alone has, from counts named `split/count`, such as a sum
            over some of the splits.
        unit_counts: the counts of one unit within one split, from all its scores; by default their sums. Pairs that
            count when both answers are right are counted here.
        counted: the name under which a comparison says how many answers it rests on, where a unit has several.
        called: what a score is about, for a message.
        findings: what else scores show, as plain data for a report; it stands there for each side.
        alerts: sentences for the first lines of a report, where scores show that its figures mean little.
        relabelled: source of labels -> the same answers under its labels, where scores carry others than their own.
        relabelling: what other labels would show and how to ask for them, for a report that has none; None where there
            are none.
        transition: what answers of a plain run, and of another in the same order, became; plain data.
        derived: control -> what is made of the plain run's scores, for a method's in the same order.
        nothing: the counts of no scores; by default those of the ratios alone.
        numbers: figures that are no fractions: shown as they are, with two digits, and not in percent.
        in_splits: figures in the table of a split.
        controls: figures in the table of controls, the one compared first; empty for no such table.
        summary: the few figures of a card.
        curve: the trade-off that methods are compared along; None for none.
        plane: what many runs are drawn in; None for a metric without recall.
    """

    name: str
    title: str
    items: str
    ratios: Mapping[str, Formula]
    labels: Mapping[str, str]
    judging: Judging
    headline: str
    meanings: Mapping[str, str] = field(default_factory=dict)
    asked: Asked | None = None
    units: str = "images"
    higher_is_better: bool = False
    recall: str | None = None
    accuracy: str | None = None
    tested: tuple[str, str] | None = None
    over_splits: OverSplits | None = None
    whole_only: Callable[[Sequence[str]], Mapping[str, Formula]] = _no_more
    unit_counts: Callable[[Sequence[Score]], Mapping[str, int]] = _summed
    counted: str | None = None
    called: Callable[[Score], str] = _key
    findings: Callable[[Sequence[Score]], Mapping[str, Any]] = _no_findings
    alerts: Callable[[Sequence[Score]], list[str]] = _no_alerts
    relabelled: Callable[[Sequence[Score]], Mapping[str, Relabelled]] = _no_labels
    relabelling: str | None = None
    transition: Callable[[Sequence[Score], Sequence[Score]], Mapping[str, Any]] = _no_transition
    derived: Callable[[Sequence[Score], Sequence[Score]], Mapping[str, Derived]] = _no_derived
    nothing: Mapping[str, int] = field(default_factory=dict)
    numbers: frozenset[str] = frozenset()
    in_splits: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
    curve: Curve | None = None
    plane: Plane | None = None

    @property
    def counts_units(self) -> bool:
        """Whether figures count whole units, such as pairs: a unit that lacks an answer counts nowhere."""
        return self.unit_counts is not _summed

    @property
    def must_hold(self) -> str:
        """The figure that a benefit must not cost."""
        return self.accuracy or self.recall or self.headline

    def splits(self, scores: Iterable[Score]) -> list[str]:
        """Return the splits of scores, in the order they first appear; none for a metric without."""
        return list(dict.fromkeys(score.split for score in scores)) if self.over_splits else []

    def figures(self, splits: Sequence[str]) -> dict[str, Formula]:
        """Return how the figures of the whole come from the counts of `by_unit`."""
        if self.over_splits in (None, "pooled"):
            return {**self.ratios, **self.whole_only(splits)}
        over = Mean if self.over_splits == "mean" else Sum
        found: dict[str, Formula] = {
            name: over(tuple(formula.within(split) for split in splits), formula.undefined)
            for name, formula in self.ratios.items()
        }
        return found | dict(self.whole_only(splits))

    def figures_within(self, split: str) -> dict[str, Formula]:
        """Return how the figures of one split come from the counts of `by_unit`."""
        return {name: formula.within(split) for name, formula in self.ratios.items()}

    def by_unit(self, scores: Sequence[Score]) -> list[dict[str, int]]:
        """Return the counts of every unit, in the order in which units first appear.

        Within a split a count is named `split/count`; a unit that is not in a split has none there.
        """
        grouped: dict[tuple[str, str], list[Score]] = {}
        for score in scores:
            grouped.setdefault((score.unit, score.split if self.over_splits else ""), []).append(score)
        rows: dict[str, Counter[str]] = {}
        for (unit, split), own in grouped.items():
            row = rows.setdefault(unit, Counter())
            for name, count in self.unit_counts(own).items():
                row.update(dict.fromkeys(self._names(name, split), count))
        splits = self.splits(scores)
        needed = [one for formula in self.figures(splits).values() for one in counts_of(formula)]
        names = dict.fromkeys([*(name for row in rows.values() for name in row), *needed])
        return [{name: row[name] for name in names} for row in rows.values()]

    def _names(self, count: str, split: str) -> tuple[str, ...]:
        """Return the names under which a count of a split is summed."""
        if not self.over_splits:
            return (count,)
        return (count, f"{split}/{count}") if self.over_splits == "pooled" else (f"{split}/{count}",)

    def corpus(self, scores: Sequence[Score]) -> dict[str, Any]:
        """Return every figure of a corpus, and what it was made of.

        A figure that is not defined is None: nothing is divided by zero and nothing counts as a perfect score.

        Returns:
            figure -> value; with splits `splits` (split -> its figures, `counts` and `undefined`); and where the
            figures come from the counts of the whole, its `counts` and `undefined` (figure -> why it has no value).
        """
        splits = self.splits(scores)
        totals = total(self.by_unit(scores)) or dict(self.nothing)
        figures = self.figures(splits)
        totals |= {name: 0 for one in figures.values() for name in counts_of(one) if name not in totals}
        values, undefined = evaluate(figures, totals)
        found: dict[str, Any] = dict(values)
        if self.over_splits in (None, "pooled"):
            found["counts"] = {name: count for name, count in totals.items() if "/" not in name}
            found["undefined"] = undefined
        if self.over_splits:
            found["splits"] = {split: self._split(split, totals) for split in splits}
        return found

    def _split(self, split: str, totals: Counts) -> dict[str, Any]:
        prefix = f"{split}/"
        counts = {name.removeprefix(prefix): count for name, count in totals.items() if name.startswith(prefix)}
        values, undefined = evaluate(self.ratios, counts)
        return {**values, "counts": counts, "undefined": undefined}

    def label(self, name: str) -> str:
        """Return what a figure is called; its own name where the metric gives none."""
        return self.labels.get(name, name)

    def show(self, name: str, value: float | None) -> str:
        """Return a figure as text: a fraction in percent with one digit, a number with two."""
        if value is None:
            return "undefined"
        return f"{value:.2f}" if name in self.numbers else f"{100 * value:.1f}"

    def show_estimate(self, name: str, estimate: Mapping[str, Any]) -> str:
        """Return a difference with its sign and interval."""
        if estimate["estimate"] is None:
            return "undefined"
        scale, digits = (1, 2) if name in self.numbers else (100, 1)
        value, low, high = (scale * estimate[key] for key in ("estimate", "low", "high"))
        return f"{value:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
