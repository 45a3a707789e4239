"""Judging saved files: what comes out, how fast, and that no torch is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from vlm_app.speed.judge import bench_judge
from vlm_evals.errors import AnswerMismatch, UnknownImage
from vlm_evals.judge import judge
from vlm_evals.records import file_hash

CAPTIONS = '{"image_id": 42, "caption": "A dog and a car."}\n{"image_id": 73, "caption": "A cat."}\n'
TRUTH = {"42": ["dog"], "73": ["cat", "dog"]}


def judge_chair(captions, truth, **options):
    return judge("chair", captions, truth=truth, **options)


def judge_pope(answers, questions, **options):
    return judge("pope", answers, questions=questions, **options)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "captions.jsonl").write_text(CAPTIONS, "utf-8")
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH), "utf-8")
    for split in ("random", "popular"):
        asked = [
            {"question_id": n, "image": f"{n}.jpg", "text": "Is there a dog?", "label": ("yes", "no")[n % 2]}
            for n in range(4)
        ]
        said = [{"question_id": n, "text": ("Yes", "No", "No", "Hm")[n]} for n in range(4)]
        (tmp_path / f"coco_pope_{split}.jsonl").write_text("\n".join(map(json.dumps, asked)), "utf-8")
        (tmp_path / f"answers_{split}.jsonl").write_text("\n".join(map(json.dumps, said)), "utf-8")
    return tmp_path


def test_captions(files: Path) -> None:
    found = judge_chair(files / "captions.jsonl", files / "truth.json", per_caption=files / "out.jsonl")
    assert (found["chair_s"], found["chair_i"], found["recall"]) == (1 / 2, 1 / 3, 2 / 3)
    assert (found["precision"], found["f1"], found["mean_tokens"]) == (2 / 3, 2 / 3, 4.5)
    assert (found["pipeline"], found["vocabulary"], found["images"]) == ("chair-2018", "published", 2)
    assert found["counts"]["hallucinated_mentions"] == 1
    assert found["files"] == {"captions": "captions.jsonl", "truth": "truth.json"}
    assert found["hashes"]["truth"] == file_hash(files / "truth.json")
    assert found["truth_images"] == 2
    rows = [json.loads(line) for line in (files / "out.jsonl").read_text("utf-8").splitlines()]
    assert rows == [
        {"image_id": 42, "mentions": ["dog", "car"], "hallucinated": ["car"]},
        {"image_id": 73, "mentions": ["cat"], "hallucinated": []},
    ]
    json.dumps(found, allow_nan=False)


def test_an_unknown_image_is_an_error(files: Path) -> None:
    (files / "truth.json").write_text('{"42": ["dog"]}', "utf-8")
    with pytest.raises(UnknownImage, match=r"image 73 is not in the ground truth truth\.json"):
        judge_chair(files / "captions.jsonl", files / "truth.json")


def test_answers_of_one_split_and_of_several(files: Path) -> None:
    one = judge_pope(files / "answers_random.jsonl", files / "coco_pope_random.jsonl", per_question=files / "out.jsonl")
    # labels yes, no, yes, no; said yes, no, no, nothing: 2 of 4 right
    assert (one["accuracy"], one["precision"], one["recall"]) == (1 / 2, 1.0, 1 / 2)
    assert (one["yes_ratio"], one["unparsed"], one["parser"]) == (1 / 4, 1 / 4, "strict-neither")
    assert one["files"]["questions"][0] == {
        "name": "coco_pope_random.jsonl",
        "questions": 4,
        "yes": 2,
        "no": 2,
        "images": 4,
    }
    assert one["hashes"]["answers_random.jsonl"] == file_hash(files / "answers_random.jsonl")
    assert json.loads((files / "out.jsonl").read_text("utf-8").splitlines()[3])["reading"] == "unparsed"
    splits = ("random", "popular")
    several = judge_pope(
        [files / f"answers_{split}.jsonl" for split in splits], [files / f"coco_pope_{split}.jsonl" for split in splits]
    )
    assert list(several["splits"]) == ["random", "popular"]
    assert several["accuracy"] == 1 / 2


def test_one_log_answers_several_files_of_questions(files: Path) -> None:
    rows = [
        {"doc": {"question_id": str(n), "category": split}, "resps": [["Yes"]]}
        for split in ("popular", "random")
        for n in range(4)
    ]
    (files / "log.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    questions = [files / f"coco_pope_{split}.jsonl" for split in ("random", "popular")]
    assert judge_pope(files / "log.jsonl", questions)["yes_ratio"] == 1.0


def test_answers_that_do_not_fit_are_named_with_their_file(files: Path) -> None:
    (files / "answers_random.jsonl").write_text('{"question_id": 0, "text": "Yes"}', "utf-8")
    with pytest.raises(AnswerMismatch, match=r"answers_random\.jsonl: question 1 \(random\) has no answer"):
        judge_pope(files / "answers_random.jsonl", files / "coco_pope_random.jsonl")
    with pytest.raises(AnswerMismatch, match="2 files of answers for 1 files of questions"):
        judge_pope([files / "answers_random.jsonl"] * 2, files / "coco_pope_random.jsonl")


ALONE = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
from vlm_evals.judge import judge
from vlm_evals.errors import MissingLanguageData
from vlm_evals.registry import find_metric
from vlm_evals.report import single_report, write_report
found = judge("chair", folder / "captions.jsonl", truth=folder / "truth.json")
judge("pope", folder / "answers_random.jsonl", questions=folder / "coco_pope_random.jsonl")
write_report(folder / "report", single_report(find_metric("chair"), [], settings={}))
print(found["notes"])
try:
    judge("chair", folder / "captions.jsonl", truth=folder / "truth.json", pipeline="chair-opera")
except MissingLanguageData as error:
    print(error)
print(sorted({"torch", "transformers", "gradio", "matplotlib.pyplot"} & set(sys.modules)))
"""


