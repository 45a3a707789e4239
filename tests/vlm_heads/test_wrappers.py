"""Wrappers round a model: taken off where that is exact, else refused with the call to use."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Build, Tiny
from vlm_heads import VLM, HeadReinforcement, attach, errors, fold_gains, score_heads, token_grounding
from vlm_heads.methods import Asked, known_contrasts
from vlm_heads.models.planted import build_planted, planted_image

VHR = HeadReinforcement(gain=8.0, layers="all")
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
# what PEFT asks for when it is put round a model
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
needs_peft = pytest.mark.skipif(
    find_spec("peft") is None, reason="peft is not installed; it comes with the extra 'test'"
)


def _lora(model: PreTrainedModel, **changes: object) -> Any:
    """Return PEFT's wrapper with adapters that change what the model says."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    where = r".*language_model.*\.(q_proj|v_proj)"
    return get_peft_model(model, LoraConfig(r=4, target_modules=where, init_lora_weights=False, **changes)).eval()


@needs_peft
@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_lora_is_attached_as_the_model_inside(task: str | None, llava: Tiny) -> None:
    bare = llava.model.generate(**llava.inputs, **GREEDY)
    wrapped = _lora(llava.model, task_type=task)
    plain = wrapped.generate(**llava.inputs, **GREEDY)
    with attach(wrapped.get_base_model(), VHR):
        expected = wrapped.generate(**llava.inputs, **GREEDY)
    with attach(wrapped, VHR) as run:
        got = wrapped.generate(**llava.inputs, **GREEDY)
    assert equal(got, expected)
    assert not equal(got, plain)
    assert not equal(bare, plain)
    assert run.receipt.generations == 1
    assert equal(wrapped.generate(**llava.inputs, **GREEDY), plain)


@needs_peft
def test_a_bare_forward_of_a_lora_trains_its_adapters(llava: Tiny) -> None:
    wrapped = _lora(llava.model)
    with attach(wrapped, VHR):
        expected = wrapped.get_base_model()(**llava.inputs).logits
        logits = wrapped(**llava.inputs).logits
        logits.sum().backward()
    assert equal(logits, expected)
    adapters = {name: one.grad for name, one in wrapped.named_parameters() if "lora_B" in name}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in adapters.values())


@needs_peft
def test_ways_and_contrasts_are_found_through_a_lora(llava: Tiny) -> None:
    wrapped = _lora(llava.model)
    wrapped.get_base_model().generation_config.prompt_lookup_num_tokens = 2
    with (
        pytest.raises(errors.UnsupportedGeneration, match="prompt_lookup_num_tokens"),
        attach(wrapped, VHR, allow_idle=True),
    ):
        wrapped.generate(**llava.inputs, **GREEDY)
    wrapped.get_base_model().generation_config.prompt_lookup_num_tokens = None
    processor = known_contrasts()["vcd"](noise_step=900).processor(Asked(wrapped, llava.inputs))
    expected = wrapped.generate(**llava.inputs, **GREEDY, logits_processor=[processor])
    with attach(wrapped, "vcd:noise_step=900"):
        assert equal(wrapped.generate(**llava.inputs, **GREEDY), expected)


