"""VAR against attention written out in float64, one worked example, and what it refuses."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import Oracle, Written, plain
from vlm_heads import attach
from vlm_heads.errors import BadOption, NothingIntervened, UnsupportedModel
from vlm_heads.interventions.sink_redistribution import SinkRedistribution
from vlm_heads.methods import parse_intervention

DIMS, THRESHOLD = (3, 11), 1.1
OPTIONS: dict[str, object] = {"sink_dims": DIMS, "threshold": THRESHOLD, "layers": "all", "min_image_mass": 0.1}


@dataclass
class _Written:
    """VAR weight by weight as its paper does, with the options that go beyond it: sinks, selection, redistribution.

    Attributes:
        options: of the method.
        sinks: bool `[T]` by layer, as they were found at prefill.
        acted: the layers in which any weight moved.
    """

    options: SinkRedistribution
    sinks: dict[int, Tensor] = field(default_factory=dict)
    acted: set[int] = field(default_factory=set)

    def found(self, call: Written) -> Tensor:
        """Return bool `[T]`: the prompt's sinks."""
        x = call.hidden.double()
        size, rms = x[:, list(DIMS)].abs().max(-1).values, (x.pow(2).mean(-1) + 1e-6).sqrt()
        if self.options.criterion == "phi":
            sinks = size / rms >= self.options.threshold
        else:
            usual = torch.maximum(size, rms).sort().values
            sinks = size / usual[(len(usual) - 1) // 2] >= self.options.factor
        if self.options.position_sinks != "none":
            image = call.image.nonzero()[:, 0]
            sinks[[int(image[place]) for place in self.options.position_sinks]] = True
        return sinks

    def __call__(self, call: Written) -> Tensor:
        options, paper = self.options, self.options.mode == "paper"
        if call.prefill:
            self.sinks[call.layer] = self.found(call)
        weights = call.logits.softmax(-1)
        sink = torch.zeros(weights.shape[-1], dtype=torch.bool)
        sink[: len(self.sinks[call.layer])] = self.sinks[call.layer]
        visual, image_sink = call.image & ~sink, call.image & sink
        if not (image_sink if options.sinks == "image" else sink).any():
            return weights @ call.value
        share, least = options.max_sink_share, options.min_image_mass
        moved = options.moved if paper else 1 - options.moved  # the program keeps what the paper moves
        for head in range(weights.shape[0]):
            for row in range(call.after_image, weights.shape[1]):
                w = weights[head, row]
                mass, in_sinks = w[call.image].sum(), w[image_sink].sum()
                if paper:
                    on = mass >= least and in_sinks <= share * mass
                else:
                    on = mass > least and in_sinks < share * (mass + 1e-6 * call.image.sum())
                if on:
                    freed = moved * w[sink].sum()
                    w[visual] += freed * w[visual] / w[visual].sum()
                    w[sink] *= 1 - moved
                    self.acted.add(call.layer)
        return weights @ call.value


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("mode", ["paper", "code"])
def test_equals_written_out_attention(mode: str, backend: str, model: Tiny, oracle: Oracle) -> None:
    options = SinkRedistribution(moved=0.7, max_sink_share=0.6, mode=mode, **OPTIONS)
    written = _Written(options)
    expected = oracle.generate(written)
    with attach(model.model, options, backend=backend) as run:
        got = model.generate()
    image = model.inputs["input_ids"][0] == 150
    assert any((found & image).any() and (~found & image).any() for found in written.sinks.values())
    assert any((found & ~image).any() for found in written.sinks.values())
    assert distance(expected, got) < CLOSE
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-3
    assert run.receipt.interventions[0].mass_moved() > 0


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize(
    "beyond",
    [
        {"criterion": "median", "factor": 1.1},
        {"threshold": 1.87, "sinks": "any"},
        {"criterion": "median", "factor": 1.3, "sinks": "any"},
        {"threshold": 7.9, "position_sinks": (0, 3)},
        {"threshold": 1.87, "sinks": "any", "position_sinks": (2,)},
    ],
    ids=lambda options: ",".join(options),
)
def test_options_beyond_the_paper_equal_written_out_attention(
    beyond: dict[str, object], mode: str, backend: str, model: Tiny, oracle: Oracle
) -> None:
    options = SinkRedistribution(max_sink_share=0.6, mode=mode, **{**OPTIONS, **beyond})
    written = _Written(options)
    expected = oracle.generate(written)
    with attach(model.model, options, backend=backend) as run:
        assert distance(expected, model.generate()) < CLOSE
    assert run.receipt.interventions[0].layers == tuple(sorted(written.acted))
    image = model.inputs["input_ids"][0] == 150
    text_alone = [layer for layer in written.acted if not (written.sinks[layer] & image).any()]
    assert bool(text_alone) == (beyond.get("sinks") == "any" and "position_sinks" not in beyond)
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-4


def test_the_comparison_sees_a_wrong_share(model: Tiny, oracle: Oracle) -> None:
    """A deliberately wrong implementation: sinks hand on 0.6 where 0.7 was asked for."""
    wrong = _Written(SinkRedistribution(moved=0.6, max_sink_share=0.6, **OPTIONS))
    expected = oracle.generate(lambda call: wrong(call) if call.prefill else plain(call))
    with attach(model.model, [SinkRedistribution(moved=0.7, max_sink_share=0.6, **OPTIONS)]):
        got = model.generate(steps=1)
    assert distance(expected.logits[0], got.logits[0]) > 2e-4


def _everything(**changes: object) -> SinkRedistribution:
    """Return a method that uses every option beyond the paper and acts on any tiny model."""
    beyond = {"criterion": "median", "factor": 1.1, "sinks": "any", "position_sinks": (1,), "max_sink_share": 1.0}
    return SinkRedistribution(**{**OPTIONS, **beyond, **changes})


@pytest.mark.parametrize("beyond", [{}, {"position_sinks": "none"}, {"position_sinks": "none", "sinks": "image"}])
def test_a_padded_batch_gives_what_its_rows_give_alone(beyond: dict[str, object], model: Tiny) -> None:
    """Two images, one image, none; the median is of a row's own tokens, and positions count in its own images."""
    image = [150] * 4
    rows = [[1, *image, 6, *image, 9, 12, 13, 10, 11], [1, 5, *image, 7, 8, 9, 10], [1, 20, 21, 22, 23]]
    torch.manual_seed(3)
    pixels = [torch.randn(2, 3, 28, 28), torch.randn(1, 3, 28, 28)]
    ids = torch.tensor([[0] * (len(rows[0]) - len(row)) + row for row in rows])
    given = {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.cat(pixels)}
    wanted = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    method = _everything(**beyond)
    with attach(model.model, method):
        together = model.model.generate(**given, **wanted)
    for row, values in enumerate(pixels):
        with attach(model.model, method):
            alone = model.model.generate(input_ids=torch.tensor([rows[row]]), pixel_values=values, **wanted)
        assert distance([one[row] for one in together.logits], [one[0] for one in alone.logits]) < CLOSE
    plain = model.model.generate(input_ids=torch.tensor([rows[2]]), **wanted)
    assert distance([one[2] for one in together.logits], [one[0] for one in plain.logits]) < CLOSE


def test_a_static_cache_and_no_cache_give_the_same(model: Tiny) -> None:
    with attach(model.model, _everything()):
        expected = model.generate()
        assert distance(expected, model.generate(cache_implementation="static", disable_compile=True)) < CLOSE
        assert distance(expected, model.generate(use_cache=False)) < CLOSE


def test_positions_need_no_activation(model: Tiny) -> None:
    """Where no channel is found, the positions alone are sinks: as with a channel in which nothing explodes."""
    options: dict[str, object] = {"layers": "all", "min_image_mass": 0.1, "position_sinks": "0+3"}
    with attach(model.model, SinkRedistribution(**options)):
        found = model.generate()
    with attach(model.model, SinkRedistribution(sink_dims=3, threshold=7.9, **options)):
        assert equal(found, model.generate())


def test_a_position_outside_the_image_is_refused_in_one_line(model: Tiny) -> None:
    with (
        pytest.raises(BadOption, match=r"^position 4 is not in an image of 4 positions: give positions from 0 to 3$"),
        attach(model.model, _everything(position_sinks=(1, 4, 7))),
    ):
        model.generate()
    assert _everything(position_sinks=(3, 1, 1)).position_sinks == (1, 3)


def test_moving_nothing_changes_no_bit(model: Tiny) -> None:
    plain = model.generate()
    with attach(model.model, _everything(moved=0.0), allow_idle=True):
        assert equal(plain, model.generate())


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
    "wrong",
    [
        {"moved": 1.2},
        {"threshold": "high"},
        {"mode": "program"},
        {"sink_dims": "a+b"},
        {"sink_dims": ()},
        {"criterion": "norm"},
        {"factor": 0.5},
        {"sinks": "text"},
        {"position_sinks": "0-3"},
        {"position_sinks": ()},
    ],
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
