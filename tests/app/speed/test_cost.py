"""The cost card: what is counted is counted right. Times are never held against each other here."""

import math

import pytest
import torch
from vlm_app.speed.cost import Cost, check_costs, few_layers, predict_costs, predicted

from vlm_heads import VLM, HeadReinforcement, ImageBoost, known_interventions
from vlm_heads.families import examine
from vlm_heads.interventions.base import Intervention


@pytest.fixture(scope="module")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


def test_ratios_are_taken_over_plain() -> None:
    one = Cost(
        "vhr", 1, 5, plain_prefill_ms=10.0, plain_token_ms=2.0, extra_prefill_ms=5.0, extra_token_ms=0.5, kept_mb=0
    )
    assert (one.prefill_ratio, one.token_ratio) == (1.5, 1.25)
    assert one.as_row()["token_ratio"] == 1.25


def test_a_smaller_model_has_the_same_shapes(mini: VLM) -> None:
    before = mini.model.config.to_dict()
    small = few_layers(mini, 2)
    anatomy, whole = examine(small.model), examine(mini.model)
    assert (anatomy.depth, whole.depth) == (2, 8)
    assert (anatomy.heads, anatomy.width) == (whole.heads, whole.width)
    assert anatomy.projections[0].weight.shape == whole.projections[0].weight.shape
    assert mini.model.config.to_dict() == before
    assert small.model.dtype is mini.model.dtype
    assert torch.get_default_dtype() is torch.float32


def test_layers_are_counted_and_only_an_image_free_pass_is_added(mini: VLM) -> None:
    plain, edit = {"prefill_least_ms": 10.0, "decode_least_ms": 2.0}, {"prefill": 1.25, "decode": 0.1}
    anatomy = examine(mini.model)

    def of(one: Intervention, **changes: float) -> Cost:
        return predicted("x", one, anatomy, 2, torch.float32, plain=plain, edit=edit | changes, text_pass=3.0)

    vhr, pai = of(HeadReinforcement()), of(ImageBoost(layers=(0, 1)))
    # VHR acts on layer 1 and the last round(14/32 * 8) = 4 of 8: 5 layers, and the pass over the text
    assert (vhr.layers, vhr.extra_prefill_ms, vhr.extra_token_ms) == (5, 3 + 5 * 1.25, 0.5)
    # kept: 8 layers of 2 x 128 numbers without the image, 5 layers of 2 x 8 gains for 5 classes, 4 bytes each
    assert vhr.kept_mb == pytest.approx((8 * 2 * 128 + 5 * 2 * 8 * 5) * 4 / 1e6)
    assert (pai.extra_prefill_ms, pai.extra_token_ms) == (2 * 1.25, 0.2)  # no pass
    assert of(HeadReinforcement(), decode=-1.0).extra_token_ms == 0.0


def test_prediction_and_check_run_on_a_real_model(mini: VLM) -> None:
    costs = predict_costs(mini, (1,), rounds=1)
    assert {one.name for one in costs} == known_interventions().keys() - {
        "adaiat",
        "allpath",
        "reinforced",
        "uac",
        "vti",
    }
    numbers = [getattr(one, name) for one in costs for name in ("extra_prefill_ms", "extra_token_ms", "kept_mb")]
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    vhr = [one for one in costs if one.name == "vhr"]
    (row,) = check_costs(mini, vhr, tokens=2, rounds=1)
    assert row["token_predicted"] == vhr[0].token_ratio
    assert row["within"] == (
        abs(row["prefill_predicted"] / row["prefill_measured"] - 1) <= 0.25
        and abs(row["token_predicted"] / row["token_measured"] - 1) <= 0.25
    )
