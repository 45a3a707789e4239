"""The fast tokenizer is nltk's, on published captions and on text made to be awkward."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nltk.tokenize.destructive import NLTKWordTokenizer
from vlm_evals.text.language import PUNKT, PunktData, punkt_data, sentence_tokenizer
from vlm_evals.text.punkt import SentenceBreaks
from vlm_evals.text.treebank import PLAIN, treebank_words
from vlm_evals.text.words import MEMORY, Memory, WordTokenizer

# A few of the entries that make Punkt's decisions differ from splitting at every full stop.
TRAINED = PunktData(
    abbreviations=frozenset({"mr", "vs", "u.s", "p.m", "st", "e.g"}),
    collocations=frozenset({("##number##", "credit"), ("st", "james"), ("b", "smith")}),
    sentence_starters=frozenset({"the", "there"}),
    contexts={"the": 36, "a": 32, "dog": 40, "there": 44},
)
MARKS = """. .. ... ! ? ?! , : ; - -- ( ) [ ] { } < > * # % & $ @ / ' '' " ` `` 's n't 'tis 'll"""
WORDS = "a the dog mr. vs. u.s. p.m. st. 5. 3.5 3,4 cannot gonna wanna-be dogs' isn't more'n d'ye james smith b. credit"
SPACES = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\x0b", "\x1c", "\xa0", "\u2028"]
PIECES = st.sampled_from([*MARKS.split(), *WORDS.split(), *SPACES, *"’“”éİϒ–"])
AWKWARD = st.lists(PIECES | st.text("abdgot.'\" ,", max_size=4), max_size=14).map("".join)
PLAIN_PIECES = st.sampled_from([*MARKS.split(), *WORDS.split(), *" \t\n\r\x0b", " ", " ", " ", *"éß–—_5"])
PLAIN_TEXT = st.lists(PLAIN_PIECES | st.text("abdgot.'\" ,", max_size=4), max_size=14).map("".join)


def nltk_words(punkt: PunktData, text: str) -> list[str]:
    return [word for sentence in sentence_tokenizer(punkt).tokenize(text) for word in _TREEBANK.tokenize(sentence)]


def fast_words(tokenizer: WordTokenizer, text: str) -> list[str]:
    return [word for sentence in tokenizer.sentences(text) for word in tokenizer.words(sentence)]


_TREEBANK = NLTKWordTokenizer()
_FAST = WordTokenizer(TRAINED)  # kept over all examples, so that what it remembers is tested too
_SLOW = sentence_tokenizer(TRAINED)


@given(AWKWARD)
@example('vs. freshness,literature."dresden"mimic')
@example('a ""dog"\n"cat')
@example("dog. )")
@example("it is no. 5. the dog")
@example("dog!!! the cat... a b. smith")
def test_sentences_and_words_are_nltks(text: str) -> None:
    text = text.lower()
    assert _FAST.sentences(text) == _SLOW.tokenize(text)
    assert fast_words(_FAST, text) == nltk_words(TRAINED, text)


@given(PLAIN_TEXT)
@example("ñ.3.5. leisure")
@example("b. a 5. the")
@example("mr. . . .\n. a")
@example("''tis more'n d'ye wanna")
def test_the_rules_of_plain_text_are_nltks(text: str) -> None:
    assert re.fullmatch(rf"{PLAIN}*", text)
    assert SentenceBreaks(TRAINED).inside(text) == _SLOW.text_contains_sentbreak(text)
    assert treebank_words(text) == _TREEBANK.tokenize(text)


def test_plain_text_needs_no_nltk() -> None:
    program = (
        "import sys\nfrom vlm_evals.text.objects import ObjectFinder\n"
        "ObjectFinder().find('A \"café\" – a dog\\'s, mr. Smith (of no. 5) said. The cat... isn\\'t!')\n"
        "assert 'nltk' not in sys.modules\nObjectFinder().find('“A dog.”')\nassert 'nltk' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_abbreviations_are_what_the_trained_data_is_for() -> None:
    text = "a dog near mr. smith. the cat."
    assert WordTokenizer(TRAINED).sentences(text) == ["a dog near mr. smith.", "the cat."]
    assert WordTokenizer(PunktData()).sentences(text) == ["a dog near mr.", "smith.", "the cat."]


@pytest.mark.parametrize("text", ["", " ", "\n", ".", "'", '"', "x" * 5000, ". " * 500, "!" * 2000, "a-" * 500])
def test_degenerate_text_is_tokenized_as_by_nltk(text: str) -> None:
    assert fast_words(WordTokenizer(TRAINED), text) == nltk_words(TRAINED, text)


@pytest.mark.shared
def test_published_captions(shared_data: Path, nltk_data: Path) -> None:
    punkt = punkt_data(nltk_data / PUNKT)
    fast, slow = WordTokenizer(punkt), sentence_tokenizer(punkt)
    for file in sorted((shared_data / "chair/captions").glob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines()[::10]:
            text = json.loads(line)["caption"].lower()
            sentences = slow.tokenize(text)
            assert fast.sentences(text) == sentences
            assert [fast.words(one) for one in sentences] == [_TREEBANK.tokenize(one) for one in sentences]


def test_a_memory_forgets_before_it_grows_without_end() -> None:
    memory = Memory.fromkeys(range(MEMORY))
    assert memory.keep("new", 1) == 1
    assert len(memory) == 1
