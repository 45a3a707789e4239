"""Attention calls by name, and their comparison with the float64 specification."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.support.attention_calls import PLAN_NAMES, SHAPES, Call, call_of
from tests.support.specification import complaint


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `any_shape` or `any_plan` over all of them."""
    if "any_shape" in metafunc.fixturenames:
        metafunc.parametrize("any_shape", SHAPES)
    if "any_plan" in metafunc.fixturenames:
        metafunc.parametrize("any_plan", PLAN_NAMES)


@pytest.fixture
def make_call() -> Callable[..., Call]:
    """A function: shape name, plan name, seed -> `Call`."""
    return call_of


@pytest.fixture
def disagreement() -> Callable[..., str]:
    """A function: call, output, aux -> what disagrees with the float64 specification, empty where nothing does."""
    return complaint


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that nobody has written holds not-a-number, so that an unwritten output shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
