"""What a gain on the image's route does to words: read again exactly, counted by class, said in sentences."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from vlm_app.studies.findings.captions import greedy_captions, picture_of
from vlm_app.studies.heads.asked import beginning_of, caption_rows
from vlm_app.studies.heads.reading import Reading
from vlm_app.studies.heads.words import first_tokens, object_tokens
from vlm_app.studies.route.again import CLASSES, Again, stops
from vlm_app.studies.route.measure import bands_of, measure_route
from vlm_app.studies.route.page import sentences, write_route
from vlm_app.studies.route.summary import summary
from vlm_evals.errors import TaskError
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.world import scenes

from tests.support.families import CLOSE
from vlm_heads import VLM, attach


class _Forced(LogitsProcessor):
    """Makes a model say given tokens, and keeps what it would have said."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.seen = tokens, list[Tensor]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(scores.log_softmax(-1)[0])
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[len(self.seen) - 1]] = 0.0
        return forced


@pytest.fixture(scope="module")
def again() -> Again:
    """Two validation scenes with what `mini` says of them."""
    vlm, pictures = VLM.from_pretrained("mini"), list(scenes("validation", 7, 2))
    beginning, captions = beginning_of(vlm, pictures), greedy_captions(vlm, pictures)
    rows = caption_rows(vlm, beginning, pictures, captions, others=True)
    assert rows is not None
    first = torch.full((2,), min(place.column for place in rows.places))
    rows = stops(vlm, rows, [caption.ids for caption in captions], int(first[0]) + 1)
    return Again(vlm, beginning, rows, pictures, Reading(vlm), first)


@pytest.mark.parametrize(("layers", "gain"), [([], 1.0), ([2, 3], 1.5), (list(range(8)), 2.0)])
def test_what_is_read_again_is_what_route_gain_gives_while_the_caption_is_made(
    layers: list[int], gain: float, again: Again
) -> None:
    vlm, prompt = again.vlm, int(again.first[0]) + 1
    got = torch.tensor(again.under(layers, gain)["values"])
    for number, picture in enumerate(again.pictures):
        places = [at for at, place in enumerate(again.rows.places) if place.scene == number and place.kind != "stop"]
        last = max(again.rows.places[at].column for at in places) - prompt + 2
        forced = _Forced(again.rows.ids[number, prompt : prompt + last].tolist())
        ask = {"max_new_tokens": last, "do_sample": False, "logits_processor": LogitsProcessorList([forced])}
        inputs = vlm.inputs([picture_of(picture)], DESCRIBE)
        words = f"route:image={gain},heads=all,layers={'+'.join(map(str, layers)) or 'all'}"
        with attach(vlm.model, words):
            vlm.model.generate(**inputs, **ask)
        for at in places:
            place = again.rows.places[at]
            expected = forced.seen[place.column - prompt + 1][place.token]
            assert abs(float(expected - got[at])) < CLOSE


def test_every_word_has_one_class(again: Again) -> None:
    shares = torch.tensor(again.under([], 1.0)["shares"])
    looked_at = torch.tensor([place.kind in ("faithful", "invented", "stop") for place in again.rows.places])
    assert torch.allclose(shares[looked_at].sum(dim=1), torch.ones(int(looked_at.sum())), atol=1e-5)
    assert float(shares[~looked_at].abs().max()) == 0
    named = [at for at, place in enumerate(again.rows.places) if place.kind in ("faithful", "invented")]
    values = torch.tensor(again.under([], 1.0)["values"])
    assert torch.allclose(shares[named, CLASSES.index("said")], values[named].exp(), atol=1e-5)
    again_before = [shares[at, CLASSES.index("again")] for at in named[:1]]  # before the first mention nothing is named
    assert float(torch.stack(again_before).max()) == 0
    ends = [at for at, place in enumerate(again.rows.places) if place.kind == "stop"]
    last = max((at for at in ends if again.rows.places[at].scene == 0), key=lambda at: again.rows.places[at].column)
    assert shares[last, CLASSES.index("end")] > 0.1  # greedy decoding ended the caption there, in a world of 61 objects


def test_object_tokens_know_their_objects() -> None:
    tokenizer = VLM.from_pretrained("mini").processor.tokenizer
    owners = first_tokens(tokenizer)
    assert sorted(owners) == object_tokens(tokenizer)
    assert "dog" in owners[tokenizer("a dog", add_special_tokens=False)["input_ids"][1]]


def test_bands_cover_every_layer_once() -> None:
    assert bands_of(8) == [range(at, at + 1) for at in range(8)]
    assert bands_of(30) == [range(at, at + 3) for at in range(0, 30, 3)]
    assert [layer for band in bands_of(32) for layer in band] == list(range(32))


