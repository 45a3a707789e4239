"""No reader of the evaluation leaves its tree of errors, whatever stands in a file."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.formats import read_answers, read_captions, read_questions
from vlm_evals.data.truth import load_truth
from vlm_evals.errors import EvaluationError, FileFormatError
from vlm_evals.experiment import choose_protocol
from vlm_evals.judge import judge
from vlm_evals.protocol import read_protocol
from vlm_evals.records import Answer, write_json, write_rows
from vlm_evals.runs import merge_answers, open_run
from vlm_evals.scored import compare_runs, run_report, score_run
from vlm_evals.tasks import asked_of, bind, samples
from vlm_evals.yes_no.questions import eligible

from tests.support.damage import DEEP, damaged

OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

CAPTIONS = [{"image_id": 42, "caption": "A dog."}, {"image_id": 7, "text": "A cat on a bed."}]
QUESTIONS = [
    {"question_id": n, "image": f"{n}.jpg", "text": "Is there a dog in the image?", "label": ["no", "yes"][n % 2]}
    for n in range(2)
] + [{"text": ["Is it?", "Is there?"], "label": ["yes", "no"], "image": "3.jpg"}]
ANSWERS = [
    {"question_id": 0, "question": "Is there a dog in the image?", "answer": "No"},
    {"question_id": 1, "prompt": "Is there a dog in the image?", "text": "Yes", "image": "1.jpg"},
    {"doc": {"question_id": 2, "question": "Is it?", "category": "random"}, "resps": [["Yes"]]},
]
INDEX = {"42": ["dog"], "7": ["cat", "bed"], "a/1.jpg": []}
COCO = {
    "info": {"split": "held-out", "images": 2, "seed": 3},
    "images": [{"id": 42, "file_name": "42.png"}, {"id": 7, "file_name": "val2014/7.png"}],
    "annotations": [{"id": n, "image_id": image, "category_id": n} for n, image in enumerate([42, 42, 42, 7, 7, 7, 7])],
    "categories": [
        {"id": n, "name": name} for n, name in enumerate(["dog", "cat", "bed", "car", "cup", "bus", "bird"])
    ],
}
SPOKEN = {"images": COCO["images"], "annotations": [{"id": 1, "image_id": 42, "caption": "A dog."}]}


def read(reader: Callable[[Path], Any], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(EvaluationError):
        reader(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    write_rows(folder / "captions.jsonl", CAPTIONS)
    write_json(folder / "truth.json", INDEX)
    write_rows(folder / "coco_pope_random.json", QUESTIONS[:2])
    write_rows(folder / "answers.jsonl", ANSWERS[:2])
    return folder


@OFTEN
@given(damaged(CAPTIONS, lines=True) | damaged({"42": "A dog.", "7": ["A cat."]}))
def test_captions(place: Path, content: bytes) -> None:
    read(read_captions, place / "other.jsonl", content)
    read(lambda path: judge("chair", path, truth=place / "truth.json"), place / "other.jsonl", content)


@OFTEN
@given(damaged(QUESTIONS, lines=True))
def test_questions(place: Path, content: bytes) -> None:
    read(read_questions, place / "other_random.jsonl", content)
    more = place / "coco_pope_random.json"
    for asked in ([place / "other_random.jsonl"], [place / "other_random.jsonl", more]):
        with contextlib.suppress(EvaluationError):
            judge("pope", [place / "answers.jsonl"], questions=asked, subset=True)


@OFTEN
@given(damaged(ANSWERS, lines=True))
def test_answers(place: Path, content: bytes) -> None:
    read(read_answers, place / "other.jsonl", content)
    asked = [place / "coco_pope_random.json"]
    read(lambda path: judge("pope", [path], questions=asked, subset=True), place / "other.jsonl", content)


@OFTEN
@given(st.binary(max_size=40) | st.text(alphabet='image_id,"caption\n\r\x00', max_size=40).map(str.encode))
def test_tables(place: Path, content: bytes) -> None:
    read(read_captions, place / "other.csv", content)
    read(read_answers, place / "other.tsv", content)


@OFTEN
@given(damaged(INDEX) | damaged(COCO) | damaged({"format": 1, "digest": "x", "source": "y", "objects": INDEX}))
def test_truth(place: Path, content: bytes) -> None:
    read(lambda path: load_truth(path, cache=place / "cache"), place / "other.json", content)
    read(lambda path: judge("chair", place / "captions.jsonl", truth=[path]), place / "other.json", content)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    for name in ("42", "7"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    write_json(folder / "instances.json", COCO)
    write_json(folder / "captions.json", SPOKEN)
    return folder


@OFTEN
@given(damaged(COCO), st.sampled_from(["chair", "pope"]))
def test_annotations(coco: Path, content: bytes, metric: str) -> None:
    (coco / "instances.json").write_bytes(content)
    with contextlib.suppress(EvaluationError):
        data = CocoFolder.find(coco)
        assert data.shortfall is None or "missing" in data.shortfall
        eligible(data)
        bound = bind("coco", metric, data, limit=None, seed=1)
        samples(bound, data)


@pytest.fixture(scope="module")
def protocols(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[CocoFolder, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sound")
    for name in ("42", "7"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    write_json(folder / "instances.json", COCO)
    write_json(folder / "captions.json", SPOKEN)
    data = CocoFolder.find(folder)
    return {name: (data, bind("coco", name, data, limit=None, seed=1).as_json()) for name in ("chair", "pope")}


@OFTEN
@given(st.data(), st.sampled_from(["chair", "pope"]), st.booleans())
def test_protocols(place: Path, protocols: dict, data: st.DataObject, metric: str, hashed: bool) -> None:
    folder, good = protocols[metric]
    stated = good if hashed else {name: value for name, value in good.items() if name != "hash"}
    path = place / "protocol.json"
    path.write_bytes(data.draw(damaged(stated) | damaged({"protocol": stated, "setting": {}})))
    with contextlib.suppress(EvaluationError):
        read_protocol(path)
        samples(choose_protocol(str(path), metric, folder, limit=None, seed=1), folder)


SETTING = {
    "model": "mini", "weights": "0", "interventions": [{"name": "vhr", "gain": 2.0}], "contrast": None,
    "end_bias": 0.0, "profile": None,
}  # fmt: skip


@pytest.fixture(scope="module", params=["chair", "pope"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, protocols: dict) -> Path:
    """A finished run."""
    data, stated = protocols[request.param]
    folder = tmp_path_factory.mktemp("run")
    protocol = choose_protocol("coco", request.param, data, limit=None, seed=1)
    asked = samples(protocol, data)
    receipt = {"interventions": [{"name": "vhr", "layers": [0]}], "steps": 3}
    with open_run(folder, {"protocol": stated, "setting": SETTING}) as opened:
        opened.append([Answer(one.sample_id, "Yes, a dog.", (1, 2), 0.5, receipt) for one in asked])
    merge_answers(folder, [one.sample_id for one in asked])
    asked_of(request.param).keep(folder, protocol, data)
    write_json(folder / "notes.json", ["a note"])
    return folder


FILES = (
    "protocol.json",
    "answers.jsonl",
    "environment.json",
    "manifest.json",
    "notes.json",
    "truth.json",
    "questions.jsonl",
)


@settings(OFTEN, max_examples=100)
@given(st.data(), st.sampled_from(FILES))
def test_run_directories(run: Path, data: st.DataObject, name: str) -> None:
    path = run / name
    if not path.exists():
        return
    before = {one: (run / one).read_bytes() for one in FILES if (run / one).exists()}
    lines = name.endswith(".jsonl")
    good = [json.loads(line) for line in before[name].splitlines()] if lines else json.loads(before[name])
    if data.draw(st.booleans()):
        (run / "manifest.json").unlink()  # as a run of an earlier version, which notices no edit
    try:
        path.write_bytes(data.draw(damaged(good, lines=lines)))
        with contextlib.suppress(EvaluationError):
            found = score_run(run)
            json.dumps(run_report(found), allow_nan=False)
            compare_runs(run, run, seed=0)
        with contextlib.suppress(EvaluationError), open_run(run, json.loads(before["protocol.json"])):
            pass
    finally:
        for one, content in before.items():
            (run / one).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("environment.json", b"5", r"environment\.json: is no list of starts; delete it"),
        ("environment.json", DEEP, r"environment\.json: is not JSON that can be used"),
        ("protocol.json", DEEP, r"protocol\.json: is not JSON that can be used"),
        ("answers.jsonl", DEEP + b"\n", r"answers\.jsonl, line 1: is not an answer"),
        (
            "answers.jsonl",
            b'{"sample_id": "42", "text": "", "seconds": NaN}\n',
            r"answers\.jsonl, line 1: is not an answer \(`seconds` of an answer is a time, and nan is none\)",
        ),
    ],
)
def test_damage_is_said_with_its_file(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    identity = {"protocol": {"name": "p"}}
    with open_run(tmp_path, identity):
        pass
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=complaint), open_run(tmp_path, identity):
        pass
