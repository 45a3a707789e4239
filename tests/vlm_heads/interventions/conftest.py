"""A tiny Llava with either kind of keys, and the oracle that every intervention is held against."""

import pytest

from tests.support.families import Build, Tiny
from tests.support.oracle import Oracle


@pytest.fixture(params=[4, 2], ids=["own keys", "grouped keys"])
def model(request: pytest.FixtureRequest, tiny: Build) -> Tiny:
    """A tiny random Llava with as many key heads as query heads, or half as many."""
    return tiny("llava", num_key_value_heads=request.param)


@pytest.fixture
def oracle(model: Tiny) -> Oracle:
    """The oracle on the same model."""
    return Oracle(model)
