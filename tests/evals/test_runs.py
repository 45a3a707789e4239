"""A run directory survives kills, torn lines, full disks and second processes."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlm_evals.errors import FileFormatError, RunError
from vlm_evals.records import Answer
from vlm_evals.runs import (
    answers_hash,
    answers_in,
    canonical_json,
    content_hash,
    merge_answers,
    open_run,
    read_identity,
)

IDENTITY = {"protocol": {"name": "p", "seed": 7}, "setting": {"model": "mini", "interventions": []}}

ASK_FOREVER = """
import os, signal, sys
from pathlib import Path
from vlm_evals.records import Answer
from vlm_evals.runs import open_run

with open_run(Path(sys.argv[1]), {"protocol": 1}) as run:
    for number in range(40):
        if str(number) in run.answers:
            continue
        run.append([Answer(str(number), f"answer {number}")])
        print(number, flush=True)
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def answer(name: str, error: str | None = None) -> Answer:
    return Answer(name, f"text of {name}", (1, 2), 0.5, {"steps": 3}, error)


def test_answers_come_back(tmp_path: Path) -> None:
    with open_run(tmp_path, IDENTITY) as run:
        run.append([answer("a"), answer("b")])
        run.append([answer("c", error="unreadable")])
        assert run.failures == 1
    assert list(answers_in(tmp_path).values()) == [answer("a"), answer("b"), answer("c", error="unreadable")]
    assert read_identity(tmp_path) == IDENTITY
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    assert start["processes"] == 1
    assert start["packages"]["numpy"]


def test_killed_in_the_middle_nothing_is_lost_and_nothing_asked_twice(tmp_path: Path) -> None:
    asked = []
    for stop in (3, 11, 99):
        process = subprocess.run(
            [sys.executable, "-c", ASK_FOREVER, str(tmp_path), str(stop)], capture_output=True, text=True, check=False
        )
        assert process.returncode == (0 if stop == 99 else -signal.SIGKILL), process.stderr
        asked += process.stdout.split()
    assert asked == [str(number) for number in range(40)]
    assert list(answers_in(tmp_path).values()) == [Answer(str(number), f"answer {number}") for number in range(40)]
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 3


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(min_value=0, max_value=120))
def test_a_torn_last_line_is_cut_wherever_it_tears(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("torn")
    with open_run(folder, IDENTITY) as run:
        run.append([answer("a"), answer("ü"), answer("c")])
    path = folder / "answers.jsonl"
    content = path.read_bytes()[: -cut or None]
    path.write_bytes(content)
    whole = content.count(b"\n")
    with open_run(folder, IDENTITY) as run:
        assert list(run.answers) == ["a", "ü", "c"][:whole]
        run.append([answer("d")])
    assert list(answers_in(folder)) == [*["a", "ü", "c"][:whole], "d"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(
        '{"sample_id": "a", "text": ""}\n{"sample_id"\n{"sample_id": "c", "text": ""}\n'
    )
    with pytest.raises(FileFormatError, match=r"answers\.jsonl, line 2"):
        answers_in(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00"])
def test_a_damaged_protocol_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "protocol.json").write_text(text)
    with pytest.raises(FileFormatError, match="protocol"), open_run(tmp_path, IDENTITY):
        pass


def test_another_protocol_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    with open_run(tmp_path, IDENTITY):
        pass
    other = {"protocol": {"name": "p", "seed": 8}, "setting": {"model": "mini", "interventions": ["vhr"]}}
    with (
        pytest.raises(RunError, match=r"protocol\.seed, setting\.interventions"),
        open_run(tmp_path, other),
    ):
        pass


def test_answers_without_a_protocol_are_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer("a").as_row()) + "\n")
    with pytest.raises(RunError, match=r"no protocol\.json"), open_run(tmp_path, IDENTITY):
        pass


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from vlm_evals.errors import RunError\nfrom vlm_evals.runs import open_run\n"
        "try:\n    with open_run(Path(sys.argv[1]), {'protocol': 1}): pass\n"
        "except RunError as error:\n    sys.exit(str(error))"
    )
    with open_run(tmp_path, {"protocol": 1}):
        second = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert second.returncode == 1
    assert "in use by another process" in second.stderr
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 0


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Let no file grow beyond 2,000 bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_said_and_keeps_what_was_written(tmp_path: Path) -> None:
    rows = [Answer(str(number), "x" * 300) for number in range(100)]
    with open_run(tmp_path, IDENTITY) as run:
        for one in rows[:4]:
            run.append([one])
        with pytest.raises(RunError, match="no space left; free some and start the same command again"):
            run.append(rows[4:])
    kept = answers_in(tmp_path)
    assert list(kept) == ["0", "1", "2", "3"]
    assert os.path.getsize(tmp_path / "answers.jsonl") < 2000
    assert (tmp_path / "answers.jsonl").read_bytes().endswith(b"\n")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"), open_run(tmp_path / "file", IDENTITY):
        pass


