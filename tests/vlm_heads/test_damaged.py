"""Profiles and mitigations that are damaged are refused in the library's own words."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.damage import DEEP, damaged
from vlm_heads import HeadProfile, Mitigation
from vlm_heads.errors import BadProfile, VlmHeadsError

OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
DESCRIBED = {
    "format": 1, "layers": 2, "heads": 3, "samples": 4, "model_type": "llava", "notes": {"a": 1}, "card": {"b": [2]},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved")
    profile = HeadProfile(torch.rand(2, 3), gains=torch.ones(2, 3), samples=4)
    Mitigation.of("vhr:gain=2", profile=profile).save_pretrained(place)
    return place


@OFTEN
@given(st.data())
def test_a_profile(folder: Path, data: st.DataObject) -> None:
    for name, content in (("head_profile.json", damaged(DESCRIBED)), ("head_profile.safetensors", None)):
        before = (folder / name).read_bytes()
        at = data.draw(st.integers(0, len(before)))
        changed = before[:at] + data.draw(st.binary(max_size=4)) + before[at + 1 :]
        try:
            (folder / name).write_bytes(changed if content is None else data.draw(content))
            with contextlib.suppress(VlmHeadsError):
                HeadProfile.from_pretrained(folder)
        finally:
            (folder / name).write_bytes(before)


@OFTEN
@given(data=st.data())
def test_a_mitigation(folder: Path, data: st.DataObject) -> None:
    path = folder / "mitigation.json"
    before = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(json.loads(before))))
        with contextlib.suppress(VlmHeadsError):
            Mitigation.from_pretrained(folder)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (DEEP, "is damaged"),
        (b'{"samples": "many"}', "`samples` cannot be 'many'"),
        (b'{"notes": 5}', "`notes` cannot be 5"),
        (b'{"model_type": null}', "`model_type` cannot be None"),
    ],
)
def test_damage_is_said(folder: Path, content: bytes, complaint: str) -> None:
    path = folder / "head_profile.json"
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        with pytest.raises(BadProfile, match=complaint):
            HeadProfile.from_pretrained(folder)
    finally:
        path.write_bytes(before)
