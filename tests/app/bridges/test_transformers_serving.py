"""transformers' continuous batching beside an attach: it takes texts alone, so nothing of it may change."""

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from tests.support.families import build
from vlm_heads import HeadProfile, StaticGains, attach

PROMPTS = ([1, 5, 6, 7, 8, 9, 10], [1, 20, 21, 22, 23], [1, 30, 31, 32, 33, 34, 35])


def test_a_manager_that_ran_before_the_attach_answers_texts_as_before() -> None:
    """Three prompts share a row there; each gets the plain model's answer, before, inside and after."""
    model = build("llava").model
    expected = [model.generate(torch.tensor([ids]), max_new_tokens=5)[0, len(ids) :].tolist() for ids in PROMPTS]
    stated = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=199, pad_token_id=0)
    room = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    manager = model.init_continuous_batching(generation_config=stated, continuous_batching_config=room)
    manager.start()

    def answers() -> list[list[int]]:
        names = [manager.add_request(ids, max_new_tokens=5) for ids in PROMPTS]
        found = [manager.get_result(timeout=60) for _ in names]
        told = {one.request_id: one.generated_tokens for one in found if one is not None}
        return [told[name] for name in names]

    try:
        assert answers() == expected
        profile = HeadProfile(torch.zeros(3, 4), gains=torch.full((3, 4), 0.1))
        with attach(model, [StaticGains()], profile=profile, allow_idle=True) as run:
            assert answers() == expected
        assert not run.receipt.fired
        assert answers() == expected
    finally:
        manager.stop(block=True, timeout=60)
