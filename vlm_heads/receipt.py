"""The receipt: what an attach did, for printing and for JSON. Nothing here waits for the device before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

_STEPS_KEPT = 64


@dataclass
class LayerTally:
    """What one intervention did on one layer, summed over the generations of an attach.

    Attributes:
        heads: how often each head was chosen, `[Hq]`; None before the first time.
        rows: batch rows in which any head was chosen, or that were acted on without choosing, a scalar tensor.
        moved: softmax mass moved, summed over heads and rows, a scalar tensor.
    """

    heads: Tensor | None = None
    rows: Tensor | None = None
    moved: Tensor | None = None
    _pending: list[Tensor] = field(default_factory=list)

    def note(self, chosen: Tensor, moved: Tensor | None = None) -> None:
        """Count the heads chosen, bool `[B, Hq]`, and the mass moved where any was."""
        chosen = chosen.detach()
        self.heads = _plus(self.heads, chosen.sum(dim=0))
        self.rows = _plus(self.rows, chosen.any(dim=1).sum())
        if moved is not None:
            self.moved = _plus(self.moved, moved.detach().sum())

    def note_rows(self, rows: Tensor) -> None:
        """Count rows acted on, bool `[B]`, where no head is chosen."""
        self.rows = _plus(self.rows, rows.sum())

    def note_step(self, moved: Tensor) -> None:
        """Keep the mass that one decode step moved. It is summed up now and then, because each sum costs a launch."""
        self._pending.append(moved.detach() if moved.requires_grad else moved)
        if len(self._pending) >= _STEPS_KEPT:
            self._sum_up()

    @property
    def acted(self) -> bool:
        """Whether any head was chosen or any mass moved. Waits for the device."""
        self._sum_up()
        return bool(self.rows) or bool(self.moved)

    def _sum_up(self) -> None:
        pending, self._pending = self._pending, []
        if pending:  # steps of batches of any size, each [B, Hq, 1]
            self.moved = _plus(self.moved, torch.cat(pending).sum())


@dataclass
class InterventionReceipt:
    """What one intervention did, by layer.

    Attributes:
        pictures: how many were encoded by a vision tower that it changed.
    """

    name: str
    options: dict[str, Any]
    tallies: dict[int, LayerTally] = field(default_factory=dict, repr=False)  # to read them waits for the device
    pictures: int = 0

    @property
    def fired(self) -> bool:
        """Whether any head was chosen on any layer, or any picture was encoded otherwise."""
        return self.pictures > 0 or any(tally.acted for tally in self.tallies.values())

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers on which any head was chosen."""
        return tuple(layer for layer, tally in sorted(self.tallies.items()) if tally.acted)

    @property
    def rows(self) -> int:
        """Batch rows acted on, counted on the layer with the most of them."""
        return max((int(self.tallies[layer].rows or 0) for layer in self.layers), default=0)

    def heads(self) -> dict[int, list[int]]:
        """Return, by layer, how often each head was chosen."""
        chosen = {layer: self.tallies[layer].heads for layer in self.layers}
        return {layer: counts.tolist() for layer, counts in chosen.items() if counts is not None}

    def mass_moved(self) -> float | None:
        """Return the softmax mass moved in all, None for a method that moves none."""
        tallies = [self.tallies[layer] for layer in self.layers]
        moved = [float(tally.moved) for tally in tallies if tally.moved is not None]
        return sum(moved) if moved else None

    def to_dict(self) -> dict[str, Any]:
        """Return what is written as JSON."""
        return {
            "name": self.name,
            "options": self.options,
            "layers": list(self.layers),
            "heads": {str(layer): counts for layer, counts in self.heads().items()},
            "rows": self.rows,
            "mass_moved": self.mass_moved(),
        } | ({"pictures": self.pictures} if self.pictures else {})


@dataclass
class LensReceipt:
    """What a lens did.

    Attributes:
        name: of the lens.
        options: of the lens.
    """

    name: str
    options: dict[str, Any]
    _tokens: Tensor | None = None
    _counts: Tensor | None = None
    _candidates: tuple[int, ...] = ()

    def note(self, rows: Tensor, candidates: Sequence[int] = (), chosen: Tensor | None = None) -> None:
        """Count one token for each of the rows, bool `[R]`.

        Args:
            rows: those whose tokens were weighed.
            candidates: layers that one was chosen from, the same at every step.
            chosen: int64 `[R]`, the place among them of each row's.
        """
        self._tokens = _plus(self._tokens, rows.sum())
        if chosen is not None:
            self._candidates = tuple(candidates)
            places = torch.arange(len(self._candidates), device=chosen.device)
            self._counts = _plus(self._counts, ((chosen[:, None] == places) & rows[:, None]).sum(dim=0))

    @property
    def tokens(self) -> int:
        """How many tokens were weighed. Waits for the device."""
        return int(self._tokens or 0)

    @property
    def fired(self) -> bool:
        """Whether any token was weighed."""
        return self.tokens > 0

    def layers(self) -> dict[int, int]:
        """Return, by layer, how many tokens were weighed with what enters it; empty where a lens chooses none."""
        counts = [] if self._counts is None else self._counts.tolist()
        return {layer: count for layer, count in zip(self._candidates, counts, strict=True) if count}

    def to_dict(self) -> dict[str, Any]:
        """Return what is written as JSON."""
        layers = {str(layer): count for layer, count in self.layers().items()}
        return {"name": self.name, "options": self.options, "tokens": self.tokens, "layers": layers}

    def __str__(self) -> str:
        if not self.fired:
            return f"{self.name}: nothing fired"
        chosen = ", ".join(f"{layer} ({count})" for layer, count in self.layers().items())
        return f"{self.name}: {_count(self.tokens, 'token')} weighed" + (f", by layer: {chosen}" if chosen else "")


