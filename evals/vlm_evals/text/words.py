"""Caption -> words: exactly `nltk.word_tokenize` on lower-cased text, and an order of magnitude faster.

Both halves of nltk's tokenizer decide almost everything from a few neighbouring characters:

- Punkt decides about a full stop from the word before it and the word after it. The plain case (a word of letters, then
  white space, then a letter) is decided here. For any other nltk is asked once, and its answer is remembered.
- The Treebank rules never look across white space, except for quotation marks, a trailing apostrophe and closing
  brackets at the end of a sentence. So nltk tokenizes each run of non-space characters once, with the neighbours that
  matter, and the result is remembered. A sentence with one of the exceptions is given to nltk whole.

Text outside printable ASCII is given to nltk whole: nltk's regular expressions and Python's differ on rare spaces.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

from vlm_evals.text.language import PunktData, import_nltk, sentence_tokenizer

MEMORY = 100_000  # remembered runs of characters, and contexts of full stops
LONGEST = 64  # characters of a run that is remembered
_PLAIN = re.compile(r"[\t\n\r\f\v\x20-\x7e]*")
_OTHER_SPACE = re.compile(r"[\t\n\r\f\v]")
_RUN = re.compile(r"\S+")
_STOP = re.compile(r"""[.?!](?=(?P<after>[)";}\]*:@'({\[?!])|\s+(?P<next>\S))""")
_CLOSING = """])}>"'"""
_REALIGNED = re.compile(r"""["')\]}]+?(?:\s+|(?=--)|$)""", re.MULTILINE)
_SIMPLE = re.compile(r"((?:[a-z0-9]+-)*[a-z0-9]+)('s)?([.,]?)")
_CONTRACTED = re.compile(r"(?:cannot|gimme|gonna|gotta|lemme|wanna)\b")  # a superset of what nltk takes apart
_LETTERS = re.compile(r"[a-z]{2,}")
_SPACES = " \t\n\r\f\v"


class Memory(dict[Any, Any]):
    """A dictionary that forgets everything when it has grown too large."""

    def keep(self, key: Any, value: Any) -> Any:
        """Return the value after remembering it."""
        if len(self) >= MEMORY:
            self.clear()
        self[key] = value
        return value


class WordTokenizer:
    """nltk's word tokenizer for lower-cased English, with a memory. nltk is imported when it is first asked.

    Args:
        punkt: what Punkt knows; see `language`.
    """

    def __init__(self, punkt: PunktData) -> None:
        self._punkt = punkt
        self._collocated = {first for first, _ in punkt.collocations}
        self._breaks = Memory()
        self._inner = Memory()
        self._final = Memory()
        self._quoted = Memory()

    @functools.cached_property
    def _sentences(self) -> Any:
        return sentence_tokenizer(self._punkt)

    @functools.cached_property
    def _treebank(self) -> Any:
        import_nltk()
        from nltk.tokenize.destructive import NLTKWordTokenizer

        return NLTKWordTokenizer()

    def sentences(self, text: str) -> list[str]:
        """Return the sentences of a lower-cased text, as nltk.sent_tokenize does."""
        if _PLAIN.fullmatch(text) is None:
            found: list[str] = self._sentences.tokenize(text)
            return found
        return [text[start:end] for start, end in _realigned(text, self._spans(text))]

    def words(self, sentence: str) -> list[str]:
        """Return the words of one sentence, as nltk's NLTKWordTokenizer does."""
        if _PLAIN.fullmatch(sentence) is None:
            return self._ask(sentence)
        runs = sentence.split()
        if not runs or not runs[-1].strip(_CLOSING):
            return self._ask(sentence)
        if '"' in sentence or "'" in sentence:
            return self._words_with_quotes(sentence, runs)
        words: list[str] = []
        last = runs.pop()
        inner = self._inner
        for run in runs:
            words += inner.get(run) or self._inner_run(run)
        words += self._final.get(last) or self._final_run(last)
        return words

    def _ask(self, sentence: str) -> list[str]:
        words: list[str] = self._treebank.tokenize(sentence)
        return words

    def _inner_run(self, run: str) -> list[str]:
        words = _simple(run, False) or self._ask(f"x {run} x")[1:-1]
        return words if len(run) > LONGEST else self._inner.keep(run, words)

    def _final_run(self, run: str) -> list[str]:
        words = _simple(run, True) or self._ask(f"x {run}")[1:]
        return words if len(run) > LONGEST else self._final.keep(run, words)

    def _words_with_quotes(self, sentence: str, runs: list[str]) -> list[str]:
        words: list[str] = []
        spaces = _spaces_before(sentence, len(runs))
        inner, last = self._inner, len(runs) - 1
        for index, run in enumerate(runs):
            if '"' in run or "'" in run:
                if run[-1] == "'":
                    return self._ask(sentence)
                words += self._quoted_run(run, spaces[index], index == last)
            elif index < last:
                words += inner.get(run) or self._inner_run(run)
            else:
                words += self._final.get(run) or self._final_run(run)
        return words

    def _quoted_run(self, run: str, before: str, last: bool) -> list[str]:
        """Return the words of a run with quotation marks: an opening one is told by what stands before it."""
        key = run, before, last
        known: list[str] | None = self._quoted.get(key)
        if known is not None:
            return known
        words = _simple(run, last)
        if words is None:
            words = self._ask(("x" + before if before else "") + run + ("" if last else " x"))
            words = words[bool(before) : None if last else -1]
        return words if len(run) > LONGEST else self._quoted.keep(key, words)

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where sentences start and end, before closing marks are moved to the sentence they close."""
        sentence_start = 0
        for stop, word_start, match in _stops(text):
            if self._is_break(text, stop, word_start, match):
                yield sentence_start, stop + 1
                sentence_start = match.start("next") if match["next"] else stop + 1
        yield sentence_start, len(text.rstrip())

    def _is_break(self, text: str, stop: int, word_start: int, match: re.Match[str]) -> bool:
        """Return whether Punkt ends a sentence at a full stop, question or exclamation mark."""
        if match["next"] is None:
            end = stop + 2
        else:
            run = _RUN.match(text, match.start("next"))
            end = run.end() if run else len(text)
            word = text[word_start:stop]
            plain = text[stop] == "." and "a" <= match["next"] <= "z" and _LETTERS.fullmatch(word)
            if plain and word not in self._collocated:
                if word not in self._punkt.abbreviations:
                    return True
                if _LETTERS.fullmatch(text, match.start("next"), end):
                    return False
        context = text[word_start:end]
        known = self._breaks.get(context)
        if known is None:
            known = self._sentences.text_contains_sentbreak(context)
            if len(context) <= 2 * LONGEST:
                self._breaks.keep(context, known)
        return bool(known)


def _spaces_before(sentence: str, count: int) -> list[str]:
    """Return the character before each run of a sentence, "" before one that starts it."""
    if _OTHER_SPACE.search(sentence) is None:
        return ["" if sentence[0] != " " else " ", *([" "] * (count - 1))]
    starts = [match.start() for match in _RUN.finditer(sentence)]
    return [sentence[start - 1] if start else "" for start in starts]


def _simple(run: str, last: bool) -> list[str] | None:
    """Return the words of a run of letters, digits and single hyphens, or None where nltk must be asked.

    A comma is split from such a word, and so is 's; a full stop is split only from the last word of a sentence.

    Args:
        run: characters without white space.
        last: whether the run ends its sentence.
    """
    match = _SIMPLE.fullmatch(run)
    if match is None or _CONTRACTED.search(run):
        return None
    word, possessive, mark = match.groups()
    if mark == "." and not last:
        return None if possessive else [run]
    return [part for part in (word, possessive, mark) if part]


def _stops(text: str) -> Iterator[tuple[int, int, re.Match[str]]]:
    """Yield (position, start of the word before, match) of every mark that may end a sentence.

    Marks that share one word, as in "dog!!!", count once, with the last of them. This is Punkt's rule. Under it, a
    space right after the previous mark does not start a new word.
    """
    waiting: tuple[int, int, re.Match[str]] | None = None
    stop = word_start = 0
    for match in _STOP.finditer(text):
        before = text[stop : match.start()]
        space = max(map(before.rfind, _SPACES))
        start = stop + space + 1 if space > 0 else word_start
        if waiting is not None and stop <= start:
            yield waiting
        stop, word_start = match.start(), start
        waiting = stop, word_start, match
    if waiting is not None:
        yield waiting


def _realigned(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the spans after closing quotes and brackets at a sentence's start went to the sentence before."""
    moved = 0
    start, end = next(spans)
    for next_start, next_end in spans:
        start += moved
        closing = _REALIGNED.match(text[next_start:next_end])
        if closing is not None:
            yield start, next_start + len(closing.group().rstrip())
            moved = closing.end()
        else:
            moved = 0
            if start < end:
                yield start, end
        start, end = next_start, next_end
    if start + moved < end:
        yield start + moved, end
