"""AllPath's list format: written and read, and the published lists."""

import json
from pathlib import Path

import pytest
import torch

from vlm_heads.errors import BadProfile
from vlm_heads.toolkit.head_ranking import highest, lowest, ranked, read_ranking, scores_of, union, write_ranking

# (bad, good by format, good by image) of the paper, and the good heads together that the published lists give
COUNTS = {"chair": (40, 40, 50), "coco-adversarial": (20, 20, 10), "mcq-coco-adversarial": (20, 20, 10)}


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    scores = torch.randn(5, 7)
    write_ranking(scores, tmp_path / "list.jsonl")
    assert torch.equal(scores_of(read_ranking(tmp_path / "list.jsonl")), scores)


def test_the_lowest_stand_first_and_ties_keep_their_order(tmp_path: Path) -> None:
    write_ranking(torch.tensor([[0.5, -1.0], [0.5, 2.0]]), tmp_path / "list.jsonl")
    lines = (tmp_path / "list.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [[[0, 1], -1.0], [[0, 0], 0.5], [[1, 0], 0.5], [[1, 1], 2.0]]


def test_the_ends_of_a_list() -> None:
    ranking = ranked(torch.tensor([[0.5, -1.0], [0.7, 2.0]]))
    assert lowest(ranking, 2) == ((0, 1), (0, 0))
    assert highest(ranking, 1) == ((1, 1),)
    assert highest(ranking, 0) == lowest(ranking, 0) == ()
    assert len(highest(ranking, 9)) == len(lowest(ranking, 9)) == 4
    assert union(((1, 1), (0, 0)), ((0, 0), (0, 1))) == ((1, 1), (0, 0), (0, 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("[[0, 1], 1.0]\n[0, 2, 1.0]\n", "line 2"),
        ("[[0, -1], 1.0]\n", "line 1"),
        ("[[0, 1], NaN]\n", "line 1"),
        ("[[true, 1], 1.0]\n", "line 1"),
        ("not json\n", "line 1"),
        ("[[0, 1], 1.0]\n[[0, 1], 2.0]\n", "twice"),
        ("[[0, 1], 1.0]\n[[0, 0], 0.5]\n", "not sorted"),
    ],
)
def test_what_is_no_list_is_refused_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(BadProfile, match=said):
        read_ranking(tmp_path / "list.jsonl")


def test_a_missing_file_and_a_missing_head_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadProfile, match="cannot be read"):
        read_ranking(tmp_path / "none.jsonl")
    with pytest.raises(BadProfile, match="3 of 4 heads"):
        scores_of(((0, 0, 1.0), (0, 1, 2.0), (1, 1, 3.0)))


@pytest.mark.shared
@pytest.mark.parametrize("model", ["llava-v1.5-7b", "Qwen-VL-Chat"])
@pytest.mark.parametrize("answers", COUNTS)
def test_published_lists_are_read_and_written_again(
    model: str, answers: str, shared_data: Path, tmp_path: Path
) -> None:
    for kind in ("format", "image"):
        published = shared_data / "heads" / "allpath" / model / f"heads-resampled-{answers}-{kind}.jsonl"
        ranking = read_ranking(published)
        assert len(ranking) == 1024
        assert scores_of(ranking).shape == (32, 32)
        # by themselves the scores are float64; a list of ours holds float32
        write_ranking(scores_of(ranking), tmp_path / "again.jsonl")
        again = read_ranking(tmp_path / "again.jsonl")
        assert torch.equal(scores_of(again), scores_of(ranking))


@pytest.mark.shared
def test_published_lists_for_captions_name_89_good_heads(shared_data: Path) -> None:
    folder = shared_data / "heads" / "allpath" / "llava-v1.5-7b"
    by_format, by_image = (read_ranking(folder / f"heads-resampled-chair-{kind}.jsonl") for kind in ("format", "image"))
    bad, format_best, image_best = COUNTS["chair"]
    good = union(highest(by_format, format_best), highest(by_image, image_best))
    assert (len(good), len(lowest(by_format, bad))) == (89, 40)
    assert not set(good) & set(lowest(by_format, bad))
