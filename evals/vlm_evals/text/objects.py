"""Caption -> mentions of COCO objects: the two published text pipelines of CHAIR.

`chair-2018` (Rohrbach et al. 2018) brings every word to its singular; `chair-opera` (Huang et al. 2024 and most later
work) tags parts of speech and takes WordNet lemmas. They do not agree, so every report names the one in use. The
vocabulary "published" keeps the defects that are part of the metric; "corrected" mends them and is never mixed with it.
"""

import functools
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, NamedTuple, get_args

from vlm_evals.errors import EvaluationError
from vlm_evals.text.corrected import Corrections
from vlm_evals.text.language import PUNKT, SUBSTITUTE, PunktData, find_data, punkt_data
from vlm_evals.text.tagger import tagger
from vlm_evals.text.words import WordTokenizer

Pipeline = Literal["chair-2018", "chair-opera"]
VocabularyName = Literal["published", "corrected"]
PIPELINES: tuple[Pipeline, ...] = get_args(Pipeline)
VOCABULARIES: tuple[VocabularyName, ...] = get_args(VocabularyName)
_PARTS_OF_SPEECH = {"J": "adjectives", "V": "verbs", "N": "nouns", "R": "adverbs"}


class Mention(NamedTuple):
    """One mention of an object: the word of the caption in base form, and the object it stands for."""

    word: str
    node: str


