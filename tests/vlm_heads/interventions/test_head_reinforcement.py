"""VHR's options, each against an independent account of what it should do."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tests.support.compare import distance, rounding
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import Hook, HookedVhr
from vlm_heads import Attachment, HeadProfile, HeadReinforcement, attach, errors
from vlm_heads.families import examine
from vlm_heads.toolkit.layer_sets import Layers

LAYERS = (0, 1, 2)


def _chosen(run: Attachment) -> dict[int, list[int]]:
    return run.receipt.interventions[0].heads()


def test_a_worked_example(tiny: Build) -> None:
    """One layer, four heads: the head outputs, their distances, the median and the doubled heads, step by step."""
    model = tiny("llava")
    seen: dict[str, Tensor] = {}
    projection = model.projections()[1]

    def record(name: str) -> RemovableHandle:
        return projection.register_forward_pre_hook(lambda _, args: seen.__setitem__(name, args[0].clone()))

    for name, inputs in (("blind", {"input_ids": model.text}), ("sighted", model.inputs)):
        handle = record(name)
        with torch.no_grad():
            model.model(**inputs)
        handle.remove()
    moved = (seen["sighted"] - seen["blind"][:, -1:]).view(1, -1, 4, 16)[0, -1].norm(dim=-1)
    second_smallest = moved.sort().values[1]  # the lower median of four
    expected = seen["sighted"].view(1, -1, 4, 16) * torch.where(moved > second_smallest, 2.0, 1.0)[:, None]

    with torch.no_grad(), attach(model.model, [HeadReinforcement(layers=[1], outlier_filter=False)]):
        handles = [projection.register_forward_pre_hook(lambda _, args: seen.__setitem__("got", args[0].clone()))]
        model.model(**model.inputs)
    handles[0].remove()
    assert distance(seen["got"], expected.view_as(seen["got"])) < rounding(torch.float32, terms=16)


def test_a_wrong_choice_of_heads_would_be_seen(llava: Tiny) -> None:
    """The comparison with hooks can fail: one layer fewer is far outside its tolerance."""
    with HookedVhr(llava, gain=2.0, layers={0, 1}).hooked():
        expected = llava.generate(steps=1)
    with attach(llava.model, [HeadReinforcement(layers="all")]):
        got = llava.generate(steps=1)
    assert distance(expected.logits, got.logits) > 1e-3


@pytest.mark.parametrize("outlier_filter", [True, False])
@pytest.mark.parametrize("gain", [0.0, 0.5, 1.5, 3.0])
def test_gain_and_filter_equal_hooks(gain: float, outlier_filter: bool, llava: Tiny) -> None:
    with HookedVhr(llava, gain=gain, layers={*LAYERS}, outlier_filter=outlier_filter).hooked():
        expected = llava.generate()
    with attach(llava.model, [HeadReinforcement(gain=gain, layers="all", outlier_filter=outlier_filter)]):
        assert distance(expected, llava.generate()) < CLOSE


@pytest.mark.parametrize(("layers", "expected"), [("paper", (1, 2)), ([2], (2,)), ("last-half", (1, 2)), (-1, (2,))])
def test_only_the_layers_asked_for_are_touched(layers: Layers, expected: tuple[int, ...], llava: Tiny) -> None:
    with HookedVhr(llava, gain=2.0, layers={*expected}).hooked():
        hooked = llava.generate()
    with attach(llava.model, [HeadReinforcement(layers=layers)]) as run:
        got = llava.generate()
    assert run.receipt.interventions[0].layers == expected
    assert distance(hooked, got) < CLOSE


@pytest.mark.parametrize(("family_name", "depth", "expected"), [
    ("llava", 32, {1, *range(18, 32)}), ("llava", 40, {1, *range(22, 40)}), ("instructblip", 32, {*range(14, 32)}),
])  # fmt: skip
def test_layers_of_the_paper(family_name: str, depth: int, expected: set[int], tiny: Build) -> None:
    anatomy = examine(tiny(family_name).model)
    deep = type(anatomy)(
        **{**vars(anatomy), "layers": (anatomy.layers[0],) * depth, "attentions": dict.fromkeys(range(depth))}
    )
    assert HeadReinforcement().layers_in(deep) == expected


def _blind_and_sighted(
    model: Tiny, chosen: dict[int, Tensor], gain: float
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Return head outputs `[Hq, D]` at the last position of both streams, each reinforced with the sets given."""
    found: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
    for stream, inputs in zip(found, ({"input_ids": model.text}, model.inputs), strict=True):

        def hook(layer: int, stream: dict[int, Tensor] = stream) -> Hook:
            def scale(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                heads = args[0].view(*args[0].shape[:2], 4, -1)
                stream[layer] = heads[0, -1].clone()
                factor = torch.where(chosen[layer], gain, 1.0) if layer in chosen else torch.ones(4)
                return ((heads * factor[:, None]).view_as(args[0]),)

            return scale

        handles = [one.register_forward_pre_hook(hook(layer)) for layer, one in model.projections().items()]
        with torch.no_grad():
            model.model(**inputs)
        for handle in handles:
            handle.remove()
    return found


def _above_median(moved: Tensor) -> Tensor:
    return moved > moved.sort().values[1]


def test_lockstep_reinforces_both_streams_with_the_same_sets(llava: Tiny) -> None:
    """Layer by layer: run both streams with the sets chosen so far, choose the next layer's set, start again."""
    sets: dict[int, Tensor] = {}
    for layer in LAYERS:
        blind, sighted = _blind_and_sighted(llava, sets, gain=3.0)
        sets[layer] = _above_median((sighted[layer] - blind[layer]).norm(dim=-1))
    with (
        torch.no_grad(),
        attach(llava.model, [HeadReinforcement(gain=3.0, layers="all", blind="lockstep", outlier_filter=False)]) as run,
    ):
        llava.model(**llava.inputs)
    assert _chosen(run) == {layer: [int(head) for head in chosen] for layer, chosen in sets.items()}
    assert run.receipt.blind_passes == 1


def test_lockstep_walks_through_layers_that_are_left_alone(llava: Tiny) -> None:
    sets: dict[int, Tensor] = {}
    for layer in (0, 2):
        blind, sighted = _blind_and_sighted(llava, sets, gain=3.0)
        sets[layer] = _above_median((sighted[layer] - blind[layer]).norm(dim=-1))
    with (
        torch.no_grad(),
        attach(
            llava.model, [HeadReinforcement(gain=3.0, layers=[0, 2], blind="lockstep", outlier_filter=False)]
        ) as run,
    ):
        llava.model(**llava.inputs)
    assert _chosen(run) == {layer: [int(head) for head in chosen] for layer, chosen in sets.items()}


def test_two_passes_score_both_streams_unreinforced(llava: Tiny) -> None:
    blind, sighted = _blind_and_sighted(llava, {}, gain=1.0)
    expected = {layer: _above_median((sighted[layer] - blind[layer]).norm(dim=-1)) for layer in LAYERS}
    with (
        torch.no_grad(),
        attach(llava.model, [HeadReinforcement(gain=3.0, layers="all", blind="two-pass", outlier_filter=False)]) as run,
    ):
        llava.generate()
    assert _chosen(run) == {layer: [int(head) for head in chosen] for layer, chosen in expected.items()}
    assert (run.receipt.blind_passes, run.receipt.extra_passes) == (1, 1)


def test_the_three_ways_differ_where_the_paper_is_silent(tiny: Build) -> None:
    def heads(blind: str, seed: int) -> dict[int, list[int]]:
        model = tiny("llava", seed=seed)
        with attach(model.model, [HeadReinforcement(gain=6.0, layers="all", blind=blind)]) as run:
            model.generate(steps=1)
        return _chosen(run)

    seeds = range(4)
    assert any(heads("plain", seed) != heads("lockstep", seed) for seed in seeds)
    assert any(heads("plain", seed) != heads("two-pass", seed) for seed in seeds)


def test_a_profile_fixes_the_heads_for_every_sample(llava: Tiny) -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 2.0, 3.0]])
    profile = HeadProfile(scores)
    expected = {0: [1, 1, 0, 0], 1: [0, 0, 1, 1], 2: [0, 1, 0, 1]}
    for heads in ("fixed", "vhd"):
        with attach(llava.model, [HeadReinforcement(layers="all", heads=heads)], profile=profile) as run:
            llava.generate()
        assert _chosen(run) == expected
        assert run.receipt.blind_passes == 0
    with attach(llava.model, [HeadReinforcement(layers="all", heads="bottom")], profile=profile) as run:
        llava.generate()
    assert _chosen(run) == {layer: [1 - head for head in heads] for layer, heads in expected.items()}


