"""Twenty-one families: head reinforcement equals plain hooks, and a neutral gain changes no bit."""

from typing import Any

import pytest
import torch

from vlm_heads import HeadReinforcement, attach


def _same(left: Any, right: Any) -> bool:
    logits = zip(left.logits, right.logits, strict=True)
    return torch.equal(left.sequences, right.sequences) and all(torch.equal(a, b) for a, b in logits)


def _distance(left: Any, right: Any) -> float:
    assert torch.equal(left.sequences, right.sequences)
    return max((a - b).abs().max().item() for a, b in zip(left.logits, right.logits, strict=True))


def test_reinforcement_equals_hooks_on_the_output_projection(family: str, tiny: Any, hooked_vhr: Any) -> None:
    model = tiny(family)
    oracle = hooked_vhr(model, gain=2.5, layers={0, 1, 2})
    with oracle.hooked():
        expected = model.generate()
    with attach(model.model, [HeadReinforcement(gain=2.5, layers="all")]) as run:
        got = model.generate()
    assert _distance(expected, got) < 2e-4
    assert _distance_from_plain(model, got) > 1e-2  # the comparison would be empty otherwise
    chosen = {layer: [int(head) for head in mask] for layer, mask in oracle.chosen.items()}
    assert run.receipt.interventions[0].heads() == chosen


def _distance_from_plain(model: Any, got: Any) -> float:
    plain = model.generate()
    return (plain.logits[0] - got.logits[0]).abs().max().item()


def test_neutral_gain_changes_no_bit(family: str, tiny: Any) -> None:
    model = tiny(family)
    plain = model.generate()
    with attach(model.model, [HeadReinforcement(gain=1.0, layers="all")]):
        assert _same(plain, model.generate())
    assert _same(plain, model.generate())


@pytest.mark.parametrize("offset_family", ["qwen2_vl", "qwen3_vl", "glm4v"])
def test_offset_kept_on_the_model_survives_the_image_free_pass(offset_family: str, tiny: Any) -> None:
    model = tiny(offset_family)
    model.generate()
    holder = model.model.model
    before = holder.rope_deltas.clone()
    with attach(model.model, [HeadReinforcement(layers="all")]):
        model.generate()
    assert torch.equal(before, holder.rope_deltas)


def _side_by_side(one: dict[str, Any], other: dict[str, Any], padding: int) -> dict[str, Any]:
    """Return both prompts as one batch, the second shortened by `padding` text positions and padded on the left."""
    length = one["input_ids"].shape[1]
    batch = {}
    for name, value in one.items():
        second = other[name]
        if name != "pixel_values" and value.dim() > 1 and value.shape[1] == length:
            fill = second.new_zeros((1, padding, *second.shape[2:]))
            second = torch.cat([fill, second], dim=1)
        batch[name] = torch.cat([value, second])
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, :padding] = 0
    return {**batch, "attention_mask": mask}


def _shortened(inputs: dict[str, Any], by: int) -> dict[str, Any]:
    length = inputs["input_ids"].shape[1]
    return {
        name: value[:, :-by] if name != "pixel_values" and value.dim() > 1 and value.shape[1] == length else value
        for name, value in inputs.items()
    }


def test_a_left_padded_batch_gives_what_its_rows_give_alone(family: str, tiny: Any) -> None:
    model = tiny(family)
    first = model.inputs
    torch.manual_seed(9)
    second = _shortened({**first, "pixel_values": torch.randn_like(first["pixel_values"])}, by=2)
    rows = [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in (first, second)]
    arguments = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}

    def run(inputs: dict[str, Any], *interventions: HeadReinforcement) -> Any:
        with attach(model.model, interventions):
            return model.model.generate(**inputs, **arguments)

    batch = _side_by_side(first, second, padding=2)
    for what in ([], [HeadReinforcement(layers="all", gain=2.5)]):
        together = run(batch, *what)
        for index, row in enumerate(rows):
            alone = run(row, *what)
            for ours, theirs in zip(together.logits, alone.logits, strict=True):
                assert (ours[index] - theirs[0]).abs().max() < 2e-4, f"row {index}, {'with' if what else 'without'} VHR"
