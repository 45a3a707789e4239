"""A tokenizer for tiny random models: token 17 is the word `w17`, and every fourth one ends a sentence."""

import re
from collections.abc import Sequence

from vlm_heads.asking.named import Named

_WORD = re.compile(r"w(\d+)")
END = 199


class Words:
    """Decodes and encodes token ids as words."""

    unk_token_id = None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return `w17 w20.` for 17, 20."""
        return "".join(f" w{one}{'.' * (one % 4 == 0)}" for one in map(int, ids) if one != END)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [int(one) for one in _WORD.findall(text)]}


class WordsProcessor:
    """A processor that has nothing but a tokenizer."""

    tokenizer = Words()


def every_third(text: str) -> list[Named]:
    """Return the words whose number can be divided by three, as objects."""
    return [Named(one.start(), one.end(), one[0]) for one in _WORD.finditer(text) if int(one[1]) % 3 == 0]
