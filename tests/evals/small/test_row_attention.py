"""Attention over rows that lie end to end: one mask for a GPU and piece by piece for a CPU give the same."""

import torch
from vlm_evals.scenes.small.row_attention import by_piece, row_mask

LAYOUT = ((3, 2, 2), (4,), (2, 1, 3))  # a prefix of 3 with two slots, a prefix alone, a prefix of 2 with two slots


def test_a_query_sees_its_prefix_and_its_own_piece_up_to_itself():
    seen = row_mask(LAYOUT, torch.device("cpu"))
    assert seen.shape == (17, 17)
    assert seen[6].nonzero().flatten().tolist() == [0, 1, 2, 5, 6]  # the last of the second slot
    assert seen[8].nonzero().flatten().tolist() == [7, 8]  # the second of the row without slots
    assert seen[11].nonzero().flatten().tolist() == [11]  # a prefix begins


def test_one_mask_and_piece_by_piece_give_the_same():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 17, 8, dtype=torch.float64) for heads in (6, 2, 2))
    found = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=row_mask(LAYOUT, query.device), scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(by_piece(query, key, value, 0.3, LAYOUT), found.transpose(1, 2))
