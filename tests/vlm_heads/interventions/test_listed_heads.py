"""AllPath against plain hooks on the output projections, and where its heads come from."""

from pathlib import Path

import pytest
import torch

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Tiny
from tests.support.static_heads import hooked
from vlm_heads import HeadProfile, StaticGains, attach, examine, parse_intervention
from vlm_heads.errors import BadOption, BadProfile
from vlm_heads.interventions.listed_heads import ListedHeads
from vlm_heads.toolkit.head_ranking import read_ranking, write_ranking

# By format the lowest are 0.1 and 2.3, the highest 2.0 and 0.0; by image the highest are 1.2 and 2.3.
FORMAT = torch.tensor([[0.8, -2.0, 0.0, 0.1], [0.2, 0.3, 0.1, 0.0], [0.9, 0.1, 0.2, -1.0]])
IMAGE = torch.tensor([[0.0, 0.1, 0.2, 0.1], [0.1, 0.0, 0.9, 0.1], [0.1, 0.0, 0.1, 0.8]])
# 2.3 is both good and bad, and counts as bad
GAINS = torch.tensor([[2.0, 0.0, 1.0, 1.0], [1.0, 1.0, 2.0, 1.0], [2.0, 1.0, 1.0, 0.0]])


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, str]:
    """Two lists, as options name them."""
    found = {f"{name}_list": str(tmp_path / f"{name}.jsonl") for name in ("format", "image")}
    for path, scores in zip(found.values(), (FORMAT, IMAGE), strict=True):
        write_ranking(scores, path)
    return found


def test_good_heads_count_twice_and_bad_ones_not_at_all(lists: dict[str, str], llava: Tiny) -> None:
    method = ListedHeads(**lists, worst=2, best=2, image_best=2)
    assert torch.equal(method.gains(examine(llava.model)), GAINS)
    with hooked(llava, GAINS):
        expected = llava.generate()
    with attach(llava.model, method) as run:
        assert distance(expected, llava.generate()) < CLOSE
    assert run.receipt.interventions[0].heads() == {0: [1, 1, 0, 0], 1: [0, 0, 1, 0], 2: [1, 0, 0, 1]}


def test_lists_and_their_heads_written_out_are_the_same(lists: dict[str, str], llava: Tiny) -> None:
    written = parse_intervention("allpath:good=2.0+0.0+1.2,bad=0.1+2.3")
    with attach(llava.model, written):
        expected = llava.generate()
    with attach(llava.model, ListedHeads(**lists, worst=2, best=2, image_best=2)):
        assert equal(expected, llava.generate())
    with attach(llava.model, StaticGains(), profile=HeadProfile(scores=FORMAT, gains=GAINS)):
        assert equal(expected, llava.generate())


def test_a_profile_stands_for_the_list_by_format(lists: dict[str, str], llava: Tiny) -> None:
    with attach(llava.model, ListedHeads(**lists, worst=1, best=1, image_best=0)):
        expected = llava.generate()
    with attach(llava.model, ListedHeads(worst=1, best=1), profile=HeadProfile(scores=FORMAT)):
        assert equal(expected, llava.generate())


def test_a_word_names_the_lists(lists: dict[str, str]) -> None:
    method = ListedHeads(**lists, worst=2, best=2)
    assert parse_intervention(method.word()) == method


def test_a_request_that_cannot_be_met_says_why(lists: dict[str, str], llava: Tiny) -> None:
    for method, said in (
        (ListedHeads(), "has none"),
        (ListedHeads(**lists), "40 bad and 40 good heads are more than the 12"),
        (ListedHeads(good=((7, 0),), bad=((0, 0),)), "layer 7"),
    ):
        with pytest.raises(BadOption, match=said), attach(llava.model, method):
            pass
    with pytest.raises(BadProfile, match="cannot be read"), attach(llava.model, ListedHeads(format_list="nowhere")):
        pass


@pytest.mark.shared
def test_published_lists_give_the_papers_counts(shared_data: Path) -> None:
    folder = shared_data / "heads" / "allpath" / "Qwen-VL-Chat"
    paths = {f"{name}_list": str(folder / f"heads-resampled-chair-{name}.jsonl") for name in ("format", "image")}
    method = ListedHeads(**paths)
    good, bad = method.ranked_heads(read_ranking(method.format_list))
    assert (len(good), len(bad), len(set(good) & set(bad))) == (73, 40, 5)
