"""Conversations with a cache: an image that comes later, copies of a cache, and prompts that come embedded too."""

import copy
import pickle

import pytest
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

from tests.support.compare import distance, equal, same_ids
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import HookedVhr
from vlm_heads import HeadReinforcement, Intervention, SinkRedistribution, attach, errors, known_interventions

VHR = HeadReinforcement(gain=6.0, layers="all")
GREETING = torch.tensor([[1, 15, 16, 17, 18]])


def _cache(model: Tiny, kind: str = "dynamic") -> Cache:
    text = model.model.config.get_text_config()
    return DynamicCache(config=text) if kind == "dynamic" else StaticCache(config=text, max_cache_len=64)


def _greet(model: Tiny, cache: Cache) -> Tensor:
    """Return a first turn without image and what was said to it."""
    hidden = {name: None for name in model.inputs if name != "input_ids"}
    said: Tensor = model.generate(
        3, **hidden, input_ids=GREETING, past_key_values=cache, eos_token_id=None, suppress_tokens=[150]
    ).sequences
    return said


def _show(model: Tiny, said: Tensor, cache: Cache | None, steps: int = 4) -> tuple[Tensor, ...]:
    """Return the token logits of a second turn, which brings the image."""
    logits: tuple[Tensor, ...] = model.generate(
        steps, **_whole(model, said), past_key_values=cache, eos_token_id=None
    ).logits
    return logits


def _whole(model: Tiny, said: Tensor) -> dict[str, Tensor]:
    """Return the inputs of the conversation up to the image's question."""
    inputs = {"input_ids": torch.cat([said, model.inputs["input_ids"]], dim=1)}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in model.inputs:
            text = model.inputs[name].new_zeros(said.shape)
            inputs[name] = torch.cat([text, model.inputs[name]], dim=1)
    return inputs


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("blind", ["plain", "two-pass"])
@pytest.mark.parametrize("family_name", ["llava", "qwen2_vl", "qwen3_vl", "gemma3", "internvl", "lfm2_vl"])
def test_an_image_in_a_later_turn_equals_hooks(family_name: str, blind: str, kind: str, tiny: Build) -> None:
    """Heads are chosen where the image comes, against the whole conversation without it."""
    if family_name == "lfm2_vl" and kind == "static":
        pytest.skip("transformers makes no static cache of this family by itself")
    model = tiny(family_name)
    cache = _cache(model, kind)
    said = _greet(model, cache)
    whole = Tiny(family_name, model.model, {**model.inputs, **_whole(model, said)})
    layers = {1} if blind == "two-pass" else {0, 1, 2}  # scored un-reinforced, layers below change nothing
    with HookedVhr(whole, gain=6.0, layers=layers).hooked():
        expected = _show(model, said, cache)
    with attach(
        model.model, [HeadReinforcement(gain=6.0, layers=sorted(layers & {*model.projections()}), blind=blind)]
    ) as run:
        cache = _cache(model, kind)
        assert equal(_greet(model, cache), said)
        got = _show(model, said, cache)
    assert distance(expected, got) < CLOSE
    assert (run.receipt.generations, run.receipt.imageless, run.receipt.blind_passes) == (2, 1, 1)
    cache = _cache(model, kind)
    _greet(model, cache)
    assert distance(_show(model, said, cache)[0], got[0]) > 1e-2


def _active(name: str) -> Intervention:
    kind = known_interventions()[name]
    everywhere = {"layers": "all"} if "layers" in {one.name for one in kind.options()} else {}
    made: Intervention = kind(**{**everywhere, **kind.trial})
    return made


# not those that act before the image too, and not those that tell what the model wrote from what it was given
AFTER_THE_IMAGE = [
    name
    for name in known_interventions()
    if name
    not in (
        "vhr",
        "reinforced",
        "allpath",
        "var",
        "adhh",
        "vaf",
        "iat",
        "adaiat",
        "adavboost",
        "vista",
        "eah",
        "farsight",
        "memvr",
        "vti",
    )
]


@pytest.mark.parametrize("name", AFTER_THE_IMAGE)
def test_a_method_that_acts_after_the_image_sees_one_conversation(name: str, llava: Tiny) -> None:
    """Whether what was said before the image comes from a cache or again makes no difference to it."""
    with attach(llava.model, [_active(name)]):
        cache = _cache(llava)
        said = _greet(llava, cache)
        later = _show(llava, said, cache)
        at_once = _show(llava, said, None)
    assert distance(at_once, later) < CLOSE


@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        (
            SinkRedistribution(sink_dims=(3,), layers="all"),
            "var reads the hidden states .* give the image in the first",
        ),
        (HeadReinforcement(layers="all", blind="lockstep"), "take blind='plain'"),
    ],
    ids=["var", "lockstep"],
)
def test_a_method_that_reads_the_earlier_turns_is_refused(what: Intervention, remedy: str, llava: Tiny) -> None:
    cache = _cache(llava)
    with attach(llava.model, what, allow_idle=True):
        said = _greet(llava, cache)
        with pytest.raises(errors.UnsupportedGeneration, match=remedy):
            _show(llava, said, cache)


