"""AdaVBoost against a plain loop without a cache, in float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.support.compare import distance, equal, rounding
from tests.support.families import TEXT, Build, Tiny
from tests.support.plain_loop import Said, Whole, loop
from vlm_heads import RiskBoost, attach, examine
from vlm_heads.errors import UnsupportedGeneration, UnsupportedModel

SHARP = 30.0  # makes token probabilities uneven, and token logits as much larger
CLOSE = rounding(torch.float32, terms=TEXT["hidden_size"], size=SHARP)


def _sharp(tiny: Build, key_heads: int) -> Tiny:
    model = tiny("llava", num_key_value_heads=key_heads)
    with torch.no_grad():
        model.model.get_output_embeddings().weight *= SHARP
    return model


class Risky:
    """The formula. Token logits of all positions are heard at the head, where the loop's last forward left them."""

    def __init__(self, method: RiskBoost, layers: tuple[int, ...]) -> None:
        self.method, self.layers = method, layers
        self.said = torch.empty(0)
        self.risks: list[float] = []

    def risk(self, call: Whole, row: int) -> float:
        """Return the risk of the token that a row said."""
        one = self.method
        p = self.said[row].softmax(-1)
        entropy = -sum(x * math.log(x) for x in p.tolist() if x > 0) / math.log(len(p))
        image = torch.nonzero(call.image)[:, 0].tolist()
        grounded = max(float(self.said[position].softmax(-1)[p.argmax()]) for position in image)
        return min(1.0, (one.share * entropy + (1 - one.share) * (1 - grounded)) / one.scale)

    def __call__(self, call: Whole) -> Tensor:
        logits, one = call.logits.clone(), self.method
        text = ~call.image & (torch.arange(len(call.image)) < call.prompt)
        for row, _ in call.steps if call.layer in self.layers else []:
            self.risks.append(self.risk(call, row - 1))
            m, z = 1 + (one.visual - 1) * self.risks[-1], logits[:, row].clone()
            if one.mode == "code":
                logits[:, row, call.image] = m * z[:, call.image]
                logits[:, row, text] = z[:, text] / one.text
            else:
                logits[:, row, call.image] += (m - 1) * z[:, call.image].abs()
                logits[:, row, text] -= (1 - 1 / one.text) * z[:, text].abs()
        return logits.softmax(-1) @ call.value


def _looped(model: Tiny, rule: Risky) -> Said:
    def hear(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        rule.said = output[0]

    handle = model.model.get_output_embeddings().register_forward_hook(hear)  # the loop's copy keeps it
    found = loop(model, rule, steps=6)
    handle.remove()
    return found


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_a_plain_loop(backend: str, mode: str, key_heads: int, tiny: Build) -> None:
    model = _sharp(tiny, key_heads)
    made = RiskBoost(visual=4.0, text=3.0, share=0.4, scale=0.9, mode=mode, layers=(0, 1))  # type: ignore[arg-type]
    rule = Risky(made, layers=(0, 1))
    expected = _looped(model, rule)
    with attach(model.model, made, backend=backend) as run:
        got = model.generate(steps=6)
    assert distance(expected, got) < CLOSE
    assert run.receipt.interventions[0].layers == (0, 1)
    assert max(rule.risks) - min(rule.risks) > 0.05, rule.risks  # the risk would else be a constant
    plain = model.generate(steps=6)
    assert equal(plain.logits[0], got.logits[0])  # the first token is the model's own
    assert distance(plain.logits[1], got.logits[1]) > 10 * CLOSE


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_the_forms_differ_where_logits_are_negative(mode: str, tiny: Build) -> None:
    """The comparison with the loop sees the other form."""
    model = _sharp(tiny, 4)
    other = "code" if mode == "paper" else "paper"
    made = RiskBoost(visual=4.0, text=3.0, scale=0.9, mode=other, layers=(0, 1))  # type: ignore[arg-type]
    with attach(model.model, made):
        got = model.generate(steps=6)
    rule = Risky(RiskBoost(visual=4.0, text=3.0, scale=0.9, mode=mode), layers=(0, 1))  # type: ignore[arg-type]
    expected = _looped(model, rule)
    assert distance(expected.logits[1], got.logits[1]) > 10 * CLOSE


def test_risk_worked_by_hand(tiny: Build) -> None:
    """Two tokens are as probable as each other, of four: entropy log 2 / log 4 = 1/2; the image says the first at 1/4.

    0.6 * 1/2 + 0.4 * (1 - 1/4) = 0.6; by the scale 0.8 that is 0.75, and by the scale 0.5 it is more than 1.
    """
    logits = torch.tensor([[0.0, 0.0, -1e4, -1e4]])
    grounding = torch.tensor([[0.25, 0.9, 0.1, 0.1]])
    assert float(RiskBoost(share=0.6, scale=0.8)._risk(logits, grounding)) == pytest.approx(0.75)
    assert float(RiskBoost(share=0.6, scale=0.5)._risk(logits, grounding)) == 1.0


def test_the_last_layer_is_read_where_nothing_is_changed(tiny: Build) -> None:
    made = RiskBoost(layers=1)
    assert made.layers_in(examine(tiny("llava").model)) == {1, 2}
    large = examine(tiny("llava", num_hidden_layers=32).model)
    assert RiskBoost().layers_in(large) == {*range(15), 31}


def test_many_image_positions_are_read_in_parts(tiny: Build) -> None:
    """A picture of 100 positions gives what the loop gives, which reads them one by one."""
    model = tiny("llava", side=140)
    with torch.no_grad():
        model.model.get_output_embeddings().weight *= SHARP
    made = RiskBoost(visual=4.0, share=0.0, scale=1.0, layers=(0, 1))
    rule = Risky(made, layers=(0, 1))
    expected = _looped(model, rule)
    with attach(model.model, made):
        assert distance(expected, model.generate(steps=6)) < CLOSE
    assert max(rule.risks) - min(rule.risks) > 0.01


@pytest.mark.parametrize("how", [{"num_beams": 2}, {"use_cache": False}])
def test_what_would_mix_up_rows_or_steps_is_refused(how: dict[str, object], llava: Tiny) -> None:
    with (
        attach(llava.model, [RiskBoost()], allow_idle=True),
        pytest.raises(UnsupportedGeneration, match=r"num_beams|use_cache=True"),
    ):
        llava.generate(**how)


def test_models_that_cannot_be_read_are_refused(tiny: Build) -> None:
    with pytest.raises(UnsupportedModel, match="cross-attention"):
        attach(tiny("mllama").model, RiskBoost())
