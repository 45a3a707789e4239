"""Any two methods act beside one another and stand in the receipt, or are refused; nothing else may happen."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from vlm_heads import VLM, Answer, Mitigation, VlmHeadsError, known_methods
from vlm_heads.models import planted_image

NAMES = [name for name, kind in known_methods().items() if not getattr(kind, "needs_profile", False)]
OTHERWISE: Mapping[str, Mapping[str, Any]] = {
    "askback": {"by": "confidence"}
}  # the planted model's vocabulary has no Yes


@pytest.fixture(scope="module")
def planted() -> VLM:
    return VLM.from_pretrained("planted")


def _answer(vlm: VLM, names: tuple[str, str]) -> Answer | None:
    """Return the answer under two methods; None where they are refused."""
    kinds = known_methods()
    both = [kinds[name](**{**getattr(kinds[name], "trial", {}), **OTHERWISE.get(name, {})}) for name in names]
    try:
        (answer,) = vlm.answer_batch(
            [planted_image("car")], ["what is there?"], Mitigation.of(both), allow_idle=True, max_new_tokens=3
        )
    except VlmHeadsError:
        return None
    return answer


@pytest.mark.parametrize("first", NAMES[:-1])
def test_two_methods_act_together_or_are_refused(first: str, planted: VLM) -> None:
    for second in itertools.islice(NAMES, NAMES.index(first) + 1, None):
        answer = _answer(planted, (first, second))
        if answer is not None:
            assert all(name in str(answer.receipt) for name in (first, second))


@pytest.mark.parametrize(
    "names",
    [
        ("vhr", "vcd"),
        ("ilvad", "vista"),
        ("crg", "memvr"),
        ("dola", "branch"),
        ("only", "pai"),
        ("askback", "vhr"),
        ("carve", "pai"),
    ],
)
def test_these_do_act_together(names: tuple[str, str], planted: VLM) -> None:
    assert _answer(planted, names) is not None
