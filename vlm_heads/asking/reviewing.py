"""One call of `generate`, checked: draft, ask about what is named, take back and draft again, at last leave out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation import GenerateDecoderOnlyOutput

from vlm_heads.asking.drafts import Context, Draft, Drafts
from vlm_heads.asking.judging import Judge, Mention, Verdict
from vlm_heads.asking.leaving_out import leave_out
from vlm_heads.asking.named import Named
from vlm_heads.asking.saved import WENT_ALONG, fates_of
from vlm_heads.asking.sentences import sentence_length, tokens_of
from vlm_heads.asking.short_answers import answers_yes_or_no
from vlm_heads.generate_call import GenerateCall


@dataclass
class Sentence:
    """One sentence of a draft.

    Attributes:
        count: tokens of the draft that belong to it.
        ids: all its tokens, those included that are kept from an earlier draft.
        text: of these.
        named: the objects in it.
    """

    count: int
    ids: list[int]
    text: str
    named: list[Named]


@dataclass
class Line:
    """One row of the batch.

    Attributes:
        row: of the batch.
        context: what the model goes on from.
        draft: what is still to be settled.
        sentences: of the draft.
        shown: token ids of the answer so far.
        rounds: how often the running sentence was drafted again.
        verdicts: by object.
        fates: what became of each object that was said: kept, taken back, left out, or gone with the
            clause of another.
        unchecked: whether nothing of the row is checked: it has no picture, or answers with yes or no.
    """

    row: int
    context: Context
    unchecked: bool = False
    draft: Draft = field(default_factory=Draft)
    sentences: list[Sentence] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    rounds: int = 0
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    fates: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """How strictly is checked.

    Attributes:
        margin: a score below it takes the word back.
        max_rounds: how often a sentence is drafted again.
        most_behind: nats by which the next best token may be less probable than the word it stands in for.
        one_sentence: whether a draft ends with its sentence.
        names: finds the objects that a text names.
    """

    margin: float
    max_rounds: int
    most_behind: float
    one_sentence: bool
    names: Callable[[str], list[Named]]


class Reviewing:
    """One call, row by row.

    Attributes:
        lines: one per row.

    Args:
        call: as the caller made it.
        drafts: of this call.
        judge: of what is named.
        rules: how strictly is checked.
        tokenizer: the model's own.
        has_picture: whether each row has a picture; a row without one is not checked.
    """

    def __init__(
        self,
        call: GenerateCall,
        drafts: Drafts,
        judge: Judge,
        rules: Rules,
        tokenizer: Any,
        has_picture: Sequence[bool],
    ) -> None:
        self._call, self._drafts, self._judge, self._rules, self._tokenizer = call, drafts, judge, rules, tokenizer
        self.lines = [
            Line(row, one, not seen) for row, (one, seen) in enumerate(zip(drafts.contexts, has_picture, strict=True))
        ]
        self._streamer = call.arguments.get("streamer")

    def run(self, told: Callable[[], None]) -> Any:
        """Return what `generate` returns.

        Args:
            told: called whenever something was settled, so that it can be followed.
        """
        if self._streamer is not None:
            self._streamer.put(self._call.inputs["input_ids"].cpu())
        while open_lines := [line for line in self.lines if not line.context.closed]:
            # where every draft reads its prompt again, longer drafts are fewer
            short = self._rules.one_sentence and (self._drafts.goes_on or not self._drafts.written)
            written = self._drafts.write(one_sentence=short)
            for line in open_lines:
                line.draft = written[line.row]
                line.sentences = self._sentences(line)
            self._ask(open_lines)
            for line in open_lines:
                self._settle(line)
            told()
        if self._streamer is not None:
            self._streamer.end()
        return self._output()

    def _sentences(self, line: Line) -> list[Sentence]:
        """Return the sentences of a draft; the first may have begun before it."""
        kept, rest = line.context.said[line.context.begun :], list(line.draft.ids)
        found: list[Sentence] = []
        while rest:
            whole = kept + rest
            count = sentence_length(self._tokenizer, whole, len(kept)) - len(kept)
            ids = whole[: len(kept) + count]
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            first = not line.shown and not found
            line.unchecked = line.unchecked or (first and answers_yes_or_no(text))
            found.append(Sentence(count, ids, text, [] if line.unchecked else self._rules.names(text)))
            kept, rest = [], rest[count:]
        return found

    def _ask(self, lines: Sequence[Line]) -> None:
        """Find out about every object that is named for the first time, in one batch."""
        mentions = [one for line in lines for one in self._mentions(line)]
        if not mentions:
            return
        answers = {line.row: line.context.said + line.draft.ids for line in lines}
        for verdict in self._judge.verdicts(self._drafts.cache, mentions, answers):
            self.lines[verdict.mention.row].verdicts[verdict.mention.name] = verdict

    def _mentions(self, line: Line) -> list[Mention]:
        context, found = line.context, {}
        chances = context.chances + line.draft.chances
        begun = context.begun
        for sentence in line.sentences:
            for one in sentence.named:
                if one.name not in line.verdicts and one.name not in found:
                    tokens = tokens_of(self._tokenizer, sentence.ids, one.start, one.end)
                    chance = min(chances[begun + at] for at in tokens)
                    said = sentence.text[one.start : one.end]
                    found[one.name] = Mention(line.row, one.name, said, chance, begun + tokens[-1])
            begun += len(sentence.ids)
        return list(found.values())

    def _settle(self, line: Line) -> None:
        """Accept a draft up to the first word that is taken back, or to its end."""
        over = line.draft.over
        for sentence in line.sentences:
            bad = [one for one in sentence.named if line.verdicts[one.name].score < self._rules.margin]
            replaced = next((one for one in bad if self._has_another(line, sentence, one)), None)
            if replaced is not None and line.rounds < self._rules.max_rounds:
                self._take_back(line, sentence, replaced)
                return
            self._show(line, self._left(line, sentence, frozenset(one.name for one in bad)))
            line.context.take(line.draft, sentence.count)
            line.context.start_sentence()
            line.rounds = 0
        line.context.closed = over

    def _has_another(self, line: Line, sentence: Sentence, one: Named) -> bool:
        """Whether another token is probable enough where a word begins; after `a pair of` there may be none."""
        place = line.context.begun + tokens_of(self._tokenizer, sentence.ids, one.start, one.end)[0]
        return line.context.lead_at(place, line.draft) <= self._rules.most_behind

    def _take_back(self, line: Line, sentence: Sentence, one: Named) -> None:
        """Let the next draft go on from before a word, without its tokens."""
        tokens = tokens_of(self._tokenizer, sentence.ids, one.start, one.end)
        place = line.context.begun + tokens[0]
        line.context.go_back(place, line.draft, sentence.ids[tokens[0] : tokens[-1] + 1])
        line.fates[one.name] = "taken back"
        line.rounds += 1
        if self._judge.weighs_chances:  # what was never said may come again with another chance
            kept = {name for name, verdict in line.verdicts.items() if verdict.mention.token < place}
            line.verdicts = {name: one for name, one in line.verdicts.items() if name in kept | line.fates.keys()}

    def _left(self, line: Line, sentence: Sentence, unwanted: frozenset[str]) -> list[int]:
        """Return the token ids of a sentence without some of its objects, and note what became of each.

        The end token stays where the sentence has one.
        """
        said = [one.name for one in sentence.named]
        if not unwanted:
            line.fates |= fates_of(said, unwanted, said)
            return sentence.ids
        text = leave_out(sentence.text, self._rules.names, unwanted)
        found = fates_of(said, unwanted, {one.name for one in self._rules.names(text)})
        elsewhere = {name for name, fate in line.fates.items() if fate == "kept"}  # in a sentence that was shown before
        line.fates |= {name: fate for name, fate in found.items() if fate != WENT_ALONG or name not in elsewhere}
        end = [sentence.ids[-1]] if sentence.ids[-1] in self._drafts.ends else []
        return self._written(line.shown, text) + end

    def _written(self, before: Sequence[int], text: str) -> list[int]:
        """Return the token ids that put a sentence behind others."""
        if not text:
            return []
        said = self._tokenizer.decode(before, skip_special_tokens=True)
        ways = [self._tokenizer(one, add_special_tokens=False)["input_ids"] for one in (text, f" {text}")]
        spaced = f"{said.rstrip()} {text}" if said.strip() else text
        exact = (way for way in ways if self._tokenizer.decode([*before, *way], skip_special_tokens=True) == spaced)
        return list(next(exact, ways[bool(said.strip())]))

    def _show(self, line: Line, ids: Sequence[int]) -> None:
        line.shown += ids
        if self._streamer is not None and ids:
            self._streamer.put(torch.tensor(list(ids)))

    def _output(self) -> Any:
        prompt = self._call.inputs["input_ids"]
        pad = self._call.config.pad_token_id
        pad = min(self._drafts.ends, default=0) if pad is None else pad
        width = max(len(line.shown) for line in self.lines)
        rows = [line.shown + [pad] * (width - len(line.shown)) for line in self.lines]
        said = torch.tensor(rows, dtype=prompt.dtype, device=prompt.device).reshape(len(rows), width)
        sequences = torch.cat([prompt, said], dim=1)
        return (
            GenerateDecoderOnlyOutput(sequences=sequences) if self._call.config.return_dict_in_generate else sequences
        )