def test_a_row_whose_first_image_comes_after_anothers_is_refused(llava: Tiny) -> None:
    """Which of the two prompts would heads be chosen at?"""
    ids = llava.inputs["input_ids"]
    rows = torch.cat([ids, ids.where(ids != 150, 20)])
    both = torch.cat([llava.inputs["pixel_values"]] * 2)
    with attach(llava.model, VHR), torch.no_grad():
        cache = llava.model(input_ids=rows, pixel_values=llava.inputs["pixel_values"]).past_key_values
        with pytest.raises(errors.UnsupportedGeneration, match="a cache of its own"):
            llava.model(input_ids=ids.repeat(2, 1), pixel_values=both, past_key_values=cache)


def _turn(llava: Tiny, said: Tensor, ask: list[int], cache: Cache) -> tuple[Tensor, ...]:
    ids = torch.cat([said, torch.tensor([ask])], dim=1)
    logits: tuple[Tensor, ...] = llava.generate(
        3, input_ids=ids, pixel_values=None, past_key_values=cache, eos_token_id=None
    ).logits
    return logits


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("name", ["vhr", "var", "route"])
def test_a_copied_cache_is_known(name: str, kind: str, llava: Tiny) -> None:
    """A prefix filled once and copied for each question, as transformers documents it."""
    asks = [[31, 32, 33], [41, 42]]
    expected = []
    with attach(llava.model, [_active(name)]):
        for ask in asks:
            cache = _cache(llava, kind)
            said = llava.generate(3, past_key_values=cache, eos_token_id=None).sequences
            expected.append(_turn(llava, said, ask, cache))
    with attach(llava.model, [_active(name)]) as run:
        cache = _cache(llava, kind)
        said = llava.generate(3, past_key_values=cache, eos_token_id=None).sequences
        copies = [copy.deepcopy(cache) for _ in asks]
        _turn(llava, said, [51, 52, 53, 54], cache)  # the original goes its own way
        got = [_turn(llava, said, ask, copied) for ask, copied in zip(asks, copies, strict=True)]
    assert all(distance(one, other) < CLOSE for one, other in zip(expected, got, strict=True))
    assert run.receipt.generations == 1


def test_what_a_cache_carries_ends_with_the_attach(llava: Tiny) -> None:
    cache = _cache(llava)
    with attach(llava.model, VHR):
        llava.generate(3, past_key_values=cache)
        copied = copy.deepcopy(cache)
        pickle.loads(pickle.dumps(cache))
    assert not [name for name in vars(cache) if "vlm_heads" in name]
    with (
        pytest.raises(errors.UnsupportedGeneration, match="filled outside of attach"),
        attach(llava.model, VHR, allow_idle=True),
    ):
        llava.model(input_ids=torch.tensor([[7]]), past_key_values=copied)


def test_a_cache_whose_rows_were_repeated_is_refused(llava: Tiny) -> None:
    with attach(llava.model, VHR), torch.no_grad():
        cache = llava.model(**llava.inputs).past_key_values
        cache.batch_repeat_interleave(3)
        with pytest.raises(errors.UnsupportedGeneration, match="filled by 1 rows and goes on with 3"):
            llava.model(input_ids=torch.tensor([[7]] * 3), past_key_values=cache)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}, {"use_cache": False}], ids=["greedy", "beams", "no cache"])
def test_ids_beside_embeddings_are_taken(mode: dict[str, object], llava: Tiny) -> None:
    """The image is embedded already; the ids say where it is."""
    with torch.no_grad():
        embedded = llava.model.get_input_embeddings()(llava.inputs["input_ids"])
        features = llava.model.get_image_features(llava.inputs["pixel_values"]).pooler_output
    embedded[:, 3:7] = torch.cat(list(features)) if isinstance(features, list | tuple) else features
    both = {"inputs_embeds": embedded, "pixel_values": None}
    with HookedVhr(llava, gain=6.0, layers={0, 1, 2}).hooked():
        expected = llava.generate(**both, **mode)
    with attach(llava.model, VHR) as run:
        got = llava.generate(**both, **mode)
        llava.generate()  # nothing of it is left for the next
    assert same_ids(expected, got)
    assert distance(expected.logits, got.logits) < CLOSE
    assert run.receipt.blind_passes == 2


def test_embeddings_that_are_not_those_of_the_ids_count_in_the_image_free_pass_too(llava: Tiny) -> None:
    """As a learned prompt brings them: here those of a table that is put back before they are used."""
    table, ids = llava.model.get_input_embeddings().weight, llava.inputs["input_ids"]
    before = table.detach().clone()
    with torch.no_grad():
        table[7:11] = 5 * torch.randn(4, 64, generator=torch.Generator().manual_seed(3))
        learned = llava.model.get_input_embeddings()(ids)
    with attach(llava.model, VHR):
        expected = llava.generate(1).logits[0]
    with torch.no_grad():
        table.copy_(before)
    image = before[150].expand(1, 4, 64)
    assert torch.equal(learned[:, 3:7], image)
    with attach(llava.model, VHR):
        assert distance(llava.generate(1, inputs_embeds=learned).logits[0], expected) < CLOSE
        assert distance(llava.generate(1).logits[0], expected) > 1e-2


def test_a_contrast_with_embeddings_is_refused(llava: Tiny) -> None:
    embedded = llava.model.get_input_embeddings()(llava.inputs["input_ids"]).detach()
    with pytest.raises(errors.BadOption, match="leave inputs_embeds out"), attach(llava.model, "vcd", allow_idle=True):
        llava.generate(1, inputs_embeds=embedded)
