"""VAR against attention written out in float64, one worked example, and what it refuses."""

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import Oracle, Written, plain
from vlm_heads import attach
from vlm_heads.errors import BadOption, NothingIntervened, UnsupportedModel
from vlm_heads.interventions.sink_redistribution import SinkRedistribution
from vlm_heads.methods import parse_intervention

DIMS, THRESHOLD = (3, 11), 1.1
OPTIONS: dict[str, object] = {"sink_dims": DIMS, "threshold": THRESHOLD, "layers": "all", "min_image_mass": 0.1}


def _written_out(
    call: Written, sinks: dict[int, Tensor], mode: str, share: float, least: float, moved: float
) -> Tensor:
    """Return VAR's output, weight by weight as its paper does: sinks, selection, redistribution."""
    if call.prefill:
        x = call.hidden.double()
        phi = x[:, list(DIMS)].abs().max(-1).values / (x.pow(2).mean(-1) + 1e-6).sqrt()
        sinks[call.layer] = phi >= THRESHOLD
    weights = call.logits.softmax(-1)
    sink = torch.zeros(weights.shape[-1], dtype=torch.bool)
    sink[: len(sinks[call.layer])] = sinks[call.layer]
    visual, image_sink = call.image & ~sink, call.image & sink
    if not image_sink.any():
        return weights @ call.value
    for head in range(weights.shape[0]):
        for row in range(call.after_image, weights.shape[1]):
            w = weights[head, row]
            mass, in_sinks = w[call.image].sum(), w[image_sink].sum()
            if mode == "paper":
                on = mass >= least and in_sinks <= share * mass
            else:
                on = mass > least and in_sinks < share * (mass + 1e-6 * call.image.sum())
            if on:
                freed = moved * w[sink].sum()
                w[visual] += freed * w[visual] / w[visual].sum()
                w[sink] *= 1 - moved
    return weights @ call.value


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("mode", ["paper", "code"])
def test_equals_written_out_attention(mode: str, backend: str, model: Tiny, oracle: Oracle) -> None:
    sinks: dict[int, Tensor] = {}
    moved = 0.7 if mode == "paper" else 1 - 0.7  # the program keeps what the paper moves
    expected = oracle.generate(lambda call: _written_out(call, sinks, mode, 0.6, 0.1, moved))
    with attach(
        model.model, [SinkRedistribution(moved=0.7, max_sink_share=0.6, mode=mode, **OPTIONS)], backend=backend
    ) as run:
        got = model.generate()
    image = model.inputs["input_ids"][0] == 150
    assert any((found & image).any() and (~found & image).any() for found in sinks.values())
    assert any((found & ~image).any() for found in sinks.values())
    assert distance(expected, got) < CLOSE
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-3
    assert run.receipt.interventions[0].mass_moved() > 0


def test_the_comparison_sees_a_wrong_share(model: Tiny, oracle: Oracle) -> None:
    """A deliberately wrong implementation: sinks hand on 0.6 where 0.7 was asked for."""
    expected = oracle.generate(
        lambda call: _written_out(call, {}, "paper", 0.6, 0.1, 0.6) if call.prefill else plain(call)
    )
    with attach(model.model, [SinkRedistribution(moved=0.7, max_sink_share=0.6, **OPTIONS)]):
        got = model.generate(steps=1)
    assert distance(expected.logits[0], got.logits[0]) > 2e-4


def test_mass_moved_counts_prompt_rows_and_every_step(model: Tiny) -> None:
    taken = {}
    for steps in (1, 6):
        with attach(model.model, [SinkRedistribution(max_sink_share=1.0, **OPTIONS)]) as run:
            model.generate(steps=steps)
        taken[steps] = run.receipt.interventions[0].mass_moved()
    assert taken[6] > taken[1] > 0


def test_without_sinks_nothing_fires(model: Tiny) -> None:
    with (
        pytest.raises(NothingIntervened),
        attach(model.model, [SinkRedistribution(sink_dims=(3,), threshold=7.9, layers="all")]),
    ):
        model.generate()


def test_a_model_without_sink_channels_is_refused_by_name(model: Tiny) -> None:
    with pytest.raises(UnsupportedModel, match="no channel"), attach(model.model, [SinkRedistribution(layers="all")]):
        pass


def test_relative_threshold_is_the_papers_at_4096() -> None:
    assert SinkRedistribution(threshold="relative")._threshold(4096) == pytest.approx(20)


def test_the_papers_layers_leave_out_the_first_two_and_the_last(tiny: Build) -> None:
    from vlm_heads.families import examine

    anatomy = examine(tiny("llava", num_hidden_layers=6).model)
    assert SinkRedistribution().layers_in(anatomy) == {2, 3, 4}
    assert SinkRedistribution(mode="code").layers_in(anatomy) == {2, 3, 4, 5}


def test_options_are_read_from_words() -> None:
    got = parse_intervention("var:moved=0.4,sink_dims=1415+2533,threshold=relative")
    assert got == SinkRedistribution(moved=0.4, sink_dims="1415+2533", threshold="relative")


@pytest.mark.parametrize(
    "wrong", [{"moved": 1.2}, {"threshold": "high"}, {"mode": "program"}, {"sink_dims": "a+b"}, {"sink_dims": ()}]
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadOption, match=next(iter(wrong))):
        SinkRedistribution(**wrong)


def test_a_channel_outside_the_model_is_refused(model: Tiny) -> None:
    with (
        pytest.raises(BadOption, match="width 64"),
        attach(model.model, [SinkRedistribution(sink_dims="70", layers="all")]),
    ):
        pass