ABOUT = {
    "model": "made", "weights": "0", "seed": 7, "split": "validation", "scenes": 2, "layers": 2, "gain": 1.5,
    "bands": [[0, 0], [1, 1]],
}  # fmt: skip


@pytest.fixture
def found() -> dict[str, Any]:
    """Two scenes alike. On all layers faithful mentions gain 0.5 nats and inventions lose 1; layer 1 alone does half.

    The layers tell 2 and 4 for faithful words, so half as much again is 3 directly, and 0.5 arrives.
    """
    kinds, shares = ["faithful", "invented", "stop"], [0.5, 0.0, 0.0, 0.3, 0.0, 0.2]
    places = [{"kind": kind, "scene": scene} for scene in (0, 1) for kind in kinds]
    moved = [0.7, 0.0, 0.1, 0.0, 0.0, 0.2]

    def under(faithful: float, invented: float, row: list[float]) -> dict[str, Any]:
        return {"values": [faithful, invented, 0] * 2, "against": [faithful, invented, 0] * 2, "shares": [row] * 6}

    block = {
        "places": places,
        "told": [[2.0, 0.0, 0.0] * 2, [4.0, 0.0, 0.0] * 2],
        "under": {
            "plain": under(-1, -2, shares),
            "band 0": under(-1, -2, shares),
            "band 1": under(-0.75, -2.5, shares),
            "all": under(-0.5, -3, moved),
        },
    }
    return {"about": ABOUT} | summary([block], [range(1), range(1, 2)], 1.5, seed=1)


def test_the_figures_are_means(found: dict[str, Any]) -> None:
    changes = found["changes"]
    assert [changes[name]["apart"]["estimate"] for name in ("all", "band 0", "band 1")] == [1.5, 0.0, 0.75]
    assert changes["all"]["present"] is None
    told = found["direct"]["all"]["faithful"]
    assert (told["told"]["estimate"], told["came"]["estimate"]) == (3.0, 0.5)
    assert found["direct"]["band 1"]["faithful"]["told"]["estimate"] == 2.0
    moves = {name: round(one["change"]["estimate"], 3) for name, one in found["shares"]["faithful"].items()}
    assert moves == {"said": 0.2, "present": 0.0, "again": 0.1, "absent": -0.3, "end": 0.0, "other": 0.0}


def test_the_sentences_follow_the_figures(found: dict[str, Any]) -> None:
    said = " ".join(sentences(found))
    assert (
        "a faithful first mention changes by +0.50 [0.50, 0.50] nats, an invented one by -1.00 [-1.00, -1.00]" in said
    )
    assert "So it moves the two apart, by +1.50 [1.50, 1.50]" in said
    assert (
        "Gained alone, layer 1 moves them apart most, by +0.75 [0.75, 0.75]; with an interval above zero: layer 1."
        in said
    )
    assert "One by one they add up to +0.75, and all at once give +1.50." in said
    assert "objects that are not there -30.0 [-30.0, -30.0], the word said +20.0 [20.0, 20.0]" in said
    assert "over the words of all objects by +3.00 [3.00, 3.00]" in said
    wrong = {**found["changes"]["all"], "apart": {"estimate": -1.0, "low": -2.0, "high": -0.5}}
    assert "the wrong way" in " ".join(sentences({**found, "changes": {**found["changes"], "all": wrong}}))


def test_the_page_keeps_what_stands_around_the_block(found: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "route_gain.md"
    page.write_text("Before.\n<!-- route-made: written by a program, from here -->\n<!-- route-made: to here -->\n")
    assert all(path.is_file() for path in write_route(page, found))
    text = page.read_text()
    assert text.startswith("Before.")
    assert "| all layers | +0.50 [0.50, 0.50] | -1.00 [-1.00, -1.00] | +1.50 [1.50, 1.50] |" in text
    assert "| objects named before | 0.0, +10.0 [10.0, 10.0] |" in text


def test_a_run_is_measured_kept_and_not_mixed_with_another(tmp_path: Path) -> None:
    ask = {"model": "mini", "images": 3, "seed": 7, "device": "cpu"}
    found = measure_route(tmp_path, gain=1.5, **ask)
    assert set(found["changes"]) == {"all", *(f"band {number}" for number in range(8))}
    kept = (tmp_path / "scenes-0000-0003.json").read_bytes()
    assert measure_route(tmp_path, gain=1.5, **ask) == found
    assert (tmp_path / "scenes-0000-0003.json").read_bytes() == kept
    with pytest.raises(TaskError, match=r"holds a run of gain 1.5, not 2.0"):
        measure_route(tmp_path, gain=2.0, **ask)
