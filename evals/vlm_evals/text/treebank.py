"""Sentence -> words by the rules of the Penn Treebank, exactly as `nltk.word_tokenize` has them (NLTK, Apache-2.0).

The rules are part of the metric: CHAIR counts what this tokenizer returns. They stand here because importing nltk takes
longer than scoring a thousand captions. A test holds them equal to nltk's own.

They serve lower-cased text of the characters `PLAIN` alone. Beyond it nltk's regular expressions and Python's differ on
rare spaces, and versions of nltk differ on curly quotation marks.
"""

import re

PLAIN = r"[\t\n\r\f\v\x20-\x7eß-öø-ÿ\u2012-\u2015]"  # ASCII, small letters of Latin-1, dashes

_OPENING = (
    (r"(`+)", r" \1 "),
    (r'^"', "``"),
    (r"(``)", r" \1 "),
    (r"""([ (\[{<])("|'{2})""", r"\1 `` "),
    (r"(?<!\w)(')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", r"\1 "),
)
_PUNCTUATION = (
    (r"""([^.])(\.)([\])}>"' ]*+)\s*$""", r"\1 \2 \3 "),
    (r"([:,])([^\d])", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"(\.{2,})", r" \1 "),
    (r"([;@#$%&])", r" \1 "),
    (r"([\u2012-\u2015])", r" \1 "),
    (r"""([^.])(\.)([\])}>"']*)\s*$""", r"\1 \2\3 "),
    (r"([?!])", r" \1 "),
    (r"([^'])' ", r"\1 ' "),
    (r"(\*)", r" \1 "),
    (r"([\]\[(){}<>])", r" \1 "),
    (r"(--)", r" \1 "),
)
_CLOSING = (
    (r"('')", r" \1 "),
    (r'"', " '' "),
    (r"\s+", " "),
    (r"([^' ])('s|'m|'d|') ", r"\1 \2 "),
    (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
)
_CONTRACTIONS = (
    r"\b(can)(not)\b",
    r"\b(d)('ye)\b",
    r"\b(gim)(me)\b",
    r"\b(gon)(na)\b",
    r"\b(got)(ta)\b",
    r"\b(lem)(me)\b",
    r"\b(more)('n)\b",
    r"\b(wan)(na)(?=\s)",
    r" ('t)(is)\b",
    r" ('t)(was)\b",
)
_INSIDE = tuple((re.compile(pattern), becomes) for pattern, becomes in (*_OPENING, *_PUNCTUATION))
_SPACED = tuple(
    (re.compile(pattern), becomes) for pattern, becomes in (*_CLOSING, *((one, r" \1 \2 ") for one in _CONTRACTIONS))
)


def treebank_words(sentence: str) -> list[str]:
    """Return the words of one lower-cased sentence of plain characters; quotation marks become `` and ''."""
    for pattern, becomes in _INSIDE:
        sentence = pattern.sub(becomes, sentence)
    sentence = f" {sentence} "
    for pattern, becomes in _SPACED:
        sentence = pattern.sub(becomes, sentence)
    return sentence.split()
