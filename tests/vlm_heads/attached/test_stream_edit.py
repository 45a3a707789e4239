"""A second stream with an edit of its own, on every family, and in every way in which it can run."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.compare import distance, equal, rounding, same_ids
from tests.support.families import CLOSE, Build, Inputs, Tiny
from tests.support.family_table import FamilyTable
from tests.support.stream_oracle import padded
from tests.support.uncached import uncached
from vlm_heads import Contrast, RouteGain, attach, examine
from vlm_heads.attached.image_features import embeddings_kept
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attention import is_bound
from vlm_heads.contrasts.counterfactual_attention import CounterfactualAttention
from vlm_heads.contrasts.favoured_modality import FavouredModality
from vlm_heads.contrasts.least_attended import LeastAttended
from vlm_heads.contrasts.masked_heads import MaskedHeads
from vlm_heads.contrasts.most_attended import MostAttended
from vlm_heads.contrasts.prior_and_bias import PriorAndBias
from vlm_heads.contrasts.steered_attention import SteeredAttention
from vlm_heads.errors import UnsupportedGeneration, UnsupportedModel
from vlm_heads.methods import Asked

CLOSE_SCORES = rounding(torch.float32, terms=64, size=10.0)
REFUSED = {
    "instructblip": "generates past its own forward",
    "blip2": "generates past its own forward",
    "janus": "drops logits processors",
    "mllama": "reads the image in cross-attention",
}
CONTRASTS: dict[str, Contrast] = {
    "maskcd": MaskedHeads(share=0.3, bound=0.0),
    "causalmm": CounterfactualAttention(bound=0.0),
    "avisc": MostAttended(deviation=0.3, bound=0.0),
    "sid": LeastAttended(start=1, share=0.3, bound=0.0),
    "owl": FavouredModality(layers="all", bound=0.0),
    "ascd": SteeredAttention(share=0.3, bound=0.0),
    "crops": PriorAndBias(start=1, text=3, sure=1.0, bound=0.0),
}


def followed(stream: SecondStream, answer: Tensor) -> list[Tensor]:
    """Return a second stream's token logits before each token of an answer `[B, t]`."""
    return [stream.begin(1), *(stream.step(answer[:, at]) for at in range(answer.shape[1] - 1))]


