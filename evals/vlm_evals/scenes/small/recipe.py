"""How `small` is trained: what is fixed, what may be chosen, and the folder that remembers the choice."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from vlm_evals.errors import FileFormatError, RunError
from vlm_evals.records import read_json, write_whole
from vlm_evals.scenes.batches import Diet
from vlm_evals.scenes.text import CaptionNoise
from vlm_evals.scenes.train import EASY, MIXED, PLAIN, UNIFORM

ADAPTER_RATE, PROJECTOR_RATE, FITTING_RATE = 8e-4, 1.6e-3, 3e-3
WARM_UP = 40  # steps
TEXT_LENGTH, TEXTS_A_STEP = 64, 2  # tokens of a text that the base wrote
EASY_SHARE, TIDY_SHARE = 0.2, 0.6  # of the steps: until then easy and uniform scenes; until then fewer absent objects

# An even number of questions: half of each scene's are about absent objects, of an odd number fewer.
EASY_DIET = Diet(((0.2, EASY), (0.4, UNIFORM), (0.4, PLAIN)), listing=True, questions=4, blind=0)
TIDY_DIET = Diet(((0.85, PLAIN), (0.15, MIXED)), listing=True, questions=6, blind=0)
LAST_DIET = replace(TIDY_DIET, noise=CaptionNoise(invent=0.25))


@dataclass(frozen=True)
class SmallRecipe:
    """What decides the weights, bit for bit, on one CPU.

    Attributes:
        seed: of the scenes, the texts and the first weights.
        rows: pictures with everything said about them.
        batch: rows per step.
        fitting: steps, of 48 pictures each, that first fit the projector to the words' embeddings.
        texts: that the base writes first; what it is without a picture is held by them.
        threads: per process; with another number, sums are rounded differently.
        frozen: dtype of the products with the language model's frozen weights, `float32` or `bfloat16`; None for the
            faster on this processor.
    """

    seed: int
    rows: int = 6_000
    batch: int = 8
    fitting: int = 100
    texts: int = 512
    threads: int = 1
    frozen: str | None = None

    @property
    def steps(self) -> int:
        """Steps with pictures and text."""
        return self.rows // self.batch

    def diet(self, step: int) -> Diet:
        """Return what the rows of a step are made of."""
        done = step / self.steps
        return EASY_DIET if done < EASY_SHARE else TIDY_DIET if done < TIDY_SHARE else LAST_DIET

    def texts_of(self, step: int) -> list[int]:
        """Return which of the base's texts a step sees."""
        # halves of the texts differ in kind and lie in blocks: a stride that shares no factor with their number mixes
        return [(step * TEXTS_A_STEP + i) * 197 % self.texts for i in range(TEXTS_A_STEP)]

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates: a short warm-up, then linear decay to 3 %."""
        return min(1.0, (step + 1) / WARM_UP) * max(1 - step / self.steps, 0.03)


def settled(recipe: SmallRecipe, out: Path) -> SmallRecipe:
    """Return the recipe with nothing left open, and write it down in the folder; one that lies there must be the same.

    Raises:
        RunError: if another training lies in the folder.
    """
    path = out / "recipe.json"
    if not path.exists():
        recipe = replace(recipe, frozen=recipe.frozen or faster_dtype())
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(recipe), indent=1).encode())
        return recipe
    try:
        stored = SmallRecipe(**read_json(path))
    except TypeError as error:
        raise FileFormatError(path, None, f"is no recipe of 'small' ({error})") from error
    asked = replace(recipe, frozen=recipe.frozen or stored.frozen)
    if asked != stored:
        other = [f"{key} {value}" for key, value in asdict(stored).items() if value != asdict(asked)[key]]
        raise RunError(f"{out} holds a training with {', '.join(other)}: ask for that, or give another folder")
    return stored


def faster_dtype() -> str:
    """Return the dtype in which this processor multiplies matrices faster; without units for it bfloat16 is slow."""
    seconds = {name: _seconds(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    return min(seconds, key=lambda name: seconds[name])


def _seconds(dtype: torch.dtype) -> float:
    x, weight = torch.ones(256, 576, dtype=dtype), torch.ones(576, 576, dtype=dtype)
    took = []
    for _ in range(6):
        started = time.process_time()
        F.linear(x, weight)
        took.append(time.process_time() - started)
    return min(took)
