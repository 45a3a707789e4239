"""Texts that the base writes itself, and how far the adapted model has moved from the base on them.

Captions alone would teach the language model to forget everything else: after 70 steps its perplexity on plain prose
was 2.5 times what it had been. So every step also asks it to give the base's own probabilities for texts without a
picture (self-distillation). The base writes them: half are prose from nothing, half are a user's turn with its answer.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from vlm_evals.records import write_whole

from .base import Base
from .chat import BEFORE_IMAGE, PADDING, UNUSED, encode

SAMPLED = 32  # texts at a time


def own_texts(base: Base, seed: int, count: int, length: int) -> Tensor:
    """Return texts that the base samples at temperature 1, int64 [count, length]; its probabilities must be its own.

    The caller's random numbers stay as they are.
    """
    starts = [encode(base.tokenizer, start) for start in (PADDING, BEFORE_IMAGE)]
    written = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for first in range(0, count, SAMPLED):
            start = torch.tensor([starts[first // SAMPLED % 2]] * min(SAMPLED, count - first))
            written.append(_sampled(base, start.to(base.model.device), length).cpu())
    return torch.cat(written)


def _sampled(base: Base, start: Tensor, length: int) -> Tensor:
    never: int = base.tokenizer.convert_tokens_to_ids(UNUSED)  # the image token, to be
    ids: Tensor = base.model.generate(
        start, attention_mask=torch.ones_like(start), max_length=length, min_length=length, do_sample=True,
        temperature=1.0, top_k=0, top_p=1.0, eos_token_id=None, pad_token_id=0, suppress_tokens=[never],
    )  # fmt: skip
    return ids


def kept_texts(path: Path, base: Base, seed: int, count: int, length: int) -> Tensor:
    """Return `own_texts`, from the file if it is there; else the file is written."""
    if not path.exists():
        write_whole(path, save({"texts": own_texts(base, seed, count, length)}))
    texts: Tensor = load(path.read_bytes())["texts"]
    return texts


def divergence(model: LlamaForCausalLM, hidden: Tensor, base_hidden: Tensor) -> Tensor:
    """Return the mean over positions of KL(base || model), in nats.

    Args:
        model: with the output layer that both share.
        hidden, base_hidden: last states [T, width] of the model and of its base.
    """
    with torch.no_grad():
        wanted = model.lm_head(base_hidden).log_softmax(-1)
    found = model.lm_head(hidden).log_softmax(-1)
    return F.kl_div(found, wanted, log_target=True, reduction="batchmean")
