"""PAINT against attention written out in float64, and the patches against the tower's own weights."""

import pytest
import torch
from torch import Tensor
from vlm_kernels import KeyClass

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import Oracle, Written
from vlm_heads import HeadProfile, attach
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.interventions.salient_boost import SalientBoost
from vlm_heads.toolkit.vision_salience import TowerAttention, over_prompt, salient_patches


def _by_the_tower(model: Tiny) -> Tensor:
    """Return each patch's strength by weights that the tower gives itself: local share one of four patches."""
    tower = model.model.model.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        weights = tower(model.inputs["pixel_values"], output_attentions=True).attentions
    tower.set_attn_implementation("sdpa")
    first, late = (weights[layer][0].double().mean(0) for layer in (0, -2))
    strength = torch.zeros(4)
    strength[first[0, 1:].argmax()] = 0.9
    strength[first[1:, 1:].sum(0).argmax()] = 0.9
    low, high = late[0, 1:].quantile(0.25), late[0, 1:].quantile(0.75)
    strength[late[0, 1:] > high + 1.5 * (high - low)] = 0.6
    return strength


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_written_out_attention(backend: str, modulated: bool, model: Tiny, oracle: Oracle) -> None:
    strength = _by_the_tower(model)
    # ranks 1, 3, 2, 0 of three: a head's share of the strength
    heads = torch.tensor([1, 3, 2, 0]) / 3 if modulated else torch.ones(4)

    def rule(call: Written) -> Tensor:
        logits = call.logits.clone()
        rise = heads[:, None] * strength * logits[:, -1, call.image].abs()
        logits[:, -1, call.image] += rise
        return logits.softmax(-1) @ call.value

    expected = oracle.generate(rule)
    options = {"local": 0.9, "summary": 0.6, "local_share": 0.25, "layers": "all", "modulated": modulated}
    profile = HeadProfile(scores=torch.tensor([[2.0, 9.0, 3.0, 1.0]] * 3))
    with attach(model.model, [SalientBoost(**options)], backend=backend, profile=profile):
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-4


def test_a_patch_far_above_the_others_is_a_summary_and_not_local() -> None:
    # one head of size 1, query 1 everywhere: key log w gives weights in proportion to w, class token first
    share = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 1, 40]).log()[None, :, None]
    one = torch.ones(1, 9, 1)
    heard = {(layer, "q_proj"): one for layer in ("first", "late")}
    tower = TowerAttention(1, heard | {("first", "k_proj"): share, ("late", "k_proj"): share})
    local, summary = salient_patches(tower, 0.25, spatial=True)
    assert summary[0].tolist() == [False] * 7 + [True]
    assert local[0].sum() == 1
    assert not (local & summary).any()


def test_images_are_laid_out_by_row_and_repeated_for_beams() -> None:
    text, image = int(KeyClass.TEXT), int(KeyClass.IMAGE)
    two, one = [image, image, text, image, image], [text, text, text, image, image]
    patches = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    rows = torch.tensor([two, one], dtype=torch.int8)
    expected = [[1.0, 2.0, 0.0, 3.0, 4.0], [0.0, 0.0, 0.0, 5.0, 6.0]]
    assert over_prompt(patches, rows).tolist() == expected
    assert over_prompt(patches, rows.repeat_interleave(2, dim=0)).tolist() == [expected[i] for i in (0, 0, 1, 1)]
    with pytest.raises(UnsupportedModel, match="per patch"):
        over_prompt(patches, torch.tensor([[image] * 5], dtype=torch.int8))


def test_beams_run(model: Tiny) -> None:
    with attach(model.model, [SalientBoost(layers="all")]):
        assert model.generate(num_beams=2, output_logits=False).sequences.shape[0] == 1


@pytest.mark.parametrize("family_name", ["paligemma", "qwen2_vl"])
def test_a_tower_without_class_token_is_refused(family_name: str, tiny: Build) -> None:
    with pytest.raises(UnsupportedModel, match="class token"), attach(tiny(family_name).model, [SalientBoost()]):
        pass


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(BadOption, match="local_share"):
        SalientBoost(local_share=1.5)
