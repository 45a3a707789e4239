"""RouteGain against attention written out in float64, and who is chosen."""

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import CLOSE, Tiny
from tests.support.oracle import Oracle, Written
from vlm_heads import VLM, HeadProfile, attach, parse_intervention
from vlm_heads.errors import BadOption
from vlm_heads.interventions.route_gain import RouteGain
from vlm_heads.models.planted import COLOURS, PRIOR_WORD, planted_image


def _routed(call: Written, chosen: Tensor, image: float, generated: float, first: int) -> Tensor:
    """Return heads whose keys contribute more or less in rows from `first` on."""
    weights = call.logits.softmax(-1)
    factor = torch.ones_like(weights)
    factor[:, first:] = torch.where(call.image, image, torch.where(call.generated, generated, 1.0))
    return torch.where(chosen[:, None, None], weights * factor, weights) @ call.value


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("rows", ["last", "after-image", "all"])
def test_all_heads_equal_written_out_attention(rows: str, backend: str, model: Tiny, oracle: Oracle) -> None:
    everyone = torch.ones(4, dtype=torch.bool)

    def rule(call: Written) -> Tensor:
        first = {"last": call.logits.shape[1] - 1, "after-image": call.after_image, "all": 0}[rows]
        return _routed(call, everyone, 2.5, 0.4, first)

    expected = oracle.generate(rule)
    with attach(
        model.model, [RouteGain(image=2.5, generated=0.4, heads="all", layers="all", rows=rows)], backend=backend
    ):
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-2  # empty otherwise


@pytest.mark.parametrize(("slope", "shares"), [("flat", [1, 1]), ("rising", [1 / 2, 1]), ("falling", [1, 1 / 2])])
def test_the_gains_go_over_the_chosen_layers(slope: str, shares: list[float], model: Tiny, oracle: Oracle) -> None:
    everyone, share = torch.ones(4, dtype=torch.bool), dict(zip((0, 2), shares, strict=True))

    def rule(call: Written) -> Tensor:
        image, generated = (1 + share.get(call.layer, 0.0) * (gain - 1) for gain in (3.0, 0.2))
        return _routed(call, everyone, image, generated, call.logits.shape[1] - 1)

    expected = oracle.generate(rule)
    with attach(model.model, f"route:image=3,generated=0.2,heads=all,layers=0+2,slope={slope}") as run:
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert run.receipt.interventions[0].layers == (0, 2)


@pytest.mark.parametrize("heads", ["vhd", "mass", "bottom"])
def test_the_choice_is_made_at_prefill_and_frozen(heads: str, model: Tiny, oracle: Oracle) -> None:
    chosen: dict[int, Tensor] = {}
    blind = oracle.look_without_image()

    def choose(call: Written) -> Tensor:
        output = (call.logits.softmax(-1) @ call.value)[:, -1]
        if heads == "mass":
            score = call.logits.softmax(-1)[:, -1, call.image].sum(-1)
        else:
            score = (output - blind[call.layer]).norm(dim=-1)
        # of four heads the lower median is the second smallest: two lie above it
        return score > score.sort().values[1] if heads != "bottom" else score < score.sort().values[2]

    def rule(call: Written) -> Tensor:
        if call.prefill:
            chosen[call.layer] = choose(call)
        return _routed(call, chosen[call.layer], 3.0, 1.0, call.logits.shape[1] - 1)

    expected = oracle.generate(rule)
    with attach(model.model, [RouteGain(image=3.0, heads=heads, layers="all", outlier_filter=False)]) as run:
        got = model.generate()
    assert distance(expected, got) < CLOSE
    counts = {layer: heads.int().tolist() for layer, heads in chosen.items()}
    assert run.receipt.interventions[0].heads() == counts


def test_fixed_heads_come_from_the_profile(model: Tiny) -> None:
    profile = HeadProfile(scores=torch.tensor([[4.0, 1.0, 3.0, 2.0]] * 3))
    with attach(model.model, [RouteGain(heads="fixed", layers="all")], profile=profile) as run:
        model.generate()
    assert run.receipt.interventions[0].heads() == {0: [1, 0, 1, 0], 1: [1, 0, 1, 0], 2: [1, 0, 1, 0]}
    assert run.receipt.blind_passes == 0
    with pytest.raises(BadOption, match="profile"), attach(model.model, [RouteGain(heads="fixed")]):
        pass


def test_default_layers_are_the_last_half_and_damping_alone_acts(model: Tiny) -> None:
    plain = model.generate()
    with attach(model.model, [RouteGain(image=1.0, generated=0.0, heads="all")]) as run:
        got = model.generate()
    assert run.receipt.interventions[0].layers == (1, 2)
    assert distance(plain.logits[0], got.logits[0]) < CLOSE  # nothing is generated yet at the first token
    assert distance(plain.logits[1], got.logits[1]) > 1e-3


@pytest.mark.parametrize(
    "wrong", [{"image": -1.0}, {"generated": float("nan")}, {"heads": "best"}, {"rows": "some"}, {"slope": "steep"}]
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadOption, match=next(iter(wrong))):
        RouteGain(**wrong)


PLANTED: dict[str, bool] = {  # options -> whether the picture's word wins over the prior's
    "route": True,  # votes: image 2.0 against 1.6
    "route:heads=mass": True,
    "route:heads=all": True,  # the heads of the prior have no image route to gain
    "route:image=1.5": False,  # 1.5 against 1.6
    "route:image=0.5": False,
    "route:heads=bottom": False,
    "route:heads=random": False,  # one of the two vision heads of a layer at most, with this seed
    "route:image=3,heads=bottom": False,
}


@pytest.mark.parametrize("words", PLANTED)
def test_the_planted_image_route_is_what_recovers_the_word(words: str) -> None:
    vlm = VLM.from_pretrained("planted")
    for word in COLOURS:
        said = vlm.answer(planted_image(word), interventions=[parse_intervention(words)]).text
        assert said == f"there is a {word if PLANTED[words] else PRIOR_WORD}."
