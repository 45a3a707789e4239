"""OPERA against plain loops without a cache in float64, and its beams against transformers' own."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.families import Build, Tiny
from tests.support.full_loop import FullLoop
from vlm_heads import VLM, Mitigation, attach, errors
from vlm_heads.attached.beam_forwards import BeamForwards
from vlm_heads.models import planted_image
from vlm_heads.pipelines.over_trust_penalty import OverTrustPenalty
from vlm_heads.toolkit.beam_search import Beams, Search
from vlm_heads.toolkit.over_trust import AsReleased, largest_column, with_row

TOKENS = 24
NEVER_SAID = 250  # no token of these models, so that no answer ends early


@dataclass
class Answer:
    """One beam: what it said, its score, its places, and which beam it goes on from."""

    said: list[int] = field(default_factory=list)
    score: float = 0.0
    places: list[int] = field(default_factory=list)
    parent: int = 0


class PlainLoop:
    """OPERA for one prompt, written out; every weight is computed anew from the whole sequence."""

    def __init__(self, tiny: Tiny, method: OverTrustPenalty) -> None:
        self.loop, self.method = FullLoop(tiny), method
        self.prompt = len(self.loop.prompt)
        self.rollbacks = 0
        self._seen: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def looked(self, said: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the token logits after what was said, and the last layer's rows `[T, T]`, strongest heads alone."""
        if (known := self._seen.get(tuple(said))) is not None:
            return known
        rows: list[Tensor] = []

        def attention(layer: int, logits: Tensor, values: Tensor) -> Tensor:
            weights = logits.softmax(-1)
            rows.append(weights.amax(0))
            return weights @ values

        logits = self.loop.token_logits(said, attention)
        self._seen[tuple(said)] = logits, rows[-1] / rows[-1].sum(-1, keepdim=True)
        return self._seen[tuple(said)]

    def products(self, said: Sequence[int]) -> list[float]:
        """Return each answer column's product."""
        square = self.looked(said)[1][self.prompt :, self.prompt :] * self.method.scale
        return [
            math.prod(square[row, column].item() for row in range(column, len(said))) for column in range(len(said))
        ]

    def image(self, said: Sequence[int]) -> float:
        """Return what the newest row gives the image."""
        return float(self.looked(said)[1][-1, : self.prompt][self.loop.image].sum())

    def candidates(self, said: Sequence[int]) -> list[int]:
        return [int(one) for one in self.looked(said)[0].topk(self.method.candidates).indices]

    def best_of(self, beams: list[Answer], logits: list[dict[int, float]]) -> list[Answer]:
        """Return the next beams; no token ends an answer here."""
        every = []
        for number, (beam, some) in enumerate(zip(beams, logits, strict=True)):
            most = max(some.values(), default=0.0)
            total = most + math.log(sum(math.exp(one - most) for one in some.values()) or 1.0)
            for token, logit in some.items():
                every.append((beam.score + logit - total, number, token))
        every.sort(key=lambda one: -one[0])
        return [
            Answer([*beams[number].said, token], score, list(beams[number].places), number)
            for score, number, token in every[: self.method.beams]
        ]

    def paper(self) -> list[int]:
        """Return the answer by the paper's rules."""
        window = self.method.window
        history: list[list[Answer]] = []
        barred: dict[int, set[tuple[int, ...]]] = {}
        times, furthest = Counter[int](), 0
        beams = [Answer()]
        while len(beams[0].said) < TOKENS:
            history.append(beams)
            excluded: set[tuple[int, ...]] = set()
            recent = [beam.places[-window:] for beam in beams]
            modes = {most_often(one) for one in recent if one}
            place = min(modes, default=-1)
            if (
                len(modes) == 1
                and place >= furthest
                and all(one.count(place) >= self.method.threshold for one in recent)
            ):
                for kept in (place + 1, place):
                    every = {(*one.said, token) for one in history[kept] for token in self.candidates(one.said)}
                    gone = {tuple(one.said) for one in history[kept + 1]} | barred.get(kept, set())
                    if times[kept] < self.method.rollbacks and every - gone:
                        times[kept] += 1
                        barred = {before: some for before, some in barred.items() if before < kept} | {kept: gone}
                        beams, furthest, excluded = history[kept], place, gone
                        history = history[: kept + 1]
                        self.rollbacks += 1
                        break
            logits: list[dict[int, float]] = []
            for beam in beams:
                there = [token for token in self.candidates(beam.said) if (*beam.said, token) not in excluded]
                worst = {token: max(self.products([*beam.said, token])[-window:]) for token in there}
                own = self.looked(beam.said)[0]
                logits.append({token: float(own[token]) - self.method.weight * worst[token] for token in there})
            beams = self.best_of(beams, logits)
            for beam in beams:
                products = self.products(beam.said)
                lost = max(0, len(products) - window)
                beam.places.append(lost + products[lost:].index(max(products[lost:])))
        return beams[0].said

    def code(self) -> list[int]:
        """Return the answer by the program's rules."""
        history: list[list[Answer]] = []
        steps: list[list[int]] = []
        barred: dict[int, set[tuple[int, int]]] = {}
        times = Counter[int]()
        beams = [Answer([], 0.0 if one == 0 else -1e9) for one in range(self.method.beams)]
        while len(beams[0].said) < TOKENS:
            history.append(beams)
            logits, places = [], []
            for beam in beams:
                own, where = dict.fromkeys(range(200), -999.0), []
                for token in self.candidates(beam.said):
                    said = [*beam.said, token]
                    scores = (1e-7 * torch.tensor(self.products(said), dtype=torch.float64)).half().tolist()
                    penalty = -self.image(said) if len(said) <= 10 else max(scores)
                    own[token] = float(self.looked(beam.said)[0][token]) - self.method.weight * penalty
                    where.append(scores.index(max(scores)))
                logits.append(own)
                places.append(most_often(where))
            steps.append(places)
            place = most_often(places)
            often = [sum(step[beam] == place for step in steps) for beam in range(self.method.beams)]
            if place >= 10 and min(often) > self.method.threshold:
                kept = next((one for one in (place + 1, place) if times[one] < self.method.rollbacks), None)
                if kept is not None:
                    times[kept] += 1
                    self.rollbacks += 1
                    barred.setdefault(kept, set()).update((one.parent, one.said[-1]) for one in history[kept + 1])
                    barred.pop(kept + 1, None)
                    beams, history, steps = history[kept], history[: kept + 1], steps[: kept + 1]
                    logits = [dict(enumerate(self.looked(beam.said)[0].tolist())) for beam in beams]
                    for beam_number, token in barred[kept]:
                        logits[beam_number][token] = min(self.looked(beams[beam_number].said)[0].tolist())
            beams = self.best_of(beams, logits)
        return beams[0].said


