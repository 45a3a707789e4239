"""What scoring refuses, and why.

    EvaluationError                   anything wrong with what was given to be scored
    ├── FileFormatError               a file that cannot be read as what it should be; names file and line
    ├── UnknownImage                  an image that is not in the ground truth
    ├── AnswerMismatch                answers that do not pair with their questions or with another run
    │   └── MissingAnswer             a question that has no answer
    ├── TaskError                     a protocol or a data folder that cannot be used as asked
    ├── RunError                      a run directory that cannot be used as asked, or takes no more answers
    ├── UnknownMetric                 no such metric, or one whose plug-in cannot be loaded
    └── MissingLanguageData           NLTK data that a text pipeline cannot do without

Scoring imports no torch, so this tree stands beside `vlm_heads.errors`, not below it.
"""

from pathlib import Path


class EvaluationError(ValueError):
    """Something given to be scored cannot be used; the message says what, and what to do."""


class FileFormatError(EvaluationError):
    """A file is not what it should be.

    Args:
        path: the file.
        line: one-based line, or None where the whole file is meant.
        reason: what is wrong.
    """

    def __init__(self, path: Path | str, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = Path(path), line, reason
        where = f"{path}, line {line}" if line is not None else str(path)
        super().__init__(f"{where}: {reason}")


class UnknownImage(EvaluationError):  # noqa: N818
    """An image has no entry in the ground truth."""


class AnswerMismatch(EvaluationError):  # noqa: N818
    """Answers are missing, doubled or belong to other questions or samples."""


class MissingAnswer(AnswerMismatch):
    """A question has no answer."""


class TaskError(EvaluationError):
    """A protocol or data folder that cannot be used as asked."""


class RunError(EvaluationError):
    """A run directory that cannot be used as asked, or that can take no more answers."""


class UnknownMetric(EvaluationError):  # noqa: N818
    """No metric has this name, or the package that brings it cannot be loaded."""


class MissingLanguageData(EvaluationError):  # noqa: N818
    """A text pipeline needs NLTK data that is not on this machine."""