@dataclass(frozen=True, slots=True)
class CaptionObjects:
    """What a caption says.

    Attributes:
        mentions: every mention in order, repeats kept.
        tokens: the words in base form after joining two-word names, punctuation included.
        sentences: the lower-cased sentences.
    """

    mentions: tuple[Mention, ...]
    tokens: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The words that stand for objects.

    Attributes:
        nodes: word -> object, two-word names included.
        compounds: (first, second) word -> what the two become.
        singular: surface form -> base form under chair-2018; a form not listed is its own base form.
        lemmas: part of speech -> surface form -> lemma under chair-opera.
    """

    nodes: dict[str, str]
    compounds: dict[tuple[str, str], str]
    singular: dict[str, str]
    lemmas: dict[str, dict[str, str]]


@functools.cache
def vocabulary() -> Vocabulary:
    """Return the published vocabulary, as `vocabulary.toml` states it."""
    stated = _stated()
    nodes = {node: node for node in stated["objects"]}
    for node, words in stated["objects"].items():
        nodes |= dict.fromkeys(filter(None, words.split(", ")), node)
    compounds = {_two(pair): joined for pair, joined in stated["compounds"].items()}
    lemmas = {part: _by_surface(table) for part, table in stated["lemma"].items()}
    return Vocabulary(nodes, compounds, _by_surface(stated["singular"]), lemmas)


@functools.cache
def _stated() -> dict[str, Any]:
    return tomllib.loads(files("vlm_evals.text").joinpath("vocabulary.toml").read_text("utf-8"))


@functools.cache
def _corrections() -> Corrections:
    words = vocabulary()
    parts = {part for pair in words.compounds for part in pair if " " not in part}
    single = {word for word in words.nodes | _corrected_nodes() if " " not in word}
    return Corrections(_stated()["corrected"], single | parts, words.singular)


def _corrected_nodes() -> dict[str, str]:
    return {word: node for node, word in _stated()["corrected"]["objects"].items()}


def _two(pair: str) -> tuple[str, str]:
    """Return a two-word name split at its blank; "stove top oven" can never match two words and keeps its rest."""
    first, _, second = pair.partition(" ")
    return first, second


def _by_surface(table: dict[str, str]) -> dict[str, str]:
    return {surface: base for base, surfaces in table.items() for surface in surfaces.split()}


class ObjectFinder:
    """Finds the objects that captions mention.

    Args:
        pipeline: the text pipeline.
        vocabulary_name: "published", or "corrected" for the vocabulary with its known defects mended.
        punkt: what Punkt knows about English; by default NLTK's data on this machine, or else the substitute.

    Attributes:
        notes: sentences a report must carry, such as which substitute stood in for missing language data.

    Raises:
        EvaluationError: for an unknown pipeline or vocabulary.
        MissingLanguageData: if chair-opera is asked for and NLTK's tagger data is not on this machine.
    """

    def __init__(
        self,
        pipeline: Pipeline = "chair-2018",
        vocabulary_name: VocabularyName = "published",
        punkt: PunktData | None = None,
    ) -> None:
        if pipeline not in PIPELINES:
            raise EvaluationError(f"unknown pipeline {pipeline!r}; choose one of {', '.join(PIPELINES)}")
        if vocabulary_name not in VOCABULARIES:
            raise EvaluationError(f"unknown vocabulary {vocabulary_name!r}; choose one of {', '.join(VOCABULARIES)}")
        if vocabulary_name == "corrected" and pipeline != "chair-2018":
            raise EvaluationError(
                "the vocabulary corrected mends the pipeline chair-2018; there is none for chair-opera"
            )
        self.pipeline = pipeline
        self.vocabulary_name = vocabulary_name
        if punkt is None:
            punkt = punkt_data(find_data(PUNKT))
        self.notes: tuple[str, ...] = () if punkt.abbreviations else (SUBSTITUTE,)
        self._tokenizer = WordTokenizer(punkt)
        words = vocabulary()
        self._corrections = _corrections() if vocabulary_name == "corrected" else None
        nodes = words.nodes if self._corrections is None else words.nodes | _corrected_nodes()
        self._mentions = {word: Mention(word, node) for word, node in nodes.items()}
        self._joined = words.compounds
        self._starts = {first for first, _ in words.compounds}
        self._base = self._base_forms(words)

    def find(self, caption: str) -> CaptionObjects:
        """Return the mentions, tokens and sentences of one caption; an empty caption has none."""
        sentences = self._tokenizer.sentences(caption.lower())
        words: list[str] = []
        for sentence in sentences:
            words += self._tokenizer.words(sentence)
        if self._corrections is not None:
            words = self._corrections.part(words)
        tokens = self._join(self._base(words))
        if self._corrections is None:
            mentions = [mention for token in tokens if (mention := self._mentions.get(token))]
        else:
            denied = self._corrections.denied
            found = ((index, self._mentions.get(token)) for index, token in enumerate(tokens))
            mentions = [mention for index, mention in found if mention and not denied(tokens, index)]
        # "the seat of the toilet" is no chair
        if any(mention.word == "seat" for mention in mentions) and "toilet" in tokens:
            mentions = [mention for mention in mentions if mention.word != "seat"]
        return CaptionObjects(tuple(mentions), tuple(tokens), tuple(sentences))

    def words(self, caption: str) -> list[str]:
        """Return the lower-cased words of a caption, as `nltk.word_tokenize` does."""
        tokenizer = self._tokenizer
        return [word for sentence in tokenizer.sentences(caption.lower()) for word in tokenizer.words(sentence)]

    def base_forms(self, caption: str) -> list[str]:
        """Return the words of a caption in base form, before two-word names are joined."""
        return self._base(self.words(caption))

    def _base_forms(self, words: Vocabulary) -> Callable[[list[str]], list[str]]:
        """Return what brings all words of a caption to their base form."""
        if self._corrections is not None:
            return self._corrections.base
        if self.pipeline == "chair-opera":
            return _lemmatiser(words)
        return functools.partial(_singular, words.singular)

    def _join(self, words: Sequence[str]) -> Sequence[str]:
        """Return the words with two-word names joined, from left to right and without overlap."""
        if self._starts.isdisjoint(words):
            return words
        joined: list[str] = []
        index, count = 0, len(words)
        while index < count:
            word = words[index]
            index += 1
            if word in self._starts and index < count and (name := self._joined.get((word, words[index]))):
                word = name
                index += 1
            joined.append(word)
        return joined


def _singular(table: dict[str, str], words: list[str]) -> list[str]:
    return [table.get(word, word) for word in words]


def parts_of_speech(tag: str) -> str:
    """Return which table of lemmas a tag's words are looked up in."""
    return _PARTS_OF_SPEECH.get(tag[:1], "nouns")


def _lemmatiser(words: Vocabulary) -> Callable[[list[str]], list[str]]:
    """Return what lemmatises a whole caption, tagged as one sequence; other parts of speech count as nouns.

    A part of speech is asked for where it decides about a lemma, and nowhere else.
    """
    tags_where = tagger().tags_where
    tables = {name: words.lemmas.get(name, {}) for name in _PARTS_OF_SPEECH.values()}
    forms = {form for table in tables.values() for form in table}
    lemmas = {form: {table.get(form, form) for table in tables.values()} for form in forms}
    decided = {form: found.pop() for form, found in lemmas.items() if len(found) == 1}
    undecided = forms - decided.keys()

    def lemmatise(tokens: list[str]) -> list[str]:
        found = [decided.get(token, token) for token in tokens]
        wanted = [place for place, token in enumerate(tokens) if token in undecided]
        for place, part in zip(wanted, tags_where(tokens, wanted), strict=True):
            found[place] = tables[parts_of_speech(part)].get(tokens[place], tokens[place])
        return found

    return lemmatise