def most_often(values: Sequence[int]) -> int:
    return min(values, key=lambda value: (-values.count(value), value))


def sharpened(tiny: Tiny, factor: float) -> Tiny:
    """Return a tiny Llava in float64 whose last layer looks at single keys."""
    tiny.model.double()
    tiny.decoder_layers[-1].self_attn.q_proj.weight.data *= factor  # type: ignore[union-attr, operator]
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in tiny.inputs.items()}
    return replace(tiny, inputs=inputs)


@pytest.mark.parametrize(
    ("seed", "factor", "method"),
    [
        (0, 1, OverTrustPenalty(beams=3, candidates=3, threshold=4, scale=30, rollbacks=2)),
        (0, 20, OverTrustPenalty(beams=2, candidates=3, threshold=3, scale=30, rollbacks=1, window=6, weight=0.1)),
        (2, 60, OverTrustPenalty(beams=2, candidates=2, threshold=2, scale=14, rollbacks=2, mode="code")),
    ],
)
def test_equals_a_plain_loop(seed: int, factor: float, method: OverTrustPenalty, tiny: Build) -> None:
    model = sharpened(tiny("llava", seed), factor)
    loop = PlainLoop(model, method)
    expected = loop.paper() if method.mode == "paper" else loop.code()
    arguments = {**model.inputs, "max_new_tokens": TOKENS, "eos_token_id": NEVER_SAID}
    plain = model.model.generate(**arguments, num_beams=method.beams, do_sample=False)
    with attach(model.model, method) as run:
        got = model.model.generate(**arguments)
    assert run.receipt.pipeline is not None
    assert got[0].tolist() == [*loop.loop.prompt, *expected]
    assert run.receipt.pipeline.rows[0]["rollbacks"] == loop.rollbacks > 0
    assert not torch.equal(got, plain)


