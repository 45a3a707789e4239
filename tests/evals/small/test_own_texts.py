"""What holds the language model: the base's own texts, and how far the adapted model is from it on them."""

import pytest
import torch
from torch.nn import functional as F
from vlm_evals.scenes.batches import IGNORED
from vlm_evals.scenes.small.adapters import without_adapters
from vlm_evals.scenes.small.learner import new_learner
from vlm_evals.scenes.small.own_texts import kept_texts, own_texts
from vlm_evals.scenes.small.recipe import TIDY_DIET, SmallRecipe
from vlm_evals.scenes.small.rows import VERDICT_WEIGHT, build_batch

from tests.support.small_base import RECIPE, tiny_base, tiny_parts


def moved(learner):
    """Move the adapters away from the base, as training does."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for factor in learner.factors.values():
            factor.copy_(0.1 * torch.randn(factor.shape, generator=generator))
    return learner


def test_texts_begin_as_prose_and_as_turns_and_hold_no_image():
    texts = own_texts(tiny_base(), seed=0, count=40, length=16)
    assert texts.shape == (40, 16)
    assert set(texts[:32, 0].tolist()) == {0}  # <|endoftext|>
    assert set(texts[32:, 0].tolist()) == {1}  # <|im_start|>
    assert not (texts == 16).any()  # <empty_output>, which becomes the image token


def test_texts_depend_on_the_seed_alone_and_are_written_once(tmp_path):
    base = tiny_base()
    before = torch.get_rng_state()
    texts = kept_texts(tmp_path / "texts.safetensors", base, 0, 4, 12)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(own_texts(tiny_base(), 0, 4, 12), texts)
    assert not torch.equal(own_texts(tiny_base(), 1, 4, 12), texts)
    assert torch.equal(kept_texts(tmp_path / "texts.safetensors", None, 0, 4, 12), texts)


def test_every_text_has_its_turn():
    recipe = SmallRecipe(seed=0)
    seen = [number for step in range(recipe.texts // 2) for number in recipe.texts_of(step)]
    assert sorted(seen) == list(range(recipe.texts))


def test_both_losses_are_what_separate_passes_give():
    learner = moved(new_learner(RECIPE, *tiny_parts()))
    batch = build_batch(TIDY_DIET, learner.processor, 5, 0, 2)
    texts = torch.randint(20, 200, (3, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss, distance = learner.losses(batch, texts)
        other, _ = learner.losses(batch, texts.flip(1))
        learner.base.model.set_attn_implementation("eager")
        found = learner.base.model(texts).logits.log_softmax(-1)
        with without_adapters(learner.base.model.model):
            wanted = learner.base.model(texts).logits.log_softmax(-1)
        again = learner.base.model(texts).logits.log_softmax(-1)
    expected = (wanted.exp() * (wanted - found)).sum(-1).mean()
    assert expected > 0.01
    assert torch.allclose(distance, expected, rtol=1e-4)
    assert torch.equal(found, again)  # the adapters are back
    assert torch.equal(loss, other)  # no answer sees a text


def test_a_model_that_has_not_moved_has_no_distance():
    learner = new_learner(RECIPE, *tiny_parts())
    batch = build_batch(TIDY_DIET, learner.processor, 5, 0, 1)
    assert float(learner.losses(batch, torch.full((1, 6), 30))[1].detach()) == pytest.approx(0.0, abs=1e-6)


def test_a_verdict_weighs_more_than_a_word():
    """Two questions' verdicts at weight 3: (sum of the words' losses + 3 * the verdicts') / (words + 3 * 2)."""
    learner = new_learner(RECIPE, *tiny_parts())
    batch = build_batch(TIDY_DIET, learner.processor, 5, 0, 1)
    heavy = batch.weights == VERDICT_WEIGHT
    answered = batch.labels != IGNORED
    assert int(heavy.sum()) == TIDY_DIET.questions
    assert bool((answered[heavy]).all())
    assert {learner.processor.decode([token]) for token in batch.labels[heavy].tolist()} <= {"Y", "N", "Yes", "No"}
    with torch.no_grad():
        loss, _ = learner.losses(batch, torch.full((1, 6), 30))
        image = learner.projector(learner.features(batch.pixels)).flatten(0, 1)
        words = learner.base.model.get_input_embeddings()(batch.ids)
        shown = words.masked_scatter((batch.ids == learner.processor.image_token_id)[:, None], image)
        hidden = learner.base.model.model(
            inputs_embeds=shown[None], attention_mask=None, position_ids=batch.positions[None], use_cache=False,
            layout=batch.layout,
        ).last_hidden_state[0]  # fmt: skip
        each = F.cross_entropy(learner.base.model.lm_head(hidden[answered]), batch.labels[answered], reduction="none")
    verdicts = each[heavy[answered]]
    expected = (each.sum() + (VERDICT_WEIGHT - 1) * verdicts.sum()) / (len(each) + (VERDICT_WEIGHT - 1) * len(verdicts))
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert not torch.allclose(loss, each.mean(), rtol=1e-4)
