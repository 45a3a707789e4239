"""The text of an answer while it grows: what may be said already, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_INCOMPLETE = "\ufffd"  # the bytes of a character that further tokens complete


class Growing:
    """Turns token ids into text that is never taken back.

    Attributes:
        text: all that was said so far, stripped, and cut before the first stop string.
        stopped: whether a stop string came.

    Args:
        decode: token ids to text, without special tokens.
        stops: strings that end the answer, and are no part of it.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self.text, self.stopped = "", False

    def piece(self, ids: Sequence[int], *, over: bool) -> str:
        """Return what all ids so far add to the text.

        Args:
            ids: of the whole answer so far.
            over: whether nothing comes after them; otherwise what may yet become part of a stop string, of a character
                or of white space at the end is kept back.
        """
        return self.more(self._decode(ids), over=over)

    def more(self, raw: str, *, over: bool) -> str:
        """Return what the whole decoded text so far adds; see `piece`."""
        places = [place for one in self._stops if (place := raw.find(one)) >= 0]
        self.stopped = bool(places)
        end = min(places, default=len(raw))
        if not over:  # a stop string may be whole, and its beginning that of a longer one
            end = min(end, len(raw) - self._held(raw))
        shown = raw[:end].strip() if over or places else raw[:end].rstrip(_INCOMPLETE).strip()
        piece = shown[len(self.text) :]
        self.text += piece
        return piece

    def _held(self, raw: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        lengths = range(min(longest, len(raw)), 0, -1)
        return next((size for size in lengths if any(one.startswith(raw[-size:]) for one in self._stops)), 0)
