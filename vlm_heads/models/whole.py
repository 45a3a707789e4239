"""Whether a checkpoint gave a model all its weights: what is missing would be random, and nobody would notice."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from vlm_heads.errors import UnsupportedModel

_NAMED = 3  # weights that a message names
_SUMMED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_whole(name: str, model: nn.Module, info: Mapping[str, Any], allow_missing: bool) -> None:
    """Raise `UnsupportedModel` if weights are missing, of another shape, or not numbers.

    Args:
        name: what the model was loaded as.
        model: as transformers loaded it.
        info: what transformers says about that, `output_loading_info`.
        allow_missing: let missing weights and those of another shape be random.
    """
    if not allow_missing:
        missing = sorted(info.get("missing_keys", ()))
        if missing:
            raise UnsupportedModel(_sentence(name, missing, "are missing in it"))
        other = sorted(
            f"{key} (is {[*has]}, must be {[*needs]})" for key, has, needs in info.get("mismatched_keys", ())
        )
        if other:
            raise UnsupportedModel(_sentence(name, other, "have another shape in it"))
    damaged = [key for key, weight in model.named_parameters() if not _all_numbers(weight)]
    if damaged:
        raise UnsupportedModel(
            f"the checkpoint of {name} is damaged: {_listed(damaged)} hold values that are no numbers; get it anew"
        )


@contextmanager
def unreported() -> Iterator[None]:
    """Keep transformers' own table of missing weights back while the context lasts; `require_whole` names them."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_without_missing)
    try:
        yield
    finally:
        logger.removeFilter(_without_missing)


class Finite(LogitsProcessor):  # type: ignore[misc]
    """Raises where token logits are not numbers; for `generate`, before other processors.

    Looks at the first token's at once, and keeps the last for `check`: once they are no numbers, they stay so.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits `[R, V]` as they are."""
        first, self._last = self._last is None, scores
        if first:
            self.check()
        return scores

    def check(self) -> None:
        """Raise `UnsupportedModel` if the last logits seen are not numbers. Waits for the device."""
        if self._last is not None and bool((self._last.isnan() | self._last.isposinf()).any()):
            raise UnsupportedModel(
                "the model's token logits are not numbers (NaN): its weights are damaged, its precision overflows, or "
                "a mitigation is far too strong; load it with dtype=torch.bfloat16 or float32, or ask it plain"
            )


def _sentence(name: str, keys: list[str], what: str) -> str:
    return (
        f"the checkpoint of {name} does not fit its config: {_listed(keys)} {what} and would be random; get the whole "
        "checkpoint, or say --allow-missing (in Python: VLM.from_pretrained(..., allow_missing=True))"
    )


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more


def _all_numbers(weight: Tensor) -> bool:
    """Whether no value is infinite or not a number; weights on no device and quantised ones pass."""
    if weight.is_meta or weight.dtype not in _SUMMED:
        return True
    values = weight.detach()
    total = values.sum(dtype=torch.promote_types(values.dtype, torch.float32))  # reads the weights, and writes nothing
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


def _without_missing(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "LOAD REPORT" not in text or not ("MISSING" in text or "MISMATCH" in text)