def test_answering_twice_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path, IDENTITY) as run:
        run.append([answer("a")])
        with pytest.raises(RunError, match="answered twice: a"):
            run.append([answer("a")])


def test_shards_merge_in_the_order_of_the_samples(tmp_path: Path) -> None:
    for shard in (1, 0):
        with open_run(tmp_path, IDENTITY, shard=shard, shards=2) as run:
            run.append([answer(str(number)) for number in range(shard, 6, 2)])
    merged = merge_answers(tmp_path, [str(number) for number in range(6)])
    assert list(merged) == list(answers_in(tmp_path)) == [str(number) for number in range(6)]
    assert [path.name for path in tmp_path.glob("answers*")] == ["answers.jsonl"]


def test_shards_go_on_where_one_process_stopped(tmp_path: Path) -> None:
    with open_run(tmp_path, IDENTITY) as run:
        run.append([answer("0"), answer("1")])
    with open_run(tmp_path, IDENTITY, shard=1, shards=2) as run:
        assert set(run.answers) == {"0", "1"}
        run.append([answer("3")])
    with pytest.raises(RunError, match="no answer yet to 1 samples, the first is 2"):
        merge_answers(tmp_path, ["0", "1", "2", "3"])


@settings(max_examples=50)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_the_hash_knows_no_order_of_keys(value: object) -> None:
    pair = {"a": value, "b": 1}
    assert content_hash(pair) == content_hash(dict(reversed(pair.items())))
    assert json.loads(canonical_json(pair)) == pair


def finished(folder: Path) -> list[str]:
    """A run that was answered to the end."""
    with open_run(folder, IDENTITY) as run:
        run.append([answer("a"), answer("b"), answer("c")])
    merge_answers(folder, ["a", "b", "c"])
    return (folder / "answers.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    "name", ["answers-backup.jsonl", "answers.old.jsonl", "answers.2-of-2.jsonl", "answers_1.jsonl"]
)
def test_a_file_beside_the_answers_is_left_alone(tmp_path: Path, name: str) -> None:
    other = json.dumps(Answer("a", "something else").as_row()) + "\n"
    with open_run(tmp_path, IDENTITY) as run:
        run.append([answer("a"), answer("b")])
    (tmp_path / name).write_text(other)
    assert answers_in(tmp_path)["a"] == answer("a")
    merge_answers(tmp_path, ["a", "b"])
    assert (tmp_path / name).read_text() == other
    assert answers_in(tmp_path) == {"a": answer("a"), "b": answer("b")}


