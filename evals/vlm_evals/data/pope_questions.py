"""POPE's questions, built as its published program builds them (Li et al. 2023)."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from vlm_evals.errors import EvaluationError

Strategy = Literal["random", "popular", "adversarial"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
PER_IMAGE = 3  # objects of an image that are asked about


def build_questions(
    annotations: Sequence[Mapping[str, Any]],
    *,
    strategy: Strategy,
    per_image: int = PER_IMAGE,
    sample: int | None = 500,
    seed: int,
) -> list[dict[str, Any]]:
    """Return POPE questions: per image and i, the i-th object (yes), then an object that is not there (no).

    The absent object is drawn evenly from all objects seen ("random"), is the most frequent one ("popular"), or stands
    most often beside the positive ("adversarial", then drawn evenly). Ties go to the object that was seen first, and no
    object is used twice for an image. The published builder sets no seed; this one takes one.

    Args:
        annotations: {"image": name, "objects": names in annotation order} of every image; all of them count towards
            the frequencies.
        strategy: how absent objects are chosen.
        per_image: questions of each label an image gets; images with fewer objects are not asked about.
        sample: how many images are drawn; None keeps all, in order.
        seed: of the drawing.

    Returns:
        Dictionaries with question_id (from 1), image, object, text and label.

    Raises:
        EvaluationError: for an unknown strategy, too few images, or an image that leaves no absent object.
    """
    if strategy not in STRATEGIES:
        raise EvaluationError(f"unknown strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    generator = random.Random(seed)
    listed = [(str(one["image"]), list(dict.fromkeys(one["objects"]))) for one in annotations]
    images = [(image, objects) for image, objects in listed if len(objects) >= per_image]
    if sample is not None:
        if len(images) < sample:
            raise EvaluationError(
                f"{len(images)} images have {per_image} objects or more, fewer than the sample of {sample}; "
                "pass a smaller sample, or None for all of them"
            )
        images = generator.sample(images, sample)
    absent = _absent_chooser(strategy, [objects for _, objects in listed], generator)
    questions: list[dict[str, Any]] = []
    for image, objects in images:
        taken = set(objects)
        for present in objects[:per_image]:
            missing = absent(present, taken)
            taken.add(missing)
            for name, label in ((present, "yes"), (missing, "no")):
                row = {"question_id": len(questions) + 1, "image": image, "object": name}
                questions.append(row | {"text": question_text(name), "label": label})
    return questions


def question_text(name: str) -> str:
    """Return POPE's question about an object; `an` stands before a, e, i, o and u."""
    return f"Is there {'an' if name[:1] in tuple('aeiou') else 'a'} {name} in the image?"


def _absent_chooser(
    strategy: Strategy, images: Sequence[Sequence[str]], generator: random.Random
) -> Callable[[str, set[str]], str]:
    """Return what chooses an absent object for a positive, given the objects already taken for that image."""
    frequency = Counter(name for objects in images for name in objects)
    seen = list(frequency)
    by_frequency = _descending(frequency, seen)
    beside = _neighbours(images, seen) if strategy == "adversarial" else {}

    def choose(present: str, taken: set[str]) -> str:
        ranked = {"random": [], "popular": by_frequency, "adversarial": beside.get(present, [])}[strategy]
        for name in ranked:
            if name not in taken:
                return name
        free = [name for name in seen if name not in taken]
        if not free:
            raise EvaluationError("an image leaves no absent object to ask about: it holds every object seen")
        return generator.choice(free)

    return choose


def _descending(counts: Mapping[str, int], order: Iterable[str]) -> list[str]:
    return sorted((name for name in order if counts.get(name)), key=lambda name: -counts[name])


def _neighbours(images: Sequence[Sequence[str]], seen: Sequence[str]) -> dict[str, list[str]]:
    """Return, for every object, the others by how many images they share with it, descending."""
    shared: dict[str, Counter[str]] = {name: Counter() for name in seen}
    for objects in images:
        for name in objects:
            shared[name].update(other for other in objects if other != name)
    return {name: _descending(counts, seen) for name, counts in shared.items()}
