"""What the tests of the server share."""

import pytest

from vlm_heads import VLM


@pytest.fixture(scope="session")
def planted() -> VLM:
    """A model that answers in a few milliseconds."""
    return VLM.from_pretrained("planted")


@pytest.fixture(scope="session")
def talkative(untrained_mini) -> VLM:  # type: ignore[no-untyped-def]
    """A model that hardly ever ends its answers."""
    return VLM.from_pretrained(untrained_mini)
