"""What scorers read of a forward, on every family: heads that write what the projection writes, and rows repeated."""

import pytest
import torch

from tests.support.compare import distance
from tests.support.families import CLOSE, Build
from vlm_heads import errors, examine
from vlm_heads.scorers.ablation import token_chances
from vlm_heads.scorers.example import repeated
from vlm_heads.scorers.reading import OutputLayer, gained, seen_at, told

OTHER_NORMS = {"ayavision", "cohere2_vision", "instructblip", "blip2"}  # LayerNorms


def test_heads_together_write_what_their_projection_writes(family: str, tiny: Build) -> None:
    """Gated families included: what counts is what enters the projection."""
    model = tiny(family)
    anatomy, columns = examine(model.model), [-2, -1]
    given: dict[int, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, at=at: given.__setitem__(at, out[0, columns]))
        for at, module in model.projections().items()
    ]
    seen = seen_at(model.model, anatomy, model.inputs, columns)
    for handle in handles:
        handle.remove()
    direction = torch.randn(2, anatomy.width)
    for layer, module in model.projections().items():
        bias = getattr(module, "bias", None)
        written = given[layer] - (0.0 if bias is None else bias.detach())
        found = told(anatomy, layer, seen.heads[layer], direction).sum(dim=0)
        assert distance(found, (written * direction).sum(dim=-1)) < 10 * CLOSE


def test_a_head_switched_off_in_one_of_several_rows(family: str, tiny: Build) -> None:
    """Every row is the same prompt with its picture, whatever shape a family gives pictures."""
    model = tiny(family)
    anatomy = examine(model.model)
    layer = max(anatomy.attentions)
    plain = token_chances(model.model, model.inputs, [model.inputs["input_ids"].shape[1] - 1])
    gain = torch.ones(3, anatomy.heads)
    gain[1, 2] = 0.0
    with gained(anatomy.projections[layer], gain):
        rows = token_chances(model.model, repeated(model.inputs, 3), [model.inputs["input_ids"].shape[1] - 1])
    assert distance(rows[[0, 2]], plain.expand(2, -1, -1)) < CLOSE
    assert distance(rows[1], plain[0]) > CLOSE


def test_directions_are_the_output_layers_or_refused(family: str, tiny: Build) -> None:
    """Where the final norm is understood, a state's product with its own direction is its token logit."""
    model = tiny(family)
    anatomy = examine(model.model)
    if family in OTHER_NORMS:
        with pytest.raises(errors.UnsupportedModel, match="final norm"):
            OutputLayer(model.model, anatomy)
        return
    output = OutputLayer(model.model, anatomy)
    seen = seen_at(model.model, anatomy, model.inputs, [-1])
    with torch.no_grad():
        expected = output.norm(seen.last) @ output.matrix[7]
        found = (output.through_norm(output.matrix[7][None], seen.last) * seen.last).sum(dim=-1)
    assert distance(found, expected) < CLOSE
