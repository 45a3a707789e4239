"""A user's mistake is one clear line and exit code 2."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from tests.support.command import Command

Mistake = Callable[..., str]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(path)
    return path


def bomb(path: Path) -> None:
    """Write a PNG that says it is 20,000 × 20,000 and holds next to nothing."""
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        size = (20_000).to_bytes(4, "big")
        PngImagePlugin.putchunk(file, b"IHDR", size, size, b"\x08\x02\x00\x00\x00")
        PngImagePlugin.putchunk(file, b"IDAT", b"")
        PngImagePlugin.putchunk(file, b"IEND", b"")


WRITERS: dict[str, Callable[[Path], object]] = {
    "nothing there": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "zero bytes": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
    "cut off": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00"),
    "one pixel": lambda path: Image.new("RGB", (1, 1)).save(path),
    "a bomb": bomb,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_an_image_that_cannot_be_used(tmp_path: Path, mistake: Mistake, kind: str) -> None:
    path = tmp_path / "image.png"
    WRITERS[kind](path)
    assert "image.png" in mistake("describe", path, "--model", "planted")
    assert "image.png" in mistake("score", path, "--model", "planted", "--out", tmp_path / "profile")
    assert not (tmp_path / "profile").exists()


def animation(path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


UNUSUAL: dict[str, Callable[[Path], object]] = {
    "animated": animation,
    "CMYK": lambda path: Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(path, format="JPEG"),
    "16 bits": lambda path: Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(path, format="PNG"),
    "palette with transparency": lambda path: Image.new("P", (20, 20)).save(path, format="PNG", transparency=0),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_image_is_described(tmp_path: Path, command: Callable[..., object], kind: str) -> None:
    path = tmp_path / "image"
    UNUSUAL[kind](path)
    outcome = command("describe", path, "--model", "planted", "--with", "vhr")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("there is a ")


def test_one_bad_image_among_many_is_said_before_any_answer(tmp_path: Path, picture: Path, mistake: Mistake) -> None:
    assert "gone.png" in mistake("describe", picture, tmp_path / "gone.png", "--model", "planted")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "  \n"], "the prompt is empty"),
        (["--prompt", "a <image> here"], "image token"),
        (["--model", "plantet"], "did you mean 'planted'"),
        (["--model", "no/such-model"], "no model 'no/such-model'"),
        (["--with", "vrh"], "did you mean 'vhr'"),
        (["--with", "vhr:gian=2"], "did you mean 'gain'"),
        (["--with", "vhr:gain=nan"], "finite"),
        (["--with", "vhr:gain=inf"], "finite"),
        (["--with", "vhr:gain=-1"], "at least 0"),
        (["--with", "vhr:gain=loud"], "gain"),
        (["--with", "vhr:gain"], "gain"),
        (["--with", "vhr:layers=99"], "99"),
        (["--with", ""], "vhr"),
        (["--device", "cuda:99"], "--device cpu"),
        (["--device", "toaster"], "--device cpu"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--max-tokens", "many"], "--max-tokens"),
        (["--profile", "nowhere"], "no head profile"),
        (["--colour"], "No such option"),
    ],
)
def test_a_wrong_option_of_describe(picture: Path, mistake: Mistake, arguments: list[str], said: str) -> None:
    model = [] if "--model" in arguments else ["--model", "planted"]
    extra = ["--with", "vhr"] if "--profile" in arguments else []
    assert said in mistake("describe", picture, *model, *arguments, *extra)


def test_a_text_only_model_is_refused(tmp_path: Path, picture: Path, mistake: Mistake) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(tiny).save_pretrained(tmp_path / "text")
    line = mistake("describe", picture, "--model", tmp_path / "text")
    assert "no vision-language model" in line
    assert "no vision-language model" in mistake("doctor", tmp_path / "text")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval", "chair", "--paired"], "--with vhr"),
        (["eval", "chair", "--curve"], "--with vhr"),
        (["eval", "chair", "--protocol", "wrold"], "world-held-out"),
        (["eval", "chair", "--protocol", "coco"], "--data"),
        (["eval", "chair", "--split", "sifted"], "world-shifted"),
        (["eval", "pope", "--temperature", "1", "--beams", "2"], "leave one out"),
        (["eval", "pope", "--labels", "mine"], "choose one of repope"),
        (["judge", "pope", "gone.jsonl"], "--questions"),
        (["eval", "chair", "--with", "vcd", "--with", "icd"], "both second streams"),
        (["describe", "x.png", "--with", "vdc"], "did you mean 'vcd'"),
        (["eval", "chair", "--protocol", "gone.json"], "gone.json"),
        (["eval", "chair", "--data", "gone"], "no folder gone"),
        (["eval", "chair", "--pipeline", "chair2018"], "chair-2018"),
        (["eval", "chair", "--vocabulary", "mine"], "published"),
        (["eval", "pope", "--parser", "mine"], "strict-neither"),
        (["eval", "chair", "--batch-size", "0"], "--batch-size"),
        (["eval", "cider"], "cider"),
        (["judge", "chair", "gone.jsonl", "--truth", "gone"], "gone"),
        (["judge", "chair", "gone.jsonl"], "--truth"),
        (["judge", "pope", "gone.jsonl", "--questions", "gone.jsonl"], "gone.jsonl"),
        (["compare", "gone", "lost"], "nothing is at gone"),
        (["compare", "gone", "gone"], "gone is named twice"),
        (["world", "export", "scenes", "--split", "heldout"], "held-out"),
        (["world", "export", "scenes", "--images", "0"], "--images"),
        (["descibe", "x.png"], "describe"),
        (["bench", "kernel", "--dtype", "int8"], "bfloat16"),
        (["bench", "generate", "--random", "--config", "7b"], "llava-1.5-7b"),
        (["bench", "kernel", "--shape", "GPT"], "LLaVA-1.5-7B"),
        (["bench", "generate", "--with", "icd"], "time vcd, m3id, pai-contrast or branch"),
        (["bench", "captions"], "name it in --with, such as askback"),
        (["bench", "captions", "--with", "askbak"], "askback"),
        (["demo", "--model", "nowhere"], "no model 'nowhere'"),
        (["--nonsense"], "No such option"),
    ],
)
def test_a_wrong_command(
    mistake: Mistake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in mistake(*arguments)
    assert list(tmp_path.iterdir()) == []


JUDGED = ("judge", "chair", "said.jsonl", "--truth", "truth.json")


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("said.jsonl").write_text('{"image_id": 42, "caption": "A dog."}\n')
    Path("truth.json").write_text('{"42": ["dog"]}')
    return tmp_path


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("said.jsonl/below.jsonl", "said.jsonl is no folder: choose another place"),
        ("x" * 300, "File name too long; give a shorter name"),
        (".", "Is a directory"),
    ],
)
def test_a_place_that_cannot_be_written(judged: Path, mistake: Mistake, place: str, said: str) -> None:
    before = sorted(judged.iterdir())
    assert said in mistake(*JUDGED, "--per-caption", place)
    assert sorted(judged.iterdir()) == before


def test_a_place_is_refused_before_any_work(tmp_path: Path, picture: Path, mistake: Mistake) -> None:
    (tmp_path / "file").write_text("")
    for words in (["score", picture], ["calibrate", "planted"], ["eval", "chair", "--limit", 2]):
        assert "is no folder: choose another place" in mistake(*words, "--out", tmp_path / "file" / "out")


def test_a_place_of_the_other_kind_is_refused_before_any_work(
    tmp_path: Path, picture: Path, judged: Path, mistake: Mistake
) -> None:
    (tmp_path / "taken").write_text("")
    asked = [["score", picture], ["calibrate", "planted"], ["tune", "planted"], ["eval", "chair", "--limit", 2]]
    for words in asked:
        said = mistake(*words, "--out", tmp_path / "taken")
        assert "taken is a file, and a folder is written: choose another place" in said
        assert "loading" not in said
    assert "is a folder, and a file is written" in mistake("askback", "said.jsonl", "--images", ".", "--out", tmp_path)


def test_an_empty_setting_is_refused(tmp_path: Path, mistake: Mistake) -> None:
    assert "names no setting" in mistake("tune", "mini", "--try", " ", "--out", tmp_path / "out")


def test_what_the_system_refuses_is_one_line(judged: Path, mistake: Mistake) -> None:
    Path("said.jsonl").unlink()
    Path("said.jsonl").mkdir()
    assert "said.jsonl: cannot be read (Is a directory)" in mistake(*JUDGED)
    assert "File name too long" in mistake("judge", "chair", "x" * 300, "--truth", "truth.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_behind_standard_output_is_one_line(judged: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vlm_app.cli", *JUDGED, "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == (
        "vlm-heads: what is printed cannot be written (No space left on device); free some space and start again\n"
    )


def test_a_file_may_be_given_through_a_pipe_and_written_to_one(judged: Path) -> None:
    words = [sys.executable, "-m", "vlm_app.cli", "judge", "chair", "/dev/stdin", "--truth", "truth.json", "--json"]
    words += ["--per-caption", "/dev/stderr"]
    done = subprocess.run(words, input=Path("said.jsonl").read_text(), capture_output=True, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["hashes"]["captions"] == hashlib.sha256(Path("said.jsonl").read_bytes()).hexdigest()
    assert done.stderr == '{"image_id": 42, "mentions": ["dog"], "hallucinated": []}\n'


@pytest.mark.parametrize("limit", [0, -3, 10**9])
def test_a_limit_that_cannot_be_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Mistake, limit: int
) -> None:
    monkeypatch.chdir(tmp_path)
    for metric in ("chair", "pope"):
        said = mistake("eval", metric, f"--limit={limit}")
        assert f"--limit {limit}: of the embedded world 1 to 100000 images can be asked about" in said
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_misses_weights_is_loaded_where_that_is_asked_for(
    command: Command, mistake: Mistake, untrained_mini: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(untrained_mini, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "o_proj" in name)
    kept = {key: value for key, value in weights.items() if key != name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    words = ("describe", "sample:park", "--model", folder, "--max-tokens", 2)
    assert "o_proj" in mistake(*words)
    assert "--allow-missing" in mistake(*words)
    assert command(*words, "--allow-missing").code == 0
