"""KeyMap: what each key is, as the cache grows, slides and has free slots."""

import torch
from vlm_kernels import KeyClass

from tests.support.compare import equal
from vlm_heads.key_map import ROOM, KeyMap

#      padding, text, image, image, text | two images, padding on the right
IDS = torch.tensor([[0, 5, 9, 9, 6], [9, 5, 9, 6, 0]])
MASK = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


def _map() -> KeyMap:
    return KeyMap.of_prompt(IDS, MASK, image_token_id=9)


def test_classes_of_a_prompt() -> None:
    key_map = _map()
    assert key_map.classes.dtype is torch.int8
    assert key_map.classes.tolist() == [[-1, 0, 3, 3, 0], [3, 0, 3, 0, -1]]
    assert key_map.last_positions.tolist() == [4, 3]
    assert key_map.after_image.tolist() == [4, 3]
    assert key_map.has_image.tolist() == [True, True]
    assert key_map.prompt_length == 5


def test_a_row_without_image() -> None:
    key_map = KeyMap.of_prompt(torch.tensor([[5, 6], [9, 6]]), None, image_token_id=9)
    assert key_map.has_image.tolist() == [False, True]
    assert key_map.after_image.tolist() == [0, 1]
    assert key_map.any_image
    assert not KeyMap.of_prompt(torch.tensor([[5, 6]]), None, image_token_id=9).any_image


def test_generated_keys_are_appended() -> None:
    key_map = _map()
    key_map.grow(5, 1)
    key_map.grow(6, 2)
    assert key_map.seen_by(8)[0].tolist() == [-1, 0, 3, 3, 0, 4, 4, 4]
    assert key_map.prompt_length == 5


def test_keys_dropped_by_the_caller_are_forgotten() -> None:
    key_map = _map()
    key_map.grow(5, 3)
    key_map.grow(6, 1)  # two of the three guesses were thrown away
    assert key_map.seen_by(7)[0].tolist() == [-1, 0, 3, 3, 0, 4, 4]


def test_a_map_that_outgrows_its_room_keeps_what_it_knew() -> None:
    key_map = _map()
    marked = key_map.classes.clone()
    marked[0, 2] = KeyClass.IMAGE_SINK
    early = key_map.seen_by(5, marked)
    for past in range(5, 5 + 2 * ROOM):
        key_map.grow(past, 1)
    assert key_map.rewritten == 0
    seen = key_map.seen_by(5 + 2 * ROOM, marked)
    assert equal(seen[:, :5], marked)
    assert (seen[:, 5:] == KeyClass.GENERATED).all()
    assert equal(early, marked)
    assert key_map.any_padding


def test_padding_of_a_next_turn_is_seen() -> None:
    key_map = KeyMap.of_prompt(torch.tensor([[5, 9, 6]]), None, image_token_id=9)
    assert not key_map.any_padding
    key_map.append(3, torch.tensor([[int(KeyClass.PADDING), 0]], dtype=torch.int8))
    assert key_map.any_padding


def test_a_sliding_layer_holds_the_last_keys_and_a_static_cache_has_free_slots() -> None:
    key_map = _map()
    key_map.grow(5, 1)
    assert key_map.seen_by(3)[0].tolist() == [3, 0, 4]
    assert key_map.seen_by(8)[0].tolist() == [-1, 0, 3, 3, 0, 4, -1, -1]


def test_a_next_turn_brings_classes_of_its_own() -> None:
    key_map = KeyMap.of_prompt(torch.tensor([[5, 9, 6]]), None, image_token_id=9)
    turn = KeyMap.of_prompt(torch.tensor([[7, 9]]), None, image_token_id=9)
    key_map.append(3, turn.classes)
    assert key_map.seen_by(5)[0].tolist() == [0, 3, 0, 0, 3]


def test_the_mask_may_cover_earlier_keys_too() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 1]])
    assert KeyMap.of_prompt(torch.tensor([[5, 6]]), mask, image_token_id=9).classes.tolist() == [[-1, 0]]
