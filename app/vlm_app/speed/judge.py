"""Measures how fast the judge is here, after checking that it is right; `vlm-heads bench judge` prints it."""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_evals.data.formats import Caption
from vlm_evals.data.truth import Truth
from vlm_evals.errors import EvaluationError
from vlm_evals.metrics.chair import CHAIR, score_captions
from vlm_evals.text.language import PUNKT, find_data, punkt_data, sentence_tokenizer
from vlm_evals.text.objects import ObjectFinder, vocabulary

IMAGES = 40_504  # the size of COCO val2014
_CHECKED = 200
_FRAMES = (
    "The image features {} {} standing next to {} {} in the middle of the scene.",
    "There are also several {} {} visible, some of them closer to {} {} and others in the background.",
    "In addition, {} {}'s shadow falls on {} {}, which appears to be made of well-polished wood.",
    'A sign that reads "{} {}" can be seen near {} {}, adding to the lively atmosphere!',
)
_ADJECTIVES = ("a small", "the large", "one red", "two old", "another bright", "the other", "a nearby", "some old")
_START = """
import sys, time
start = time.perf_counter()
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.data.truth import load_truth
load_truth(sys.argv[1])
finder = ObjectFinder()
finder.find("A dog's bowl, near a car. The dog runs.")
plain = time.perf_counter() - start
finder.find('A sign that reads \u201cstop\u201d.')
print(plain, time.perf_counter() - start, "torch" in sys.modules)
"""


def bench_judge(captions: int = 2000, *, words: int = 100, seed: int = 0) -> dict[str, Any]:
    """Return the judge's speed on made captions, on one core, chair-2018.

    Args:
        captions: how many captions are scored.
        words: their length, at least.
        seed: of the made captions.

    Returns:
        `captions_per_second` (first time, from text to metrics), `again_per_second` (the same with every word seen
        before), `nltk_per_second` (nltk.word_tokenize alone), `startup_seconds` (a fresh process with an index of
        `index_images` images, to the first mentions of a plain caption), `startup_with_nltk_seconds` (to those of one
        with curly quotation marks, which nltk is imported for), `torch_imported`, `tokens_per_caption`, `captions`,
        `checked` (captions on which the tokenizer was first found equal to nltk's) and `notes`.

    Raises:
        EvaluationError: if the tokenizer does not agree with nltk's; then no speed is reported.
    """
    generator = random.Random(seed)
    made = made_captions(captions, words, generator)
    finder = ObjectFinder()
    tokens = _check(finder, made[:_CHECKED])
    truth = made_truth(max(captions, IMAGES), generator)
    first, again = (_seconds(made, truth, one) for one in (ObjectFinder(), finder))
    plain, with_nltk, torch_imported = _startup(truth)
    return {
        "captions": captions,
        "tokens_per_caption": tokens,
        "captions_per_second": captions / first,
        "again_per_second": captions / again,
        "nltk_per_second": min(_CHECKED, captions) / _nltk_seconds(made[:_CHECKED]),
        "startup_seconds": plain,
        "startup_with_nltk_seconds": with_nltk,
        "index_images": len(truth.objects),
        "torch_imported": torch_imported,
        "checked": min(_CHECKED, captions),
        "notes": list(finder.notes),
    }


def made_captions(count: int, words: int, generator: random.Random) -> list[Caption]:
    """Return captions of at least so many words, of the images 0, 1, 2 and so on."""
    return [Caption(number, _made_caption(generator, words)) for number in range(count)]


def made_truth(images: int, generator: random.Random) -> Truth:
    """Return four objects for every image."""
    nodes = sorted(set(vocabulary().nodes.values()))
    return Truth({str(number): frozenset(generator.sample(nodes, 4)) for number in range(images)}, "", "made")


def write_index(path: Path, truth: Truth) -> None:
    """Write a ground truth as a plain index, image -> objects."""
    path.write_text(json.dumps({key: sorted(nodes) for key, nodes in truth.objects.items()}), "utf-8")


def _made_caption(generator: random.Random, words: int) -> str:
    names = sorted(vocabulary().nodes)
    sentences: list[str] = []
    while sum(sentence.count(" ") + 1 for sentence in sentences) < words:
        fill = (generator.choice(entries) for _ in range(2) for entries in (_ADJECTIVES, names))
        sentences.append(generator.choice(_FRAMES).format(*fill))
    return " ".join(sentences)


def _reference(text: str) -> list[str]:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    treebank = NLTKWordTokenizer()
    sentences = sentence_tokenizer(punkt_data(find_data(PUNKT))).tokenize(text)
    return [word for sentence in sentences for word in treebank.tokenize(sentence)]


def _check(finder: ObjectFinder, captions: Sequence[Caption]) -> float:
    """Return the mean number of tokens after finding them equal to nltk's."""
    count = 0
    for caption in captions:
        words = finder.words(caption.text)
        if words != _reference(caption.text.lower()):
            raise EvaluationError(f"the tokenizer disagrees with nltk's on {caption.text!r}; its speed means nothing")
        count += len(words)
    return count / max(len(captions), 1)


def _seconds(captions: Sequence[Caption], truth: Truth, finder: ObjectFinder) -> float:
    start = time.process_time()
    CHAIR.corpus([one.as_score() for one in score_captions(captions, truth, finder)])
    return time.process_time() - start


def _nltk_seconds(captions: Sequence[Caption]) -> float:
    start = time.process_time()
    for caption in captions:
        _reference(caption.text.lower())
    return time.process_time() - start


def _startup(truth: Truth) -> tuple[float, float, bool]:
    """Return how long a fresh process takes to its first mentions, plain and quoted, and whether it imported torch."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index.json"
        write_index(index, truth)
        done = subprocess.run([sys.executable, "-c", _START, str(index)], capture_output=True, text=True, check=True)
    plain, with_nltk, torch_imported = done.stdout.split()
    return float(plain), float(with_nltk), torch_imported == "True"
