"""What is put together once stays so while it is asked for, and a decode step costs few tensor operations."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from vlm_kernels import AttentionPlan, Redistribution

from tests.support.compare import distance
from tests.support.families import CLOSE, Tiny
from vlm_heads import HeadReinforcement, RouteGain, SinkRedistribution, attach
from vlm_heads.attached.layer_edit import GenerationEdits
from vlm_heads.errors import BadOption
from vlm_heads.interventions.base import Intervention

MOST_OPERATIONS = {"vhr": 1, "var": 15, "route": 8}  # a layer and decode step, beyond those of the plain model
VAR = SinkRedistribution(**SinkRedistribution.trial, layers="all")


class _Count(TorchDispatchMode):
    """Counts every tensor operation, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def _operations_of_a_step(llava: Tiny) -> int:
    """Return how many operations the third decode step takes."""
    with torch.inference_mode():
        cache = llava.model(**llava.inputs, use_cache=True).past_key_values
        for _ in range(3):
            with _Count() as count:
                llava.model(input_ids=torch.tensor([[11]]), past_key_values=cache, use_cache=True)
    return count.operations


@pytest.mark.parametrize(
    ("name", "intervention"),
    [("vhr", HeadReinforcement(layers="all")), ("var", VAR), ("route", RouteGain(layers="all"))],
)
def test_a_decode_step_takes_few_operations(name: str, intervention: Intervention, llava: Tiny) -> None:
    plain = _operations_of_a_step(llava)
    with attach(llava.model, [intervention]):
        edited = _operations_of_a_step(llava)
    assert plain < edited <= plain + MOST_OPERATIONS[name] * len(llava.decoder_layers)


def test_a_step_without_sinks_is_the_plain_models(llava: Tiny) -> None:
    """Decided once, at prefill: where the image has no sink, the layer is stock attention."""
    plain = _operations_of_a_step(llava)
    none = SinkRedistribution(**{**SinkRedistribution.trial, "threshold": 1e6}, layers="all")
    with attach(llava.model, [none], allow_idle=True):
        assert _operations_of_a_step(llava) == plain


def test_the_same_plans_are_joined_once() -> None:
    edits = GenerationEdits()
    gain, rule = AttentionPlan(head_gain=torch.ones(1, 2)), AttentionPlan(redistribution=Redistribution())
    joined = edits.combined(0, gain, rule, "var")
    assert edits.combined(0, gain, rule, "var") is joined
    assert edits.edit_for(0, joined) is edits.edit_for(0, joined)
    again = AttentionPlan(redistribution=Redistribution())
    assert edits.combined(0, gain, again, "var").redistribution is again.redistribution
    assert edits.edit_for(0, gain) is not edits.edit_for(1, gain)


def test_plans_that_exclude_each_other_are_refused_by_name() -> None:
    first, second = (AttentionPlan(redistribution=Redistribution(moved=share)) for share in (0.1, 0.2))
    with pytest.raises(BadOption, match=r"^var cannot be combined"):
        GenerationEdits().combined(0, first, second, "var")


def test_a_crop_into_the_prompt_lays_the_tables_out_anew(llava: Tiny) -> None:
    """A caller that drops keys and goes on decoding gets what the specification says of the keys that are left."""
    token = torch.tensor([[11]])

    def after_a_crop(backend: str) -> torch.Tensor:
        with torch.inference_mode(), attach(llava.model, [VAR], backend=backend):
            cache = llava.model(**llava.inputs, use_cache=True).past_key_values
            for _ in range(2):
                llava.model(input_ids=token, past_key_values=cache)
            cache.crop(-3)  # both tokens, and the last of the prompt
            for _ in range(3):
                logits = llava.model(input_ids=token, past_key_values=cache).logits
        return logits

    assert distance(after_a_crop("torch"), after_a_crop("reference")) < CLOSE