@contextmanager
def without_head(tiny: Tiny, layer: int, head: int) -> Iterator[None]:
    """Set what one head gives to zero where it enters the output projection."""

    def zero(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        heads = args[0].reshape(*args[0].shape[:-1], 4, -1).clone()
        heads[..., head, :] = 0.0
        return (heads.reshape(args[0].shape), *args[1:])

    handle = tiny.projections()[layer].register_forward_pre_hook(zero)
    yield
    handle.remove()


def test_every_family_runs_an_edit_of_its_own_or_says_why_not(family: str, tiny: Build, support: FamilyTable) -> None:
    built = tiny(family)
    if family in REFUSED:
        with pytest.raises(UnsupportedModel, match=REFUSED[family]):
            attach(built.model, MaskedHeads())
        support.states(family, "own plan", f"refused: {REFUSED[family]}")
        return
    layer = max(built.projections())
    contrast = MaskedHeads(heads=((layer, 1),), bound=0.0)
    answer = torch.randint(2, 140, (1, 12), generator=torch.Generator().manual_seed(0))
    got = followed(contrast.second_stream(Asked(built.model, built.inputs)), answer)
    for step, logits in enumerate(got):
        plain = uncached(built.model, built.inputs, answer[:, :step])
        with without_head(built, layer, 1):
            assert distance(logits, uncached(built.model, built.inputs, answer[:, :step])) < CLOSE
        assert distance(logits, plain) > 1e-3
    scores = []
    for one_pass in (False, True):
        with attach(built.model, contrast, one_pass=one_pass) as run:
            scores.append(built.generate(suppress_tokens=[150], output_scores=True).scores)
    assert distance(*scores) < CLOSE_SCORES
    assert run.receipt.second_stream is not None
    assert (run.receipt.second_stream.in_one_pass, run.receipt.second_stream.why) == (4, "")
    support.states(family, "own plan", "equals hooks")


@contextmanager
def zeroed(built: Tiny, kept: Tensor) -> Iterator[None]:
    """Set hidden states to zero where they enter the first layer; and what Qwen3-VL adds to them behind later ones."""

    def at_the_first(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        hidden = args[0].clone()
        hidden[:, : kept.shape[1]] *= kept[..., None]
        return (hidden, *args[1:]), kwargs

    handles = [built.decoder_layers[0].register_forward_pre_hook(at_the_first, with_kwargs=True)]
    if built.family == "qwen3_vl":
        merger = built.model.model.visual.deepstack_merger_list[0]
        image = kept[0, built.inputs["input_ids"][0] == 150]
        handles.append(merger.register_forward_hook(lambda _, __, features: features * image[:, None]))
    yield
    for handle in handles:
        handle.remove()


def test_every_family_shows_other_image_features_or_says_why_not(
    family: str, tiny: Build, support: FamilyTable
) -> None:
    built = tiny(family)
    if family in REFUSED:
        with pytest.raises(UnsupportedModel, match=REFUSED[family]):
            attach(built.model, MostAttended())
        support.states(family, "own image", f"refused: {REFUSED[family]}")
        return
    if family == "gemma3":  # drawn as zeros, so that a picture would tell nothing
        torch.nn.init.normal_(built.model.model.multi_modal_projector.mm_input_projection_weight)
    kept = built.inputs["input_ids"] != 150
    kept[0, int((~kept[0]).nonzero()[1])] = True  # the second of its tokens stays
    answer = torch.randint(2, 140, (1, 12), generator=torch.Generator().manual_seed(0))
    showing = partial(embeddings_kept, examine(built.model), kept)
    got = followed(SecondStream(built.model, built.inputs, showing=showing), answer)
    for step, logits in enumerate(got):
        with zeroed(built, kept):
            assert distance(logits, uncached(built.model, built.inputs, answer[:, :step])) < CLOSE
    assert distance(got[0], uncached(built.model, built.inputs, answer[:, :0])) > 1e-3
    support.states(family, "own image", "equals hooks")


def generated(model: PreTrainedModel, inputs: Inputs, **changes: object) -> Any:
    """Return what `generate` says with scores; greedy, and no token ends it."""
    torch.manual_seed(7)
    arguments = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "suppress_tokens": [150]}
    arguments |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    return model.generate(**inputs, **{**arguments, **changes})


def both_ways(model: PreTrainedModel, inputs: Inputs, what: Sequence[Any], **changes: object) -> Any:
    """Return what is generated in one pass, after finding it equal to forwards of their own."""
    with attach(model, *what, one_pass=False):
        apart = generated(model, inputs, **changes)
    with attach(model, *what) as run:
        together = generated(model, inputs, **changes)
    assert same_ids(apart, together)
    assert distance(apart.scores, together.scores) < CLOSE_SCORES
    assert run.receipt.second_stream is not None
    assert (run.receipt.second_stream.in_one_pass, run.receipt.second_stream.why) == (7, "")
    return together


@pytest.mark.parametrize("name", CONTRASTS)
def test_beams_change_places_in_all_streams(name: str, tiny: Build) -> None:
    options = {"num_beams": 3, "num_return_sequences": 2}
    together = both_ways(tiny("llava").model, padded(), [CONTRASTS[name]], **options)
    moved = together.beam_indices[:, 1:] != together.beam_indices[:, :-1]
    assert bool(moved.any())  # else nothing was followed


@pytest.mark.parametrize("name", ["maskcd", "causalmm", "sid", "crops"])
def test_interventions_act_on_the_first_stream_alone(name: str, tiny: Build) -> None:
    """The first stream's logits are those of the intervention alone; the other streams' are as without it."""
    model, inputs = tiny("llava").model, padded()
    also = RouteGain(image=3.0, layers="all")
    together = both_ways(model, inputs, [also, CONTRASTS[name]])
    with attach(model, also):
        assert distance(generated(model, inputs).logits[0], together.logits[0]) < CLOSE
    streams = CONTRASTS[name].streams(Asked(model, inputs))
    with attach(model, also, allow_idle=True):
        inside = [one.begin(1) for one in CONTRASTS[name].streams(Asked(model, inputs))]
    assert distance([one.begin(1) for one in streams], inside) < CLOSE


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_processor_needs_no_attach_and_leaves_nothing(name: str, tiny: Build) -> None:
    model, inputs = tiny("llava").model, padded()
    plain = generated(model, inputs)
    own = model.config.get_text_config()._attn_implementation
    processor = CONTRASTS[name].processor(Asked(model, inputs))
    for _ in range(2):  # the second generation starts clean
        got = generated(model, inputs, logits_processor=[processor])
    with attach(model, CONTRASTS[name]):
        assert distance(generated(model, inputs).scores, got.scores) < CLOSE_SCORES
    assert model.config.get_text_config()._attn_implementation == own
    assert not is_bound(model.get_decoder().layers[0].self_attn)
    assert equal(plain, generated(model, inputs))


@pytest.mark.parametrize("name", CONTRASTS)
def test_eager_attention_gives_the_same(name: str, tiny: Build) -> None:
    """Its masks are numbers that are added, and not truth values."""
    model, inputs = tiny("llava").model, padded()
    with attach(model, CONTRASTS[name]):
        expected = generated(model, inputs)
    model.set_attn_implementation("eager")
    with attach(model, CONTRASTS[name]):
        got = generated(model, inputs)
    assert same_ids(expected, got)
    assert distance(expected.scores, got.scores) < CLOSE_SCORES


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_cache": False}, "nothing is cached"),
        ({"cache_implementation": "static"}, "the cache is a StaticCache"),
    ],
)
@pytest.mark.parametrize(("name", "forwards"), [("maskcd", "two"), ("crops", "3")])
def test_what_cannot_be_followed_takes_forwards_of_its_own(
    name: str, forwards: str, changes: dict[str, object], why: str, tiny: Build
) -> None:
    model, inputs = tiny("llava").model, padded()
    with attach(model, CONTRASTS[name]):
        expected = generated(model, inputs)
    with attach(model, CONTRASTS[name]) as run:
        got = generated(model, inputs, **changes)
    assert same_ids(expected, got)
    assert distance(expected.scores, got.scores) < CLOSE_SCORES
    assert str(run.receipt) == f"{name}: 7 tokens in {forwards} forwards each ({why})"


@pytest.mark.parametrize("name", ["maskcd", "sid"])
def test_two_threads_with_two_models_do_not_mix(name: str, tiny: Build) -> None:
    models = [tiny("llava", seed=seed).model for seed in (1, 2)]
    inputs = padded()  # drawn once: threads that draw at once take numbers from one another
    expected = []
    for model in models:
        with attach(model, CONTRASTS[name], one_pass=False):
            expected.append(generated(model, inputs))
    got: dict[int, Any] = {}
    start = threading.Barrier(2)

    def work(index: int) -> None:
        start.wait()
        with attach(models[index], CONTRASTS[name], one_pass=False):
            got[index] = generated(models[index], inputs)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal(expected[index], got[index]) for index in (0, 1))


def test_an_image_of_an_earlier_turn_has_to_be_given_again(llava: Tiny) -> None:
    ids = llava.inputs["input_ids"]
    with pytest.raises(UnsupportedGeneration, match="goes on from a cache without it"):
        MaskedHeads().second_stream(Asked(llava.model, {"input_ids": ids}))
