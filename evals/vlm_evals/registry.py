"""Finds metrics by name: one file each in `metrics/`, and those that other packages bring.

A package brings a metric by an entry point of the group `vlm_evals.metrics`, whose value is its `Metric`:

    [project.entry-points."vlm_evals.metrics"]
    toy = "toy_metric:TOY"

Names are read from file names and entry points; a metric itself is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

import vlm_evals.metrics
from vlm_evals.errors import UnknownMetric
from vlm_evals.metric import Metric

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "vlm_evals.metrics"


class Registry:
    """Metrics found by looking.

    Args:
        folder: the package whose files are a metric each, `mcq_pope.py` the metric "mcq-pope".
        plug_ins: gives the entry points of other packages; asked only where a name is not in the folder, or where all
            metrics are wanted.
    """

    def __init__(self, folder: ModuleType, plug_ins: Callable[[], Iterable[EntryPoint]]) -> None:
        self._folder = folder
        self._plug_ins = plug_ins

    @cached_property
    def own(self) -> dict[str, str]:
        """Name -> module, for the metrics of the folder."""
        modules = sorted(module.name for module in pkgutil.iter_modules(self._folder.__path__))
        return {module.replace("_", "-"): f"{self._folder.__name__}.{module}" for module in modules}

    @cached_property
    def _brought(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in self._plug_ins():
            if point not in found.setdefault(point.name, []):
                found[point.name].append(point)
        return dict(sorted(found.items()))

    def find(self, name: str) -> Metric:
        """Return a metric by its name.

        Raises:
            UnknownMetric: if there is none, with the nearest known one, or if the package that brings it is broken.
        """
        if name in self.own:
            return _only_metric(importlib.import_module(self.own[name]))
        if name in self._brought:
            return self._load(name)
        known = [*self.own, *self._brought]
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UnknownMetric(f"no metric {name!r}{hint}; known: {', '.join(known)}")

    def all(self) -> dict[str, Metric]:
        """Return every metric by its name; a plug-in that cannot be used is named in the log and left out."""
        import logging  # slow to import, and needed only where all are listed

        found = {name: self.find(name) for name in self.own}
        for name in self._brought:
            try:
                found.setdefault(name, self._load(name))
            except UnknownMetric as error:
                logging.getLogger(__name__).warning("%s", error)
        return found

    def _load(self, name: str) -> Metric:
        """Return a metric that another package brings."""
        points = self._brought[name]
        where = " and ".join(_package(point) for point in points)
        if name in self.own:
            raise UnknownMetric(f"{where} brings a metric {name!r}, which is a name of ours: it is left out")
        if len(points) > 1:
            raise UnknownMetric(f"{where} each bring a metric {name!r}: uninstall all but one")
        try:
            metric = points[0].load()
        except Exception as error:  # whatever another package's module raises, the other metrics can still be used
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UnknownMetric(f"the metric {name!r} of {where} cannot be loaded ({reason})") from error
        if not isinstance(metric, Metric):
            raise UnknownMetric(f"{points[0].value} of {where} is no Metric: {name!r} cannot be used")
        if metric.name != name:
            raise UnknownMetric(f"the metric of {where} is called {metric.name!r} and its entry point {name!r}")
        return metric


def _package(point: EntryPoint) -> str:
    return point.value if point.dist is None else str(point.dist.name)


def _only_metric(module: ModuleType) -> Metric:
    (metric,) = (value for value in vars(module).values() if isinstance(value, Metric))
    return metric


def _installed() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # asked where a name is not ours

    return entry_points(group=GROUP)


_REGISTRY = Registry(vlm_evals.metrics, _installed)


def find_metric(name: str) -> Metric:
    """Return a metric by its name, ours or a plug-in's.

    Raises:
        UnknownMetric: if there is none, with the nearest known one, or if the package that brings it is broken.
    """
    return _REGISTRY.find(name)


def known_metrics() -> dict[str, Metric]:
    """Return every metric by its name; a plug-in that cannot be used is named in the log and left out."""
    return _REGISTRY.all()
