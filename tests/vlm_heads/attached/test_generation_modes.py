"""Ways of generating: each equals the same way of generating under plain hooks on the output projections."""

from collections.abc import Callable
from functools import partial
from threading import Barrier, Thread

import pytest
import torch
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedModel, StaticCache, TextIteratorStreamer
from transformers.cache_utils import QuantizedLayer

from tests.support.compare import Generated, distance, equal, same_ids
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import HookedVhr
from vlm_heads import HeadReinforcement, attach, errors
from vlm_heads.models.planted import build_planted, planted_image
from vlm_heads.models.prompts import model_inputs

EVERYWHERE = {0, 1, 2}
MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beam sampling": {"do_sample": True, "num_beams": 2},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "repetition penalty": {"repetition_penalty": 1.3},
}


@pytest.mark.parametrize("heads", [2, 4], ids=["grouped", "ungrouped"])
@pytest.mark.parametrize("mode", MODES)
def test_mode_equals_hooks(mode: str, heads: int, tiny: Build) -> None:
    model = tiny("llava", num_key_value_heads=heads)
    with HookedVhr(model, gain=2.0, layers=EVERYWHERE).hooked():
        expected = model.generate(steps=10, **MODES[mode])
    with attach(model.model, [HeadReinforcement(layers="all")]) as run:
        got = model.generate(steps=10, **MODES[mode])
    assert same_ids(expected, got)
    assert distance(expected.logits, got.logits) < CLOSE
    assert run.receipt.blind_passes == 1
    assert run.receipt.generations == 1


@pytest.mark.parametrize("family_name", ["qwen2_vl", "gemma3", "instructblip", "cohere2_vision"])
@pytest.mark.parametrize("mode", ["beams", "several", "static cache"])
def test_mode_equals_hooks_in_other_families(family_name: str, mode: str, tiny: Build) -> None:
    model = tiny(family_name)
    with HookedVhr(model, gain=2.0, layers=EVERYWHERE).hooked():
        expected = model.generate(steps=10, **MODES[mode])
    with attach(model.model, [HeadReinforcement(layers="all")]):
        got = model.generate(steps=10, **MODES[mode])
    assert same_ids(expected, got)
    assert distance(expected.logits, got.logits) < CLOSE


def test_a_streamer_in_another_thread() -> None:
    model, processor = build_planted()
    inputs = model_inputs(model, processor, [planted_image("bird")], ["what do you see?"])
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    with attach(model, [HeadReinforcement()]) as run:
        worker = Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, "max_new_tokens": 12})
        worker.start()
        text = "".join(streamer)
        worker.join()
    assert text.strip() == "there is a bird."
    assert run.receipt.steps == 6  # five words and the end


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_second_turn_with_the_cache_of_the_first(kind: str, llava: Tiny) -> None:
    """The heads chosen at the first prompt stay chosen, as plain hooks that stay in place would have it."""

    def talk() -> torch.Tensor:
        text = llava.model.config.text_config
        cache = DynamicCache(config=text) if kind == "dynamic" else StaticCache(config=text, max_cache_len=64)
        first = llava.generate(steps=4, past_key_values=cache, eos_token_id=None)
        ids = torch.cat([first.sequences, torch.tensor([[31, 32, 33]])], dim=1)
        second = llava.generate(steps=4, input_ids=ids, past_key_values=cache, pixel_values=None, eos_token_id=None)
        return torch.cat(second.logits)

    with HookedVhr(llava, gain=2.0, layers=EVERYWHERE).hooked():
        expected = talk()
    with attach(llava.model, [HeadReinforcement(layers="all")]) as run:
        got = talk()
    assert distance(expected, got) < CLOSE
    assert run.receipt.generations == 1


def test_a_cache_filled_outside_is_refused_by_name(llava: Tiny) -> None:
    with torch.no_grad():
        cache = llava.model(**llava.inputs).past_key_values
    with pytest.raises(errors.UnsupportedGeneration, match="cache"), attach(llava.model, [HeadReinforcement()]):
        llava.model(input_ids=torch.tensor([[7]]), past_key_values=cache)


def test_a_prompt_of_embeddings_is_refused_by_name(llava: Tiny) -> None:
    embeddings = llava.model.get_input_embeddings()(torch.tensor([[1, 2, 3]]))
    with pytest.raises(errors.UnsupportedGeneration, match="inputs_embeds"), attach(llava.model, [HeadReinforcement()]):
        llava.model(inputs_embeds=embeddings)


def test_a_prompt_without_text_is_refused_by_name(llava: Tiny) -> None:
    inputs = {**llava.inputs, "input_ids": torch.full((1, 4), 150)}
    with pytest.raises(errors.UnsupportedGeneration, match="no text"), attach(llava.model, [HeadReinforcement()]):
        llava.model(**inputs)


