"""Head gains inside vLLM itself, on an unchanged checkpoint: `make test-serving`; elsewhere skipped.

The checkpoint is `mini` with heads that vLLM takes on a CPU. vLLM runs it by its Transformers backend. Its token ids
are compared with those of the same checkpoint in transformers, with the method attached.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vlm_evals.scenes.samples import sample_path

from tests.support.ask_engine import VLLM_PYTHON, Question, answers, asked, no_vllm, question
from tests.support.wide_heads import widened
from vlm_heads import VLM, HeadProfile, HeadReinforcement, Intervention, ListedHeads, StaticGains
from vlm_heads.models.loading import checkpoint_folder
from vlm_heads.models.prompts import chat_text

pytestmark = pytest.mark.skipif(not VLLM_PYTHON, reason=no_vllm)
NAMES = ("kitchen", "street", "park", "beach", "office")
PROMPTS = ("Please describe this image in detail.", "Is there a car in the image?")
TOKENS = 64
TRANSFORMERS = {"model_impl": "transformers"}
PER_REQUEST = {
    **TRANSFORMERS,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": False,
    "max_num_batched_tokens": 1024,
    "logits_processors": ["vlm_app.bridges.vllm_requests:RequestGains"],
}
ALLPATH = ListedHeads(good=((2, 3), (5, 1), (6, 0)), bad=((0, 2), (3, 3)))
VHR = HeadReinforcement(gain=3.0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widened(checkpoint_folder("mini"), tmp_path_factory.mktemp("served") / "wide")


@pytest.fixture(scope="module")
def vlm(served: Path) -> VLM:
    return VLM.from_pretrained(served)


@pytest.fixture(scope="module")
def profile() -> HeadProfile:
    """Gains from 0.5 to 1.5 by lot, so that every head counts."""
    gains = 0.5 + torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    return HeadProfile(torch.zeros(8, 8), gains=gains, model_type="llava")


@pytest.fixture(scope="module")
def folder(profile: HeadProfile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("profile")
    profile.save_pretrained(target)
    return target


def _expected(vlm: VLM, methods: list[Intervention], profile: HeadProfile | None = None) -> list[tuple[int, ...]]:
    """Return what the checkpoint says in transformers, to every picture's both questions."""
    return [
        vlm.answer(sample_path(name), prompt, methods, profile=profile, max_new_tokens=TOKENS).token_ids
        for name in NAMES
        for prompt in PROMPTS
    ]


def _questions(vlm: VLM, wish: str | None = None) -> list[Question]:
    texts = [chat_text(vlm.processor, prompt) for prompt in PROMPTS]
    return [question(sample_path(name), text, TOKENS, wish) for name in NAMES for text in texts]


def _image_free(vlm: VLM) -> list[Question]:
    """Return both prompts as ids without image tokens, as the image-free pass deletes them."""
    image, tokenizer = vlm.model.config.image_token_id, vlm.processor.tokenizer
    prompts = [tokenizer(chat_text(vlm.processor, prompt), add_special_tokens=False).input_ids for prompt in PROMPTS]
    return [question(None, [one for one in ids if one != image], 1, "image-free") for ids in prompts]


def test_a_profile_acts_on_every_request(served: Path, vlm: VLM, profile: HeadProfile, folder: Path) -> None:
    """An unchanged checkpoint and an environment variable; the plug-in is found by its entry point."""
    attached = _expected(vlm, [StaticGains()], profile)
    assert sum(one != other for one, other in zip(attached, _expected(vlm, []), strict=True)) >= 4
    (said,) = answers(served, [_questions(vlm)], profile=str(folder), **TRANSFORMERS)
    assert said == attached


def test_each_request_has_its_own(served: Path, vlm: VLM, profile: HeadProfile, folder: Path, tmp_path: Path) -> None:
    """Forty requests in one batch, of four kinds: plain, a profile, AllPath, and VHR chosen for each picture."""
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"careful": str(folder), "paths": ALLPATH.word()}))
    kinds = {
        None: _expected(vlm, []),
        "careful": _expected(vlm, [StaticGains()], profile),
        "paths": _expected(vlm, [ALLPATH]),
        VHR.word(): _expected(vlm, [VHR]),
    }
    assert len({str(one) for one in kinds.values()}) == len(kinds)
    mixed = [one for several in zip(*(_questions(vlm, wish) for wish in kinds), strict=True) for one in several]
    expected = [one for several in zip(*kinds.values(), strict=True) for one in several]
    unsent = question(sample_path("park"), chat_text(vlm.processor, "Is there a dog in the image?"), TOKENS, "vhr")
    unknown = {**unsent, "wish": "carefull"}
    rounds = [_image_free(vlm), mixed, [unsent], [unknown]]
    _, said, (empty,), (refused,) = answers(served, rounds, profiles=str(names), **PER_REQUEST)
    assert said == expected
    assert empty == (vlm.processor.tokenizer.eos_token_id,)
    assert "did you mean 'careful'?" in refused


def test_a_model_that_vllm_runs_by_its_own_code_is_refused(folder: Path, tmp_path: Path) -> None:
    """Its attention asks nobody, so the gains would be lost without a word. Any model shows it, a text's too."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=256, **sizes)).save_pretrained(tmp_path)
    VLM.from_pretrained("mini").processor.tokenizer.save_pretrained(tmp_path)
    asked_text = [question(None, [1, 5, 6], 1)]
    done = asked(tmp_path, [asked_text], profile=str(folder), model_impl="vllm", limit_mm_per_prompt={})
    assert done.returncode != 0
    assert "LlamaForCausalLM by its own code" in done.stderr
    assert "--model-impl transformers" in done.stderr