@pytest.mark.parametrize("settings", [{}, {"length_penalty": 0.5, "early_stopping": "never"}, {"early_stopping": True}])
def test_its_beams_are_those_of_transformers(settings: dict[str, Any], tiny: Build) -> None:
    """With several tokens that end an answer, so that answers of many lengths compete."""

    def beams(
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        **arguments: Any,
    ) -> Tensor:
        config = generation_config
        room = config.max_length - input_ids.shape[1]
        search = Search(input_ids, stopping_criteria, 3, room, config.length_penalty, config.early_stopping)
        forwards, now = BeamForwards(model, input_ids, arguments), Beams.begun(len(input_ids), input_ids.device)
        logits = forwards.begin()
        while not (now := search.after(now, logits.log_softmax(-1))).over:
            logits = forwards.go_on(now.said[:, -1], now.parents)
        return torch.cat([input_ids[0], now.best()[1]])[None]

    lengths = set()
    for seed in range(4):
        one = tiny("llava", seed)
        arguments = {
            **one.inputs, **settings, "max_new_tokens": 12, "num_beams": 4, "do_sample": False,
            "eos_token_id": [31, 87, 194],
        }  # fmt: skip
        expected = one.model.generate(**arguments)
        got = one.model.generate(**arguments, custom_generate=beams)
        assert torch.equal(got, expected)
        lengths.add(got.shape[1])
    assert len(lengths) > 1


def test_going_back_gives_the_same_logits(llava: Tiny) -> None:
    ids = llava.inputs["input_ids"].expand(2, -1)

    def loop(model: Any, input_ids: Tensor, synced_gpus: bool = False, **arguments: Any) -> Tensor:
        arguments = {name: value for name, value in arguments.items() if name not in NOT_THE_MODEL_S}
        forwards = BeamForwards(model, input_ids, arguments)
        forwards.begin()
        first = torch.tensor([7, 8])
        expected = forwards.go_on(first, torch.tensor([0, 1]))
        forwards.aside(torch.tensor([9, 9]))
        again = forwards.go_on(torch.tensor([5, 6]), torch.tensor([1, 0]))
        assert torch.equal(forwards.back(first[:, None]), expected)
        assert torch.allclose(forwards.back(torch.tensor([[8, 5], [7, 6]])), again, atol=1e-5)
        assert forwards.count == 1 + 1 + 1 + 1 + 1 + 2
        return input_ids

    pixels = llava.inputs["pixel_values"].repeat(2, 1, 1, 1)
    llava.model.generate(ids, pixel_values=pixels, custom_generate=loop, max_new_tokens=4)


NOT_THE_MODEL_S = ("logits_processor", "stopping_criteria", "generation_config")


def test_columns_by_hand() -> None:
    """Scale 10, rows (0.2), (0.5 0.1) and (0.3 0.4 0.2): products 2 * 5 * 3 = 30, 1 * 4 = 4 and 2."""
    columns = with_row(torch.zeros(1, 0, dtype=torch.float64), torch.tensor([[0.2]]).double(), 10.0)
    columns = with_row(columns, torch.tensor([[0.5, 0.1]]).double(), 10.0)
    columns = with_row(columns, torch.tensor([[0.3, 0.4, 0.2]]).double(), 10.0)
    assert torch.allclose(columns.exp(), torch.tensor([[30.0, 4.0, 2.0]]).double())
    for window, (most, place) in {9: (30.0, 0), 2: (4.0, 1), 1: (2.0, 2)}.items():
        value, at = largest_column(columns, window)
        assert (value.item(), at.item()) == (pytest.approx(most), place)


def test_the_program_rounds_its_penalty_to_half_precision() -> None:
    """A product of 1 is 1e-7, of which half precision has 2 steps of 2 ** -24 = 5.96e-8; at ten tokens, the image."""
    rules = AsReleased(50.0, 15, 1.0, 512, 5)
    late, early = torch.zeros(1, 1, 11, dtype=torch.float64), torch.zeros(1, 1, 10, dtype=torch.float64)
    image = torch.full((1, 1), 0.25, dtype=torch.float64)
    assert rules._penalty(late, image)[0].item() == 2 * 2.0**-24
    assert rules._penalty(early, image)[0].item() == -0.25


def test_generate_returns_what_it_would(tiny: Build) -> None:
    one = tiny("llava")
    method = OverTrustPenalty(beams=2, candidates=2)
    with attach(one.model, method) as run:
        said = one.model.generate(**one.inputs, max_new_tokens=3)
        whole = one.model.generate(**one.inputs, max_new_tokens=3, num_beams=2, return_dict_in_generate=True)
        text = one.inputs["input_ids"].where(one.inputs["input_ids"] != 150, 9)
        without = one.model.generate(text, max_new_tokens=3)
    assert torch.equal(whole.sequences, said)
    assert torch.equal(without, one.model.generate(text, max_new_tokens=3))
    assert run.receipt.pipeline is not None
    assert run.receipt.pipeline.to_dict(0)["row"] == {"rollbacks": 0, "forwards": 3 * (1 + 2)}
    assert run.receipt.pipeline.calls == 2