def test_a_reused_static_cache_starts_clean(llava: Tiny) -> None:
    other = {"pixel_values": torch.randn_like(llava.inputs["pixel_values"])}
    with attach(llava.model, [HeadReinforcement(layers="all")]) as run:
        first = llava.generate(cache_implementation="static", **other)
        llava.generate(cache_implementation="static")
        again = llava.generate(cache_implementation="static", **other)
    assert equal(first.logits, again.logits)
    assert run.receipt.generations == 3


def test_a_bare_forward_takes_positional_arguments(llava: Tiny) -> None:
    inputs = llava.inputs
    with torch.no_grad(), attach(llava.model, [HeadReinforcement(layers="all")]):
        named = llava.model(**inputs).logits
        positional = llava.model(inputs["input_ids"], inputs["pixel_values"]).logits
    assert equal(named, positional)


def test_half_precision_stays_half(llava: Tiny) -> None:
    model = llava.model.to(torch.bfloat16)
    inputs = {**llava.inputs, "pixel_values": llava.inputs["pixel_values"].to(torch.bfloat16)}
    with torch.no_grad(), attach(model, [HeadReinforcement(layers="all")]):
        assert model(**inputs).logits.dtype is torch.bfloat16


def test_weights_are_never_materialised(llava: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head gains leave attention to the one fused call; its result is all that is touched."""
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*args: torch.Tensor, **kwargs: object) -> torch.Tensor:
        calls.append(kwargs.get("is_causal"))
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    plain_calls = len(calls)
    llava.generate(steps=4)
    plain_calls = len(calls)
    with attach(llava.model, [HeadReinforcement(layers="all")]):
        llava.generate(steps=4)
    # the same calls once more, and one per layer for the image-free prompt
    assert len(calls) - plain_calls == plain_calls + len(llava.decoder_layers)


@pytest.mark.slow
def test_a_compiled_language_model_gives_the_same(tiny: Build) -> None:
    """Attention runs between the graphs; what was compiled before attach is compiled anew."""
    llava = tiny("llava", num_hidden_layers=1)
    model = llava.model
    with torch.no_grad():
        plain = model(**llava.inputs).logits
        with attach(model, [HeadReinforcement(layers="all")]):
            expected = model(**llava.inputs).logits
        model.model.language_model.compile(backend="eager")
        assert distance(model(**llava.inputs).logits, plain) < CLOSE
        with attach(model, [HeadReinforcement(layers="all")]):
            got = model(**llava.inputs).logits
        assert distance(model(**llava.inputs).logits, plain) < CLOSE
    assert distance(expected, got) < CLOSE
    assert distance(plain, got) > 1e-3


def test_two_threads_on_one_model_take_turns(llava: Tiny) -> None:
    images = [torch.randn_like(llava.inputs["pixel_values"]) for _ in range(2)]
    with attach(llava.model, [HeadReinforcement(layers="all")]):
        expected = [llava.generate(steps=15, pixel_values=image) for image in images]
        got: dict[int, Generated] = {}
        start = Barrier(2)

        def work(index: int) -> None:
            start.wait()
            got[index] = llava.generate(steps=15, pixel_values=images[index])

        threads = [Thread(target=work, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index in (0, 1):
        assert equal(expected[index].logits, got[index].logits)


GREEDY: dict[str, object] = {"max_new_tokens": 4, "do_sample": False}
REFUSED: dict[str, int | str] = {
    "prefill_chunk_size": 3,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "cache_implementation": "paged",
}


WAYS: dict[str, Callable[[Tiny, GenerationConfig], tuple[tuple[object, ...], dict[str, object]]]] = {
    "arguments": lambda _, config: ((), config.to_diff_dict()),
    "a config": lambda _, config: ((), {"generation_config": config}),
    "a config by position": lambda tiny, config: ((tiny.inputs["input_ids"], config), {"input_ids": None}),
    "the model's own": lambda tiny, config: _of_the_model(tiny, config),
    "the model's own beside a config": lambda tiny, config: (
        (),
        {**_of_the_model(tiny, config)[1], "generation_config": GenerationConfig(max_new_tokens=2, do_sample=False)},
    ),
}


def _of_the_model(tiny: Tiny, config: GenerationConfig) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return no arguments, and let the model's own config say what `config` says."""
    tiny.model.generation_config.update(**config.to_diff_dict())
    return (), {}


@pytest.mark.parametrize("argument", REFUSED)
@pytest.mark.parametrize("way", WAYS)
def test_a_way_that_cannot_be_followed_is_refused_by_name(argument: str, way: str, llava: Tiny) -> None:
    args, kwargs = WAYS[way](llava, GenerationConfig(max_new_tokens=2, **{argument: REFUSED[argument]}))
    given = {name: value for name, value in {**llava.inputs, **kwargs}.items() if value is not None}
    inherited = "generation_config says so; give .*=None" if "own" in way else "leave it out"
    with (
        pytest.raises(errors.UnsupportedGeneration, match=f"{argument}.*{inherited}"),
        attach(llava.model, [HeadReinforcement(layers="all")], allow_idle=True),
    ):
        llava.model.generate(*args, **given)
    assert "generate" not in vars(llava.model)


@pytest.mark.parametrize("argument", REFUSED)
def test_an_argument_takes_back_what_the_models_config_says(argument: str, llava: Tiny) -> None:
    expected = llava.model.generate(**llava.inputs, **GREEDY)
    setattr(llava.model.generation_config, argument, REFUSED[argument])
    with attach(llava.model, [HeadReinforcement(gain=1.0)]):
        got = llava.model.generate(**llava.inputs, **GREEDY, **{argument: None})
    assert equal(got, expected)


def test_what_a_language_model_inside_generates_by_is_found(tiny: Build) -> None:
    """InstructBLIP hands everything to its language model, whose config then counts."""
    blip = tiny("instructblip")
    blip.model.language_model.generation_config.prompt_lookup_num_tokens = 3
    with (
        pytest.raises(errors.UnsupportedGeneration, match="prompt_lookup_num_tokens"),
        attach(blip.model, [HeadReinforcement()], allow_idle=True),
    ):
        blip.generate()


def test_an_assistant_and_continuous_batches_are_refused_by_name(llava: Tiny, tiny: Build) -> None:
    with attach(llava.model, [HeadReinforcement()], allow_idle=True):
        with pytest.raises(errors.UnsupportedGeneration, match="assistant_model guesses tokens ahead"):
            llava.generate(assistant_model=tiny("llava", seed=1).model)
        with pytest.raises(errors.UnsupportedGeneration, match="generate_batch packs many prompts"):
            llava.model.generate_batch([[1, 5, 6]])


def test_a_setting_of_the_models_own_config_is_refused_too(llava: Tiny) -> None:
    llava.model.generation_config.prefill_chunk_size = 4
    with (
        pytest.raises(errors.UnsupportedGeneration, match="in pieces"),
        attach(llava.model, [HeadReinforcement()], allow_idle=True),
    ):
        llava.generate()


def test_a_generate_of_ones_own_is_there_again_afterwards(llava: Tiny) -> None:
    own = llava.model.generate = partial(type(llava.model).generate, llava.model)
    with attach(llava.model, [HeadReinforcement()]):
        llava.generate()
    assert llava.model.generate is own


def test_searches_that_moved_to_the_hub_are_refused_by_transformers(
    llava: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        pytest.raises(ValueError, match="Contrastive Search"),
        attach(llava.model, [HeadReinforcement()], allow_idle=True),
    ):
        llava.generate(penalty_alpha=0.6, top_k=4)


def test_a_custom_loop_equals_hooks(llava: Tiny) -> None:
    """A loop handed to generate() that feeds a whole prompt and then single tokens is followed like the built-in."""

    def loop(
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        generation_config: GenerationConfig | None = None,
        **kwargs: object,
    ) -> torch.Tensor:
        ids, cache = input_ids, DynamicCache(config=model.config.get_text_config())
        given = {**llava.inputs, "past_key_values": cache}
        for _ in range(4):
            logits = model(**given).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            given = {"input_ids": ids[:, -1:], "past_key_values": cache}
        return ids

    arguments = {**llava.inputs, "custom_generate": loop, "max_new_tokens": 4}
    with HookedVhr(llava, gain=2.0, layers=EVERYWHERE).hooked():
        expected = llava.model.generate(**arguments)
    with attach(llava.model, [HeadReinforcement(layers="all")]) as run:
        got = llava.model.generate(**arguments)
    assert equal(expected, got)
    assert run.receipt.steps == 4


class _Rounded(QuantizedLayer):
    """A quantised layer whose quantisation rounds, so that no library is needed."""

    def __init__(self) -> None:
        super().__init__(residual_length=4)

    def _quantize(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return (tensor * 16).round()

    def _dequantize(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor / 16


def test_a_quantised_cache_equals_hooks(llava: Tiny) -> None:
    def cache() -> Cache:
        return Cache(layers=[_Rounded() for _ in llava.decoder_layers])

    with HookedVhr(llava, gain=2.0, layers=EVERYWHERE).hooked():
        expected = llava.generate(steps=10, past_key_values=cache())
    with attach(llava.model, [HeadReinforcement(layers="all")]):
        got = llava.generate(steps=10, past_key_values=cache())
    assert same_ids(expected, got)
    assert distance(expected.logits, got.logits) < CLOSE


def test_guidance_runs_its_own_prompt_without_image_and_untouched(llava: Tiny) -> None:
    """The second prompt of classifier-free guidance has no image, so nothing fires on it."""
    with attach(llava.model, [HeadReinforcement(layers="all")]) as run:
        guided = llava.generate(steps=3, guidance_scale=1.5)
        alone = llava.generate(steps=3)
    assert equal(guided.logits[0], alone.logits[0])
    assert (run.receipt.generations, run.receipt.imageless) == (3, 1)
