"""The embedded model `mini`: a real LLaVA (CLIP tower, two-layer projector, Llama), small enough to ship."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from .tokens import IMAGE_TOKENS, PATCH, vocabulary
from .world import IMAGE_SIZE

WIDTH = 128
LAYERS = 8


def mini_config() -> LlavaConfig:
    """Return the configuration: 49 image tokens, 8 layers of 8 heads, about 3 million parameters."""
    ids = vocabulary()
    tower = CLIPVisionConfig(
        hidden_size=160, intermediate_size=480, num_hidden_layers=4, num_attention_heads=5,
        image_size=IMAGE_SIZE, patch_size=PATCH, projection_dim=WIDTH, hidden_act="gelu",
    )  # fmt: skip
    language = LlamaConfig(
        vocab_size=-(-len(ids) // 16) * 16, hidden_size=WIDTH, intermediate_size=384, num_hidden_layers=LAYERS,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.05, pad_token_id=ids["<pad>"], bos_token_id=ids["<s>"], eos_token_id=ids["</s>"],
    )  # fmt: skip
    return LlavaConfig(
        vision_config=tower, text_config=language, image_token_index=ids["<image>"], image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1, vision_feature_select_strategy="default", tie_word_embeddings=True,
        pad_token_id=ids["<pad>"], bos_token_id=ids["<s>"], eos_token_id=ids["</s>"],
    )  # fmt: skip


def build_mini(seed: int) -> LlavaForConditionalGeneration:
    """Return an untrained model with seeded weights, in float32."""
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(mini_config())
