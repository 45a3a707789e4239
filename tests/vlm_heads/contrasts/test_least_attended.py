"""SID against a stream whose image keys are closed in attention written out in float64."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.support.families import Build, Tiny
from tests.support.stream_oracle import Whole, padded, plainly
from tests.vlm_heads.contrasts.conftest import Holds
from vlm_heads import attach
from vlm_heads.contrasts.least_attended import LeastAttended
from vlm_heads.errors import BadOption, UnsupportedModel


@dataclass
class Closing:
    """The stream that keeps the `kept` least attended image keys in the layers from `start` on.

    Rows before the prompt's last ran with it, and lost what it closed.
    """

    start: int
    kept: int
    closed: dict[int, list[int]] = field(default_factory=dict)

    def __call__(self, call: Whole) -> Tensor:
        if call.layer == self.start - 1:
            weights = call.logits.softmax(-1).mean(0)
            image = call.image.nonzero()[:, 0].tolist()
            for row in call.predicting:
                ascending = sorted(image, key=lambda key: float(weights[row, key]))
                self.closed[row] = ascending[self.kept :]
        if call.layer >= self.start:
            for row in range(call.logits.shape[1]):
                call.logits[:, row, self.closed[max(row, call.prompt - 1)]] = -torch.inf
        return plainly(call)


@pytest.mark.parametrize(("start", "share", "kept"), [(1, 0.5, 2), (2, 0.1, 1), (2, 0.8, 3)])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_other_image_keys_are_closed(
    implementation: str, start: int, share: float, kept: int, model: Tiny, holds: Holds
) -> None:
    model.model.set_attn_implementation(implementation)
    contrast = LeastAttended(start=start, share=share, alpha=0.5)
    holds(contrast, model.model, padded(), [Closing(start, kept)], lambda _: (1.5, -0.5), 0.1, least=1e-4)


def test_the_program_excludes_no_token(model: Tiny, holds: Holds) -> None:
    contrast = LeastAttended(start=1, alpha=0.5, mode="code", bound=0.9)
    holds(contrast, model.model, padded(), [Closing(1, 1)], lambda _: (1.5, -0.5), 0.0)


def test_what_cannot_be_done_is_refused_by_name(tiny: Build) -> None:
    with pytest.raises(BadOption, match="start=3: a layer from 1 to 2"):
        attach(tiny("llava").model, LeastAttended(start=3))
    with pytest.raises(UnsupportedModel, match="is no attention"):
        attach(tiny("qwen3_5").model, LeastAttended())
    with pytest.raises(UnsupportedModel, match="cross-attention"):
        attach(tiny("mllama").model, LeastAttended())
