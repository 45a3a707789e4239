"""Tiny random models, and the committed table of what families support."""

import pytest

from tests.support.families import FAMILIES, Build, Tiny, build
from tests.support.family_table import FamilyTable


@pytest.fixture
def tiny() -> Build:
    """Builds a tiny random model of a family."""
    return build


@pytest.fixture
def llava() -> Tiny:
    """A tiny random Llava with grouped keys."""
    return build("llava")


@pytest.fixture
def support() -> FamilyTable:
    """The committed table of what families support."""
    return FamilyTable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `family` every family."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", list(FAMILIES))
