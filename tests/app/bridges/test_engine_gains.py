"""What an engine is told: gains by a folder or a word, a rank's heads, and the multiplication."""

from pathlib import Path

import pytest
import torch
from torch import nn
from vlm_app.bridges.engine_gains import Share, scaled_heads, static_gains

from tests.support.compare import equal
from tests.support.families import build
from vlm_heads import HeadProfile, ListedHeads, StaticGains, examine
from vlm_heads.errors import BadOption, BadProfile, UnsupportedModel

GAINS = torch.tensor([[2.0, 1.0, 0.5, 4.0], [1.0, 1.0, 1.0, 1.0], [0.25, 2.0, 1.0, 0.0]])
TINY = examine(build("llava").model)  # 3 layers of 4 heads


def test_a_folder_gives_its_gains(tmp_path: Path) -> None:
    HeadProfile(torch.zeros(3, 4), gains=GAINS, model_type="llava").save_pretrained(tmp_path)
    assert equal(static_gains(str(tmp_path), TINY), GAINS)


def test_words_of_static_methods_give_theirs() -> None:
    """A triple is one gain; AllPath's bad heads are switched off and its good ones count twice."""
    one = static_gains(StaticGains(gains=((1, 2, 3.0),)).word(), TINY)
    assert one[1, 2] == 3.0
    assert int((one != 1).sum()) == 1
    listed = static_gains(ListedHeads(good=((0, 1),), bad=((2, 3),)).word(), TINY)
    assert (listed[0, 1], listed[2, 3], int((listed != 1).sum())) == (2.0, 0.0, 2)


def test_layers_that_a_word_leaves_alone_keep_their_heads() -> None:
    gains = static_gains("reinforced:gains=0.1:3+2.1:3,layers=2", TINY)
    assert (gains[0, 1], gains[2, 1]) == (1.0, 3.0)


def test_an_engine_that_makes_its_model_changes_no_gain() -> None:
    """It does so with the model's dtype and device as defaults; 1.3 is no bfloat16, and a device has its own memory."""
    word = "reinforced:gains=0.1:1.3"
    expected = static_gains(word, TINY)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            assert equal(static_gains(word, TINY), expected)
            assert torch.empty(1).is_meta
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_cannot_be_static_is_refused(tmp_path: Path) -> None:
    HeadProfile(torch.zeros(3, 4)).save_pretrained(tmp_path / "scores")
    HeadProfile(torch.zeros(2, 4), gains=torch.ones(2, 4)).save_pretrained(tmp_path / "other")
    with pytest.raises(BadOption, match="vhr looks at each picture"):
        static_gains("vhr:gain=2", TINY)
    with pytest.raises(BadProfile, match="scores and no gains"):
        static_gains(str(tmp_path / "scores"), TINY)
    with pytest.raises(BadProfile, match="2 layers of 4 heads"):
        static_gains(str(tmp_path / "other"), TINY)
    with pytest.raises(BadProfile, match="holds no head profile"):
        static_gains(str(tmp_path / "nowhere"), TINY)


def test_heads_are_multiplied_one_by_one() -> None:
    """Two heads of two channels: 1 2 | 3 4 with gains 2 and 0.5 is 2 4 | 1.5 2."""
    output = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert scaled_heads(output, torch.tensor([2.0, 0.5])).tolist() == [[2.0, 4.0, 1.5, 2.0]]
    rows = torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    assert scaled_heads(output.expand(2, -1), rows).tolist() == [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 9.0, 12.0]]


def test_half_precision_is_rounded_once() -> None:
    """1.0078125 is the next bfloat16 after 1; times 1.5 it is 1.51171875, and the nearest bfloat16 is 1.515625."""
    output = torch.tensor([[1.0078125]], dtype=torch.bfloat16)
    scaled = scaled_heads(output, torch.tensor([1.5]))
    assert scaled.dtype == torch.bfloat16
    assert equal(scaled, (output.double() * 1.5).to(torch.bfloat16))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_together_are_the_whole_layer(ranks: int) -> None:
    """Each rank multiplies the heads it computes, and projects them by its columns; the sum is the whole layer's."""
    torch.manual_seed(0)
    output, projection = torch.randn(5, 4 * 8), nn.Linear(4 * 8, 16, bias=False)
    width = 4 * 8 // ranks
    parts = [
        scaled_heads(output[:, rank * width :][:, :width], Share(rank, ranks).of(GAINS[0]))
        @ projection.weight[:, rank * width :][:, :width].T
        for rank in range(ranks)
    ]
    assert torch.allclose(torch.stack(parts).sum(dim=0), projection(scaled_heads(output, GAINS[0])), atol=1e-5)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="4 heads do not divide over 3 ranks"):
        Share(0, 3).of(GAINS)
