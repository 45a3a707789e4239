"""Whether a language model is still itself: perplexity against its definition, and a question without a picture."""

import math

import pytest
import torch
from vlm_evals.scenes.embedded import mini
from vlm_evals.scenes.small.chat import build_processor, encode
from vlm_evals.scenes.small.itself import beside_base, is_chat_of_base, neutral_text, perplexity
from vlm_evals.scenes.small.model import assemble

from tests.support.small_base import learnt_weights, tiny_base
from vlm_heads import VLM


def test_perplexity_is_its_definition():
    base = tiny_base()
    ids = torch.tensor([encode(base.tokenizer, "a dog and a cat")])
    with torch.no_grad():
        chances = base.model(ids).logits.softmax(-1)[0]
    each = [float(chances[at, token]) for at, token in enumerate(ids[0, 1:].tolist())]
    expected = math.exp(-sum(map(math.log, each)) / len(each))
    assert perplexity(base.model, base.tokenizer, "a dog and a cat") == pytest.approx(expected, rel=1e-4)


def test_the_neutral_text_speaks_of_nothing_in_the_world():
    text = neutral_text()
    assert len(text.split("\n\n")) == 6
    assert "image" not in text
    assert "picture" not in text


def test_a_model_that_learnt_nothing_is_its_base():
    base = tiny_base()
    processor = build_processor(base.tokenizer)
    same = beside_base(assemble(tiny_base(), processor, learnt_weights(0.0)), processor.tokenizer, base)
    assert same.ratio == pytest.approx(1.0, rel=1e-5)
    assert same.answer == same.base_answer
    other = beside_base(assemble(tiny_base(), processor, learnt_weights(0.3)), processor.tokenizer, base)
    assert other.ratio != pytest.approx(1.0, rel=1e-2)


def test_mini_has_no_base():
    assert is_chat_of_base(build_processor(tiny_base().tokenizer).tokenizer)
    assert not is_chat_of_base(VLM.from_pretrained(str(mini().folder()), device="cpu").processor.tokenizer)