@dataclass
class SecondStreamReceipt:
    """Which way a contrast's second stream took, or its several. Their prompts are not counted.

    Attributes:
        name: of the contrast.
        in_one_pass: tokens whose streams ran in one forward.
        in_two_forwards: tokens for which each of the others ran a forward of its own.
        why: why it did, in words; empty where it did not.
        streams: how many there are beside the first.
    """

    name: str
    in_one_pass: int = 0
    in_two_forwards: int = 0
    why: str = ""
    streams: int = 1

    def note(self, in_one_pass: int, in_two_forwards: int, why: str) -> None:
        """Count what became of one call of `generate`."""
        self.in_one_pass += in_one_pass
        self.in_two_forwards += in_two_forwards
        self.why = why or self.why

    @property
    def counted(self) -> str:
        """How many tokens went which way, in words."""
        reason = f" ({self.why})" if self.why else ""
        forwards = "two" if self.streams == 1 else str(self.streams + 1)
        ways = {"in one pass": self.in_one_pass, f"in {forwards} forwards each{reason}": self.in_two_forwards}
        said = [f"{_count(tokens, 'token')} {way}" for way, tokens in ways.items() if tokens]
        return ", ".join(said) or "no token after the first"

    def __str__(self) -> str:
        return f"{self.name}: {self.counted}"


@dataclass
class CheckReceipt:
    """What a check asked, and what it took back.

    Attributes:
        name: of the check.
        options: of the check.
        rows: of the last call of `generate`, one list a row: what was found out about each object, and what became of
            it.
        calls: calls of `generate` that were checked.
        drafts: how many were written for them.
        questions: how many were asked.
        forwards: in how many forwards.
        read_again: how many of these read the picture again, because its keys could not be shared.
        taken_back: words that were drafted and not said.
        left_out: words whose phrase was left out of a sentence.
        went_along: words that nothing spoke against, gone with the clause of one that was left out.
    """

    name: str
    options: dict[str, Any]
    rows: list[list[dict[str, Any]]] = field(default_factory=list, repr=False)
    calls: int = 0
    drafts: int = 0
    questions: int = 0
    forwards: int = 0
    read_again: int = 0
    taken_back: int = 0
    left_out: int = 0
    went_along: int = 0

    def to_dict(self, row: int | None = None) -> dict[str, Any]:
        """Return what is written as JSON; of one row, or of all."""
        found = {name: value for name, value in vars(self).items() if name != "rows"}
        return found | ({"rows": self.rows} if row is None else {"asked": self.rows[row] if self.rows else []})

    def __str__(self) -> str:
        counted = f"{_count(self.questions, 'question')} in {_count(self.forwards, 'forward')}"
        again = f", {_count(self.read_again, 'forward')} with the picture read again" if self.read_again else ""
        words = f"{_count(self.taken_back, 'word')} taken back, {self.left_out} left out"
        words += f", {self.went_along} gone with them" if self.went_along else ""
        return f"{self.name}: {_count(self.drafts, 'draft')}, {counted}{again}, {words}"


@dataclass
class PipelineReceipt:
    """What a pipeline did in place of `generate`: what it asked first and instead, or how it searched.

    Attributes:
        name: of the pipeline.
        options: of it.
        rows: of the last call of `generate`, one a row.
        calls: of `generate` that it answered in its own way.
        first_passes: answers that were read for them.
        done: what it does to a call, in words; not written as JSON.
    """

    name: str
    options: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    calls: int = 0
    first_passes: int = 0
    done: str = "asked otherwise"

    def to_dict(self, row: int | None = None) -> dict[str, Any]:
        """Return what is written as JSON; of one row, or of all."""
        found = {name: value for name, value in vars(self).items() if name not in ("rows", "done")}
        return found | ({"rows": self.rows} if row is None else {"row": self.rows[row] if self.rows else {}})

    def __str__(self) -> str:
        passes = f", {_count(self.first_passes, 'first pass', 'es')}" if self.first_passes else ""
        return f"{self.name}: {_count(self.calls, 'call')} {self.done}{passes}"


