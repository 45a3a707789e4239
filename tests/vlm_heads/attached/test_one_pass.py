"""Two streams in one pass against the same two streams in forwards of their own; `test_contrast.py` holds those."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from tests.support.branch_oracle import branched
from tests.support.compare import distance, equal, rounding, same_ids
from tests.support.families import CLOSE, Build, Inputs, Tiny
from tests.support.family_table import FamilyTable
from tests.support.uncached import uncached
from vlm_heads import (
    BranchContrast,
    Contrast,
    DisturbedPrompt,
    FadingImage,
    HeadReinforcement,
    Mitigation,
    NoisedImage,
    RouteGain,
    StaticGains,
    attach,
    errors,
    known_interventions,
)
from vlm_heads.attach import Attachment, attach_mitigation
from vlm_heads.attached.stacked_rows import only_appends
from vlm_heads.attached.two_rows import linear_of_two
from vlm_heads.attention import is_bound
from vlm_heads.methods import Asked, AttentionCall, Watcher

CLOSE_SCORES = rounding(torch.float32, terms=64, size=10.0)
STEPS = 12
CONTRASTS: dict[str, Contrast] = {
    "vcd": NoisedImage(noise_step=900, bound=0.0),
    "m3id": FadingImage(rate=0.3, bound=0.0),
    "icd": DisturbedPrompt(alpha=2.0, bound=0.0),
    "branch": BranchContrast(start=1 / 3, weight=2.0, bound=0.0),
}
REFUSED = {"instructblip": "generates past its own forward", "blip2": "generates past its own forward"}
REFUSED |= {"janus": "drops logits processors"}
APART = {"mllama": "the image is read through cross-attention"}

Attach = Callable[..., Attachment]


def attached(name: str, model: PreTrainedModel, inputs: Inputs) -> Attach:
    """Return what attaches a contrast and more; a disturbing instruction is two more tokens of the prompt."""
    contrast = CONTRASTS[name]
    if name != "icd":
        return lambda *also, **how: attach(model, *also, contrast, **how)
    ids, mask = inputs["input_ids"], inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    words = torch.tensor([[33, 34]]).expand(len(ids), -1)
    other = {
        "input_ids": torch.cat([ids[:, :-2], words, ids[:, -2:]], dim=1),
        "attention_mask": torch.cat([mask, torch.ones_like(words)], dim=1),
    }
    asked = Asked(model, inputs, (), ("asked",), lambda _, __: {**inputs, **other})

    def disturbed(*also: Any, **how: Any) -> Attachment:
        return attach_mitigation(
            model, Mitigation.of(*also, contrast), contrast_processor=contrast.processor(asked), **how
        )

    return disturbed


def generated(model: PreTrainedModel, inputs: Inputs, **changes: object) -> Any:
    """Return what `generate` says with scores and logits; greedy, and no token ends it."""
    torch.manual_seed(7)
    arguments = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "suppress_tokens": [150]}
    arguments |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    return model.generate(**inputs, **{**arguments, **changes})


def compared(
    name: str, model: PreTrainedModel, inputs: Inputs, also: tuple[Any, ...] = (), **changes: object
) -> tuple[Any, Any, Attachment]:
    """Return what both ways generate, after finding them equal, and the attachment of the one pass."""
    attaching = attached(name, model, inputs)
    with attaching(*also, one_pass=False):
        apart = generated(model, inputs, **changes)
    with attaching(*also) as run:
        together = generated(model, inputs, **changes)
    assert same_ids(apart, together)
    assert distance(apart.logits, together.logits) < CLOSE
    assert distance(apart.scores, together.scores) < CLOSE_SCORES
    return apart, together, run


def in_one_pass(run: Attachment) -> int:
    """Return how many tokens ran in one pass, where none took another way."""
    second = run.receipt.second_stream
    assert second is not None
    assert (second.in_two_forwards, second.why) == (0, "")
    return second.in_one_pass


def padded() -> Inputs:
    """Return a left-padded batch of two prompts, each with a picture of four positions."""
    torch.manual_seed(3)
    ids = torch.tensor([[1, 5, *[150] * 4, 7, 8, 9, 10, 11], [0, 0, 0, 1, *[150] * 4, 9, 12, 13]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(2, 3, 28, 28)}


def test_every_family_takes_one_pass_or_says_why_not(family: str, tiny: Build, support: FamilyTable) -> None:
    built = tiny(family)
    if family in REFUSED:
        with pytest.raises(errors.UnsupportedModel, match=REFUSED[family]):
            attach(built.model, CONTRASTS["m3id"])
        support.states(family, "one pass", f"refused: {REFUSED[family]}")
        return
    branches = family not in ("mllama", "qwen3_5", "lfm2_vl")
    for name in ("vcd", "m3id", "branch") if branches else ("vcd", "m3id"):
        _, _, run = compared(name, built.model, built.inputs)
        if family not in APART:
            assert in_one_pass(run) == STEPS - 1
            continue
        second = run.receipt.second_stream
        assert second is not None
        assert (second.in_one_pass, second.in_two_forwards, second.why) == (0, STEPS - 1, APART[family])
    support.states(family, "one pass", f"two forwards: {APART[family]}" if family in APART else "equals two forwards")


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONTRASTS)
def test_a_padded_batch_in_one_pass(name: str, implementation: str, key_heads: int, tiny: Build) -> None:
    model, inputs = tiny("llava", num_key_value_heads=key_heads).model, padded()
    model.set_attn_implementation(implementation)
    _, together, run = compared(name, model, inputs)
    assert in_one_pass(run) == STEPS - 1
    assert distance(together.logits[3].log_softmax(-1), together.scores[3].log_softmax(-1)) > 1e-3  # a contrast


def test_the_comparison_sees_a_second_stream_at_wrong_positions(tiny: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting the image moves the text. A stream that took the first one's positions would be wrong, and seen."""
    from vlm_heads.attached.stacked_rows import StackedArguments

    own = StackedArguments._stack
    monkeypatch.setattr(StackedArguments, "_stack", lambda self, of, axis: own(self, [of[0]] * len(of), axis))
    with pytest.raises(AssertionError):
        compared("m3id", tiny("llava").model, padded())


