"""A folded checkpoint under a serving engine, and the commands of docs/serving.md.

vLLM lives in an environment of its own, which `make test-serving` makes and asks. Everywhere else the engine's test is
skipped, and what surrounds it is tested all the same.
"""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import torch
from vlm_evals.scenes.samples import sample_path

from tests.support.ask_engine import VLLM_PYTHON, answers, no_vllm, question
from tests.support.compare import equal
from tests.support.wide_heads import widened
from vlm_heads import VLM, HeadProfile, StaticGains, fold_checkpoint
from vlm_heads.models.loading import checkpoint_folder
from vlm_heads.models.prompts import chat_text

NAMES = ("kitchen", "street", "park", "beach", "office")
PROMPTS = ("Please describe this image in detail.", "Is there a car in the image?")
QUESTIONS = [(name, prompt) for name in NAMES for prompt in PROMPTS]
TOKENS = 96


def _gains() -> HeadProfile:
    """The profile of docs/serving.md: gains from 0.5 to 1.5 by lot, so that every head counts."""
    gains = 0.5 + torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    return HeadProfile(torch.zeros(8, 8), gains=gains, model_type="llava")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folded `mini`, with heads that vLLM takes on a CPU."""
    folder = tmp_path_factory.mktemp("served")
    fold_checkpoint(checkpoint_folder("mini"), _gains(), folder / "folded")
    return widened(folder / "folded", folder / "wide")


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


@pytest.mark.skipif(not VLLM_PYTHON, reason=no_vllm)
def test_vllm_says_what_the_attached_profile_says(served: Path, attached: list[tuple[int, ...]]) -> None:
    processor = VLM.from_pretrained("mini").processor
    asked = [question(sample_path(name), chat_text(processor, prompt), TOKENS) for name, prompt in QUESTIONS]
    # vLLM's own code for LLaVA imports torchvision, of which PyPI has no build for a CPU
    (said,) = answers(served, [asked], model_impl="transformers")
    assert said == attached


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
