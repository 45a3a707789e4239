"""The margin of two words, read from log-probabilities as servers tell them."""

import math
from typing import Any

import pytest
from vlm_evals.endpoint.chances import given, margin


def reply(*alternatives: tuple[Any, Any]) -> dict[str, Any]:
    listed = [{"token": token, "logprob": chance} for token, chance in alternatives]
    return {"choices": [{"logprobs": {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": listed}]}}]}


def test_spellings_of_a_word_are_summed_up() -> None:
    """p(yes) = 0.3 + 0.1, p(no) = 0.2: ln 0.4 - ln 0.2 = ln 2."""
    listed = [("Yes", 0.3), (" yes", 0.1), ("No", 0.2), ("yesterday", 0.4)]
    body = reply(*((token, math.log(share)) for token, share in listed))
    assert margin(body, ("yes", "no")) == pytest.approx(math.log(2), abs=1e-6)
    assert margin(body, ("no", "yes")) == pytest.approx(-math.log(2), abs=1e-6)


def test_a_word_that_is_not_listed_has_no_margin() -> None:
    assert margin(reply(("Yes", -0.1), ("Maybe", -3.0)), ("yes", "no")) is None


def test_a_word_that_is_not_listed_is_at_most_as_probable_as_the_least_that_is() -> None:
    """-0.1 - (-3.0) = 2.9, and the other way round."""
    listed = reply(("Yes", -0.1), ("Maybe", -3.0))
    assert margin(listed, ("yes", "no"), bounded=True) == pytest.approx(2.9)
    assert margin(listed, ("no", "yes"), bounded=True) == pytest.approx(-2.9)
    assert margin(listed, ("a", "b"), bounded=True) is None


@pytest.mark.parametrize(
    "body",
    [{}, {"choices": []}, {"choices": [{"logprobs": None}]}, {"choices": [{"logprobs": {"content": []}}]}, reply(),
     reply(("Yes", None)), reply((None, -1.0)), reply(("Yes", float("nan")))],
)  # fmt: skip
def test_a_reply_that_tells_nothing(body: dict[str, Any]) -> None:
    assert not given(body)
    assert margin(body, ("yes", "no")) is None
