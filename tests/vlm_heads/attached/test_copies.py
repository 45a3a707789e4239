"""An attached model is not copied; a copy made before or after is its own."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Tiny
from vlm_heads import VLM, HeadReinforcement, attach, errors


def _saved(model: nn.Module) -> io.BytesIO:
    stream = io.BytesIO()
    torch.save(model, stream)
    return stream


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": pickle.dumps,
    "torch.save": _saved,
    "inside another module": lambda model: copy.deepcopy(nn.Sequential(model)),
    "inside a VLM": lambda model: copy.deepcopy(VLM(model, None)),
    "the language model alone": lambda model: copy.deepcopy(model.get_decoder()),
    "one layer": lambda model: pickle.dumps(model.get_decoder().layers[1]),
}


@pytest.mark.parametrize("what", ["vhr:gain=8", "vcd"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_an_attached_model_is_refused(way: str, what: str, llava: Tiny) -> None:
    with (
        pytest.raises(errors.AlreadyAttached, match="copy it before attach or after"),
        attach(llava.model, what, allow_idle=True),
    ):
        WAYS[way](llava.model)
    WAYS[way](llava.model)


def test_a_copy_made_afterwards_has_its_own_weights(llava: Tiny) -> None:
    plain = llava.generate()
    with attach(llava.model, [HeadReinforcement(gain=8.0)]):
        llava.generate()
    copied = Tiny("llava", copy.deepcopy(llava.model), llava.inputs)
    assert equal(copied.generate(), plain)
    with torch.no_grad():
        for parameter in copied.model.parameters():
            parameter.zero_()
    assert not copied.generate().logits[0].any()
    assert equal(llava.generate(), plain)


def test_weights_are_saved_inside_and_name_no_attention_of_ours(llava: Tiny, tmp_path: Path) -> None:
    plain = llava.generate()
    with attach(llava.model, [HeadReinforcement(gain=8.0)], allow_idle=True):
        llava.model.save_pretrained(tmp_path)
    assert "vlm_heads" not in (tmp_path / "config.json").read_text("utf-8")
    loaded = Tiny("llava", type(llava.model).from_pretrained(tmp_path).eval(), llava.inputs)
    assert distance(loaded.generate(), plain) < CLOSE


def test_a_model_of_a_config_that_was_copied_inside_is_plain_and_can_be_attached(llava: Tiny) -> None:
    with attach(llava.model, [HeadReinforcement(gain=8.0)], allow_idle=True):
        config = copy.deepcopy(llava.model.config)
    twin = type(llava.model)(config).eval()
    twin.load_state_dict(llava.model.state_dict())
    built = Tiny("llava", twin, llava.inputs)
    assert equal(built.generate(), llava.generate())
    with attach(twin, [HeadReinforcement(gain=8.0)]):
        built.generate()
    assert twin.get_decoder().config._attn_implementation == "sdpa"
