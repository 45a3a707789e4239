"""Image positions by their place in an image."""

import pytest
import torch
from torch import Tensor
from vlm_kernels import KeyClass

from vlm_heads.errors import BadOption
from vlm_heads.toolkit.position_sinks import at_positions, places_in_image

P, T, I = (int(one) for one in (KeyClass.PADDING, KeyClass.TEXT, KeyClass.IMAGE))  # noqa: E741


def _classes(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int8)


def test_places_are_counted_in_each_unbroken_run() -> None:
    classes = _classes([P, T, I, I, I, T, I, I], [I, I, I, I, I, T, T, T], [T] * 8)
    assert places_in_image(classes).tolist() == [
        [-1, -1, 0, 1, 2, -1, 0, 1],
        [0, 1, 2, 3, 4, -1, -1, -1],
        [-1] * 8,
    ]


def test_positions_are_found_in_every_image_that_has_them() -> None:
    """The second image of the first row is too small for position 2, the first one is not."""
    classes = _classes([P, T, I, I, I, T, I, I], [T] * 8)
    assert at_positions(classes, (0, 2)).nonzero().tolist() == [[0, 2], [0, 4], [0, 6]]
    assert not at_positions(classes, "none").any()


def test_a_position_that_some_row_lacks_is_refused() -> None:
    """As that row alone would be."""
    classes = _classes([T, I, I, I, T, T], [T, I, I, T, T, T], [T] * 6)
    assert at_positions(classes, (1,)).sum() == 2
    with pytest.raises(BadOption, match="position 2 is not in an image of 2 positions: give positions from 0 to 1"):
        at_positions(classes, (1, 2))


def test_a_batch_without_images_refuses_nothing() -> None:
    assert not at_positions(_classes([T] * 4), (3,)).any()
