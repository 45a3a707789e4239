"""A folded checkpoint under a serving engine, and the commands of docs/serving.md.

vLLM lives in an environment of its own: `make test-serving VLLM_PYTHON=path/to/its/python` asks it. Everywhere else the
engine's test is skipped, and what surrounds it is tested all the same.
"""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlm_evals.scenes.samples import sample_path

from tests.support.compare import equal
from vlm_heads import VLM, HeadProfile, StaticGains, fold_checkpoint
from vlm_heads.models.loading import checkpoint_folder
from vlm_heads.models.prompts import chat_text

NAMES = ("kitchen", "street", "park", "beach", "office")
PROMPTS = ("Please describe this image in detail.", "Is there a car in the image?")
QUESTIONS = [(name, prompt) for name in NAMES for prompt in PROMPTS]
VLLM_PYTHON = os.environ.get("VLLM_PYTHON", "")
TOKENS = 96  # ask_vllm.py asks for as many


def _gains() -> HeadProfile:
    """The profile of docs/serving.md: gains from 0.5 to 1.5 by lot, so that every head counts."""
    gains = 0.5 + torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    return HeadProfile(torch.zeros(8, 8), gains=gains, model_type="llava")


def _widened(source: Path, out: Path) -> Path:
    """Write the same function with heads of 32 channels in place of 16, under the names of older transformers.

    vLLM's attention on a CPU takes heads of 32 channels and more. A head's own channels go where their rotary
    frequency stays what it was, theta^(-2i/16) = theta^(-2(2i)/32): channel i to 2i in either half. The others are 0;
    queries grow by sqrt(2), since attention divides by sqrt(32) and no longer by sqrt(16).
    """
    shutil.copytree(source, out)
    config = json.loads((source / "config.json").read_text())
    text = config["text_config"]
    heads, size = text["num_attention_heads"], text["head_dim"]
    places = torch.cat([2 * torch.arange(size // 2), 2 * torch.arange(size // 2) + size])
    stored = {}
    for name, weight in load_file(source / "model.safetensors").items():
        part = name.split(".")[-2]
        if name.startswith("language_model.") and part in ("q_proj", "k_proj", "v_proj"):
            wide = weight.new_zeros(heads, 2 * size, weight.shape[1])
            wide[:, places] = weight.view(heads, size, -1) * (math.sqrt(2) if part == "q_proj" else 1.0)
            weight = wide.flatten(0, 1)
        elif name.startswith("language_model.") and part == "o_proj":
            wide = weight.new_zeros(len(weight), heads, 2 * size)
            wide[:, :, places] = weight.view(len(weight), heads, size)
            weight = wide.flatten(1)
        stored[name.replace("vision_tower.", "vision_tower.vision_model.")] = weight.contiguous()
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    text["head_dim"] = 2 * size
    (out / "config.json").write_text(json.dumps(config, indent=2))
    return out


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folded `mini`, with heads that vLLM takes on a CPU."""
    folder = tmp_path_factory.mktemp("served")
    fold_checkpoint(checkpoint_folder("mini"), _gains(), folder / "folded")
    return _widened(folder / "folded", folder / "wide")


@pytest.fixture(scope="module")
def attached() -> list[tuple[int, ...]]:
    """What `mini` says with the profile attached, in plain transformers."""
    mini = VLM.from_pretrained("mini")
    asked = [(sample_path(name), prompt) for name, prompt in QUESTIONS]
    chosen = {"profile": _gains(), "max_new_tokens": TOKENS}
    return [mini.answer(*one, [StaticGains()], **chosen).token_ids for one in asked]


def test_wider_heads_say_the_same(served: Path, attached: list[tuple[int, ...]]) -> None:
    """Else the engine's test below would be about another model."""
    wide = VLM.from_pretrained(served)
    assert wide.model.config.text_config.head_dim == 32
    for (name, prompt), expected in zip(QUESTIONS, attached, strict=True):
        assert wide.answer(sample_path(name), prompt, max_new_tokens=TOKENS).token_ids == expected


def test_the_questions_tell_the_profile_from_none(attached: list[tuple[int, ...]]) -> None:
    """An engine that lost the gains would be seen."""
    mini = VLM.from_pretrained("mini")
    plain = [mini.answer(sample_path(name), PROMPTS[0], max_new_tokens=TOKENS).token_ids for name in NAMES]
    assert sum(one != other for one, other in zip(plain, attached[::2], strict=True)) >= 3


@pytest.mark.skipif(not VLLM_PYTHON, reason="no vLLM here: make test-serving VLLM_PYTHON=path/to/its/python")
def test_vllm_says_what_the_attached_profile_says(served: Path, attached: list[tuple[int, ...]]) -> None:
    processor = VLM.from_pretrained("mini").processor
    questions = [(str(sample_path(name)), chat_text(processor, prompt)) for name, prompt in QUESTIONS]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(
        [VLLM_PYTHON, str(Path(__file__).with_name("ask_vllm.py")), str(served)],
        input=json.dumps(questions),
        env=environment | {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    assert [tuple(ids) for ids in json.loads(line.removeprefix("ANSWERS "))] == attached


def _page(repository: Path) -> str:
    return (repository / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_transcript_is_what_the_attached_profile_says(repository: Path, attached: list[tuple[int, ...]]) -> None:
    page = _page(repository)
    weights = (checkpoint_folder("mini") / "model.safetensors").read_bytes()
    if hashlib.sha256(weights).hexdigest()[:16] not in page:
        pytest.skip("the transcript in docs/serving.md is of other weights of mini: ask the engine anew")
    tokenizer = VLM.from_pretrained("mini").processor.tokenizer
    said = {
        (name, prompt): tokenizer.decode(ids, skip_special_tokens=True).strip()
        for (name, prompt), ids in zip(QUESTIONS, attached, strict=True)
    }
    rows = re.findall(r"^\| (\w+) \| (describe|car) \| (.+) \|$", page, flags=re.MULTILINE)
    assert len(rows) == len(QUESTIONS)
    for name, word, answer in rows:
        assert answer == said[name, PROMPTS[word == "car"]]


def test_the_examples_run(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block that is marked as run, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(sample_path("park"), tmp_path / "photo.png")
    names: dict[str, object] = {}
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", _page(repository), flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "docs/serving.md", "exec"), names)
    profile = HeadProfile.from_pretrained(tmp_path / "profile")
    assert equal(profile.gains, _gains().gains)
    assert names["plain"] != names["mitigated"]
    mini = VLM.from_pretrained("mini")
    assert mini.answer(sample_path("park")).text == str(names["plain"]).strip()
