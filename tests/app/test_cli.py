"""The command line does what it says: on a terminal, in a pipe, as JSON, killed and started again."""

import contextlib
import json
import os
import pty
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from vlm_app import options
from vlm_app.cli import COMMANDS, command_line
from vlm_app.examples import EXAMPLES
from vlm_evals import protocol
from vlm_evals.runs import answers_in

from tests.support.command import Command, Mistake
from vlm_heads import scoring, vlm
from vlm_heads.models.planted import planted_image

SUBCOMMANDS = [
    words.split()
    for words in [
        "describe",
        "score",
        "eval chair",
        "eval pope",
        "judge chair",
        "judge pope",
        "compare",
        "bench",
        "bench kernel",
        "bench generate",
        "bench captions",
        "bench judge",
        "bench cost",
        "bench client",
        "doctor",
        "calibrate",
        "fold",
        "demo",
        "serve",
        "world export",
        "world train",
        "world train-small",
        "world build-small",
        "methods",
        "study held-out",
        "study findings",
        "study heads",
        "study league",
        "study opening",
        "study chart",
        "study pages",
    ]
]


@pytest.fixture
def banana(tmp_path: Path) -> Path:
    path = tmp_path / "banana.png"
    planted_image("banana").save(path)
    return path


@pytest.mark.parametrize("words", SUBCOMMANDS, ids=" ".join)
def test_every_subcommand_has_the_shared_options(command: Command, words: list[str]) -> None:
    outcome = command(*words, "--help")
    assert outcome.code == 0
    for option in ("--json", "--seed", "--device"):
        assert option in outcome.out


def test_every_command_has_an_example() -> None:
    assert EXAMPLES.keys() >= COMMANDS.keys() | {" ".join(words) for words in SUBCOMMANDS}


