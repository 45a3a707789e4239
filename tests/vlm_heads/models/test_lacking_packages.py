"""A family whose processor or model needs a package that is not installed says which, and how to get it."""

from pathlib import Path
from typing import Any

import pytest

from vlm_heads import VLM
from vlm_heads.errors import UnsupportedModel
from vlm_heads.models import loading

TORCHVISION = (
    "\nQwen2VLVideoProcessor requires the Torchvision library but it was not found in your environment. Check out the "
    "instructions on the\ninstallation page: https://pytorch.org/get-started/locally/ and follow the ones that match "
    "your environment."
)


@pytest.mark.parametrize(
    ("said", "command"),
    [
        (TORCHVISION, "needs torchvision, which is not installed: pip install torchvision"),
        ("Package `num2words` is required. Install it with `pip install num2words`.", "pip install num2words"),
        ("A requires the PIL library but\nA requires the Torchvision library but", "pip install pillow torchvision"),
        ("something odd", "needs a package that is not installed: something odd"),
    ],
)
@pytest.mark.parametrize("part", ["AutoProcessor", "AutoModelForImageTextToText"])
def test_the_missing_package_is_named(
    untrained_mini: Path, monkeypatch: pytest.MonkeyPatch, part: str, said: str, command: str
) -> None:
    class Lacking:
        @classmethod
        def from_pretrained(cls, *_: Any, **__: Any) -> Any:
            raise ImportError(said)

    monkeypatch.setattr(loading, part, Lacking)
    with pytest.raises(UnsupportedModel) as refused:
        VLM.from_pretrained(untrained_mini)
    assert command in str(refused.value)
    assert str(untrained_mini) in str(refused.value)


def test_a_missing_module_is_named(untrained_mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        @classmethod
        def from_pretrained(cls, *_: Any, **__: Any) -> Any:
            raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.setattr(loading, "AutoModelForImageTextToText", Lacking)
    with pytest.raises(UnsupportedModel, match="needs timm, which is not installed: pip install timm"):
        VLM.from_pretrained(untrained_mini)
