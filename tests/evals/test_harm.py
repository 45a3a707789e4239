"""What a mitigation does to neutral answers: the figures, the laws, and what stands in a paired report."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vlm_evals.answer import PLAIN, Asking
from vlm_evals.harm import Follow, Pair, figures, keep_harm, measure_harm, pictures
from vlm_evals.metrics.chair import CHAIR
from vlm_evals.protocol import Protocol
from vlm_evals.report import paired_report
from vlm_evals.reports.harm import TITLE
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import compare
from vlm_evals.reports.tables import tables
from vlm_evals.scored import HARM, ScoredRun, pair_report

from tests.evals.test_report import MITIGATED as AFTER
from tests.evals.test_report import PLAIN as BEFORE
from vlm_heads import VLM, Mitigation


@pytest.fixture(scope="module")
def vlm(untrained_mini: Path) -> VLM:
    return VLM.from_pretrained(str(untrained_mini))


def test_worked_figures() -> None:
    # tokens agree at 2 of 4 places and at 3 of 3: 5 of 7. Of plain's 7 tokens each has probability 1/2; of the other's
    # five, five have 1/2 and two 1/8: the mean of their logarithms is -(5 · 1 + 2 · 3) / 7 · ln 2.
    half, eighth = math.log(1 / 2), math.log(1 / 8)
    pairs = [
        Pair((1, 2, 3, 4), (1, 2, 5, 5), (half,) * 4, (half, half, eighth, eighth)),
        Pair((7, 8, 9), (7, 8, 9), (half,) * 3, (half,) * 3),
    ]
    found = figures(pairs)
    assert (found["prompts"], found["same"]) == (2, 1)
    assert found["agreement"] == pytest.approx(5 / 7)
    assert found["perplexity"]["plain"] == pytest.approx(2)
    assert found["perplexity"]["mitigated"] == pytest.approx(2 ** (11 / 7))
    # one run of four tokens on either side, and none stands twice
    assert found["repeated"] == {"plain": 0.0, "mitigated": 0.0}
    # 1 1 1 1 1 has two runs of four, and the second is the first again
    again = figures([Pair((1,) * 5, (2, 3), (half,) * 5, (half,) * 2)])
    assert again["repeated"] == {"plain": 0.5, "mitigated": None}
    assert again["agreement"] == 0


def test_an_impossible_token_has_no_perplexity_and_nothing_said_no_figures() -> None:
    found = figures([Pair((1,), (2,), (0.0,), (-math.inf,))])
    assert found["perplexity"] == {"plain": 1.0, "mitigated": None}
    nothing = figures([Pair((), (), (), ())])
    assert nothing["agreement"] is None
    assert nothing["perplexity"]["plain"] is None


def test_following_says_the_given_tokens_and_tells_how_probable_they_were() -> None:
    follow = Follow([(2, 0), (1,)])
    scores = torch.log(torch.tensor([[0.25, 0.25, 0.5], [0.1, 0.6, 0.3]]))
    assert follow(torch.zeros(2, 1), scores).argmax(dim=-1).tolist() == [2, 1]
    assert follow(torch.zeros(2, 2), scores).argmax(dim=-1).tolist() == [0, 1]  # the second row goes on as it likes
    assert [[math.exp(one) for one in row] for row in follow.log_probabilities] == [
        pytest.approx([0.5, 0.25]), pytest.approx([0.6]),
    ]  # fmt: skip


def test_pictures_of_nothing_differ_and_are_the_same_every_time() -> None:
    first, again = ([one.tobytes() for one in pictures()] for _ in range(2))
    assert first == again
    assert len(set(first)) == 4


def test_a_neutral_mitigation_changes_nothing(vlm: VLM) -> None:
    found = measure_harm(vlm, Mitigation.of("vhr:gain=1"), batch_size=5)
    for part in ("text", "pictures"):
        assert found[part]["same"] == found[part]["prompts"]
        assert found[part]["agreement"] == 1
        assert found[part]["perplexity"]["plain"] == found[part]["perplexity"]["mitigated"]


def test_a_mitigation_for_pictures_leaves_text_as_it_was_and_is_seen_in_pictures(vlm: VLM) -> None:
    found = measure_harm(vlm, Mitigation.of("route:heads=all,image=5,layers=all"))
    assert found["text"]["agreement"] == 1
    assert found["pictures"]["agreement"] < 1
    # greedy answers are the plain model's own, so that no other answer is likelier token by token at its first change
    assert found["pictures"]["perplexity"]["mitigated"] != found["pictures"]["perplexity"]["plain"]
    stream = measure_harm(vlm, Mitigation.of("vcd"))
    assert "untouched" in stream["text"]


def test_a_batch_of_answers_that_a_check_shortens_has_the_figures_of_its_rows() -> None:
    """Some of them end at the limit without an end token; what fills their rows is no word, and none is counted."""
    mini, check = VLM.from_pretrained("mini"), Mitigation.of("askback:margin=2")
    together, alone = (measure_harm(mini, check, batch_size=size)["pictures"] for size in (8, 1))
    assert 0 < alone["same"] < 8
    for figure in ("prompts", "same", "agreement", "repeated"):
        assert together[figure] == alone[figure]
    assert together["perplexity"] == pytest.approx(alone["perplexity"], rel=1e-4)


def test_what_cannot_be_asked_is_told_and_costs_no_report(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no padding token\nand more")

    monkeypatch.setattr("vlm_evals.harm._turn", refuse)
    monkeypatch.setattr("vlm_evals.harm.pictures", lambda: pictures()[:1])
    found = measure_harm(vlm, Mitigation.of("pai"))
    assert found["text"] == {"refused": "no padding token"}
    assert found["pictures"]["prompts"] == 2


def test_it_is_measured_once_a_run(vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_evals.harm.measure_harm", lambda *_: {"tokens": 1})
    keep_harm(tmp_path, Asking(vlm), PLAIN)
    monkeypatch.setattr("vlm_evals.harm.measure_harm", lambda *_: {"tokens": 2})
    keep_harm(tmp_path, Asking(vlm), PLAIN)
    assert '"tokens": 1' in (tmp_path / HARM).read_text()


def test_a_paired_report_prints_it() -> None:
    part = {"prompts": 6, "same": 5, "agreement": 0.9, "perplexity": {"plain": 2.0, "mitigated": None}}
    part["repeated"] = {"plain": 0.0, "mitigated": 0.125}
    harm = {"text": {"untouched": "it has nothing that acts without a picture"}, "pictures": part}
    protocol = Protocol("p", "chair", {}, (0, 1, 2, 3), "Describe.", 8, 0)
    plain = ScoredRun(protocol, {"model": "m", "interventions": []}, BEFORE, {}, {})
    mitigated = replace(plain, scores=AFTER, harm=harm)
    report = pair_report([plain], [mitigated], seed=0)
    (table,) = (one for one in tables(report) if one.title == TITLE)
    assert table.rows[0][1] == "it has nothing that acts without a picture"
    assert table.rows[1] == ("pictures of nothing", "5 of 6", "90.0", "2.00 → undefined", "0.0 → 12.5")
    assert "General harm" in markdown(report)
    without = paired_report([compare(CHAIR, BEFORE, {"mitigated": AFTER}, resamples=20)], settings={})
    assert TITLE not in [one.title for one in tables(without)]
