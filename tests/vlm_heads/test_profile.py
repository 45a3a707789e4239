"""HeadProfile: saved and read back, complete or not at all, and never for another model."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.compare import equal
from tests.support.families import Tiny
from vlm_heads import HeadProfile, HeadReinforcement, attach, errors
from vlm_heads.profile import CONFIG_NAME, WEIGHTS_NAME


def _profile() -> HeadProfile:
    return HeadProfile(torch.rand(3, 4), torch.rand(3, 4), samples=7, model_type="llava", notes={"prompt": "x"})


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    profile = _profile()
    profile.save_pretrained(tmp_path / "new" / "folder")
    back = HeadProfile.from_pretrained(tmp_path / "new" / "folder")
    assert equal(profile.scores, back.scores)
    assert back.surges is not None
    assert equal(profile.surges, back.surges)
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


def test_a_profile_of_another_shape_is_refused_before_anything_changes(llava: Tiny) -> None:
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


def test_a_profile_of_another_family_is_refused(llava: Tiny) -> None:
    profile = HeadProfile(torch.rand(3, 4), model_type="qwen2_vl")
    with (
        pytest.raises(errors.BadProfile, match="qwen2_vl"),
        attach(llava.model, [HeadReinforcement()], profile=profile),
    ):
        raise AssertionError("nothing may run")


CARD = {"model": "owner/llava", "revision": "abc", "data": {"instances.json": "12ab"}, "benefit": True, "measured": [
    {"metric": "recall", "plain": 0.7, "reinforced": 0.71, "difference": 0.01, "low": -0.02, "high": 0.04}
]}  # fmt: skip


def _reinforced() -> HeadProfile:
    return HeadProfile(torch.rand(3, 4), model_type="llava", gains=torch.full((3, 4), 1.5), card=CARD)


def test_gains_and_their_card_come_back(tmp_path: Path) -> None:
    profile = _reinforced()
    profile.save_pretrained(tmp_path)
    back = HeadProfile.from_pretrained(tmp_path)
    assert back.gains is not None
    assert equal(back.gains, torch.full((3, 4), 1.5))
    assert back.card == CARD
    _profile().save_pretrained(tmp_path)  # over it: nothing of the old one is left
    assert HeadProfile.from_pretrained(tmp_path).gains is None
    assert HeadProfile.from_pretrained(tmp_path).card == {}


@pytest.mark.parametrize("gains", [torch.ones(2, 4), torch.full((3, 4), -0.1), torch.full((3, 4), torch.nan)])
def test_gains_that_are_none_are_refused(gains: torch.Tensor) -> None:
    with pytest.raises(errors.BadProfile, match="gains"):
        HeadProfile(torch.rand(3, 4), gains=gains)


class _Hub:
    """Takes what is uploaded and keeps it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.made: list[tuple[str, bool | None]] = []

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        assert exist_ok
        self.made.append((repo_id, private))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


def test_it_goes_to_the_hub_with_a_card_for_people(tmp_path: Path) -> None:
    hub = _Hub()
    assert _reinforced().push_to_hub("me/profile", private=True, api=hub) == "https://hub/me/profile"
    assert hub.made == [("me/profile", True)]
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    assert HeadProfile.from_pretrained(tmp_path).card == CARD
    text = (tmp_path / "README.md").read_text()
    assert "It is not VHR" in text
    assert "- revision: abc" in text
    assert "| recall | 0.700 | 0.710 | +0.010 [-0.020, 0.040] |" in text


@pytest.mark.parametrize("name", ["owner/none", "nowhere", "a/b/c"])
def test_neither_folder_nor_repository_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.BadProfile, match=f"no head profile|{name} holds no head profile"):
        HeadProfile.from_pretrained(name)


def test_a_notebook_shows_a_profile_as_a_map() -> None:
    page = HeadProfile(torch.tensor([[0.0, 1.0], [2.0, 4.0]]), model_type="llava")._repr_html_()
    assert page.count("<tr>") == 2
    assert 'title="layer 1, head 1: 4" style="background:rgba(17,119,110,1.00)' in page
    assert 'title="layer 0, head 1: 1" style="background:rgba(17,119,110,0.25)' in page
    assert "&lt;HeadProfile of llava" in page
