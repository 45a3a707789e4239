"""A block of scenes that is measured once: what is found of it is kept in a file, and so is what the model says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlm_evals.records import read_json, write_json
from vlm_evals.scenes.world import Scene

from vlm_app.studies.findings.captions import Caption, greedy_captions
from vlm_app.studies.findings.measure import rounded
from vlm_heads import VLM


@dataclass(frozen=True)
class KeptScenes(ABC):
    """Scenes that are measured together.

    Attributes:
        vlm: the model.
        out: folder of the run.
        pictures: the scenes.
        start: number of the first among all.
        seed: draws the questions.
    """

    vlm: VLM
    out: Path
    pictures: Sequence[Scene]
    start: int
    seed: int

    @abstractmethod
    def measured(self) -> dict[str, Any]:
        """Measure the scenes."""
        ...

    def found(self) -> Mapping[str, Any]:
        """Return what was measured, measured now where it is not kept yet."""
        path = self._path("scenes")
        if not path.is_file():
            write_json(path, rounded(self.measured()))
        kept: Mapping[str, Any] = read_json(path)
        return kept

    def captions(self) -> list[Caption]:
        """Return what the model says of the scenes, said now where it is not kept yet."""
        path = self._path("captions")
        if not path.is_file():
            write_json(path, {"captions": [asdict(one) for one in greedy_captions(self.vlm, self.pictures)]})
        return [Caption(tuple(one["ids"]), tuple(one["chances"]), one["text"]) for one in read_json(path)["captions"]]

    def _path(self, name: str) -> Path:
        return self.out / f"{name}-{self.start:04d}-{self.start + len(self.pictures):04d}.json"