@pytest.mark.parametrize("name", CONTRASTS)
def test_beams_change_places_in_both_streams(name: str, tiny: Build) -> None:
    model, inputs = tiny("llava").model, padded()
    options = {"num_beams": 3, "num_return_sequences": 2}
    apart, together, run = compared(name, model, inputs, **options)
    assert distance(apart.sequences_scores, together.sequences_scores) < CLOSE_SCORES
    assert in_one_pass(run) == STEPS - 1
    moved = together.beam_indices[:, 1:] != together.beam_indices[:, :-1]
    assert bool(moved.any())  # else nothing was followed


@pytest.mark.parametrize("name", CONTRASTS)
def test_sampled_sequences_have_streams_of_their_own(name: str, tiny: Build) -> None:
    _, together, run = compared(name, tiny("llava").model, padded(), do_sample=True, num_return_sequences=2)
    assert in_one_pass(run) == STEPS - 1
    assert not equal(together.sequences[0], together.sequences[1])


class _Heard(BaseStreamer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.tokens.append(-1)


def test_a_streamer_hears_the_answer(llava: Tiny) -> None:
    heard = _Heard()
    with attach(llava.model, CONTRASTS["vcd"]) as run:
        together = generated(llava.model, llava.inputs, streamer=heard)
    assert heard.tokens == [*together.sequences[0].tolist(), -1]
    assert in_one_pass(run) == STEPS - 1


@pytest.mark.parametrize("name", CONTRASTS)
def test_the_caller_sees_rows_of_its_own(name: str, tiny: Build) -> None:
    """Cache, hidden states and attention weights are of the first stream, row for row as it has them alone."""
    model, inputs = tiny("llava").model, padded()
    model.set_attn_implementation("eager")
    options = {"output_hidden_states": True, "output_attentions": True}
    apart, together, _ = compared(name, model, inputs, **options)
    for one, other in zip(
        apart.hidden_states + apart.attentions, together.hidden_states + together.attentions, strict=True
    ):
        assert distance(one, other) < CLOSE_SCORES
    for one, other in zip(apart.past_key_values.layers, together.past_key_values.layers, strict=True):
        assert distance([one.keys, one.values], [other.keys, other.values]) < CLOSE_SCORES
    assert "reorder_cache" not in vars(together.past_key_values)


class _Failing(LogitsProcessor):  # type: ignore[misc]
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] > 14:
            raise RuntimeError("in the middle")
        return scores


@pytest.mark.parametrize("name", ["vcd", "branch"])
def test_the_model_is_left_as_it_was(name: str, llava: Tiny) -> None:
    plain = generated(llava.model, llava.inputs)  # transformers puts hooks of its own on the tower when it first runs
    before = {path: sorted(vars(module)) for path, module in llava.model.named_modules()}
    implementation = llava.model.config.get_text_config()._attn_implementation
    with attach(llava.model, CONTRASTS[name]):
        generated(llava.model, llava.inputs)
    with pytest.raises(RuntimeError, match="in the middle"), attach(llava.model, CONTRASTS[name]):
        generated(llava.model, llava.inputs, logits_processor=[_Failing()])
    assert {path: sorted(vars(module)) for path, module in llava.model.named_modules()} == before
    assert llava.model.config.get_text_config()._attn_implementation == implementation
    assert not is_bound(llava.decoder_layers[0].self_attn)
    assert equal(plain, generated(llava.model, llava.inputs))


