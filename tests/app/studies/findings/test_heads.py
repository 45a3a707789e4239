"""How head scores are spread, and how far they agree."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from vlm_app.agreement import agreement, agreements, spearman
from vlm_app.studies.findings.heads import awareness, head_spread
from vlm_evals.scenes.world import scenes

from vlm_heads import VLM, score_heads


def test_spread_of_heads() -> None:
    """Layer 0: 1, 2, 3, 6, lower median 2, largest 3 times that, 12 of 16 in all. Layer 1 has no self-attention."""
    rows = head_spread(np.array([[3.0, 1, 6, 2], [0, 0, 0, 0], [1, 1, 1, 1]]))
    assert rows[0] == {"layer": 0, "max": 6.0, "median": 2.0, "max_over_median": 3.0, "share": 12 / 16}
    assert rows[1]["max_over_median"] is None
    assert rows[2]["max_over_median"] == 1.0


def test_spearman_is_scipys() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 6, 40).astype(float), rng.normal(size=40)
    assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert spearman(np.ones(4), np.arange(4.0)) is None


def test_layers_may_agree_where_heads_within_them_do_not() -> None:
    """Both scores grow from layer to layer; inside a layer their order is opposite."""
    one, other = np.array([[1.0, 2], [11, 12]]), np.array([[2.0, 1], [12, 11]])
    found = agreement(one, other)
    # ranks 1 2 3 4 and 2 1 4 3: squared differences 1 + 1 + 1 + 1, so 1 - 6·4 / (4·15) = 0.6
    assert (found["all"], found["within_layers"]) == (pytest.approx(0.6), pytest.approx(-1.0))
    assert agreement(np.ones((2, 2)), other) == {"all": None, "within_layers": None}


def test_every_pair_is_compared() -> None:
    table = np.arange(4.0).reshape(2, 2)
    assert [one["pair"] for one in agreements({"a": table, "b": table, "c": -table})] == [
        ["a", "b"],
        ["a", "c"],
        ["b", "c"],
    ]


def test_vhd_of_halves_makes_the_whole() -> None:
    vlm = VLM.from_pretrained("mini")
    pictures = list(scenes("held-out", 7, 3))
    found = awareness(vlm, pictures)
    whole = score_heads(vlm.model, vlm.processor, [scene.image for scene in pictures]).scores.numpy()
    assert found.whole == pytest.approx(whole, rel=1e-4)
    assert found.halves[0] == pytest.approx(
        score_heads(vlm.model, vlm.processor, [pictures[0].image]).scores.numpy(), rel=1e-4
    )
