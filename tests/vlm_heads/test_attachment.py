"""attach as an object: detached by hand, with contrasts that need the inputs alone, and with watchers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.families import Tiny
from vlm_heads import (
    AttentionCall,
    DisturbedPrompt,
    FadingImage,
    HeadReinforcement,
    ImageBoost,
    NoisedImage,
    Watcher,
    attach,
    errors,
)
from vlm_heads.attention import is_bound
from vlm_heads.methods import Asked

GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


def test_detach_leaves_the_model_as_it_was(llava: Tiny) -> None:
    plain = llava.generate().sequences
    run = attach(llava.model, HeadReinforcement(gain=6.0))
    changed = llava.generate().sequences
    run.detach()
    run.detach()  # nothing is left to do
    assert not is_bound(llava.decoder_layers[0].self_attn)
    assert run.receipt.generations == 1
    assert torch.equal(plain, llava.generate().sequences)
    assert not torch.equal(plain, changed)


def test_detach_says_what_never_fired(llava: Tiny) -> None:
    run = attach(llava.model, "vhr")
    with pytest.raises(errors.NothingIntervened, match="vhr was attached and never fired"):
        run.detach()
    assert not is_bound(llava.decoder_layers[0].self_attn)
    attach(llava.model, "vhr", allow_idle=True).detach()


@pytest.mark.parametrize("contrast", [NoisedImage(noise_step=900), FadingImage(rate=1.0)], ids=["vcd", "m3id"])
@pytest.mark.parametrize("also", [(), (HeadReinforcement(gain=3.0),)], ids=["alone", "with vhr"])
def test_a_contrast_is_added_to_generate(contrast: Any, also: tuple[Any, ...], llava: Tiny) -> None:
    processor = contrast.processor(Asked(llava.model, llava.inputs))
    with attach(llava.model, list(also), allow_idle=True):
        expected = llava.model.generate(**llava.inputs, **GREEDY, logits_processor=[processor])
    with attach(llava.model, *also, contrast):
        for _ in range(2):  # each call has a stream of its own
            assert torch.equal(expected, llava.model.generate(**llava.inputs, **GREEDY))
    positional = {name: value for name, value in llava.inputs.items() if name != "input_ids"}
    with attach(llava.model, [*also, contrast], allow_idle=True):
        assert torch.equal(expected, llava.model.generate(llava.inputs["input_ids"], **positional, **GREEDY))
    assert "generate" not in vars(llava.model)


def test_a_contrast_that_needs_the_prompt_is_refused(llava: Tiny) -> None:
    with pytest.raises(errors.BadOption, match=r"ask through VLM\.answer"):
        attach(llava.model, DisturbedPrompt())
    assert "generate" not in vars(llava.model)


def test_a_contrast_that_was_never_used_is_named(llava: Tiny) -> None:
    with pytest.raises(errors.NothingIntervened, match="never used"), attach(llava.model, "vcd"):
        pass


class _Seen(Watcher):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.planned: list[bool] = []
        self.rows: list[int] = []

    def see(self, call: AttentionCall) -> None:
        assert call.output is not None
        self.outputs.append(call.output.clone())
        self.planned.append(call.planned is not None)
        self.rows.append(call.query.shape[2])
        assert not call.memory or call.memory["layers"]
        call.memory.setdefault("layers", []).append(call.layer)


def _watched(llava: Tiny, *what: Any) -> tuple[_Seen, Any]:
    seen = _Seen()
    with attach(llava.model, *what, watch=[seen]):
        return seen, llava.generate(steps=3)


def test_a_watcher_sees_every_call_and_changes_nothing(llava: Tiny) -> None:
    plain = llava.generate(steps=3)
    seen, watched = _watched(llava)
    assert torch.equal(plain.sequences, watched.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, watched.logits, strict=True))
    assert len(seen.outputs) == 3 * 3  # three layers, the prompt and two more steps
    assert not any(seen.planned)
    assert seen.rows[3:] == [1] * 6


def test_a_watcher_sees_what_the_model_receives(llava: Tiny) -> None:
    """The output of a layer whose heads are all multiplied by 3 is three times the plain one, on the first layer."""
    plain, _ = _watched(llava)
    edited, _ = _watched(llava, "reinforced:gains=0.0:3+0.1:3+0.2:3+0.3:3")
    assert edited.planned[0]
    assert torch.equal(edited.outputs[0], plain.outputs[0] * 3)


def test_image_free_passes_are_not_shown(llava: Tiny) -> None:
    seen, _ = _watched(llava, HeadReinforcement(layers="all"))
    assert len(seen.outputs) == 9


def test_a_watcher_sees_a_prompt_without_image(llava: Tiny) -> None:
    seen = _Seen()
    ids = torch.tensor([[1, 5, 7, 8]])
    with attach(llava.model, ImageBoost(), allow_idle=True, watch=[seen]):
        llava.model.generate(input_ids=ids, **GREEDY)
    assert len(seen.outputs) == 3 * 6
    assert not any(seen.planned)