def test_two_answers_to_one_sample_are_refused_and_nothing_is_deleted(tmp_path: Path) -> None:
    with open_run(tmp_path, IDENTITY) as run:
        run.append([answer("a")])
    shard = tmp_path / "answers.0-of-2.jsonl"
    shard.write_text(json.dumps(Answer("a", "something else").as_row()) + "\n")
    with pytest.raises(RunError, match=r"answers\.0-of-2\.jsonl and answers\.jsonl hold different answers to sample a"):
        merge_answers(tmp_path, ["a"])
    shard.write_text(json.dumps(answer("z").as_row()) + "\n")
    with pytest.raises(RunError, match="holds 1 answers to samples that are not asked, such as z"):
        merge_answers(tmp_path, ["a"])
    assert shard.is_file()
    shard.write_text((tmp_path / "answers.jsonl").read_text())  # as a kill between merging and clearing up leaves it
    assert list(merge_answers(tmp_path, ["a"])) == ["a"]
    assert not shard.exists()


def test_edited_answers_are_noticed_and_named(tmp_path: Path) -> None:
    lines = finished(tmp_path)
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join([lines[0], lines[1].replace("text of b", "text of B"), lines[2]]) + "\n")
    complaint = (
        r"1 answers were edited after the run, such as b \(answers\.jsonl, line 2\); put them back, or delete man"
    )
    for read in (answers_in, lambda folder: open_run(folder, IDENTITY).__enter__()):
        with pytest.raises(RunError, match=complaint):
            read(tmp_path)
    (tmp_path / "manifest.json").unlink()
    assert answers_in(tmp_path)["b"].text == "text of B"


def test_answers_that_were_taken_out_are_asked_again(tmp_path: Path) -> None:
    lines = finished(tmp_path)
    (tmp_path / "answers.jsonl").write_text(f"{lines[0]}\n{lines[2]}\n")
    with open_run(tmp_path, IDENTITY) as run:
        assert list(run.answers) == ["a", "c"]
        run.append([Answer("b", "another answer")])
    assert merge_answers(tmp_path, ["a", "b", "c"])["b"].text == "another answer"
    assert answers_in(tmp_path)["b"].text == "another answer"


def test_a_run_of_an_earlier_version_resumes(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "manifest.json").unlink()  # which it did not write
    with open_run(tmp_path, IDENTITY) as run:
        assert list(run.answers) == ["a", "b", "c"]
    merge_answers(tmp_path, ["a", "b", "c"])
    assert (tmp_path / "manifest.json").is_file()


def test_an_option_that_an_earlier_version_did_not_know_had_its_default(tmp_path: Path) -> None:
    """Of the whole setting: interventions, and what stands beside them. Another value is another run, as ever."""
    before = {"setting": {"interventions": [{"name": "route", "image": 2.0}], "contrast": {"name": "m3id"}}}
    defaults = {"route": {"image": 1.5, "slope": "flat"}, "m3id": {"mode": "plain"}}

    def now(slope: str, image: float = 2.0, mode: str = "plain") -> dict[str, Any]:
        route = {"name": "route", "image": image, "slope": slope}
        return {"setting": {"interventions": [route], "contrast": {"name": "m3id", "mode": mode}}}

    with open_run(tmp_path, before):
        pass
    with open_run(tmp_path, now("flat"), defaults=defaults):
        pass
    assert json.loads((tmp_path / "protocol.json").read_text()) == before
    for other in (now("rising"), now("flat", image=1.5), now("flat", mode="paper")):
        with pytest.raises(RunError, match="another run"), open_run(tmp_path, other, defaults=defaults):
            pass
    with pytest.raises(RunError, match="another run"), open_run(tmp_path, now("flat")):
        pass


def test_the_hash_of_answers_is_of_what_was_said() -> None:
    said = {"a": answer("a"), "b": answer("b")}
    slower = {name: replace(one, seconds=9.0) for name, one in reversed(said.items())}
    assert answers_hash(said) == answers_hash(slower)
    assert answers_hash(said) != answers_hash(said | {"b": answer("c")})


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(FileFormatError, match=r"manifest\.json: is no manifest; delete it"):
        answers_in(tmp_path)