def test_after_a_failure_the_next_answer_is_right(llava: Tiny) -> None:
    with attach(llava.model, CONTRASTS["m3id"], one_pass=False):
        expected = generated(llava.model, llava.inputs)
    with attach(llava.model, CONTRASTS["m3id"]):
        with pytest.raises(RuntimeError, match="in the middle"):
            generated(llava.model, llava.inputs, logits_processor=[_Failing()])
        assert distance(expected, generated(llava.model, llava.inputs)) < CLOSE


@pytest.mark.parametrize("kind", ["vhr", "vhr, lockstep", "vhr, two-pass", "route", "var", "pai", "adhh"])
@pytest.mark.parametrize("name", ["vcd", "m3id", "icd"])
def test_interventions_act_on_the_first_stream_alone(name: str, kind: str, tiny: Build) -> None:
    """Their receipts are those of two forwards: heads chosen, rows, mass moved."""
    model, inputs = tiny("llava").model, padded()
    word, _, blind = kind.partition(", ")
    one = known_interventions()[word]
    also = one(**{**one.trial, "layers": "all"} | ({"blind": blind} if blind else {}))
    attaching = attached(name, model, inputs)
    receipts = []
    for one_pass in (False, True):
        with attaching(also, one_pass=one_pass) as run:
            generated(model, inputs)
        receipts.append(run.receipt.to_dict())
    compared(name, model, inputs, (also,))
    assert in_one_pass(run) == STEPS - 1
    apart, together = (receipt["interventions"][0] for receipt in receipts)
    moved = [one.pop("mass_moved") for one in (apart, together)]
    assert moved == [None, None] or moved[1] == pytest.approx(moved[0], rel=1e-4)
    assert together == apart
    assert receipts[1]["steps"] == receipts[0]["steps"]


def test_branch_shares_what_an_intervention_does_below_its_layer(tiny: Build) -> None:
    """Gains on layers 0 and 2, the stream leaves at layer 1: it has the gain of layer 0 and not that of layer 2.

    The expected streams come from copies whose weights have the gains folded in.
    """
    model, inputs = tiny("llava").model, padded()
    gains = torch.ones(3, 4)
    gains[0, 1], gains[2, 3] = 4.0, 8.0
    below = gains.clone()
    below[2] = 1.0
    from vlm_heads import fold_gains

    first, second = copy.deepcopy(model), copy.deepcopy(model)
    fold_gains(first, gains)
    fold_gains(second, below)
    with attach(model, StaticGains(gains="0.1:4+2.3:8"), CONTRASTS["branch"]) as run:
        got = generated(model, inputs)
    assert in_one_pass(run) == STEPS - 1
    answer = got.sequences[:, -STEPS:]
    for step in range(STEPS):
        kept = torch.arange(200) != 150  # which is never said
        one = uncached(first, inputs, answer[:, :step])[:, kept]
        other = branched(second, inputs, answer[:, :step], 1)[:, kept]
        assert distance((3.0 * one - 2.0 * other).log_softmax(-1), got.scores[step][:, kept]) < CLOSE_SCORES


def test_branch_refuses_an_edited_trunk_where_it_has_to_run_it_again(llava: Tiny) -> None:
    with (
        attach(llava.model, RouteGain(image=2.0, layers="all"), CONTRASTS["branch"], allow_idle=True),
        pytest.raises(errors.UnsupportedGeneration, match="shares its first 1 layers"),
    ):
        generated(llava.model, llava.inputs, use_cache=False)
    with attach(llava.model, RouteGain(image=2.0, layers=(1, 2)), CONTRASTS["branch"], allow_idle=True) as run:
        generated(llava.model, llava.inputs, use_cache=False)  # nothing acts below layer 1
    assert run.receipt.second_stream is not None
    assert run.receipt.second_stream.why == "nothing is cached"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_cache": False}, "nothing is cached"),
        ({"cache_implementation": "static"}, "the cache is a StaticCache"),
    ],
)
@pytest.mark.parametrize("name", CONTRASTS)
def test_what_cannot_be_followed_takes_two_forwards_and_says_why(
    name: str, changes: dict[str, object], why: str, llava: Tiny
) -> None:
    _, _, run = compared(name, llava.model, llava.inputs, **changes)
    second = run.receipt.second_stream
    assert second is not None
    assert (second.in_one_pass, second.in_two_forwards, second.why) == (0, STEPS - 1, why)
    assert str(run.receipt).endswith(f"{name}: {STEPS - 1} tokens in two forwards each ({why})")


