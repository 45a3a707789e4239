"""Old names of modules work for one release, with a warning; what they give is the new module's own."""

import importlib
import sys

import pytest

from vlm_heads.moved import MOVED


@pytest.mark.parametrize("old", list(MOVED))
def test_an_old_name_is_the_new_module(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{MOVED[old]} now"):
        module = importlib.import_module(old)
    new = importlib.import_module(MOVED[old])
    names = [name for name in vars(new) if not name.startswith("__")]
    assert names
    assert all(getattr(module, name) is getattr(new, name) for name in names)


def test_a_name_can_be_imported_from_an_old_module() -> None:
    sys.modules.pop("vlm_heads.images", None)
    with pytest.warns(DeprecationWarning, match="the old name goes"):
        from vlm_heads.images import load_image
    from vlm_heads.models import load_image as new

    assert load_image is new


def test_a_name_that_never_was_is_no_module() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("vlm_heads.never")
