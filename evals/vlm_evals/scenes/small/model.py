"""`small`'s shape: the vision tower of `mini`, a two-layer projector to the base's width, and the base."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from vlm_evals.scenes.model import mini_config
from vlm_evals.scenes.tokens import IMAGE_TOKENS

from .adapters import merge
from .base import Base, plain_config
from .weights import Weights


def small_config(language: LlamaConfig, processor: LlavaProcessor) -> LlavaConfig:
    """Return the configuration on top of a language model, with the processor's special tokens."""
    tokenizer = processor.tokenizer
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text = plain_config(language)
    text.update(special)
    return LlavaConfig(
        vision_config=mini_config().vision_config, text_config=text,
        image_token_index=processor.image_token_id, image_seq_length=IMAGE_TOKENS, vision_feature_layer=-1,
        vision_feature_select_strategy="default", tie_word_embeddings=True, **special,
    )  # fmt: skip


def new_projector(config: LlavaConfig, seed: int) -> LlavaMultiModalProjector:
    """Return an untrained projector; the caller's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaMultiModalProjector(config)


def assemble(base: Base, processor: LlavaProcessor, weights: Weights) -> LlavaForConditionalGeneration:
    """Return the whole model in float32: adapters merged, nothing in it knows that it was put together.

    Args:
        base: the language model; its weights take up the adapters.
        processor: the model's own, made from the base's tokenizer.
        weights: the trained parts.

    Raises:
        KeyError, RuntimeError: if the weights belong to another base.
    """
    language = base.model
    merge(language.model, weights.adapters)
    parts = {"vision_tower": weights.tower, "multi_modal_projector": weights.projector,
             "language_model": language.model.state_dict()}  # fmt: skip
    state = {f"model.{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
    state["lm_head.weight"] = language.lm_head.weight.detach()
    config = small_config(language.config, processor)
    model = LlavaForConditionalGeneration.from_pretrained(None, config=config, state_dict=state)
    model.generation_config.update(
        pad_token_id=config.pad_token_id, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id
    )
    return model.eval()