@pytest.mark.parametrize("words", EXAMPLES)
def test_an_example_stands_in_the_help_and_says_what_there_is(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = command(*words.split(), "--help").out
    for example in EXAMPLES[words]:
        assert example in shown
        program, *named = shlex.split(example)
        assert program == "vlm-heads"
        whole = " ".join(named[:2]) if " ".join(named[:2]) in EXAMPLES else named[0]
        assert whole.startswith(words)
        explained = command(*whole.split(), "--help").out
        assert all(option in explained for option in named if option.startswith("--"))


def test_everything_asks_the_same_where_nothing_is_said() -> None:
    assert options.DEFAULT_PROMPT == vlm.DEFAULT_PROMPT == scoring.DEFAULT_PROMPT == protocol.DESCRIBE


def test_without_arguments_help_is_printed(command: Command) -> None:
    outcome = command()
    assert outcome.code == 0
    assert "describe" in outcome.out


def test_the_list_of_commands_says_what_each_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for asked in ((), COMMANDS):
        command_line(asked)(["--help"], standalone_mode=False)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert all(name in shown[0] for name in COMMANDS)


def test_describe_streams_what_the_model_says(command: Command, banana: Path) -> None:
    outcome = command("describe", banana, "--model", "planted")
    assert (outcome.code, outcome.out, outcome.err) == (0, "there is a dog.\n", "")


def test_vhr_makes_the_planted_model_say_what_it_sees(command: Command, banana: Path) -> None:
    assert command("describe", banana, "--model", "planted", "--with", "vhr").out == "there is a banana.\n"
    weak = command("describe", banana, "--model", "planted", "--with", "vhr:gain=0.5")
    assert weak.out == "there is a dog.\n"


def test_a_contrast_goes_beside_interventions(command: Command, banana: Path) -> None:
    words = ["describe", banana, "--model", "planted", "--with", "vhr", "--with", "pai-contrast:gamma=1.5"]
    assert command(*words).out == "there is a banana.\n"
    (row,) = command(*words, "--json").value
    assert row["with"] == ["vhr", "pai-contrast:gamma=1.5"]
    (alone,) = command("describe", banana, "--model", "planted", "--with", "vcd", "--json").value
    second = alone["receipt"]["second_stream"]
    assert (second["name"], second["in_two_forwards"], second["why"]) == ("vcd", 0, "")
    assert second["in_one_pass"] == len(alone["token_ids"]) - 1


def test_describe_prints_a_searched_answer_whole(command: Command, banana: Path) -> None:
    outcome = command("describe", banana, "--model", "planted", "--with", "opera:beams=2,candidates=2")
    (row,) = command("describe", banana, "--model", "planted", "--with", "opera:beams=2,candidates=2", "--json").value
    assert row["text"].startswith("there is a ")
    assert outcome.out == row["text"] + "\n"
    assert "opera takes words back: its answer is printed whole, when it is found" in outcome.err
    assert row["receipt"]["pipeline"]["calls"] == 1


def test_describe_compares_side_by_side(command: Command, banana: Path) -> None:
    outcome = command("describe", banana, "--model", "planted", "--compare")
    line = next(line for line in outcome.out.splitlines() if "dog" in line)
    assert line.index("dog") < line.index("banana")
    (row,) = command("describe", banana, "--model", "planted", "--compare", "--json").value
    assert (row["plain"]["text"], row["mitigated"]["text"]) == ("there is a dog.", "there is a banana.")
    assert row["plain"]["receipt"] is None
    assert row["mitigated"]["receipt"]["interventions"][0]["name"] == "vhr"


def test_invented_objects_are_data_where_the_truth_is_known(command: Command, banana: Path) -> None:
    words = ["--model", "planted", "--compare", "--json"]
    (row,) = command("describe", "sample:planted-car", *words).value
    assert row["plain"]["objects"] == [{"start": 11, "end": 14, "node": "dog", "shown": False}]
    assert row["mitigated"]["objects"] == [{"start": 11, "end": 14, "node": "car", "shown": True}]
    (row,) = command("describe", banana, *words).value
    assert "objects" not in row["plain"]


def test_invented_objects_are_marked_on_a_terminal_alone(banana: Path) -> None:
    words = ["describe", "--model", "planted"]
    assert "a \x1b[1;4;31mdog\x1b[0m." in on_terminal(*words, "sample:planted-car")
    assert "not in the picture: dog" in on_terminal(*words, "sample:planted-car")
    assert "\x1b[1;4;31mdog" in on_terminal(*words, "--compare", "sample:planted-car")
    assert "dog" in (unknown := on_terminal(*words, str(banana)))
    assert "\x1b[" not in unknown


def test_sample_scenes_need_no_file(command: Command) -> None:
    outcome = command("describe", "sample:kitchen", "sample:street", "--model", "planted")
    assert outcome.code == 0
    assert outcome.out.count("there is a") == 2
    assert "beach" in command("describe", "sample:moon", "--model", "planted").err


def test_score_prints_the_planted_heads_first(command: Command, banana: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile"
    outcome = command("score", banana, "--model", "planted", "--out", out, "--top", 4, "--json")
    assert {(row["layer"], row["head"]) for row in outcome.value["top"]} == {(2, 1), (2, 3), (3, 0), (3, 2)}
    with Image.open(out / "heads.png") as picture:
        assert min(picture.size) > 100
    table = command("score", banana, "--model", "planted", "--out", out, "--top", 2)
    assert table.code == 0
    assert "heads.png" in table.out
    with_profile = command("describe", banana, "--model", "planted", "--with", "vhr:heads=fixed", "--profile", out)
    assert with_profile.out == "there is a banana.\n"


def test_doctor_says_what_works(command: Command) -> None:
    found = command("doctor", "planted", "--json").value
    assert (found["family"], found["layers"], found["heads"]) == ("llava", 4, 4)
    works = {check["what"]: check["works"] for check in found["checks"]}
    assert works["plain generation"]
    assert works["head scores (VHD)"]
    assert works["--with vhr"]
    assert works["--with vcd"]
    fired = {check["what"]: check["fired"] for check in found["checks"]}
    assert (fired["--with vhr"], fired["--with adhh"], fired["--with vcd"]) == (True, False, None)
    assert found["image_tokens"] == 16
    assert all(check["works"] or check["remark"] for check in found["checks"])
    assert (found["sinks"]["channels"], bool(found["sinks"]["why"])) == ([], True)


def test_doctor_finds_planted_sinks(command: Command) -> None:
    sinks = command("doctor", "planted-sinks", "--json").value["sinks"]
    assert sinks["channels"] == [60]
    assert len(sinks["text_sinks"]) == len(sinks["image_sinks"]) == 4
    assert "60 (×" in command("doctor", "planted-sinks").out


def test_eval_writes_a_run_and_its_report(command: Command, untrained_mini: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["eval", "chair", "--model", untrained_mini, "--limit", 4, "--max-tokens", 4, "--out", out]
    report = command(*words, "--json").value
    assert (report["kind"], report["n"], report["mean_tokens"]) == ("chair", 4, 4.0)
    assert report["settings"]["protocol"]["name"] == "world-held-out"
    there = {path.name for path in out.iterdir()}
    assert there >= {"protocol.json", "answers.jsonl", "environment.json", "truth.json"}
    assert there >= {"report.json", "report.md", "captions.jsonl"}
    assert json.loads((out / "report.json").read_text()) == report
    again = command(*words)
    assert again.code == 0
    assert again.err == ""  # no bar in a pipe
    assert report["settings"]["protocol"]["hash"] in (out / "report.md").read_text()
    refused = command(*words, "--seed", 8)
    assert refused.code == 2
    assert "protocol.seed" in refused.err


def test_eval_with_a_contrast_resumes_under_the_same_options_alone(
    command: Command, untrained_mini: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = [
        "eval",
        "chair",
        "--model",
        untrained_mini,
        "--limit",
        3,
        "--max-tokens",
        4,
        "--out",
        out,
        "--batch-size",
        2,
    ]
    report = command(*words, "--with", "vcd:alpha=0.5", "--with", "route", "--json").value
    assert "vcd:alpha=0.5,bound=0.1,noise_step=500,seed=0" in report["settings"]["interventions"]
    assert (out / "report.md").read_text().count("vcd:alpha=0.5") > 0
    again = command(*words, "--with", "vcd:alpha=0.5", "--with", "route", "--json")
    assert again.value == report
    refused = command(*words, "--with", "vcd:alpha=0.7", "--with", "route")
    assert refused.code == 2
    assert "setting.contrast.alpha" in refused.err


def test_mistakes_about_small_are_one_line(mistake: Mistake, tmp_path: Path) -> None:
    assert "choose float32 or bfloat16" in mistake("world", "train-small", tmp_path, "--precision", "int8")
    assert "3 rows are less than one step of 8" in mistake("world", "train-small", tmp_path, "--rows", 3)
    line = mistake("world", "build-small", tmp_path / "model", "--weights", tmp_path)
    assert "train them: vlm-heads world train-small DIR" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("split", ["held-out", "shifted", "scrambled"])
def test_a_split_of_the_embedded_world_is_a_word(
    command: Command, untrained_mini: Path, tmp_path: Path, split: str
) -> None:
    words = ["eval", "chair", "--model", untrained_mini, "--limit", 2, "--max-tokens", 2, "--out", tmp_path / "run"]
    report = command(*words, "--split", split, "--json").value
    assert report["settings"]["protocol"]["name"] == f"world-{split}"
    both = command(*words, "--split", split, "--protocol", "world-held-out")
    assert both.code == 2
    assert "leave one out" in both.err


def test_a_protocol_file_asks_the_same_again(command: Command, untrained_mini: Path, tmp_path: Path) -> None:
    words = ["eval", "chair", "--model", untrained_mini, "--json"]
    first = command(*words, "--limit", 3, "--max-tokens", 4, "--seed", 5, "--out", tmp_path / "first").value
    again = command(*words, "--protocol", tmp_path / "first" / "protocol.json", "--out", tmp_path / "again").value
    assert again["settings"]["protocol"] == first["settings"]["protocol"]
    assert again["counts"] == first["counts"]
    wrong = command("eval", "pope", "--protocol", tmp_path / "first" / "protocol.json", "--out", tmp_path / "no")
    assert wrong.code == 2
    assert "vlm-heads eval chair" in wrong.err


def test_eval_compares_with_curve_and_controls(
    command: Command, untrained_mini: Path, small_world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["--model", untrained_mini, "--data", small_world, "--limit", 5, "--max-tokens", 4, "--with", "vhr"]
    report = command("eval", "chair", *words, "--paired", "--curve", "--controls", "--out", out, "--json").value
    assert {"plain", "mitigated", "difference", "curve", "controls", "verdict", "mcnemar"} <= report.keys()
    assert set(report["controls"]) == {"bottom-heads", "random-heads", "first-word+1", "first-word+3"}
    assert [point["bias"] for point in report["curve"]["points"]] == [-1.0, -0.3, 0.0, 0.4, 1.2, 2.6]
    for side in ("plain", "mitigated"):
        assert {"chair_s", "chair_i", "recall", "mean_tokens"} <= report[side].keys()
    compared = command("compare", out / "plain", out / "mitigated", "--json").value
    assert compared["difference"]["mean_tokens"] == report["difference"]["mean_tokens"]
    swapped = command("compare", out / "mitigated", out / "plain", "--json").value
    for name, estimate in compared["difference"].items():
        if estimate["estimate"] is not None:
            assert swapped["difference"][name]["estimate"] == pytest.approx(-estimate["estimate"])


def test_eval_pope_and_judge_agree(command: Command, untrained_mini: Path, small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--model", untrained_mini, "--data", small_world, "--limit", 2, "--max-tokens", 3, "--parser", "pope"]
    report = command("eval", "pope", *words, "--out", out, "--json").value
    assert list(report["splits"]) == ["random", "popular", "adversarial"]
    assert report["n"] == 36  # two images, six questions, three strategies
    rows = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    asked = tmp_path / "popular.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows if row["category"] == "popular"))
    judged = command("judge", "pope", out / "pope_popular.jsonl", "--questions", asked, "--parser", "pope", "--json")
    assert judged.value["splits"]["popular"]["accuracy"] == report["splits"]["popular"]["accuracy"]


def test_judge_scores_captions_without_torch(small_world: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": 1, "caption": "A zebra and a toaster."}\n')
    program = (
        "import sys\nfrom vlm_app.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    words = ["judge", "chair", str(captions), "--truth", str(small_world), "--json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["chair_s"] == 1.0


def test_world_export_is_the_same_every_time(command: Command, tmp_path: Path) -> None:
    for name in ("a", "b"):
        outcome = command("world", "export", tmp_path / name, "--split", "shifted", "--images", 3, "--json")
        assert outcome.value["images"] == 3
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert len(files) == 5
    assert all((tmp_path / "a" / one).read_bytes() == (tmp_path / "b" / one).read_bytes() for one in files)


def test_a_bar_is_drawn_on_a_terminal_alone(tmp_path: Path) -> None:
    words = ["world", "export", str(tmp_path / "scenes"), "--images", "2"]
    program = [sys.executable, "-m", "vlm_app.cli", *words]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stderr == ""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    drawing = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    assert "drawing scenes" in all_from(ours)  # read while it runs: a full terminal buffer would stop the program
    assert drawing.wait() == 0


def on_terminal(*words: str) -> str:
    """Return what a call prints on a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    program = [sys.executable, "-m", "vlm_app.cli", *words]
    running = subprocess.Popen(program, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said = all_from(ours)
    assert running.wait() == 0
    return said


def all_from(terminal: int) -> str:
    pieces = []
    with open(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):  # EIO: the other end is closed
        while piece := file.read(4096):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_bench_generate_times_every_way(command: Command) -> None:
    words = ["--model", "planted", "--tokens", 2, "--rounds", 1, "--json"]
    ways = command("bench", "generate", *words).value["ways"]
    streams = {f"{name}{how}" for name in ("vcd", "m3id", "branch") for how in ("", ", two forwards")}
    assert set(ways) == {"plain", "eager", "vhr", "var", "vhr+var", "floor"} | streams
    assert ways["plain"]["decode_ratio"] == ways["plain"]["prefill_ratio"] == 1.0
    assert all(row["peak_mb"] > 0 for name, row in ways.items() if name != "floor")
    assert all(row["decode_ms"] > 0 for row in ways.values())


def test_bench_generate_times_what_is_named(command: Command) -> None:
    words = ["--model", "planted", "--tokens", 1, "--rounds", 1, "--json", "--with", "vhr", "--with", "m3id:rate=0.1"]
    ways = command("bench", "generate", *words).value["ways"]
    second = {"m3id:rate=0.1", "m3id:rate=0.1, two forwards"}
    assert set(ways) == {"plain", "eager", "vhr", "all of them", "all of them, two forwards", "floor"} | second


def test_bench_kernels_checks_before_it_times(command: Command) -> None:
    rows = command("bench", "kernel", "--seconds", 0, "--shape", "mini", "--device", "cpu", "--json").value
    assert {"stock", "edited"} <= {row["way"] for row in rows}
    assert all(row["wrong"] == "" and row["ms"] > 0 for row in rows)


def launch(count: int, *words: object) -> subprocess.CompletedProcess[str]:
    # accelerate launch starts a single process where there is no GPU
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*program, "-m", "vlm_app.cli", *map(str, words)], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.slow
def test_two_processes_give_the_report_of_one(
    command: Command, untrained_mini: Path, small_world: Path, tmp_path: Path
) -> None:
    words = ["eval", "chair", "--model", untrained_mini, "--data", small_world, "--max-tokens", 4, "--json"]
    one = command(*words, "--out", tmp_path / "one").value
    two = launch(2, *words, "--device", "cpu", "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout) == one
    (start,) = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert start["processes"] == 2
    assert [path.name for path in (tmp_path / "two").glob("answers*")] == ["answers.jsonl"]
    texts = [[answer.text for answer in answers_in(tmp_path / name).values()] for name in ("one", "two")]
    assert texts[0] == texts[1]


def test_the_version_is_printed(command: Command) -> None:
    outcome = command("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"vlm-heads {version('vlm-heads')}\n", "")


def test_a_terminal_is_told_at_once_that_a_model_is_loaded() -> None:
    leader, follower = os.openpty()
    words = [sys.executable, "-m", "vlm_app.cli", "describe", "sample:kitchen", "--model", "planted"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=follower) as process:
        os.close(follower)
        first = os.read(leader, 1000).decode()  # torch takes seconds; the line comes before it is imported
        process.kill()
    os.close(leader)
    assert first.startswith("loading planted …")
