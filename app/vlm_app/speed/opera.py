"""Measures the text pipeline chair-opera beside the published program's steps, after finding both equal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from vlm_evals.errors import EvaluationError
from vlm_evals.text.language import PUNKT, find_data, import_nltk, punkt_data, sentence_tokenizer, tagger_folder
from vlm_evals.text.objects import ObjectFinder, parts_of_speech, vocabulary
from vlm_evals.text.tagger import tagger

Lemmatise = Callable[[str], list[str]]


def bench_opera(captions: Sequence[str], *, rounds: int = 3) -> dict[str, Any]:
    """Return captions per second of chair-opera and of the published program's steps, on one core.

    Those steps are nltk's tokenizer, nltk's tagger, and a lemma for every word. Lemmas are looked up in a table here
    and in WordNet there: the published program is slower than what stands for it.

    Args:
        captions: what is scored.
        rounds: how often; both take turns. Every round begins with nothing remembered.

    Returns:
        `opera_per_second`, `again_per_second` (every word seen before), `published_per_second`, `ratio`, `again_ratio`,
        `start_seconds` (reading the weights), `captions`, `tokens_per_caption`, `rounds`; medians over rounds.

    Raises:
        EvaluationError: if both do not give the same words; then no speed is reported.
        MissingLanguageData: without NLTK's tagger.
    """
    published = published_steps()
    expected = [published(caption) for caption in captions]
    spent: dict[str, list[float]] = {"start": [], "opera": [], "again": [], "published": []}
    for _ in range(rounds):
        tagger.cache_clear()
        start = time.process_time()
        finder = ObjectFinder("chair-opera")
        spent["start"].append(time.process_time() - start)
        spent["opera"].append(_seconds(captions, finder.find))
        spent["again"].append(_seconds(captions, finder.find))
        spent["published"].append(_seconds(captions, published))
        _require_equal(captions, expected, finder)
    middle = {name: median(seconds) for name, seconds in spent.items()}
    return {
        "captions": len(captions),
        "tokens_per_caption": sum(map(len, expected)) / len(captions),
        **{f"{name}_per_second": len(captions) / middle[name] for name in ("opera", "again", "published")},
        "ratio": middle["published"] / middle["opera"],
        "again_ratio": middle["published"] / middle["again"],
        "start_seconds": middle["start"],
        "rounds": rounds,
    }


def published_steps() -> Lemmatise:
    """Return what makes base forms of a caption's words with nltk alone, but for a table in place of WordNet."""
    import_nltk()
    import nltk
    from nltk.tag.perceptron import PerceptronTagger
    from nltk.tokenize.destructive import NLTKWordTokenizer

    root = str(tagger_folder().parents[1])
    if root not in nltk.data.path:
        nltk.data.path.append(root)
    tag = PerceptronTagger().tag
    sentences, words = sentence_tokenizer(punkt_data(find_data(PUNKT))), NLTKWordTokenizer()
    lemmas = vocabulary().lemmas

    def lemmatise(caption: str) -> list[str]:
        found = [word for sentence in sentences.tokenize(caption.lower()) for word in words.tokenize(sentence)]
        return [lemmas.get(parts_of_speech(part), {}).get(word, word) for word, part in tag(found)]

    return lemmatise


def _seconds(captions: Sequence[str], work: Callable[[str], Any]) -> float:
    start = time.process_time()
    for caption in captions:
        work(caption)
    return time.process_time() - start


def _require_equal(captions: Sequence[str], expected: Sequence[Sequence[str]], finder: ObjectFinder) -> None:
    for caption, words in zip(captions, expected, strict=True):
        if finder.base_forms(caption) != list(words):
            raise EvaluationError(f"chair-opera disagrees with nltk on {caption!r}; its speed means nothing")
