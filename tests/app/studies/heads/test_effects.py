"""Means, intervals and ranks: laws, and what blocks of scenes come to."""

import numpy as np
import pytest
from vlm_app.studies.heads.answers import at_their_best, bands, ranking, strongest
from vlm_app.studies.heads.effects import ASPECTS, agreement, effects, interval, mean_over
from vlm_app.studies.heads.halves import HALVES, chosen_by_vhd, halves_by_vhd

from tests.support.heads import DEPTH, HEADS, fabricated


def test_scenes_count_as_often_as_they_are_drawn() -> None:
    """Weights 1 and 1 are the mean; 2 and 0 leave the first alone; nothing drawn is no number."""
    means = mean_over(np.array([[1.0, 3.0], [0.0, -2.0]]), np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]]))
    assert means[:2].tolist() == [[2.0, -1.0], [1.0, 0.0]]
    assert np.isnan(means[2]).all()


def test_an_interval_leaves_out_draws_without_any() -> None:
    assert interval(np.array([0.5, *np.linspace(0, 1, 101), np.nan])) == pytest.approx(
        {"estimate": 0.5, "low": 0.025, "high": 0.975}
    )
    assert interval(np.array([np.nan, np.nan])) == {"estimate": None, "low": None, "high": None}


def test_ranks_agree_with_themselves_and_not_with_their_opposite() -> None:
    scores = np.random.default_rng(0).normal(size=(3, DEPTH, HEADS))
    same, opposite = agreement(scores, np.exp(scores)), agreement(scores, -scores)
    for key in ("all", "within_layers"):
        assert same[key] == pytest.approx(np.ones(3))
        assert opposite[key] == pytest.approx(-np.ones(3))


def test_a_layer_of_equals_is_left_out_of_the_mean() -> None:
    scores = np.array([[[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]])
    other = np.array([[[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]]])
    assert agreement(scores, other)["within_layers"] == pytest.approx([1.0])
    assert np.isnan(agreement(np.ones_like(scores), other)["all"]).all()


def test_ranks_within_layers_do_not_see_between_them() -> None:
    """In each layer the order is reversed; over all heads the layers' own level makes the two agree."""
    one = np.array([[[1.0, 2.0, 3.0], [101.0, 102.0, 103.0]]])
    other = np.array([[[3.0, 2.0, 1.0], [103.0, 102.0, 101.0]]])
    found = agreement(one, other)
    assert found["within_layers"] == pytest.approx([-1.0])
    assert found["all"] > 0.5


def test_halves_are_as_many_above_the_lower_median_as_at_the_bottom() -> None:
    """Of four heads with VHD 1, 4, 2 and 3 two lie above the lower median 2; where all are alike none does."""
    halves = halves_by_vhd(np.array([[1.0, 4.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]]))
    assert halves["upper"].tolist() == [[False, True, False, True], [False] * 4]
    assert halves["lower"].tolist() == [[True, False, True, False], [False] * 4]


def test_halves_of_scenes_are_chosen_one_by_one() -> None:
    vhd = np.random.default_rng(1).random((3, 5, 6))
    chosen = chosen_by_vhd(vhd, [0, 2])
    for half in HALVES:
        for scene in range(6):
            alone = halves_by_vhd(vhd[..., scene])[half]
            assert (chosen[half][[0, 2], :, scene] == alone[[0, 2]]).all()
        assert not chosen[half][1].any()


def test_how_scenes_stand_in_blocks_does_not_matter() -> None:
    together, (one, other) = fabricated(8), (fabricated(8, only=range(3)), fabricated(8, only=range(3, 8)))
    whole, parts = effects([together], [1], seed=7), effects([one, other], [1], seed=7)
    assert whole.counts == parts.counts
    for gain in ("ablation", "doubling"):
        for aspect in ASPECTS:
            assert np.allclose(whole.changes[gain, aspect], parts.changes[gain, aspect])
            for half in HALVES:
                for how in ("at once", "sum"):
                    key = (gain, half, how, aspect)
                    assert np.allclose(whole.together[key], parts.together[key])
    assert np.allclose(whole.looks["vhd"], parts.looks["vhd"])


def test_sums_are_of_the_heads_that_were_chosen() -> None:
    """Every head's doubling adds 1 in the fabricated layer 1 and nothing elsewhere; two of five heads are chosen."""
    block = fabricated(6)
    block["doubling"] = [[[float(layer == 1)] * len(block["places"])] * HEADS for layer in range(DEPTH)]
    found = effects([block], [1], seed=7).together
    for half in HALVES:
        assert interval(found["doubling", half, "sum", "faithful"]) == {"estimate": 2.0, "low": 2.0, "high": 2.0}
        assert interval(found["doubling", half, "sum", "grounding"])["estimate"] == 0.0
    none = effects([block], [], seed=7).together
    assert none["doubling", "upper", "sum", "faithful"][0] == 0.0


def test_what_was_put_in_is_found() -> None:
    """In the fabricated model a head sees the more, the higher its VHD, and doubling it adds as much."""
    found = effects([fabricated(40)], [1], seed=7)
    rows = {(row["score"], row["does"], row["gain"]): row for row in ranking(found)}
    for gain in ("ablation", "doubling"):
        assert rows["vhd", "sees", gain]["within_layers"]["low"] > 0.5
        assert rows["vhd", "sees", gain]["halves"]["within_layers"] > 0.5
    assert {one["head"] for one in strongest(found)["sees"][:DEPTH]} == {HEADS - 1}
    assert [one["vhd_rank"] for one in strongest(found)["sees"][:DEPTH]] == [1] * DEPTH
    assert bands(found)[0]["ablation"]["difference"]["faithful"]["high"] < 0
    best = at_their_best(found)
    assert best["matter"] == best["doubling_helps"] >= DEPTH * (HEADS - 1)


def test_nothing_invented_is_said_as_none() -> None:
    found = effects([fabricated(6, invents=False)], [1], seed=7)
    assert found.counts["invented"] == found.counts["grounding"] == 0
    assert strongest(found)["invents"] == []
    assert bands(found)[0]["doubling"]["upper"]["grounding"]["estimate"] is None
    assert all(row["all"]["estimate"] is None for row in ranking(found) if row["does"] == "invents")
