"""From the trained parts and the base to an ordinary checkpoint."""

from __future__ import annotations

from pathlib import Path

import transformers
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from vlm_evals.records import file_hash

from .base import load_base
from .chat import build_processor
from .kept import kept_folder, save_from_here
from .model import assemble
from .package import SHA256, shipped_weights
from .weights import read_weights

FORMAT = "2"  # goes up when the same weights are put together in another way


def build_small(weights: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return (model, processor): the base with the trained parts in it, in float32.

    Args:
        weights: the file of trained parts, or the folder that holds it.

    Raises:
        FileNotFoundError: if there are no weights.
        UnknownModel: if the base is not installed; the message says how to get it.
        UnsupportedModel: if the weights are damaged.
    """
    parts, base = read_weights(weights), load_base()
    processor = build_processor(base.tokenizer)
    return assemble(base, processor, parts), processor


def save_small(weights: Path, out: Path) -> None:
    """Write a checkpoint that plain `from_pretrained` loads; raises as `build_small` does."""
    model, processor = build_small(weights)
    out.mkdir(parents=True, exist_ok=True)
    save_from_here(model, out)
    processor.save_pretrained(out)


def small_folder(weights: Path | None = None) -> Path:
    """Return the folder of the embedded model's checkpoint; put together at the first call, then from the cache.

    Args:
        weights: the trained parts; by default those that ship with the package.

    Raises:
        UnknownModel: if no weights ship or the base is not installed.
        UnsupportedModel: if the weights are damaged, or the cache cannot be written.
    """
    weights = weights or shipped_weights()
    made_from = {"weights": file_hash(weights), "base": SHA256, "format": FORMAT,
                 "transformers": transformers.__version__}  # fmt: skip
    return kept_folder("small", made_from, lambda out: save_small(weights, out))
