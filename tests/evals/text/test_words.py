"""The fast tokenizer is nltk's, on published captions and on text made to be awkward."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nltk.tokenize.destructive import NLTKWordTokenizer
from vlm_evals.text.language import PUNKT, PunktData, punkt_data, sentence_tokenizer
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
PIECES = st.sampled_from([*MARKS.split(), *WORDS.split(), *SPACES, *"’“”éİϒ"])
AWKWARD = st.lists(PIECES | st.text("abdgot.'\" ,", max_size=4), max_size=14).map("".join)


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


def test_nltk_is_imported_without_what_takes_longest() -> None:
    """Its test of collocations works all the same: of the table [[3, 1], [1, 3]] at most 3 has 1 - 1 / 70 = 0.986."""
    program = (
        "import sys\n"
        "from vlm_evals.text.language import import_nltk\n"
        "import_nltk()\n"
        "assert 'nltk' in sys.modules and 'scipy.stats' not in sys.modules\n"
        "from nltk.metrics import BigramAssocMeasures\n"
        "print(round(BigramAssocMeasures.fisher(3, (4, 4), 8), 3), 'scipy.stats' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0.986", "True"]
