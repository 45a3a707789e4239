"""A folder of pictures with what stands beside it for POPE: published questions, and other labels of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.formats import Question
from vlm_evals.data.labels import read_question_files
from vlm_evals.data.other_labels import LABEL_SETS, OtherLabels, read_labels
from vlm_evals.errors import TaskError
from vlm_evals.records import file_hash


@dataclass(frozen=True)
class PopeFolder(CocoFolder):
    """A folder in COCO's format, and files beside it.

    Attributes:
        asked: question file -> its questions; empty where they are made from the annotations.
        labels: other labels of the questions, or None.
    """

    asked: Mapping[Path, list[Question]] | None = None
    labels: OtherLabels | None = None

    @classmethod
    def beside(cls, data: CocoFolder, given: Mapping[str, Any]) -> CocoFolder:
        """Return a folder with what the options `questions`, `labels` and `labels_from` name.

        Raises:
            TaskError: if labels are named and not found, or found and not named.
            EvaluationError: naming a file that cannot be read.
        """
        labels = labels_given(given.get("labels"), given.get("labels_from"))
        files = [Path(one) for one in given.get("questions") or ()]
        if labels is None and not files:
            return data
        own = {one.name: getattr(data, one.name) for one in fields(CocoFolder)}
        return cls(**own, asked=read_question_files(files) if files else None, labels=labels)

    def hashes(self) -> dict[str, str]:
        """Return file name -> SHA-256, of the files beside the folder too."""
        beside = {path.name: file_hash(path) for path in self.asked or ()}
        return super().hashes() | beside | (self.labels.hashes() if self.labels else {})


def labels_given(name: str | None, source: Path | str | None) -> OtherLabels | None:
    """Return the labels that two options name; None where neither is given.

    Raises:
        TaskError: if one of them is missing.
        FileFormatError: if the files cannot be read.
    """
    if name is None and source is None:
        return None
    if name is None:
        raise TaskError(f"--labels-from {source}: say whose labels they are, as --labels {next(iter(LABEL_SETS))}")
    if source is None:
        raise TaskError(f"--labels {name}: say where its files are, with --labels-from; {LABEL_SETS[name]}")
    return read_labels(name, Path(source))
