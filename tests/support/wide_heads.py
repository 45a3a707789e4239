"""`mini` with heads that vLLM takes on a CPU."""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def widened(source: Path, out: Path) -> Path:
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
