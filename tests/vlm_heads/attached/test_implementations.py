"""Models loaded with another attention: SDPA, or eager, stands in inside attach, and the other comes back."""

import logging

import pytest
import torch
import transformers as T
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, IMAGE, TEXT, TOWER, Tiny
from vlm_heads import HeadReinforcement, attach, errors
from vlm_heads.attached import installing
from vlm_heads.attached.two_streams import both_streams
from vlm_heads.families import examine

VHR = HeadReinforcement(gain=3.0, layers="all")
FLASH = ("flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2")


@pytest.fixture(autouse=True)
def _not_said_yet() -> None:
    installing._say_once.cache_clear()


def _fails(*_: object, **__: object) -> None:
    raise AssertionError("flash attention runs on a GPU alone")


@pytest.mark.parametrize("implementation", FLASH)
def test_flash_attention_is_stood_in_for(
    implementation: str, llava: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot run here: the config says so, and whatever would run it fails."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, implementation, _fails)
    with attach(llava.model, VHR):
        expected = llava.generate()
    config = llava.model.model.language_model.config
    config._attn_implementation = {"": implementation}
    with caplog.at_level(logging.INFO, logger="vlm_heads"):
        for _ in range(2):
            with attach(llava.model, VHR):
                assert equal(llava.generate(), expected)
            assert config._attn_implementation == implementation
        both_streams(llava.model, examine(llava.model), llava.inputs)
    assert config._attn_implementation == implementation
    assert [one.getMessage() for one in caplog.records if "in place of" in one.getMessage()] == [
        f"inside attach the language model computes attention by sdpa in place of {implementation}"
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what transformers and torch call for it
def test_flex_attention_is_stood_in_for(llava: Tiny) -> None:
    with torch.no_grad():
        plain = llava.model(**llava.inputs).logits
        with attach(llava.model, VHR):
            expected = llava.model(**llava.inputs).logits
        llava.model.set_attn_implementation({"text_config": "flex_attention"})
        before = llava.model(**llava.inputs).logits
        with attach(llava.model, VHR):
            got = llava.model(**llava.inputs).logits
        assert equal(llava.model(**llava.inputs).logits, before)
    assert distance(before, plain) < CLOSE
    assert distance(got, expected) < CLOSE
    assert llava.model.get_decoder().config._attn_implementation == "flex_attention"


def _capped() -> Tiny:
    """PaliGemma 2, whose language model caps its attention logits."""
    torch.manual_seed(0)
    config = T.PaliGemmaConfig(
        vision_config=T.SiglipVisionConfig(image_size=28, **TOWER), projection_dim=64, hidden_size=64,
        text_config=T.Gemma2Config(**TEXT, head_dim=16, attn_logit_softcapping=0.1), image_token_index=IMAGE,
    )  # fmt: skip
    ids = torch.tensor([[1, 5, 6, *[IMAGE] * 4, 7, 8, 9, 10]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 28, 28), "token_type_ids": torch.zeros_like(ids)}
    return Tiny("paligemma", T.PaliGemmaForConditionalGeneration(config).eval(), inputs)


def test_logits_that_are_capped_stay_capped() -> None:
    """SDPA knows no cap, so that eager attention stands in there."""
    model = _capped()
    assert model.model.get_decoder().config._attn_implementation == "eager"
    with attach(model.model, VHR):
        expected = model.generate()
    model.model.get_decoder().config._attn_implementation = {"": "flash_attention_2"}
    with attach(model.model, VHR):
        assert equal(model.generate(), expected)


@pytest.mark.parametrize("what", ["pai", "var", "route", "spin"])
def test_an_edit_of_weights_that_would_leave_the_cap_out_is_refused(what: str) -> None:
    with pytest.raises(errors.UnsupportedModel, match=r"caps its attention logits .* vhr works here"):
        attach(_capped().model, f"{what}:layers=all")


def test_an_attention_of_ones_own_is_refused_by_name(llava: Tiny) -> None:
    AttentionInterface.register("tests_own", ALL_ATTENTION_FUNCTIONS["sdpa"])
    AttentionMaskInterface.register("tests_own", sdpa_mask)
    llava.model.set_attn_implementation({"text_config": "tests_own"})
    with pytest.raises(errors.UnsupportedModel, match=r"set_attn_implementation\('sdpa'\)"):
        attach(llava.model, VHR)
