"""Every scorer on a random model against a plain loop over heads, with its formula written out.

VHD's stands in test_scoring.py.
"""

import copy

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance, rounding
from tests.support.scored import Account, Scored, account, id_of, row_of_word, written
from vlm_heads.models.prompts import model_inputs
from vlm_heads.profiles import MarkedAnswer, attribute_heads
from vlm_heads.scorers import Example, parse_scorer

HEADS = [(layer, head) for layer in range(4) for head in range(4)]
CLOSE = rounding(torch.float32, terms=1024, size=4.0)


def _score(word: str, scored: Scored, samples: list[Example], batch_size: int = 8) -> Tensor:
    return parse_scorer(word).score(*scored, samples, batch_size=batch_size).scores


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_image_mass_is_the_weight_of_the_last_row_on_the_picture(
    batch_size: int, scored: Scored, asked: list[Example]
) -> None:
    """Prompts of different lengths are padded on the left, which must not count."""
    expected = torch.zeros(4, 4)
    for seen in (account(scored, example) for example in asked):
        for layer, head in HEADS:
            expected[layer, head] += seen.weights[layer][head, -1, seen.image].sum() / len(asked)
    assert distance(_score("image-mass", scored, asked, batch_size), expected) < CLOSE
    assert expected.std() > 0.01


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_image_route_is_the_norm_of_the_pictures_part(batch_size: int, scored: Scored, asked: list[Example]) -> None:
    expected = torch.zeros(4, 4)
    for seen in (account(scored, example) for example in asked):
        for layer, head in HEADS:
            part = seen.weights[layer][head, -1, seen.image] @ seen.values[layer][head, seen.image]
            expected[layer, head] += part.norm() / len(asked)
    assert distance(_score("image-route", scored, asked, batch_size), expected) < CLOSE
    assert expected.std() > 0.01


def _direct(scored: Scored, seen: Account, column: int, towards: Tensor) -> Tensor:
    """Return `[L, Hq]`: < W_O A, g * towards / rms > with the last layer's rms at the column."""
    norm = scored[0].model.language_model.norm
    rms = (seen.last[column].square().mean() + norm.variance_epsilon).sqrt()
    direction = norm.weight.detach() * towards / rms
    found = torch.zeros(4, 4)
    for layer, head in HEADS:
        found[layer, head] = written(scored, layer, head, seen.heads[layer][column, head]) @ direction
    return found


def test_logits_of_the_models_own_word(scored: Scored, asked: list[Example]) -> None:
    mean, expected = scored[0].lm_head.weight.detach().mean(dim=0), torch.zeros(4, 4)
    for seen in (account(scored, example) for example in asked):
        said = int(seen.logits[-1].argmax())
        expected += _direct(scored, seen, -1, row_of_word(scored, said) - mean) / len(asked)
    assert distance(_score("logits", scored, asked), expected) < CLOSE
    assert expected.std() > 0.01


def test_logits_of_true_words_less_those_of_invented_ones(scored: Scored, judged: list[Example]) -> None:
    mean, sums = scored[0].lm_head.weight.detach().mean(dim=0), {True: torch.zeros(4, 4), False: torch.zeros(4, 4)}
    for example in judged:
        seen, (mention,) = account(scored, example), example.mentions
        word = id_of(scored, mention.word)
        column = int((seen.ids[seen.begin :] == word).nonzero()[0]) + seen.begin - 1  # it predicts the word
        sums[mention.shown] += _direct(scored, seen, column, row_of_word(scored, word) - mean) / 4
    assert distance(_score("logits", scored, judged), sums[True] - sums[False]) < CLOSE


def test_negative_heads_are_the_mean_over_both_kinds_of_question(scored: Scored, questions: list[Example]) -> None:
    """Two questions are about present objects and one about an absent one; the kinds count the same."""
    towards = row_of_word(scored, id_of(scored, "No")) - row_of_word(scored, id_of(scored, "Yes"))
    one, two, absent = (_direct(scored, account(scored, example), -1, towards) for example in questions)
    expected = ((one + two) / 2 + absent) / 2
    assert distance(_score("negative", scored, questions), expected) < CLOSE
    assert distance((one + two + absent) / 3, expected) > 10 * CLOSE  # the plain mean would be seen


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_ablation_is_what_a_word_loses_without_the_heads_columns(
    at_once: int, scored: Scored, judged: list[Example]
) -> None:
    """The reference takes the head's columns out of the output projection."""
    model, processor = scored
    examples = [judged[0], judged[-1]]
    sums = {}
    for example in examples:
        seen, (mention,) = account(scored, example), example.mentions
        word = id_of(scored, mention.word)
        column = int((seen.ids[seen.begin :] == word).nonzero()[0]) + seen.begin - 1
        lost = torch.zeros(4, 4)
        for layer, head in HEADS:
            changed = copy.deepcopy(model)
            with torch.no_grad():
                weight = changed.model.language_model.layers[layer].self_attn.o_proj.weight
                weight[:, 16 * head : 16 * head + 16] = 0.0
            without = account((changed, processor), example)
            before, after = (one.logits[column].log_softmax(-1)[word] for one in (seen, without))
            lost[layer, head] = before - after
        sums[mention.shown] = lost
    found = _score(f"ablation:at_once={at_once}", scored, examples)
    assert distance(found, sums[True] - sums[False]) < CLOSE
    assert sums[True].std() > 0.01


