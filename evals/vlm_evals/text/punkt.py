"""Whether a full stop ends a sentence: Punkt's decision (Kiss and Strunk 2006), exactly as NLTK's program makes it.

The decision rests on the tokens around the mark. Text is lower-cased before it comes here, so the rules about capitals
never apply and are left out. A test holds the decisions equal to nltk's own.
"""

import re
from itertools import pairwise

from vlm_evals.text.language import PunktData

_UPPER = 2 | 4 | 8  # flags of a word seen with a capital: first in a sentence, within one, or either
_LOWER_FIRST = 16  # flag of a word seen first in a sentence without a capital
_NUMBER = "##number##"  # what every number counts as
_NO_WORD = r"""[)";}\]*:@'({\[?!]"""
_REPEATED = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_END = rf"\s|$|{_NO_WORD}|{_REPEATED}"
_TOKEN = re.compile(rf"""{_REPEATED}|(?=[^("`{{\[:;&#*@)}}\]\-,])\S+?(?={_END}|,(?={_END}))|\S""")
_NUMERIC = re.compile(r"-?[.,]?\d[\d,.-]*\.?")
_INITIAL = re.compile(r"[^\W\d]\.")


class SentenceBreaks:
    """Punkt's decisions about lower-cased text of plain characters (`treebank.PLAIN`).

    Args:
        data: what Punkt knows about English.
    """

    def __init__(self, data: PunktData) -> None:
        self._data = data

    def inside(self, context: str) -> bool:
        """Return whether one of the tokens before the last ends a sentence."""
        tokens = [token for line in context.split("\n") for token in _TOKEN.findall(line)]
        return any(self._ends(token, after) for token, after in pairwise(tokens))

    def _ends(self, token: str, after: str) -> bool:
        if not self._may_end(token) or not token.endswith("."):
            return self._may_end(token)
        kind = _without_stop(_kind(token))
        if (kind, self._kind_inside(after)) in self._data.collocations:
            return False
        return not ((kind == _NUMBER or _INITIAL.fullmatch(token)) and self._never_first(after))

    def _may_end(self, token: str) -> bool:
        """Return whether a token ends a sentence, as long as nothing is known of the next."""
        if token in (".", "?", "!"):
            return True
        if not token.endswith(".") or token.endswith(".."):
            return False
        word = token[:-1]
        return word not in self._data.abbreviations and word.split("-")[-1] not in self._data.abbreviations

    def _never_first(self, token: str) -> bool:
        """Return whether a token starts no sentence, going by the places and cases it was seen in."""
        if token in (";", ":", ",", ".", "!", "?"):
            return True
        seen = self._data.contexts.get(self._kind_inside(token), 0)
        return token[0].islower() and bool(seen & _UPPER or not seen & _LOWER_FIRST)

    def _kind_inside(self, token: str) -> str:
        """Return what a token counts as, without a full stop that ends a sentence."""
        return _without_stop(_kind(token)) if self._may_end(token) else _kind(token)


def _kind(token: str) -> str:
    return _NUMBER if _NUMERIC.fullmatch(token) else token


def _without_stop(kind: str) -> str:
    return kind[:-1] if len(kind) > 1 and kind.endswith(".") else kind
