"""What tells invented first mentions from faithful ones: AUC, its interval, and the paired difference of two."""

import numpy as np
import pytest
from vlm_app.studies.findings.mentions import FirstMention, auc, auc_with_interval, aucs
from vlm_evals.errors import EvaluationError


def _mentions(count: int, seed: int) -> list[FirstMention]:
    """Return mentions of which a third are invented; the probability tells more of it than T-VHD."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        invented = bool(rng.random() < 1 / 3)
        t_vhd, probability = rng.normal(0.3 * (not invented)), rng.normal(2.0 * (not invented))
        found.append(FirstMention(number // 3, invented, float(t_vhd), float(probability), number))
    return found


def test_faithful_mentions_alone_have_no_auc() -> None:
    mentions = [FirstMention(0, invented=False, t_vhd=1.0, probability=0.5, position=2)]
    with pytest.raises(EvaluationError, match="0 of 1 mentions are invented: give more --images"):
        auc_with_interval(mentions, "t_vhd", seed=7)


def test_auc_counts_pairs() -> None:
    """Faithful 3, 1; invented 2, 1. Of four pairs 3 > 2 and 3 > 1, 1 < 2, and 1 = 1 counts half: 2.5 of 4."""
    assert auc(np.array([False, False, True, True]), np.array([3.0, 1.0, 2.0, 1.0])) == pytest.approx(2.5 / 4)


def test_the_difference_is_of_the_same_resamples() -> None:
    mentions = _mentions(300, seed=1)
    table = aucs(mentions, seed=7)
    assert table["t_vhd"] == auc_with_interval(mentions, "t_vhd", seed=7)
    assert table["probability"] == auc_with_interval(mentions, "probability", seed=7)
    gap = table["difference"]
    assert gap["auc"] == pytest.approx(table["t_vhd"]["auc"] - table["probability"]["auc"])
    assert gap["high"] < 0


def test_a_score_does_not_differ_from_itself() -> None:
    twice = [FirstMention(one.caption, one.invented, one.t_vhd, one.t_vhd, 0) for one in _mentions(60, seed=2)]
    assert aucs(twice, seed=7)["difference"] == {"auc": 0.0, "low": 0.0, "high": 0.0}
