"""Any two methods act beside one another and stand in the receipt, or are refused; nothing else may happen."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import pytest
from PIL import Image
from vlm_evals.scenes.world import scenes

from vlm_heads import VLM, Answer, AskBack, Mitigation, VlmHeadsError, known_methods
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


@pytest.fixture(scope="module")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


def _first_word(text: str) -> list[str]:
    return re.findall(r"\w+", text)[:1]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "askback"])
def test_a_question_is_asked_under_each_method_or_it_is_refused(name: str, mini: VLM) -> None:
    kind = known_methods()[name]
    picture = Image.fromarray(next(iter(scenes("validation", 11, 1))).image)
    both = Mitigation.of([kind(**getattr(kind, "trial", {})), AskBack(objects=_first_word, margin="-inf")])
    try:
        (answer,) = mini.answer_batch([picture], interventions=both, allow_idle=True, max_new_tokens=5)
    except VlmHeadsError:
        return
    assert answer.receipt is not None
    assert name in str(answer.receipt)
    assert answer.receipt["check"]["questions"] >= 1


@pytest.mark.parametrize("name", ["sparc", "crg", "vhr", "vcd", "dola", "adavboost"])
def test_a_question_is_asked_under_these(name: str, mini: VLM) -> None:
    kind = known_methods()[name]
    picture = Image.fromarray(next(iter(scenes("validation", 11, 1))).image)
    both = Mitigation.of([kind(**getattr(kind, "trial", {})), AskBack(objects=_first_word)])
    (answer,) = mini.answer_batch([picture], interventions=both, allow_idle=True, max_new_tokens=5)
    assert answer.receipt is not None
    assert answer.receipt["check"]["questions"] >= 1
