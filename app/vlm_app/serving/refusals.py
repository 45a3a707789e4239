"""What the server refuses, as the client reads it."""

from __future__ import annotations

from pydantic import ValidationError

from vlm_app.serving.wire import Problem
from vlm_heads.errors import VlmHeadsError

_LONGEST = 500  # characters


class Refusal(Exception):  # noqa: N818
    """A request that gets no answer.

    Args:
        status: of HTTP.
        message: what was given, what is needed and what to do.
        param: the field that is meant.
        retry_after: seconds after which it may be asked again.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        self.status, self.message = status, _one_line(message)
        self.param, self.retry_after = param, retry_after
        super().__init__(self.message)

    @property
    def problem(self) -> Problem:
        """What stands in the answer's body."""
        return Problem(message=self.message, type=_TYPES.get(self.status, "invalid_request_error"), param=self.param)

    @property
    def headers(self) -> dict[str, str]:
        """What stands in the answer's head."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @classmethod
    def of(cls, failure: Exception) -> Refusal:
        """Return what a client reads of a failure; of one that is no mistake of the client's, only that it happened."""
        if isinstance(failure, Refusal):
            return failure
        if isinstance(failure, ValidationError):
            return _of_fields(failure)
        if isinstance(failure, VlmHeadsError):
            return cls(400, str(failure))
        return cls(500, "the server failed at this request; its log says why")


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}
_TYPES |= {503: "server_error"}


def _of_fields(failure: ValidationError) -> Refusal:
    """Return what is wrong with the first field that cannot be used; values are not repeated."""
    first = failure.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(one) for one in first["loc"])
    known = "is not known here: leave it out" if first["type"] == "extra_forbidden" else first["msg"]
    return Refusal(400, f"{where}: {known}" if where else known, param=where or None)


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
