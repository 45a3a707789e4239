"""What a prompt holds beside text and pictures: videos are vision in every pass, and no pass loses sound in silence."""

from types import SimpleNamespace

import pytest
import torch
import transformers as T
from torch import Tensor

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, PATCH, Build, Inputs, Tiny
from tests.support.oracle import HookedVhr
from vlm_heads import FadingImage, HeadReinforcement, NoisedImage, attach, errors
from vlm_heads.families import examine
from vlm_heads.methods import Asked
from vlm_heads.models.prompts import chat_text

VIDEO = 151


def _spliced(ids: Tensor, span: list[int]) -> Tensor:
    """Return a prompt with a span put before its last four tokens."""
    return torch.cat([ids[:, :-4], torch.tensor([span]), ids[:, -4:]], dim=1)


def _with_video(model: Tiny) -> Inputs:
    """Return the prompt with a video of two frames beside its picture."""
    ids = model.inputs["input_ids"]
    if model.family == "llava_onevision":
        shown = {"pixel_values_videos": torch.randn(1, 2, 3, 28, 28)}
        return {**model.inputs, **shown, "input_ids": _spliced(ids, [VIDEO] * 3)}  # one a frame, and a line break
    ids = _spliced(ids, [152, *[VIDEO] * 4, 153])
    shown = {
        "pixel_values_videos": torch.randn(16, 3 * 2 * PATCH * PATCH),
        "video_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (ids == 150).int() + 2 * (ids == VIDEO).int(),
    }
    return {**model.inputs, **shown, "input_ids": ids}


class _TextOnly(Tiny):
    """Knows videos too."""

    @property
    def text(self) -> Tensor:
        ids = super().text
        return ids[ids != VIDEO][None]


def _tiny(family: str, tiny: Build) -> Tiny:
    built = tiny(family)
    model = _TextOnly(family, built.model, built.inputs)
    model.inputs = _with_video(model)
    return model


@pytest.mark.parametrize("family_name", ["llava_onevision", "qwen2_vl", "qwen2_5_vl"])
def test_a_video_beside_an_image_equals_hooks(family_name: str, tiny: Build) -> None:
    """Its tokens are left out of the image-free pass too."""
    model = _tiny(family_name, tiny)
    with HookedVhr(model, gain=2.5, layers={0, 1, 2}).hooked():
        expected = model.generate()
    with attach(model.model, [HeadReinforcement(gain=2.5, layers="all")]) as run:
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert run.receipt.imageless == 0
    seen = int(((model.inputs["input_ids"] == 150) | (model.inputs["input_ids"] == VIDEO)).sum())
    second = FadingImage().second_stream(Asked(model.model, model.inputs))
    assert second._inputs["input_ids"].shape[1] == model.inputs["input_ids"].shape[1] - seen


def test_a_video_alone_is_seen(tiny: Build) -> None:
    model = _tiny("llava_onevision", tiny)
    ids = model.inputs["input_ids"]
    model.inputs = {"input_ids": ids[ids != 150][None], "pixel_values_videos": model.inputs["pixel_values_videos"]}
    with HookedVhr(model, gain=2.5, layers={0, 1, 2}).hooked():
        expected = model.generate()
    with attach(model.model, [HeadReinforcement(gain=2.5, layers="all")]):
        assert distance(expected, model.generate()) < CLOSE


def test_a_contrast_that_would_leave_a_video_as_it_is_says_so(tiny: Build) -> None:
    model = _tiny("llava_onevision", tiny)
    with (
        pytest.raises(errors.BadOption, match="videos are not looked at"),
        attach(model.model, NoisedImage(), allow_idle=True),
    ):
        model.generate()


def test_a_video_token_in_a_prompt_is_refused() -> None:
    processor = SimpleNamespace(image_token="<image>", video_token="<video>", chat_template=None)
    with pytest.raises(errors.BadPrompt, match="videos are not looked at"):
        chat_text(processor, "what happens in <video>?")
    assert chat_text(processor, "what happens?") == "<image>\nwhat happens?"


def test_a_model_of_videos_alone_is_refused(llava: Tiny) -> None:
    llava.model.config = T.InstructBlipVideoConfig(video_token_index=VIDEO)
    with pytest.raises(errors.UnsupportedModel, match="takes videos and no images"):
        examine(llava.model)


def test_sound_is_refused_where_the_image_free_pass_would_lose_it(llava: Tiny) -> None:
    """A family that takes sound says so in its config; nothing else of it is needed here."""
    llava.model.config.audio_token_id = 9  # a token of the prompt
    plain = llava.generate()
    for what in (HeadReinforcement(), FadingImage()):
        with (
            pytest.raises(errors.UnsupportedGeneration, match="without its sound"),
            attach(llava.model, what, allow_idle=True),
        ):
            llava.generate()
    with attach(llava.model, "pai:layers=all"):
        assert not equal(llava.generate(), plain)