def test_families(family: str, tiny: Build) -> None:
    one = tiny(family)
    method = OverTrustPenalty(beams=2, candidates=2)
    if family in REFUSED:
        with pytest.raises(errors.UnsupportedModel, match=REFUSED[family]):
            attach(one.model, method)
        return
    with attach(one.model, method) as run:
        one.model.generate(**one.inputs, max_new_tokens=3)
    assert run.receipt.pipeline is not None
    assert run.receipt.pipeline.rows[0]["forwards"] == 9


REFUSED = {
    "janus": "in a way of its own",
    "instructblip": "past its own forward",
    "blip2": "past its own forward",
    "mllama": "no image keys",
}

REASONS = {
    "do_sample": (True, "leave do_sample out"),
    "num_beams": (3, "write opera:beams=3"),
    "num_return_sequences": (2, "one answer"),
    "output_logits": (True, "output_logits: opera goes back"),
    "streamer": (object(), "takes words back"),
    "custom_generate": (lambda model: model, "in a way of its own"),
}


@pytest.mark.parametrize("name", list(REASONS))
def test_what_it_cannot_do_is_refused(name: str, llava: Tiny) -> None:
    value, reason = REASONS[name]
    changes = {"num_beams": 2} if name == "num_return_sequences" else {}
    with (
        attach(llava.model, "opera:beams=2", allow_idle=True),
        pytest.raises(errors.UnsupportedGeneration, match=reason),
    ):
        llava.model.generate(**{**llava.inputs, **changes, name: value}, max_new_tokens=2)


def test_it_answers_one_prompt_and_alone(llava: Tiny) -> None:
    twice = {name: torch.cat([value, value]) for name, value in llava.inputs.items()}
    with (
        attach(llava.model, "opera", allow_idle=True),
        pytest.raises(errors.UnsupportedGeneration, match="one prompt at a time, and here are 2"),
    ):
        llava.model.generate(**twice, max_new_tokens=2)
    for beside in ("vhr", "flb", "m3id"):
        with pytest.raises(errors.BadOption, match=f"{beside} could not act beside it"):
            attach(llava.model, ["opera", beside])


def test_several_pictures_are_answered_one_after_the_other() -> None:
    vlm, pictures = VLM.from_pretrained("planted"), [planted_image("car"), planted_image("bird")]
    several = vlm.answer_batch(
        pictures, ["what is there?", "what is it?"], "opera:beams=2,candidates=2", max_new_tokens=3
    )
    alone = [vlm.answer(pictures[0], "what is there?", "opera:beams=2,candidates=2", max_new_tokens=3),
             vlm.answer(pictures[1], "what is it?", "opera:beams=2,candidates=2", max_new_tokens=3)]  # fmt: skip
    assert [one.token_ids for one in several] == [one.token_ids for one in alone]
    assert not Mitigation.parse("opera").batched
    assert Mitigation.parse("vhr vcd").batched


def test_a_stream_gives_the_whole_answer_at_its_end() -> None:
    vlm, picture, words = VLM.from_pretrained("planted"), planted_image("car"), "opera:beams=2,candidates=2"
    whole = vlm.answer(picture, "what is there?", words, max_new_tokens=6)
    pieces = vlm.stream(picture, "what is there?", words, max_new_tokens=6)
    assert next(pieces) == whole.text
    with pytest.raises(StopIteration) as end:
        next(pieces)
    assert end.value.value.token_ids == whole.token_ids
    assert end.value.value.receipt == whole.receipt
    assert not Mitigation.parse("opera").streamed
    assert Mitigation.parse("carve").streamed
    assert Mitigation.parse("vhr vcd").streamed


def test_its_receipt_says_that_it_searched(llava: Tiny) -> None:
    with attach(llava.model, "opera:beams=2,candidates=2") as run:
        llava.model.generate(**llava.inputs, max_new_tokens=2)
    assert str(run.receipt.pipeline) == "opera: 1 call answered by a search"
    assert run.receipt.pipeline is not None
    assert set(run.receipt.pipeline.to_dict()) == {"name", "options", "calls", "first_passes", "rows"}
