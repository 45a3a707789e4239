"""POPE's questions, built as its published program builds them (Li et al. 2023)."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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

    First the images are drawn; objects are counted over the drawn images alone. The absent object is drawn from all
    objects seen, again and again until one is free ("random"); it is the one in most images ("popular", ties by first
    appearance); or it is the one most often beside the positive ("adversarial", ties by first appearance beside it, and
    drawn as in "random" where none is free). None is used twice for an image.

    The published program makes the same questions from the same seed, set before each strategy; it sets none itself.
    Where the drawn images leave no absent object it never ends; this one draws from the other images' objects.

    Args:
        annotations: {"image": name, "objects": names in annotation order} of every image.
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
    elsewhere = list(dict.fromkeys(name for _, objects in listed for name in objects))
    absent = _absent_chooser(strategy, [objects for _, objects in images], elsewhere, generator)
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
    strategy: Strategy, images: Sequence[Sequence[str]], elsewhere: Sequence[str], generator: random.Random
) -> Callable[[str, set[str]], str]:
    """Return what chooses an absent object for a positive, given the objects already taken for that image.

    Args:
        strategy: see `build_questions`.
        images: the objects of the drawn images.
        elsewhere: the objects of all images, for where the drawn ones leave none.
        generator: draws.
    """
    frequency = Counter(name for objects in images for name in objects)
    seen = list(frequency)
    by_frequency = _descending(frequency)
    beside = _neighbours(images) if strategy == "adversarial" else {}

    def choose(present: str, taken: set[str]) -> str:
        ranked = {"random": [], "popular": by_frequency, "adversarial": beside.get(present, [])}[strategy]
        for name in ranked:
            if name not in taken:
                return name
        among = seen if not taken.issuperset(seen) else elsewhere
        if taken.issuperset(among):
            raise EvaluationError("an image leaves no absent object to ask about: it holds every object seen")
        while (drawn := generator.choice(among)) in taken:
            pass
        return drawn

    return choose


def _descending(counts: Mapping[str, int]) -> list[str]:
    """Return names by their count, the largest first, ties in the order in which they were first counted."""
    return sorted(counts, key=lambda name: -counts[name])


def _neighbours(images: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Return, for every object, the others by how many images they share with it, descending."""
    shared: dict[str, Counter[str]] = {}
    for objects in images:
        for name in objects:
            shared.setdefault(name, Counter()).update(other for other in objects if other != name)
    return {name: _descending(counts) for name, counts in shared.items()}
