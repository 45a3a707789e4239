"""The pretrained language model under `small`, SmolLM2-135M-Instruct, as an ordinary model.

The package's file holds 4-bit weights. They are turned into float32 once and kept in the user's cache.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import NamedTuple

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from .kept import kept_folder, save_from_here
from .package import SHA256, base_file

READ_FROM = ("quantization_config", "architectures", "transformers_version")
FORMAT = "2"  # goes up when the same file is turned into something else


class Base(NamedTuple):
    """A pretrained language model and its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


def load_base() -> Base:
    """Return the language model in float32, with its tokenizer; dequantised at the first call, then from the cache.

    Raises:
        UnknownModel: as `base_file`.
        UnsupportedModel: if the cache cannot be written.
    """
    file = base_file()
    made_from = {"file": SHA256, "format": FORMAT, "transformers": transformers.__version__}
    with _quiet():
        folder = kept_folder("smollm2-135m-instruct", made_from, lambda out: _save(dequantised(file), out))
        return Base(LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def dequantised(file: Path) -> Base:
    """Return what a file of quantised weights holds as a plain float32 model, with its tokenizer.

    A model that transformers reads from such a file keeps the quantisation in its configuration and refuses to be
    saved. So its weights move to a model that never heard of it.
    """
    with _quiet():
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        config = plain_config(read.config)
        model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=read.state_dict())
    return Base(model, tokenizer)


def plain_config(config: LlamaConfig) -> LlamaConfig:
    """Return the shape that a configuration states, without where it was read from and how that was quantised."""
    stated = config.to_dict()
    return LlamaConfig(**{key: value for key, value in stated.items() if key[0] != "_" and key not in READ_FROM})


def _save(base: Base, folder: Path) -> None:
    save_from_here(base.model, folder)
    base.tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars off the terminal; one of them asks no setting."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
