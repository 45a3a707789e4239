"""Training rows of `small`: what they say, and that each slot sees its picture and nothing of its neighbours."""

import random
from dataclasses import replace

import pytest
import torch
from vlm_evals.scenes import text
from vlm_evals.scenes.batches import IGNORED, draw_scene
from vlm_evals.scenes.small.chat import build_processor, encode
from vlm_evals.scenes.small.learner import new_learner
from vlm_evals.scenes.small.recipe import EASY_DIET, LAST_DIET, TIDY_DIET, SmallRecipe
from vlm_evals.scenes.small.rows import build_batch, slots

from tests.support.small_base import RECIPE, tiny_parts, tiny_tokenizer


@pytest.fixture(scope="module")
def processor():
    return build_processor(tiny_tokenizer())


def pieces(batch):
    """Yield (row, start of the row, start and end of a slot)."""
    row_start = 0
    for row, (prefix, *lengths) in enumerate(batch.layout):
        start = row_start + prefix
        for length in lengths:
            yield row, row_start, start, start + length
            start += length
        row_start = start


def test_a_row_says_a_caption_a_list_and_questions(processor):
    scene = draw_scene(TIDY_DIET.worlds, 0, 0)
    said = slots(scene, TIDY_DIET, random.Random(0), processor)
    decoded = [(processor.decode(prompt), processor.decode(answer)) for prompt, answer, _ in said]
    assert decoded[0][0].strip().split("<|im_end|>")[0] in text.DESCRIBE_PROMPTS
    assert decoded[1][0] == f"\n{text.LIST}<|im_end|>\n<|im_start|>assistant\n"
    assert [answer for _, answer in decoded[2:]].count("Yes.<|im_end|>") == 3
    assert len(decoded) == 8
    assert all(answer.endswith("<|im_end|>") for _, answer in decoded)


def test_every_part_of_the_training_asks_about_absent_objects(processor):
    for diet in (EASY_DIET, TIDY_DIET, LAST_DIET):
        answers = [
            answer
            for index in range(8)
            for _, answer in text.questions(draw_scene(diet.worlds, 0, index), diet.questions, random.Random(index))
        ]
        assert answers.count("No.") == answers.count("Yes.") > 0


def test_labels_are_the_answers_moved_by_one(processor):
    batch = build_batch(TIDY_DIET, processor, 5, 0, 2)
    end = encode(processor.tokenizer, "<|im_end|>")[0]
    for _, _, start, stop in pieces(batch):
        labels, ids = batch.labels[start:stop], batch.ids[start:stop]
        answered = (labels != IGNORED).nonzero().flatten()
        assert torch.equal(labels[answered], ids[answered + 1])
        assert labels[answered[-1]] == end
        assert labels[-1] == IGNORED
    assert ((batch.ids == processor.image_token_id).sum()) == 2 * 49
    assert len(batch.ids) == sum(map(sum, batch.layout))


def test_rows_depend_on_seed_and_number_alone(processor):
    both, second = build_batch(TIDY_DIET, processor, 5, 0, 2), build_batch(TIDY_DIET, processor, 5, 1, 1)
    cut = sum(both.layout[0])
    assert torch.equal(both.ids[cut:], second.ids)
    assert torch.equal(both.pixels[1:], second.pixels)
    assert not torch.equal(build_batch(TIDY_DIET, processor, 6, 1, 1).pixels, second.pixels)


def test_a_slot_reads_as_if_it_stood_alone_after_its_picture(processor):
    """The attention of training against plain causal attention on prefix and slot."""
    learner = new_learner(RECIPE, *tiny_parts())
    decoder = learner.base.model.model
    batch = build_batch(replace(TIDY_DIET, questions=2), processor, 5, 0, 2)
    embeddings = torch.randn(len(batch.ids), 48)
    with torch.no_grad():
        together = decoder(
            inputs_embeds=embeddings[None], attention_mask=None, position_ids=batch.positions[None],
            use_cache=False, layout=batch.layout,
        ).last_hidden_state[0]  # fmt: skip
        learner.base.model.set_attn_implementation("eager")
        for row, row_start, start, stop in pieces(batch):
            prefix = embeddings[row_start : row_start + batch.layout[row][0]]
            alone = decoder(inputs_embeds=torch.cat([prefix, embeddings[start:stop]])[None], use_cache=False)
            assert torch.allclose(together[start:stop], alone.last_hidden_state[0, len(prefix) :], atol=1e-5)
        neighbour = torch.cat([embeddings[: row_start + 55], embeddings[start:stop]])
        wrong = decoder(inputs_embeds=neighbour[None], use_cache=False).last_hidden_state[0, -(stop - start) :]
    assert not torch.allclose(together[start:stop], wrong, atol=1e-2)


def test_the_diet_goes_from_easy_to_unfaithful():
    recipe = SmallRecipe(seed=0, rows=800)
    assert [recipe.diet(step) for step in (0, 19, 20, 59, 60, 99)] == [
        EASY_DIET, EASY_DIET, TIDY_DIET, TIDY_DIET, LAST_DIET, LAST_DIET,
    ]  # fmt: skip
    assert recipe.rate(0) == pytest.approx(1 / 40)
    assert recipe.rate(50) == pytest.approx(0.5)
    assert recipe.rate(99) == pytest.approx(0.03)
