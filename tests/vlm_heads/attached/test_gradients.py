"""Gradients inside attach: those of what was computed, or refused by name. Never the plain model's."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import checkpoint

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from vlm_heads import HeadReinforcement, Intervention, attach, errors, examine, known_interventions


def _projection(llava: Tiny) -> nn.Parameter:
    weight = llava.projections()[1].weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _gradient(llava: Tiny, run: nn.Module | None = None) -> Tensor:
    """Return the gradient of an output projection under a strong gain."""
    llava.model.zero_grad()
    with attach(llava.model, [HeadReinforcement(gain=8.0, layers="all")]):
        (run or llava.model)(**llava.inputs, use_cache=False).logits.square().sum().backward()
    gradient = _projection(llava).grad
    assert gradient is not None
    return gradient.clone()


def _checkpointed(llava: Tiny, reentrant: bool) -> None:
    llava.model.train()
    llava.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    llava.model.enable_input_require_grads()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_are_refused_before_they_run(reentrant: bool, llava: Tiny) -> None:
    _checkpointed(llava, reentrant)
    with pytest.raises(errors.UnsupportedGeneration, match="LlamaModel checkpoints its activations"):
        _gradient(llava)
    assert _projection(llava).grad is None


def test_checkpointing_that_is_on_and_sleeps_changes_nothing(llava: Tiny) -> None:
    """In evaluation mode transformers checkpoints nothing."""
    expected = _gradient(llava)
    _checkpointed(llava, reentrant=True)
    llava.model.eval()
    assert torch.equal(_gradient(llava), expected)


def test_generating_with_checkpointed_layers_is_refused(llava: Tiny) -> None:
    """They drop their cache, so that each step would be taken for a prompt of one token."""
    _checkpointed(llava, reentrant=False)
    with (
        pytest.raises(errors.UnsupportedGeneration, match=r"model\.eval\(\)"),
        attach(llava.model, [HeadReinforcement()], allow_idle=True),
    ):
        llava.generate()


def test_a_checkpointed_vision_tower_is_followed(llava: Tiny) -> None:
    expected = _gradient(llava)
    llava.model.train()
    tower = llava.model.model.vision_tower
    tower.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert distance(_gradient(llava), expected) < CLOSE * expected.abs().max()


def test_layers_in_a_wrapper_that_checkpoints_are_refused(llava: Tiny) -> None:
    layers = llava.model.get_decoder().layers
    layers[1] = checkpoint_wrapper(layers[1])
    with pytest.raises(errors.UnsupportedGeneration, match="CheckpointWrapper checkpoints"):
        _gradient(llava)


@pytest.mark.filterwarnings("ignore:None of the inputs")  # of the image-free pass
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_layer_that_is_checkpointed_by_hand_is_refused_in_backward(reentrant: bool, llava: Tiny) -> None:
    layer = llava.decoder_layers[1]
    forward = layer.forward
    layer.forward = lambda hidden, **rest: checkpoint(partial(forward, **rest), hidden, use_reentrant=reentrant)
    with pytest.raises(errors.UnsupportedGeneration, match="backward runs a checkpointed layer again"):
        _gradient(llava)


class _Whole(nn.Module):
    """A model whose whole forward is checkpointed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> object:
        return checkpoint(self.model, use_reentrant=False, **inputs)


def test_a_whole_model_that_is_checkpointed_by_hand_gives_its_gradient(tiny: Build) -> None:
    """Its forward is run again from the prompt on, so that the same heads are chosen again."""
    expected = _gradient(tiny("llava"))
    llava = tiny("llava")
    assert distance(_gradient(llava, _Whole(llava.model)), expected) < CLOSE * expected.abs().max()


def _active(name: str) -> Intervention:
    kind = known_interventions()[name]
    everywhere = {"layers": "all"} if "layers" in {one.name for one in kind.options()} else {}
    made: Intervention = kind(**{**everywhere, **kind.trial})
    return made


# a direction that is measured by passes of its own is none that a gradient goes through
MEASURED = [name for name, kind in known_interventions().items() if getattr(kind, "compares", False)]


@pytest.mark.parametrize("name", [name for name in known_interventions() if name not in MEASURED])
def test_gradients_through_every_method_equal_differences(name: str, llava: Tiny) -> None:
    """Of the prompt and of a decode step. The heads and rows a method chooses stay the same for so small a change."""
    if _active(name).first_pass(examine(llava.model)) is not None:
        pytest.skip("it acts inside generate() alone, through which no gradient is taken")
    model = llava.model.double()
    inputs = {**llava.inputs, "pixel_values": llava.inputs["pixel_values"].double()}
    weight = llava.decoder_layers[0].self_attn.v_proj.weight
    direction = torch.randn_like(weight)

    def loss() -> Tensor:
        with attach(model, [_active(name)]):
            prompt = model(**inputs, use_cache=True)
            step = model(input_ids=torch.tensor([[7]]), past_key_values=prompt.past_key_values)
        both = torch.cat([prompt.logits[0, -1], step.logits[0, -1]])
        return (both * torch.linspace(-1, 1, len(both))).sum()

    loss().backward()
    assert weight.grad is not None
    found = (weight.grad * direction).sum().item()
    with torch.no_grad():
        # Llama's norms round to float32, so that the step has to be large against 1e-7
        step = 2e-5
        weight += step * direction
        ahead = loss()
        weight -= 2 * step * direction
        expected = ((ahead - loss()) / (2 * step)).item()
    assert found == pytest.approx(expected, rel=2e-2, abs=1e-4)