@needs_peft
def test_learned_positions_before_the_prompt_are_refused(llava: Tiny) -> None:
    from peft import PromptTuningConfig, get_peft_model

    wrapped = get_peft_model(llava.model, PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(errors.UnsupportedModel, match="PromptTuningConfig puts learned positions"):
        attach(wrapped, VHR)


@needs_peft
def test_all_that_takes_a_model_takes_a_lora() -> None:
    model, processor = build_planted()
    picture = planted_image("car")
    scores = score_heads(model, processor, [picture]).scores
    wrapped = _lora(model)
    inside = wrapped.get_base_model()
    assert equal(score_heads(wrapped, processor, [picture]).scores, score_heads(inside, processor, [picture]).scores)
    assert not equal(scores, score_heads(wrapped, processor, [picture]).scores)
    assert token_grounding(wrapped, processor, picture, "what ?", "there is a car") == token_grounding(
        inside, processor, picture, "what ?", "there is a car"
    )
    vlm, known = VLM(wrapped, processor), VLM(inside, processor)
    for what in ((), "vhr:gain=2", "vcd"):
        assert vlm.answer(picture, "what ?", what).token_ids == known.answer(picture, "what ?", what).token_ids
    gains = torch.ones(4, 4)
    gains[1, 1] = 2.0
    fold_gains(wrapped, gains)
    with attach(wrapped, VHR), attach(VLM.from_pretrained("planted").model, VHR, allow_idle=True):
        wrapped.generate(**vlm.inputs([picture], "what ?"), max_new_tokens=2)


@pytest.mark.slow
def test_a_compiled_model_is_attached_as_the_model_inside(tiny: Build) -> None:
    llava = tiny("llava", num_hidden_layers=1)
    with torch.no_grad(), attach(llava.model, VHR):
        expected, logits = llava.model.generate(**llava.inputs, **GREEDY), llava.model(**llava.inputs).logits
    compiled: Any = torch.compile(llava.model, backend="eager")
    with torch.no_grad():
        plain = compiled(**llava.inputs).logits
        with attach(compiled, VHR):
            assert equal(compiled.generate(**llava.inputs, **GREEDY), expected)
            assert distance(compiled(**llava.inputs).logits, logits) < CLOSE
        assert distance(compiled(**llava.inputs).logits, plain) < CLOSE


class DistributedDataParallel(nn.Module):
    """Hands its inputs on, as torch's does between its collectives; no process group is needed here."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: torch.Tensor) -> object:
        return self.module(**inputs)


def test_a_distributed_model_is_attached_as_the_model_inside(llava: Tiny) -> None:
    with torch.no_grad(), attach(llava.model, VHR):
        expected = llava.model(**llava.inputs).logits
    wrapped = DistributedDataParallel(llava.model)
    with torch.no_grad(), attach(wrapped, VHR):
        assert equal(wrapped(**llava.inputs).logits, expected)


def test_copies_on_other_devices_are_refused_with_the_call_to_use(llava: Tiny) -> None:
    wrapped = nn.DataParallel(llava.model)
    with pytest.raises(errors.UnsupportedModel, match=r"give its \.module and call \.module\.generate\(\.\.\.\)"):
        attach(wrapped, VHR)
    with (
        pytest.raises(errors.AlreadyAttached, match="copy"),
        attach(llava.model, VHR, allow_idle=True),
    ):
        llava.model._replicate_for_data_parallel()  # as torch.nn.parallel.replicate calls it, which needs devices


class _Chat(nn.Module):
    """Somebody's own wrapper."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.llm = nn.ModuleDict({"vision": model})


@pytest.mark.parametrize("what", [score_heads, attach])
def test_an_unknown_wrapper_is_refused_with_the_call_to_use(what: Any, llava: Tiny) -> None:
    with pytest.raises(errors.UnsupportedModel, match=r"_Chat goes round .* give its \.llm\.vision"):
        what(_Chat(llava.model), None, []) if what is score_heads else what(_Chat(llava.model), VHR)


def test_a_vlm_in_place_of_its_model_is_named(llava: Tiny) -> None:
    with pytest.raises(errors.UnsupportedModel, match=r"VLM is no model and holds one: give its \.model"):
        attach(VLM(llava.model, None), VHR)


@pytest.mark.parametrize("round_it", ["forward", "decoder"])
def test_a_call_that_goes_round_the_model_is_refused(round_it: str, llava: Tiny) -> None:
    ids = torch.tensor([[1, 5, 7]])
    with (
        pytest.raises(errors.UnsupportedGeneration, match=r"outside a forward .* call model\(\.\.\.\)"),
        attach(llava.model, VHR, allow_idle=True),
    ):
        llava.model.forward(**llava.inputs) if round_it == "forward" else llava.model.get_decoder()(input_ids=ids)
