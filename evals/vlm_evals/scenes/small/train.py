"""Training of `small`: projector and adapters learn to see on a pretrained language model.

Three stages. The base writes texts of its own. The projector is fitted to the embedding of the word for what each patch
shows. Then projector and adapters learn captions, lists and questions, at first on easy and uniform scenes, while on
the base's texts the language model stays near what it was. The vision tower is `mini`'s. It stays frozen, as does the
language model under its adapters. A training that was killed goes on where its last saved state was, and ends with the
same weights, bit for bit on one CPU; on a GPU sums may be rounded in another order.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlm_evals.records import read_text, write_text

from .adapters import ALPHA, RANK
from .base import Base
from .learner import Learner, fit_projector, new_learner
from .own_texts import kept_texts
from .package import SHA256, WEIGHTS
from .recipe import ADAPTER_RATE, PROJECTOR_RATE, TEXT_LENGTH, SmallRecipe, settled
from .resume import load_state, save_state
from .rows import build_batch
from .weights import Weights, save_weights

STATE, LOG, TEXTS = "state.safetensors", "log.jsonl", "texts.safetensors"
SAVED_EVERY = 180.0  # seconds
LOGGED_EVERY = 10  # steps
QUARTERS = 4  # weights are kept at each: a curve of checkpoints tells whether an effect outlives better grounding

Advance = Callable[[int], None]


def train_small(
    recipe: SmallRecipe, out: Path, load: Callable[[], tuple[Base, PreTrainedModel]], *,
    device: str = "cpu", advance: Advance = lambda steps: None, saved_every: float = SAVED_EVERY,
) -> Path:  # fmt: skip
    """Train into a folder and return the file of weights; started again with the same recipe, it goes on.

    Args:
        recipe: what decides the weights.
        out: holds the recipe, the log, the saved state and the weights.
        load: returns the language model and the vision tower; called only where training is not done.
        device: where to train.
        advance: called with the number of steps taken since its last call.
        saved_every: seconds between saved states.

    Raises:
        RunError: if another training lies in the folder.
        UnknownModel: if the base is not installed.
    """
    recipe = settled(recipe, out)
    if (out / WEIGHTS).exists():
        advance(recipe.steps)
        return out / WEIGHTS
    torch.set_num_threads(recipe.threads)
    for draft in out.glob(".part-*"):  # what a killed training was writing
        draft.unlink()
    base, tower = load()
    texts = kept_texts(out / TEXTS, base, recipe.seed, recipe.texts, TEXT_LENGTH)
    learner = new_learner(recipe, base, tower, device)
    if not (out / STATE).exists():
        fit_projector(learner, recipe)
    learn(learner, recipe, texts, out, advance, saved_every)
    save_weights(_weights(learner, recipe, recipe.steps), out / WEIGHTS)
    (out / STATE).unlink(missing_ok=True)
    return out / WEIGHTS


def learn(
    learner: Learner, recipe: SmallRecipe, texts: Tensor, out: Path, advance: Advance, saved_every: float
) -> None:
    """Take every step from the saved state to the end."""
    parameters = learner.parameters()
    optimizer = _optimizer(learner)
    first = load_state(out / STATE, parameters, optimizer) if (out / STATE).exists() else 0
    log = _log_until(out / LOG, first)
    advance(first)
    saved = time.monotonic()
    for step in range(first, recipe.steps):
        batch = build_batch(recipe.diet(step), learner.processor, recipe.seed + 600, step * recipe.batch, recipe.batch)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * recipe.rate(step)
        loss, moved = learner.losses(batch, texts[recipe.texts_of(step)])
        optimizer.zero_grad()
        torch.autograd.backward(loss + moved)
        nn.utils.clip_grad_norm_([*parameters.values()], 1.0)
        optimizer.step()
        log(step + 1, loss.item(), moved.item())
        if (step + 1) % LOGGED_EVERY == 0:
            _return_memory()
        advance(1)
        if (step + 1) * QUARTERS % recipe.steps < QUARTERS and step + 1 < recipe.steps:
            rows = (step + 1) * recipe.batch
            save_weights(_weights(learner, recipe, step + 1), out / f"weights-{rows}.safetensors")
        if time.monotonic() - saved >= saved_every:
            save_state(out / STATE, parameters, optimizer, step + 1)
            saved = time.monotonic()


def _optimizer(learner: Learner) -> torch.optim.AdamW:
    """Return AdamW over both groups; each keeps its peak rate."""
    groups = [
        {"params": [*learner.factors.values()], "peak": ADAPTER_RATE},
        {"params": [*learner.projector.parameters()], "peak": PROJECTOR_RATE},
    ]
    return torch.optim.AdamW(groups, lr=ADAPTER_RATE, betas=(0.9, 0.98), weight_decay=0.0)


def _weights(learner: Learner, recipe: SmallRecipe, steps: int) -> Weights:
    facts = {"base": SHA256, "seed": str(recipe.seed), "rows": str(steps * recipe.batch), "rank": str(RANK),
             "alpha": str(ALPHA), "frozen": str(recipe.frozen)}  # fmt: skip
    return Weights(learner.tower.state_dict(), learner.projector.state_dict(), learner.factors, facts)


def _log_until(path: Path, done: int) -> Callable[[int, float, float], None]:
    """Return what is called with a step and its two losses; it appends a line of means every tenth step.

    Lines of steps that a resumed training takes again are dropped first.
    """
    lines = read_text(path).splitlines() if path.exists() else []
    write_text(path, "".join(line + "\n" for line in lines if json.loads(line)["step"] <= done))
    losses: list[float] = []
    distances: list[float] = []
    started = time.monotonic()

    def log(step: int, loss: float, distance: float) -> None:
        nonlocal started
        losses.append(loss)
        distances.append(distance)
        if step % LOGGED_EVERY:
            return
        seconds = (time.monotonic() - started) / len(losses)
        loss, distance = (round(sum(values) / len(values), 4) for values in (losses, distances))
        line = {"step": step, "loss": loss, "distance": distance, "seconds": round(seconds, 2)}
        losses.clear()
        distances.clear()
        started = time.monotonic()
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    return log


def keep_memory() -> None:
    """Let glibc keep the large blocks of a step for the next one, instead of returning them to the system.

    Getting them back page by page costs a step several percent of its time. It holds for the whole process, so a
    program calls it, not a library. Other C libraries have no such switch. Steps differ in length, so what is kept
    falls into pieces and grows; training returns it now and then.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        most_mapped, trim_threshold = -4, -1  # of malloc.h
        option(most_mapped, 0)
        option(trim_threshold, -1)


def _return_memory() -> None:
    """Return to the system what no tensor uses."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
