"""Whether the language model under `small` is here."""

import importlib.metadata
import importlib.util

import pytest
from vlm_evals.scenes.small.package import PACKAGE, REMEDY


def installed() -> bool:
    """Whether the base's package and its reader are here."""
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec("gguf") is not None


needs_base = pytest.mark.skipif(not installed(), reason=f"the base is not installed: {REMEDY}")