def test_ablation_on_pictures_alone_is_about_the_models_own_word(scored: Scored, asked: list[Example]) -> None:
    model, processor = scored
    seen, changed = account(scored, asked[0]), copy.deepcopy(model)
    with torch.no_grad():
        changed.model.language_model.layers[1].self_attn.o_proj.weight[:, 16:32] *= 2.0
    doubled = account((changed, processor), asked[0])
    said = int(seen.logits[-1].argmax())
    expected = seen.logits[-1].log_softmax(-1)[said] - doubled.logits[-1].log_softmax(-1)[said]
    assert _score("ablation:gain=2", scored, asked[:1])[1, 1] == pytest.approx(float(expected), abs=CLOSE)


@pytest.mark.parametrize("kind", ["captions", "questions"])
def test_allpath_format_adds_each_head_alone_to_what_enters_its_layer(
    kind: str, scored: Scored, judged: list[Example], questions: list[Example]
) -> None:
    """True tokens of captions are the words of what is shown, those of questions the right answers."""
    terms: dict[bool, list[Tensor]] = {True: [], False: []}
    for example in judged if kind == "captions" else questions:
        seen, (mention,) = account(scored, example), example.mentions
        if kind == "captions":
            word = id_of(scored, mention.word)
            column = int((seen.ids[seen.begin :] == word).nonzero()[0]) + seen.begin - 1
            decisions = [(column, word, mention.shown)]
        else:
            yes, no = (id_of(scored, word) for word in ("Yes", "No"))
            decisions = [(-1, yes, bool(example.truth)), (-1, no, not example.truth)]
        for column, token, right in decisions:
            found = torch.zeros(4, 4)
            for layer, head in HEADS:
                before = seen.entering[layer][column]
                after = before + written(scored, layer, head, seen.heads[layer][column, head])
                one, other = (scored[0].lm_head(state).detach().log_softmax(-1)[token] for state in (before, after))
                found[layer, head] = other - one
            terms[right].append(found)
    expected = torch.stack(terms[True]).mean(dim=0) - torch.stack(terms[False]).mean(dim=0)
    samples = judged if kind == "captions" else questions
    assert distance(_score("allpath-format", scored, samples), expected) < CLOSE
    assert expected.std() > 0.01


@pytest.mark.parametrize("kind", ["captions", "questions"])
def test_allpath_image_is_attention_to_the_object_less_attention_for_what_is_absent(
    kind: str, scored: Scored, judged: list[Example], questions: list[Example]
) -> None:
    """An object is named in the answer, or in the question that asks about it."""
    samples = judged if kind == "captions" else questions
    terms: dict[bool, list[Tensor]] = {True: [], False: []}
    for example in samples:
        seen, (mention,) = account(scored, example), example.mentions
        row = int((seen.ids == id_of(scored, mention.word)).nonzero()[-1])
        keys = seen.image.nonzero()[:, 0]
        keys = keys[list(mention.places)] if mention.shown else keys
        found = torch.stack([weights[:, row, keys].sum(dim=-1) for weights in seen.weights])
        terms[mention.shown].append(found)
    expected = torch.stack(terms[True]).mean(dim=0) - torch.stack(terms[False]).mean(dim=0)
    assert distance(_score("allpath-image", scored, samples), expected) < CLOSE
    assert expected.std() > 0.01


@pytest.mark.parametrize("said", ["own", "given"])
def test_copy_counts_strongest_keys_that_are_the_word_copied(said: str, scored: Scored, asked: list[Example]) -> None:
    text, prompt = "car dog a bird", "please see car dog a bird"
    model, processor = scored
    words = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if said == "own":  # a random model copies nothing: let the output layer say whatever is written next
        model = copy.deepcopy(model)
        _let_it_copy(model, processor, Example(asked[0].image, prompt, text))
        scored = model, processor
    expected = torch.zeros(4, 4)
    for example in asked:
        seen = account(scored, Example(example.image, prompt, text))
        begin = next(at for at in range(seen.begin) if seen.ids[at : at + 4].tolist() == words)
        for layer, head in HEADS:
            for step, token in enumerate(words):
                row = seen.begin - 1 + step
                key = int(seen.weights[layer][head, row].argmax())
                says = said == "given" or int(seen.logits[row].argmax()) == token
                hit = begin <= key < begin + 4 and int(seen.ids[key]) == token
                expected[layer, head] += says * hit / len(words) / len(asked)
    word = f'copy:text="{text}",ask="please see",said={said}'
    assert distance(_score(word, scored, asked), expected) < CLOSE
    assert expected.max() > 0


def _let_it_copy(model: torch.nn.Module, processor: object, example: Example) -> None:
    """Turn the output layer's rows so that the rows before each word say that word, on these pictures."""
    seen = account((model, processor), example)  # type: ignore[arg-type]  # a model and its processor
    norm, output = model.model.language_model.norm, model.lm_head  # type: ignore[union-attr]
    with torch.no_grad():
        for column in range(seen.begin - 1, len(seen.ids) - 1):
            output.weight[seen.ids[column + 1]] += 5.0 * norm(seen.last[column])  # type: ignore[operator, union-attr]


def test_text_bound_heads_are_those_of_attribute_heads(scored: Scored, judged: list[Example]) -> None:
    """`attribute_heads` itself is held against finite differences."""
    model, processor = scored
    answers = []
    for example in judged:
        inputs = model_inputs(model, processor, [example.image], [example.prompt])  # type: ignore[list-item]
        ids = torch.tensor(processor.tokenizer(example.answer, add_special_tokens=False)["input_ids"])
        shown = example.mentions[0].shown
        answers.append(MarkedAnswer(inputs, ids, invented=[] if shown else [3], grounded=[3] if shown else []))
    expected = attribute_heads(model, answers)
    assert distance(_score("adhh", scored, judged), expected) < CLOSE
    assert expected.abs().max() > 1e-3