def test_fixed_heads_need_a_profile(llava: Tiny) -> None:
    with pytest.raises(errors.BadOption, match="profile"), attach(llava.model, [HeadReinforcement(heads="fixed")]):
        raise AssertionError("nothing may run")


def test_bottom_heads_are_the_others(llava: Tiny) -> None:
    found = {}
    for heads in ("vhd", "bottom"):
        with attach(llava.model, [HeadReinforcement(layers=[0], heads=heads, outlier_filter=False)]) as run:
            llava.generate(steps=1)
        found[heads] = _chosen(run)[0]
    assert [1 - head for head in found["vhd"]] == found["bottom"]


def test_random_heads_are_half_and_cost_no_image_free_pass(llava: Tiny) -> None:
    drawn = []
    for seed in range(6):
        with attach(llava.model, [HeadReinforcement(layers="all", heads="random", seed=seed)]) as run:
            llava.generate(steps=1)
        assert all(sum(heads) == 2 for heads in _chosen(run).values())
        assert run.receipt.blind_passes == 0
        drawn.append(str(_chosen(run)))
    assert len(set(drawn)) > 1


def test_two_interventions_multiply(llava: Tiny) -> None:
    """Gains 2 and 1.5 on the same heads are gain 3, with one image-free pass for both."""
    profile = HeadProfile(torch.rand(3, 4))
    with attach(llava.model, [HeadReinforcement(gain=3.0, layers="all")], profile=profile):
        expected = llava.generate()
    both = [HeadReinforcement(gain=2.0, layers="all"), HeadReinforcement(gain=1.5, layers="all")]
    with attach(llava.model, both, profile=profile):
        assert distance(expected, llava.generate()) < CLOSE
    with attach(llava.model, both) as run:
        llava.generate()
    assert run.receipt.blind_passes == 1
    assert len(run.receipt.interventions) == 2


def test_the_receipt_can_be_read(llava: Tiny) -> None:
    with attach(llava.model, [HeadReinforcement()]) as run:
        llava.generate(steps=3)
    text = str(run.receipt)
    assert "1 generation, 3 steps changed, 1 image-free pass" in text
    assert "vhr: layers 1-2, 2.0 of 4 heads a layer, 1 row" in text
    written = run.receipt.to_dict()
    assert written["interventions"][0]["layers"] == [1, 2]
    assert written["interventions"][0]["rows"] == 1
    assert written["steps"] == 3