def test_a_machine_without_torch_or_language_data_can_judge(files: Path) -> None:
    """A fresh process: no torch, no pyplot, the substitute is named, and chair-opera says what it needs."""
    environment = {key: value for key, value in os.environ.items() if key != "NLTK_DATA"} | {"HOME": str(files)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(files)], env=environment, capture_output=True, text=True, check=True
    )
    notes, missing, imported = done.stdout.splitlines()
    if notes != "[]":  # the machine has no data of its own
        assert "Punkt data was not found" in notes
        assert "set NLTK_DATA" in missing
    assert imported == "[]"


def test_the_speed_is_measured_after_a_check() -> None:
    found = bench_judge(captions=60)
    assert found["checked"] == 60
    assert found["tokens_per_caption"] >= 100
    assert found["captions_per_second"] > found["nltk_per_second"]
    assert found["torch_imported"] is False
    assert found["index_images"] == 40_504


@pytest.mark.shared
def test_a_published_file_through_the_front_door(shared_data: Path, nltk_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "chair"
    found = judge_chair(
        folder / "captions/llava-1.5__greedy.jsonl",
        folder / "coco_val2014_objects.json",
        pipeline="chair-opera",
        per_caption=tmp_path / "out.jsonl",
    )
    # the published table, in percent to the printed digit: 45.0 / 12.73 / 80.38 / 96.87
    printed = [round(100 * found[name], 2) for name in ("chair_s", "chair_i", "recall")]
    assert [*printed, round(found["mean_tokens"], 2)] == [45.0, 12.73, 80.38, 96.87]
    assert found["notes"] == []
    expected = (folder / "expected/wordnet__llava-1.5__greedy.jsonl").read_text("utf-8").splitlines()
    for line, row in zip(expected, (tmp_path / "out.jsonl").read_text("utf-8").splitlines(), strict=True):
        reference, ours = json.loads(line), json.loads(row)
        assert ours["mentions"] == reference["nodes"]
        assert ours["hallucinated"] == [node for _, node in reference["hallucinated"]]