def test_a_next_turn_goes_on_from_a_cache(llava: Tiny) -> None:
    """The second stream reads the whole conversation anew, and goes on beside the first."""
    said = []
    for one_pass in (False, True):
        cache = DynamicCache(config=llava.model.config.get_text_config())
        with attach(llava.model, CONTRASTS["m3id"], one_pass=one_pass) as run:
            first = generated(llava.model, llava.inputs, past_key_values=cache)
            ids = torch.cat([first.sequences, torch.tensor([[7, 8, 9]])], dim=1)
            said.append(generated(llava.model, {"input_ids": ids}, past_key_values=cache))
    assert in_one_pass(run) == 2 * (STEPS - 1)
    assert same_ids(*said)
    assert distance(said[0].scores, said[1].scores) < CLOSE_SCORES
    with (
        attach(llava.model, CONTRASTS["branch"]),
        pytest.raises(errors.UnsupportedGeneration, match="goes on from a cache without it"),
    ):
        generated(llava.model, {"input_ids": ids}, past_key_values=cache)


def test_one_attach_in_another(llava: Tiny) -> None:
    vhr, vcd = HeadReinforcement(gain=3.0, layers="all"), CONTRASTS["vcd"]
    with attach(llava.model, vhr, vcd):
        expected = generated(llava.model, llava.inputs)
    for outer, inner in ((vhr, vcd), (vcd, vhr)):
        with attach(llava.model, outer), attach(llava.model, inner):
            assert distance(expected, generated(llava.model, llava.inputs)) < CLOSE
    with attach(llava.model, vcd) as run:
        with attach(llava.model, vhr):
            generated(llava.model, llava.inputs)
        generated(llava.model, llava.inputs)
    assert run.receipt.second_stream is not None
    assert run.receipt.second_stream.in_one_pass == STEPS - 1  # the inner attach has the attention to itself
    assert not is_bound(llava.decoder_layers[0].self_attn)


def test_a_contrast_in_another_runs_forwards_of_its_own(llava: Tiny) -> None:
    """The inner one weighs first, as its processor is given first."""
    vcd, m3id = CONTRASTS["vcd"], CONTRASTS["m3id"]
    with attach(llava.model, m3id, one_pass=False), attach(llava.model, vcd, one_pass=False):
        expected = generated(llava.model, llava.inputs)
    with attach(llava.model, m3id) as outer, attach(llava.model, vcd) as inner:
        got = generated(llava.model, llava.inputs)
    assert distance(expected.scores, got.scores) < CLOSE_SCORES
    assert in_one_pass(outer) == STEPS - 1
    assert inner.receipt.second_stream is not None
    assert inner.receipt.second_stream.why == "another contrast is attached around this one"


class _Rows(Watcher):
    def __init__(self) -> None:
        self.rows: list[int] = []

    def see(self, call: AttentionCall) -> None:
        self.rows.append(call.query.shape[0])


def test_a_watcher_sees_the_first_stream(llava: Tiny) -> None:
    for name in ("vcd", "branch"):
        seen = _Rows()
        with attach(llava.model, CONTRASTS[name], watch=seen):
            generated(llava.model, llava.inputs)
        assert seen.rows == [1] * 3 * STEPS  # three layers at each token


def test_two_threads_answer_with_one_model(tiny: Build) -> None:
    """Each has streams of its own; a barrier lets them begin together."""
    model, rows = tiny("llava").model, padded()
    asked = [{name: value[row : row + 1] for name, value in rows.items()} for row in range(2)]
    expected = []
    for inputs in asked:
        with attach(model, CONTRASTS["m3id"]):
            expected.append(generated(model, inputs).sequences)
    got: dict[int, Tensor] = {}
    start = threading.Barrier(2)

    def answer(row: int) -> None:
        start.wait()
        got[row] = model.generate(
            **asked[row], max_new_tokens=STEPS, do_sample=False, eos_token_id=None, suppress_tokens=[150]
        )

    with attach(model, CONTRASTS["m3id"]):
        threads = [threading.Thread(target=answer, args=(row,)) for row in range(2)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert all(equal(got[row], expected[row]) for row in range(2))


@pytest.mark.parametrize("bias", [True, False])
def test_two_rows_of_a_linear_layer(bias: bool) -> None:
    torch.manual_seed(0)
    layer, rows = nn.Linear(96, 40, bias=bias), torch.randn(2, 1, 96)
    with torch.no_grad():
        got = linear_of_two(layer, rows)
        assert distance(got, layer(rows)) < rounding(torch.float32, terms=96)
        assert got.is_contiguous()
        assert distance(linear_of_two(layer, rows.flip(0)), got.flip(0)) == 0


def test_an_attention_that_reads_its_cache_otherwise_is_not_stacked(tiny: Build) -> None:
    assert only_appends(type(tiny("llava").decoder_layers[0].self_attn))
    assert not only_appends(type(tiny("mllama").decoder_layers[1].cross_attn))
