"""Where image positions lie on the picture: found by moving a patch of tiny models, and by cropping."""

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from vlm_app.view.grid import Grid, find_grid

from tests.support.families import build
from vlm_heads import VLM
from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import QUIRKS

SIDE = 56  # pixels: four by four patches, which some families join by four
FAMILIES = ("llava", "vipllava", "paligemma", "gemma3", "janus", "internvl", "idefics3", "smolvlm", "aya_vision",
            "cohere2_vision")  # fmt: skip
SMALLER = ("llava", "vipllava", "paligemma", "gemma3", "janus")  # tiny models of the others take SIDE as they are


def _positions(model: PreTrainedModel, family: str, pixels: Tensor) -> Tensor:
    """Return what the language model is given for each image position, `[N, width]`."""
    given = pixels[None] if family in ("idefics3", "smolvlm") else pixels
    found = getattr(model, "model", model).get_image_features(pixel_values=given)
    found = getattr(found, "pooler_output", found)
    found = found[0] if isinstance(found, list | tuple) else found
    return found.reshape(-1, found.shape[-1])


def test_every_family_in_reading_order_is_looked_at() -> None:
    assert set(FAMILIES) == {family for family, quirks in QUIRKS.items() if quirks.positions == "patches"}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_positions_are_in_reading_order(family: str) -> None:
    """A patch that changes moves the position that lies on it more than any other."""
    sized = {"side": SIDE} if family in SMALLER else {}
    model = build({"aya_vision": "ayavision"}.get(family, family), seed=1, **sized).model
    for name, parameter in model.named_parameters():
        if not parameter.any() and "projection_weight" in name:
            parameter.normal_()  # a projector that begins as zeros moves nothing
    plain = torch.randn(1, 3, SIDE, SIDE)
    before = _positions(model, family, plain)
    count = len(before)
    side = int(count**0.5)
    assert side in (2, 4)
    cell = SIDE // side
    for position in range(count):
        row, column = divmod(position, side)
        moved = plain.clone()
        moved[..., row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] += 3.0
        change = (_positions(model, family, moved) - before).norm(dim=-1)
        assert int(change.argmax()) == position, (family, position, change)


def test_the_embedded_models_see_the_whole_picture(untrained_mini: str) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    image = Image.new("RGB", (300, 200))
    found = find_grid(vlm, image, vlm.inputs([image], "what?"))
    assert (found.rows, found.columns) == (7, 7)
    assert [found.left, found.top, found.right, found.bottom] == pytest.approx([0, 0, 1, 1], abs=0.01)


def test_a_processor_that_crops_is_followed(untrained_mini: str) -> None:
    """200 × 100, the shorter side made 112, the middle 112 × 112 kept: a quarter is lost left and right."""
    vlm = VLM.from_pretrained(untrained_mini)
    vlm.processor.image_processor.size = {"shortest_edge": 112}
    vlm.processor.image_processor.do_center_crop = True
    image = Image.new("RGB", (200, 100))
    found = find_grid(vlm, image, vlm.inputs([image], "what?"))
    assert [found.left, found.top, found.right, found.bottom] == pytest.approx([0.25, 0, 0.75, 1], abs=0.01)
    assert found.box(0) == pytest.approx((0.25, 0, 0.5 / 7, 1 / 7), abs=0.01)


def test_where_the_places_are_unknown_nothing_is_drawn(untrained_mini: str) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    image = Image.new("RGB", (50, 50))
    inputs = vlm.inputs([image], "what?")
    tiles = {**inputs, "pixel_values": inputs["pixel_values"][None].expand(1, 5, -1, -1, -1)}
    with pytest.raises(UnsupportedModel, match="5 tiles"):
        find_grid(vlm, image, tiles)
    resampled = {**inputs, "input_ids": inputs["input_ids"][:, :20]}
    with pytest.raises(UnsupportedModel, match="do not tile"):
        find_grid(vlm, image, resampled)
    vlm.model.config.model_type = "perceiving"
    with pytest.raises(UnsupportedModel, match="not known"):
        find_grid(vlm, image, inputs)


def test_a_grid_covers_its_part() -> None:
    # two rows of three over the middle half: a box is 0.5 / 3 wide and 1 / 2 high
    grid = Grid(2, 3, left=0.25, right=0.75)
    assert grid.box(0) == pytest.approx((0.25, 0.0, 1 / 6, 0.5))
    assert grid.box(5) == pytest.approx((0.25 + 2 / 6, 0.5, 1 / 6, 0.5))
