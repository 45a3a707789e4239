"""ASCD against two streams with other logits written out in float64."""

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import Tiny
from tests.support.stream_oracle import Rule, Stream, Whole, padded, plainly, streamed, weighed
from tests.vlm_heads.contrasts.conftest import CLOSE_SCORES
from vlm_heads import HeadReinforcement, attach
from vlm_heads.contrasts.steered_attention import SteeredAttention
from vlm_heads.errors import BadOption


def looking_more(strength: float, *heads: tuple[int, int]) -> Rule:
    """Return the stream whose text heads look at the picture more."""

    def rule(call: Whole) -> Tensor:
        for layer, head in heads:
            if layer == call.layer:
                for row in call.predicting:
                    call.logits[head, row, call.image] += strength * call.logits[head, row, call.image].abs()
        return plainly(call)

    return rule


def looking_less(strength: float, count: int) -> Rule:
    """Return the stream whose heads look less at their `count` highest image keys."""

    def rule(call: Whole) -> Tensor:
        image = call.image.nonzero()[:, 0]
        for row in call.predicting:
            for logits in call.logits[:, row]:
                highest = image[logits[image].topk(count).indices]
                logits[highest] -= strength * logits[highest].abs()
        return plainly(call)

    return rule


def scores(model: Tiny, contrast: SteeredAttention, others: list[Rule], bound: float) -> None:
    """Fail unless scores are those of both streams, tokens excluded by the good one's probabilities."""
    torch.nn.init.zeros_(model.model.get_output_embeddings().weight[150:151])
    inputs = padded()
    with attach(model.model, contrast) as run:
        got = model.model.generate(
            **inputs, max_new_tokens=5, do_sample=False, eos_token_id=None, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
    answer = got.sequences[:, -5:]
    for step in range(5):
        plain, good, bad = (streamed(model.model, inputs, answer[:, :step], Stream(one)) for one in (plainly, *others))
        expected = weighed([good, bad], (1.5, -0.5), bound)
        assert distance(expected, got.scores[step].double()) < CLOSE_SCORES
        assert min(distance(plain, good), distance(plain, bad)) > 1e-4
    assert run.receipt.second_stream is not None
    assert run.receipt.second_stream.in_one_pass == 4


def test_listed_heads_look_more_and_all_heads_less(model: Tiny) -> None:
    """A half of four image keys is two."""
    contrast = SteeredAttention(positive=2.0, negative=1.5, critical=0.5, heads=((0, 1), (2, 3)), alpha=0.5, bound=0.5)
    scores(model, contrast, [looking_more(2.0, (0, 1), (2, 3)), looking_less(1.5, 2)], 0.5)


def test_each_prompts_text_heads_look_at_its_picture_least(model: Tiny) -> None:
    """A sixth of 12 heads is two. A tenth of four image keys is none, and one is damped."""
    mass = torch.zeros(3, 4, dtype=torch.float64)
    own: dict[int, tuple[tuple[int, int], ...]] = {}

    def look(call: Whole) -> Tensor:
        mass[call.layer] = call.logits.softmax(-1)[:, -1, call.image].sum(-1)
        return plainly(call)

    inputs = padded()
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        streamed(model.model, one, torch.empty(1, 0).long(), Stream(look))
        length = int(inputs["attention_mask"][row].sum())
        own[length] = tuple((int(at) // 4, int(at) % 4) for at in mass.flatten().argsort()[:2])
    contrast = SteeredAttention(positive=3.0, share=1 / 6, alpha=0.5)
    scores(model, contrast, [lambda call: looking_more(3.0, *own[call.prompt])(call), looking_less(1.0, 1)], 0.1)


def test_what_cannot_be_done_is_refused_by_name(llava: Tiny) -> None:
    with pytest.raises(BadOption, match="vhr acts in the first alone"):
        attach(llava.model, HeadReinforcement(), SteeredAttention())
    with pytest.raises(BadOption, match="layer 9, head 0"):
        attach(llava.model, SteeredAttention(heads=((9, 0),)))
