"""Description -> its nouns in base form, as AMBER's program finds them: tokens, tags, WordNet's lemmas."""

import functools
import tomllib
from collections.abc import Callable, Iterable
from hashlib import sha256
from importlib.resources import files
from typing import Any

from vlm_evals.errors import MissingLanguageData
from vlm_evals.text.language import PUNKT, SUBSTITUTE, find_data, import_nltk, punkt_data, sentence_tokenizer
from vlm_evals.text.tagger import tagger

OTHER_WORDS = (
    "the relations hold other words than AMBER's: base forms of nouns are known for AMBER's words, and other words are "
    "found as they stand"
)


@functools.cache
def _stated() -> dict[str, Any]:
    return tomllib.loads(files("vlm_evals.text").joinpath("amber_nouns.toml").read_text("utf-8"))


@functools.cache
def base_forms() -> dict[str, str]:
    """Return surface form -> base form, for the forms that matter to AMBER's words; others are their own."""
    return {surface: base for base, surfaces in _stated()["lemma"].items() for surface in surfaces.split()}


def is_known(words: Iterable[str]) -> bool:
    """Whether these are the words that base forms were computed for."""
    return sha256("\n".join(sorted(set(words))).encode()).hexdigest() == str(_stated()["vocabulary"])


class NounFinder:
    """Finds the nouns of texts. Letters keep their case: "Dogs" at the start of a sentence is no "dog".

    Attributes:
        notes: sentences that a report must carry, such as which substitute stood in for missing language data.

    Raises:
        MissingLanguageData: if NLTK's tagger is not on this machine.
    """

    def __init__(self) -> None:
        punkt = punkt_data(find_data(PUNKT))
        self.notes: tuple[str, ...] = () if punkt.abbreviations else (SUBSTITUTE,)
        self._sentences = sentence_tokenizer(punkt)
        try:
            self._tag: Callable[[list[str]], list[tuple[str, str]]] = tagger().tag
        except MissingLanguageData as error:
            raise MissingLanguageData(
                "AMBER's descriptions need NLTK's part-of-speech tagger, which is not on this machine; set NLTK_DATA "
                "to a folder with taggers/averaged_perceptron_tagger_eng, or give the answers to questions alone"
            ) from error

    def nouns(self, text: str) -> list[str]:
        """Return the nouns in order, repeats kept, each in its base form where that matters."""
        forms = base_forms()
        return [forms.get(word, word) for word, part in self._tag(self._words(text)) if part.startswith("NN")]

    def _words(self, text: str) -> list[str]:
        words = _treebank()
        return [word for sentence in self._sentences.tokenize(text) for word in words.tokenize(sentence)]


@functools.cache
def _treebank() -> Any:
    import_nltk()
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
