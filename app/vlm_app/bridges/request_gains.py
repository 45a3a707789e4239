"""Gains of each request in a running batch: by a name, or VHR's own choice for the request's picture.

An engine packs the new tokens of many requests into one forward. `RequestBatch` follows which request stands at which
place of the batch, and multiplies each request's rows by that request's own gains. It knows no engine; see
`vllm_requests` for vLLM's side.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from vlm_app.bridges.engine_gains import Share, by_head, scaled_heads
from vlm_heads import Anatomy, HeadReinforcement, parse_intervention
from vlm_heads.errors import BadOption, VlmHeadsError, suggest
from vlm_heads.methods import HeadChooser

ARGUMENT = "vlm_heads"  # a request's own extra argument
PLAIN, IMAGE_FREE = "none", "image-free"
KEPT_TEXTS = 256  # of a 7B model in bfloat16 a quarter of a MiB each
KEPT_CHOICES = 4096  # a number for each head of each layer; more than requests that run or wait at a time

Gather = Callable[[Tensor], Tensor]
Wish = str | HeadReinforcement | None
Key = TypeVar("Key")
Kept = TypeVar("Kept")
_log = logging.getLogger(__name__)


def read_wish(arguments: Mapping[str, Any] | None, names: Collection[str]) -> Wish:
    """Return what a request asks for: a name, "none", "image-free", VHR, or None where it says nothing.

    Raises:
        BadOption: if it asks for what there is not.
    """
    asked = (arguments or {}).get(ARGUMENT)
    if asked is None or asked in (PLAIN, IMAGE_FREE) or asked in names:
        return None if asked is None else str(asked)
    known = sorted({*names, PLAIN, IMAGE_FREE, "vhr"})
    if not isinstance(asked, str) or asked.partition(":")[0] != HeadReinforcement.name:
        raise BadOption(f"{ARGUMENT}={asked!r}{suggest(str(asked), known)}: this server knows {', '.join(known)}")
    return _vhr(asked)


@lru_cache(maxsize=256)
def _vhr(word: str) -> HeadReinforcement:
    method = parse_intervention(word)
    assert isinstance(method, HeadReinforcement), "the word begins with its name"
    if method.blind != "plain" or method.heads not in ("vhd", "bottom"):
        raise BadOption(
            f"{word}: the request without the image comes first and by itself, so only blind=plain with heads=vhd or "
            "heads=bottom can be had"
        )
    return method


@dataclass(frozen=True)
class Arrival:
    """A request that comes to a place of the batch.

    Attributes:
        place: in the batch.
        arguments: its extra arguments.
        prompt: its token ids, image tokens included; None where the engine has none.
        answer: the list that its generated ids are appended to; it tells requests apart, after a pause too.
        stop: the id that ends its answer.
    """

    place: int
    arguments: Mapping[str, Any] | None
    prompt: Sequence[int] | None
    answer: Sequence[int]
    stop: int | None = None


@dataclass
class Request:
    """A request at its place in the batch.

    Attributes:
        wish: see `read_wish`.
        prompt: its token ids, image tokens included.
        answer: see `Arrival`.
        stop: see `Arrival`.
        text: the prompt's ids without image tokens.
        layers: on which VHR acts.
        blind: head outputs `[Hq, D]` without the image by layer, of this rank's heads; only for VHR.
        seen: how many of its tokens have been run since it came to this place.
        refused: why it gets no answer; empty where it does.
    """

    wish: Wish
    prompt: Sequence[int] = ()
    answer: Sequence[int] = ()
    stop: int | None = None
    text: tuple[int, ...] = ()
    layers: frozenset[int] = frozenset()
    blind: Mapping[int, Tensor] | None = None
    seen: int = 0
    refused: str = ""

    @property
    def has_image(self) -> bool:
        """Whether its prompt has image tokens."""
        return len(self.text) < len(self.prompt)

    def refuse(self, why: str) -> None:
        """Note, once, why it gets no answer."""
        if not self.refused:
            self.refused = why
            _log.error("a request gets an empty answer: %s", why)


@dataclass(frozen=True)
class Rows:
    """The rows of one request in a forward.

    Attributes:
        request: whose.
        first: the first row.
        end: the one behind the last.
        whole: whether they are the whole prompt, or all of it and what was generated before a pause.
        prompt_ends: whether the last of them is the prompt's last.
    """

    request: Request
    first: int
    end: int
    whole: bool
    prompt_ends: bool


@dataclass
class _Choice:
    """The gains that VHR chose for one request, float32 `[Hq]` by layer; `answer` keeps its identity taken."""

    answer: Sequence[int]
    gains: dict[int, Tensor] = field(default_factory=dict)


class RequestBatch:
    """The requests of a running batch, and what this rank's heads are multiplied by for each.

    Attributes:
        places: the request at each place.
        rows: of the forward that runs.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        named: Mapping[str, Tensor],
        everywhere: Tensor | None = None,
        share: Share | None = None,
        gather: Gather | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Begin with an empty batch.

        Args:
            anatomy: of the served model.
            named: float32 `[L, Hq]` by the name that requests use.
            everywhere: the same for requests that say nothing; None leaves them plain.
            share: which heads are this rank's; all by default.
            gather: returns every rank's `[Hq / ranks, D]` as `[Hq, D]`; nothing is done by default.
            device: of the model.
        """
        self._anatomy = anatomy
        self._share = share or Share()
        self._gather = gather or (lambda heads: heads)
        ones = torch.ones(anatomy.depth, anatomy.heads)
        tables = {PLAIN: ones, **named, "": ones if everywhere is None else everywhere}
        self._numbers = {name: number for number, name in enumerate(tables)}
        self._tables = self._share.of(torch.stack(list(tables.values()))).to(device)
        self._acts = (self._tables != 1).any(dim=-1).tolist()
        self._texts: OrderedDict[tuple[int, ...], dict[int, Tensor]] = OrderedDict()
        self._choices: OrderedDict[int, _Choice] = OrderedDict()
        self._names = frozenset(named)
        self.places: dict[int, Request] = {}
        self.rows: tuple[Rows, ...] = ()
        self._used: frozenset[int] = frozenset()
        self._table_rows: Tensor | None = None

    def update(
        self,
        removed: Iterable[int],
        added: Iterable[Arrival],
        moved: Iterable[tuple[int, int, bool]],
    ) -> None:
        """Follow what changed in the batch, in this order.

        Args:
            removed: places that are free now.
            added: the new requests.
            moved: from, to, and whether the two change places.
        """
        for place in removed:
            self.places.pop(place, None)
        for arrival in added:
            self.places[arrival.place] = self._admitted(arrival)
        for source, target, swap in moved:
            one, other = self.places.pop(source, None), self.places.pop(target, None)
            if one is not None:
                self.places[target] = one
            if swap and other is not None:
                self.places[source] = other

    def begin(self, starts: Sequence[int]) -> None:
        """Take the rows of a forward: those of place `i` go from `starts[i]` to `starts[i + 1]`."""
        self.rows = tuple(
            self._placed(self.places.get(place) or Request(PLAIN), first, end)
            for place, (first, end) in enumerate(pairwise(starts))
        )
        numbers = [self._number(one.request) for one in self.rows]
        lengths = torch.tensor([one.end - one.first for one in self.rows], dtype=torch.long)
        self._used = frozenset(numbers)
        table_rows = torch.tensor(numbers, dtype=torch.long).repeat_interleave(lengths)
        self._table_rows = table_rows.to(self._tables.device)

    def applied(self, layer: int, output: Tensor) -> Tensor:
        """Return a layer's head outputs with each request's rows times its gains.

        Args:
            layer: zero-based.
            output: `[T, Hq * D]` of this rank's heads; rows behind the last request's are padding.
        """
        heads = by_head(output, self._tables.shape[-1])
        gains = self._named_gains(layer, len(output))
        for rows in self.rows:
            if rows.request.wish == IMAGE_FREE:
                self._keep(rows, layer, heads)
            elif (chosen := self._vhr_gains(rows, layer, heads)) is not None:
                gains = output.new_ones(heads.shape[:2], dtype=torch.float32) if gains is None else gains
                gains[rows.first : rows.end] = chosen
        return output if gains is None else scaled_heads(output, gains)

    def refused(self) -> dict[int, int | None]:
        """Return the places of requests that get no answer, each with the id that ends it."""
        return {place: request.stop for place, request in self.places.items() if request.refused}

    def _admitted(self, arrival: Arrival) -> Request:
        ids = tuple(arrival.prompt or ())
        text = tuple(token for token in ids if token not in self._anatomy.vision_token_ids)
        request = Request(None, ids, arrival.answer, arrival.stop, text)
        try:
            request.wish = read_wish(arrival.arguments, self._names)
            if isinstance(request.wish, HeadReinforcement):
                self._prepare_vhr(request, request.wish)
        except VlmHeadsError as mistake:
            request.refuse(str(mistake))
        if request.wish == IMAGE_FREE and (request.has_image or not ids):
            request.refuse("an image-free request is the prompt's token ids without the image's, and no picture")
        return request

    def _prepare_vhr(self, request: Request, method: HeadReinforcement) -> None:
        method.check(self._anatomy, None)
        request.layers = method.layers_in(self._anatomy)
        if request.text in self._texts:
            request.blind = _newest(self._texts, request.text, dict, KEPT_TEXTS)
        if request.has_image and request.blind is None and id(request.answer) not in self._choices:
            request.refuse(
                "vhr needs the head outputs of the same prompt without its image tokens: send its token ids first, "
                f"with {ARGUMENT}={IMAGE_FREE}, and wait for the answer"
            )

    def _placed(self, request: Request, first: int, end: int) -> Rows:
        before, count = request.seen, len(request.prompt)
        request.seen += end - first
        whole = before == 0 and end - first >= count
        return Rows(request, first, end, whole, before < count == request.seen)

    def _number(self, request: Request) -> int:
        """Return which table the request's rows are multiplied by."""
        if not request.has_image or request.refused or isinstance(request.wish, HeadReinforcement):
            return self._numbers[PLAIN]
        return self._numbers[request.wish or ""]

    def _named_gains(self, layer: int, count: int) -> Tensor | None:
        """Return float32 `[T, Hq]`; None where every gain is 1."""
        if self._table_rows is None or not any(self._acts[number][layer] for number in self._used):
            return None
        gains = self._tables.new_ones(count, self._tables.shape[-1])
        gains[: len(self._table_rows)] = self._tables[self._table_rows, layer]
        return gains

    def _keep(self, rows: Rows, layer: int, heads: Tensor) -> None:
        """Keep the heads at the prompt's end, under the prompt's text."""
        if rows.prompt_ends and not rows.request.refused:
            _newest(self._texts, rows.request.text, dict, KEPT_TEXTS)[layer] = heads[rows.end - 1].clone()

    def _vhr_gains(self, rows: Rows, layer: int, heads: Tensor) -> Tensor | None:
        request, method = rows.request, rows.request.wish
        if not isinstance(method, HeadReinforcement) or not request.has_image or layer not in request.layers:
            return None
        if request.refused:
            return None
        choice = _newest(self._choices, id(request.answer), lambda: _Choice(request.answer), KEPT_CHOICES)
        if layer not in choice.gains:
            if not rows.whole or request.blind is None:
                request.refuse("its prompt came in pieces: serve with --no-enable-chunked-prefill")
                return None
            choice.gains[layer] = self._chosen(
                method, heads[rows.first + len(request.prompt) - 1], request.blind[layer]
            )
        return choice.gains[layer]

    def _chosen(self, method: HeadReinforcement, sighted: Tensor, blind: Tensor) -> Tensor:
        """Return float32 `[Hq]` of this rank: the gain where a head is vision-aware among all ranks' heads, else 1."""
        chooser = HeadChooser(
            method.heads, method.outlier_filter, method.squared_norm, method.unbiased_std, method.seed
        )
        chosen = self._share.of(chooser.between(self._gather(sighted), self._gather(blind)))
        return torch.where(chosen, method.gain, 1.0).float()


def _newest(kept: OrderedDict[Key, Kept], key: Key, make: Callable[[], Kept], most: int) -> Kept:
    """Return what is kept under a key, made where missing; it counts as the newest, and the oldest are dropped."""
    if key not in kept:
        kept[key] = make()
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]