@dataclass
class Receipt:
    """What an attach did.

    Attributes:
        model_type: family of the model.
        heads: query heads in a layer.
        interventions: one receipt each, in the order given.
        generations: prompts seen; every forward without a known cache counts as one.
        steps: forwards in which any attention was changed, the prompt's included.
        blind_passes: extra image-free passes.
        extra_passes: extra passes with the image ("two-pass" scoring).
        first_passes: answers that the model gave for a method, before the caller's own.
        imageless: prompts in which no row had an image, so that nothing could fire.
        second_stream: of the contrast; None where there is none.
        check: what was asked and taken back; None where nothing is checked.
        lenses: one receipt each, in the order in which they act.
        pipeline: what answered in place of `generate`; None where there is none.
    """

    model_type: str
    heads: int
    interventions: tuple[InterventionReceipt, ...]
    generations: int = 0
    steps: int = 0
    blind_passes: int = 0
    extra_passes: int = 0
    first_passes: int = 0
    imageless: int = 0
    second_stream: SecondStreamReceipt | None = None
    check: CheckReceipt | None = None
    lenses: tuple[LensReceipt, ...] = ()
    pipeline: PipelineReceipt | None = None

    def __repr__(self) -> str:
        beside = (self.second_stream, self.check, self.pipeline)
        also = [*self.lenses, *(one for one in beside if one is not None)]
        names = ", ".join(one.name for one in (*self.interventions, *also)) or "nothing"
        counted = f"{_count(self.generations, 'generation')}, {_count(self.steps, 'step')} changed"
        if self.second_stream is not None and not (self.interventions or self.lenses):  # nothing else was followed
            counted = self.second_stream.counted
        return f"<Receipt of {names} on {self.model_type}: {counted}>"

    @property
    def fired(self) -> bool:
        """Whether every attached method acted somewhere: an intervention on a layer, a lens on a token."""
        return not self.unfired

    @property
    def unfired(self) -> tuple[str, ...]:
        """Names of the methods that never acted; one that is an intervention and a lens may act as either."""
        parts = [(one.name, one.fired) for one in self.interventions] + [(one.name, one.fired) for one in self.lenses]
        acted = {name for name, fired in parts if fired}
        return tuple(dict.fromkeys(name for name, _ in parts if name not in acted))

    def to_dict(self, row: int | None = None) -> dict[str, Any]:
        """Return what is written as JSON.

        Args:
            row: of the last batch, whose part of the check is written; None for all of it.
        """
        more: dict[str, Any] = {} if self.check is None else {"check": self.check.to_dict(row)}
        more |= {} if self.pipeline is None else {"pipeline": self.pipeline.to_dict(row)}
        more |= {"first_passes": self.first_passes} if self.first_passes else {}
        more |= {"lenses": [lens.to_dict() for lens in self.lenses]} if self.lenses else {}
        return {
            "model_type": self.model_type,
            "generations": self.generations,
            "steps": self.steps,
            "blind_passes": self.blind_passes,
            "extra_passes": self.extra_passes,
            "prompts_without_image": self.imageless,
            "interventions": [intervention.to_dict() for intervention in self.interventions],
            "second_stream": None if self.second_stream is None else asdict(self.second_stream),
        } | more

    def __str__(self) -> str:
        if self.second_stream is not None and not (self.interventions or self.lenses):
            return str(self.second_stream)
        lines = [
            f"{_count(self.generations, 'generation')}, {_count(self.steps, 'step')} changed, "
            f"{_count(self.blind_passes, 'image-free pass', 'es')}"
            + (f", {_count(self.first_passes, 'first pass', 'es')}" if self.first_passes else "")
        ]
        for one in self.interventions:
            if not one.fired:
                lines.append(f"{one.name}: nothing fired")
                continue
            chosen = sum(sum(counts) for counts in one.heads().values())
            mean = chosen / max(1, sum(int(one.tallies[layer].rows or 0) for layer in one.layers))
            moved = one.mass_moved()
            heads = f", {mean:.1f} of {self.heads} heads a layer" if chosen else ""
            counted = f"{heads}, {_count(one.rows, 'row')}" if one.rows else ""
            weight = "" if moved is None else f", mass moved {moved:.2f}"
            acted = [f"layers {_ranges(one.layers)}{counted}{weight}"] if one.layers else []
            acted += [f"{_count(one.pictures, 'picture')} in the vision tower"] if one.pictures else []
            lines.append(f"{one.name}: {', '.join(acted)}")
        lines += [str(one) for one in self.lenses]
        if self.second_stream is not None:
            lines.append(str(self.second_stream))
        lines += [str(one) for one in (self.check, self.pipeline) if one is not None]
        return "\n".join(lines)


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more.clone() if total is None else torch.add(total, more.to(total.device))


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _ranges(numbers: tuple[int, ...]) -> str:
    """Return indices in short: `1, 18-31`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
