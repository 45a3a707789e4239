"""Timing a model of a real size: what does not fit into memory is refused before any of it is made."""

import pytest
import torch
from vlm_app.speed import timing

from vlm_heads.errors import BadOption


def test_weights_that_do_not_fit_are_refused_with_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # LLaMA-7B's layers are 6.5e9 parameters: 32 * (4 * 4096^2 + 3 * 4096 * 11008) = 6.48e9, 25.9 GB in float32
    monkeypatch.setattr(timing, "free_memory", lambda: 2e9)
    with pytest.raises(BadOption, match=r"takes 2[56]\.\d GB in float32 and 2\.0 GB of memory are free: say --dtype"):
        timing.random_llava("llava-1.5-7b")
    with pytest.raises(BadOption, match=r"takes 1[23]\.\d GB in bfloat16"):
        timing.random_llava("llava-1.5-7b", torch.bfloat16)


def test_free_memory_is_told() -> None:
    assert timing.free_memory() > 1e6


def test_a_random_model_has_the_dtype_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timing.CONFIGS, "tiny", timing.Size(layers=1, width=32, heads=2, mlp=48, key_heads=1))
    vlm = timing.random_llava("tiny", torch.bfloat16)
    assert {one.dtype for one in vlm.model.parameters()} == {torch.bfloat16}
