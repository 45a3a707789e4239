"""A tiny language model with SmolLM2's special tokens and kind of tokenizer: what `small` is trained on in tests."""

import os
import signal
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vlm_evals.scenes import text
from vlm_evals.scenes.catalog import CATEGORIES, SCENES
from vlm_evals.scenes.model import mini_config
from vlm_evals.scenes.small.base import Base
from vlm_evals.scenes.small.learner import new_learner
from vlm_evals.scenes.small.recipe import SmallRecipe
from vlm_evals.scenes.small.train import train_small
from vlm_evals.scenes.small.weights import Weights

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
    "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>",
)  # fmt: skip
RECIPE = SmallRecipe(seed=3, rows=12, batch=2, fitting=1, texts=5, frozen="float32")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that learnt the world's words, with SmolLM2's special tokens as ids 0 to 16."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [word for category in CATEGORIES for pair in category.words for word in pair]
    said = [*text.DESCRIBE_PROMPTS, text.LIST, *text.OPENERS, *names, *(kind.name for kind in SCENES)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=[*SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(said, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[2],
        unk_token=SPECIAL[0],
    )  # fmt: skip


def tiny_base() -> Base:
    """Return a language model of two layers, grouped queries and random weights, the same at every call."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    return Base(LlamaForCausalLM(config).eval(), tokenizer)


def tiny_parts() -> tuple[Base, CLIPVisionModel]:
    """Return what training starts from: the tiny language model and an untrained tower."""
    base = tiny_base()
    return base, CLIPVisionModel(mini_config().vision_config)


def train_and_die(out: str, steps: int) -> None:
    """Train into a folder, saving at every step, until the process kills itself after some steps."""
    taken = 0

    def advance(more: int) -> None:
        nonlocal taken
        taken += more
        if taken == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    train_small(RECIPE, Path(out), tiny_parts, advance=advance, saved_every=0.0)


def learnt_weights(size: float) -> Weights:
    """Return trained parts on the tiny base: adapters of a given size, at 0 none that does anything."""
    learner = new_learner(RECIPE, *tiny_parts())
    generator = torch.Generator().manual_seed(1)
    factors = {name: size * torch.randn(factor.shape, generator=generator) for name, factor in learner.factors.items()}
    return Weights(learner.tower.state_dict(), learner.projector.state_dict(), factors, {"seed": "3"})
