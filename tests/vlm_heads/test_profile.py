"""HeadProfile: saved and read back, complete or not at all, and never for another model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_heads import HeadProfile, HeadReinforcement, attach, errors
from vlm_heads.profile import CONFIG_NAME, WEIGHTS_NAME


def _profile() -> HeadProfile:
    return HeadProfile(torch.rand(3, 4), torch.rand(3, 4), samples=7, model_type="llava", notes={"prompt": "x"})


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    profile = _profile()
    profile.save_pretrained(tmp_path / "new" / "folder")
    back = HeadProfile.from_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(profile.scores, back.scores)
    assert back.surges is not None
    assert torch.equal(profile.surges, back.surges)
    assert (back.samples, back.model_type, back.notes) == (7, "llava", {"prompt": "x"})
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]


def test_it_is_float32_on_the_cpu_whatever_it_was_made_of() -> None:
    assert HeadProfile(torch.rand(2, 3, dtype=torch.float64)).scores.dtype is torch.float32


def test_top_names_layers_and_heads() -> None:
    scores = torch.zeros(2, 3)
    scores[1, 0], scores[0, 2] = 5.0, 4.0
    assert HeadProfile(scores).top(2) == [(1, 0, 5.0), (0, 2, 4.0)]
    assert len(HeadProfile(scores).top(99)) == 6


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "no json", "no scores", "a list"])
def test_damage_is_named(damage: str, tmp_path: Path) -> None:
    _profile().save_pretrained(tmp_path)
    weights, config = tmp_path / WEIGHTS_NAME, tmp_path / CONFIG_NAME
    if damage == "missing":
        weights.unlink()
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "no json":
        config.write_text("{")
    elif damage == "a list":
        config.write_text("[]")
    else:
        other = HeadProfile(torch.rand(3, 4))
        other.save_pretrained(tmp_path)
        weights.write_bytes(weights.read_bytes().replace(b"scores", b"scorez"))
    with pytest.raises(errors.BadProfile):
        HeadProfile.from_pretrained(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _profile().save_pretrained(tmp_path)
    before = (tmp_path / WEIGHTS_NAME).read_bytes()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        _profile().save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS_NAME).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]


@pytest.mark.parametrize(
    "scores", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.long), torch.tensor([[1.0, torch.nan]])]
)
def test_what_is_no_table_of_scores_is_refused(scores: torch.Tensor) -> None:
    with pytest.raises(errors.BadProfile):
        HeadProfile(scores)


def test_a_profile_of_another_shape_is_refused_before_anything_changes(llava: Any) -> None:
    with (
        pytest.raises(errors.BadProfile, match="2 layers of 4 heads"),
        attach(llava.model, [HeadReinforcement()], profile=HeadProfile(torch.rand(2, 4))),
    ):
        raise AssertionError("nothing may run")
    assert llava.model.model.language_model.config._attn_implementation == "sdpa"


def test_the_json_says_what_it_is(tmp_path: Path) -> None:
    _profile().save_pretrained(tmp_path)
    described = json.loads((tmp_path / CONFIG_NAME).read_text())
    assert (described["format"], described["layers"], described["heads"]) == (1, 3, 4)


def test_a_profile_of_another_family_is_refused(llava: Any) -> None:
    profile = HeadProfile(torch.rand(3, 4), model_type="qwen2_vl")
    with (
        pytest.raises(errors.BadProfile, match="qwen2_vl"),
        attach(llava.model, [HeadReinforcement()], profile=profile),
    ):
        raise AssertionError("nothing may run")
