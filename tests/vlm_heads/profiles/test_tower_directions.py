"""Directions of a vision tower: which patches are masked, what is compared, the components, and the files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance, equal, rounding
from tests.support.families import Tiny
from vlm_heads import VLM, TruthfulDirection, attach, errors
from vlm_heads.models.planted import planted_image
from vlm_heads.profiles import TowerDirections, find_tower_directions
from vlm_heads.profiles.tower_directions import masked_copies

CLOSE = rounding(torch.float32, terms=64, size=10.0)
PICTURES = [planted_image("car"), planted_image("bird")]


@pytest.fixture(scope="module")
def vlm() -> VLM:
    planted = VLM.from_pretrained("planted")
    torch.manual_seed(3)
    return VLM(type(planted.model)(planted.model.config).eval(), planted.processor)  # no state is like another


def _patch(vlm: VLM) -> int:
    return int(vlm.model.config.vision_config.patch_size)


def _states(vlm: VLM, pixels: Tensor) -> Tensor:
    """Return the tower's states `[L + 1, N, T, width]`, read by `output_hidden_states`."""
    with torch.no_grad():
        output = vlm.model.model.vision_tower(pixels, output_hidden_states=True)
    return torch.stack(output.hidden_states)


def _difference(vlm: VLM, picture: Any, share: float, trials: int, generator: torch.Generator) -> Tensor:
    pixels = vlm.inputs([picture], ["?"])["pixel_values"]
    copies = masked_copies(pixels, share, trials, _patch(vlm), generator)
    return _states(vlm, copies).mean(dim=1) - _states(vlm, pixels)[:, 0]


def test_a_share_of_the_patches_is_masked_with_the_pictures_mean() -> None:
    """Pictures of 10 x 8 pixels have 5 x 4 patches of 2 x 2; 70 % of 20 are 14."""
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 10, 8)
    copies = masked_copies(pixels, 0.7, 6, 2, torch.Generator().manual_seed(1))
    mean = pixels[0].mean(dim=(1, 2))
    masks = set()
    for copy in copies:
        masked = []
        for row in range(5):
            for column in range(4):
                own, new = (one[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] for one in (pixels[0], copy))
                masked.append(not equal(own, new))
                if masked[-1]:
                    assert distance(new, mean[:, None, None].expand(3, 2, 2)) < CLOSE
        assert sum(masked) == 14
        masks.add(tuple(masked))
    assert len(masks) > 1
    assert equal(masked_copies(pixels, 0.0, 2, 2, torch.Generator()), pixels.expand(2, 3, 10, 8))
    odd = masked_copies(torch.randn(1, 1, 5, 7), 1.0, 1, 2, torch.Generator())
    assert len(odd[0, 0, :4, :6].unique()) == 1
    assert len(odd[0, 0, 4:].unique()) == 7  # what is no whole patch stays


def test_directions_lead_from_a_picture_to_what_is_left_of_it_masked(vlm: VLM) -> None:
    generator = torch.Generator().manual_seed(5)
    apart = torch.stack([_difference(vlm, one, 0.6, 11, generator) for one in PICTURES])
    found = find_tower_directions(
        vlm.model, vlm.processor, PICTURES, trials=11, masked=0.6, component=False, seed=5
    ).vectors
    assert distance(apart.mean(dim=0)[1:], found) < CLOSE
    assert found.abs().max() > 100 * CLOSE
    nothing = find_tower_directions(vlm.model, vlm.processor, PICTURES, trials=2, masked=0.0, component=False)
    assert nothing.vectors.abs().max() < CLOSE


def test_components_are_those_of_pieces_laid_out_layer_by_layer(vlm: VLM) -> None:
    """Two samples about their mean lie on one line, so a piece's component is along their difference, of length 1."""
    generator = torch.Generator().manual_seed(5)
    one, other = (_difference(vlm, picture, 0.6, 2, generator) for picture in PICTURES)
    asked = {"trials": 2, "masked": 0.6, "seed": 5}
    mean = find_tower_directions(vlm.model, vlm.processor, PICTURES, component=False, **asked).vectors  # type: ignore[arg-type]
    added = find_tower_directions(vlm.model, vlm.processor, PICTURES, **asked).vectors - mean  # type: ignore[arg-type]
    layers, positions, width = one.shape
    assert positions > layers  # there would be nothing to compare otherwise
    line = (one - other).reshape(-1, width)  # all positions of the embeddings, then of the first layer, and so on
    expected = torch.cat([line[at : at + layers] / line[at : at + layers].norm() for at in range(0, len(line), layers)])
    got = added.reshape(-1, width)
    for at in range(positions // layers + 1, positions):  # pieces that lie behind the embeddings
        piece = slice(at * layers - positions, (at + 1) * layers - positions)
        along = (got[piece] * expected[at * layers : (at + 1) * layers]).sum()
        assert abs(along.item()) == pytest.approx(1.0, abs=2e-2)


def test_a_file_gives_the_directions_back_and_steers(vlm: VLM, tmp_path: Path) -> None:
    found = find_tower_directions(vlm.model, vlm.processor, PICTURES, trials=2)
    found.save(tmp_path / "tower")
    assert equal(found.vectors, TowerDirections.load(tmp_path / "tower").vectors)
    inputs = dict(vlm.inputs([PICTURES[0]], ["what do you see?"]))
    asked = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    plain = vlm.model.generate(**inputs, **asked)
    with attach(vlm.model, f"vti:vision=9,tower={tmp_path / 'tower'}") as run:
        assert distance(plain.logits, vlm.model.generate(**inputs, **asked).logits) > 1e-3
    assert run.receipt.to_dict()["interventions"][0]["pictures"] == 1
    assert equal(plain.logits, vlm.model.generate(**inputs, **asked).logits)
    with attach(vlm.model, f"vti:vision=0,tower={tmp_path / 'tower'}", allow_idle=True):
        assert equal(plain.logits, vlm.model.generate(**inputs, **asked).logits)


def test_what_cannot_be_used_is_named(llava: Tiny, tmp_path: Path, vlm: VLM) -> None:
    TowerDirections(torch.randn(3, 5, 32)).save(tmp_path / "layers")
    TowerDirections(torch.randn(2, 7, 32)).save(tmp_path / "positions")
    for tower, said in (("layers", "3 layers do not fit .* with 2"), ("gone", "find_tower_directions makes them")):
        with pytest.raises(errors.BadOption, match=said):
            attach(llava.model, TruthfulDirection(tower=str(tmp_path / tower)))
    with (
        pytest.raises(errors.BadOption, match="7 positions and width 32 do not fit a tower with 5 positions"),
        attach(llava.model, TruthfulDirection(tower=str(tmp_path / "positions"))),
    ):
        llava.generate()
    with pytest.raises(
        errors.BadOption, match="tower directions must be floating point \\[layers, positions, width\\]"
    ):
        TowerDirections(torch.randn(3, 5))
    with pytest.raises(errors.BadOption, match="no pictures"):
        find_tower_directions(vlm.model, vlm.processor, [])
    with pytest.raises(errors.BadOption, match="masked"):
        find_tower_directions(vlm.model, vlm.processor, PICTURES, masked=1.5)


class _Tiles:
    """A processor that gives each picture as two tiles."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self._processor(*args, **kwargs)
        made["pixel_values"] = made["pixel_values"][:, None].expand(-1, 2, -1, -1, -1)
        return made


def test_pictures_in_tiles_are_refused(vlm: VLM) -> None:
    with pytest.raises(errors.UnsupportedModel, match=r"scaled to one size and looked at whole"):
        find_tower_directions(vlm.model, _Tiles(vlm.processor), PICTURES)
