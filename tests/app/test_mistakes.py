"""A user's mistake is one clear line and exit code 2."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

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
        (["eval", "chair", "--with", "vcd", "--controls"], "vcd chooses no heads"),
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
        (["compare", "gone", "gone"], "no run directory gone"),
        (["world", "export", "scenes", "--split", "heldout"], "held-out"),
        (["world", "export", "scenes", "--images", "0"], "--images"),
        (["descibe", "x.png"], "describe"),
        (["bench", "kernel", "--dtype", "int8"], "bfloat16"),
        (["bench", "generate", "--random", "--config", "7b"], "llava-1.5-7b"),
        (["bench", "kernel", "--shape", "GPT"], "LLaVA-1.5-7B"),
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
