"""Twenty-three families: head reinforcement equals plain hooks, and a neutral gain changes no bit."""

import pytest
import torch

from tests.support.compare import Generated, distance, equal
from tests.support.families import CLOSE, Build, Inputs
from tests.support.family_table import FamilyTable
from tests.support.oracle import HookedVhr
from vlm_heads import HeadReinforcement, attach, errors


def test_reinforcement_equals_hooks_on_the_output_projection(family: str, tiny: Build, support: FamilyTable) -> None:
    model = tiny(family)
    oracle = HookedVhr(model, gain=2.5, layers={0, 1, 2})
    with oracle.hooked():
        expected = model.generate()
    with attach(model.model, [HeadReinforcement(gain=2.5, layers="all")]) as run:
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(model.generate().logits[0], got.logits[0]) > 1e-2  # the comparison would be empty otherwise
    chosen = {layer: [int(head) for head in mask] for layer, mask in oracle.chosen.items()}
    assert run.receipt.interventions[0].heads() == chosen
    support.states(family, "vhr", "equals hooks")


def test_neutral_gain_changes_no_bit(family: str, tiny: Build, support: FamilyTable) -> None:
    model = tiny(family)
    plain = model.generate()
    with attach(model.model, [HeadReinforcement(gain=1.0, layers="all")]):
        assert equal(plain, model.generate())
    assert equal(plain, model.generate())
    support.states(family, "gain 1", "no bit changes")


@pytest.mark.parametrize("offset_family", ["qwen2_vl", "qwen3_vl", "glm4v"])
def test_offset_kept_on_the_model_survives_the_image_free_pass(offset_family: str, tiny: Build) -> None:
    model = tiny(offset_family)
    model.generate()
    holder = model.model.model
    before = holder.rope_deltas.clone()
    with attach(model.model, [HeadReinforcement(layers="all")]):
        model.generate()
    assert equal(before, holder.rope_deltas)


def _side_by_side(one: Inputs, other: Inputs, padding: int) -> Inputs:
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


def _shortened(inputs: Inputs, by: int) -> Inputs:
    length = inputs["input_ids"].shape[1]
    return {
        name: value[:, :-by] if name != "pixel_values" and value.dim() > 1 and value.shape[1] == length else value
        for name, value in inputs.items()
    }


def test_a_left_padded_batch_gives_what_its_rows_give_alone(family: str, tiny: Build, support: FamilyTable) -> None:
    model = tiny(family)
    first = model.inputs
    torch.manual_seed(9)
    second = _shortened({**first, "pixel_values": torch.randn_like(first["pixel_values"])}, by=2)
    rows = [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in (first, second)]
    arguments = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}

    def run(inputs: Inputs, *interventions: HeadReinforcement) -> Generated:
        with attach(model.model, interventions):
            return model.model.generate(**inputs, **arguments)

    batch = _side_by_side(first, second, padding=2)
    for what in ([], [HeadReinforcement(layers="all", gain=2.5)]):
        together = run(batch, *what)
        for index, row in enumerate(rows):
            alone = run(row, *what)
            for ours, theirs in zip(together.logits, alone.logits, strict=True):
                assert distance(ours[index], theirs[0]) < CLOSE, f"row {index}, {'with' if what else 'without'} VHR"
    support.states(family, "padded batch", "equals its rows")


NEEDS_IMAGE = ("instructblip", "blip2")


def test_without_an_image_nothing_fires_and_that_is_said(family: str, tiny: Build, support: FamilyTable) -> None:
    model = tiny(family)
    if family in NEEDS_IMAGE:  # its own generate() insists on pixel values
        with pytest.raises((TypeError, ValueError, AttributeError)):
            model.model.generate(input_ids=torch.tensor([[1, 5, 7, 8]]), max_new_tokens=2)
        support.states(family, "no image", "the family needs one")
        return
    text = {"input_ids": torch.tensor([[1, 5, 7, 8]]), "max_new_tokens": 3, "do_sample": False}
    plain = model.model.generate(**text)
    with attach(model.model, [HeadReinforcement(layers="all")], allow_idle=True) as run:
        assert equal(plain, model.model.generate(**text))
    assert run.receipt.imageless == 1
    with (
        pytest.raises(errors.NothingIntervened, match="no prompt had image tokens"),
        attach(model.model, [HeadReinforcement(layers="all")]),
    ):
        model.model.generate(**text)
    support.states(family, "no image", "nothing fires, said")


BY_PROMPT = ("idefics2", "idefics3", "smolvlm", "mllama")  # pixel values are [prompts, images, ...]


def _with_two_images(family: str, inputs: Inputs) -> Inputs:
    """Return one prompt whose image comes twice, with a picture of its own each time and text between them."""
    image = 200 if family == "mllama" else 150
    ids = inputs["input_ids"]
    first, last = (int(at) for at in (ids[0] == image).nonzero()[[0, -1], 0])
    # some families mark the borders of an image by tokens beside it: they come twice too
    span = slice(max(1, first - 1), last + 2)
    doubled = {}
    for name, value in inputs.items():
        if value.dim() == 2 and value.shape == ids.shape:
            doubled[name] = torch.cat([value[:, : span.stop], value[:, span], value[:, span.stop :]], dim=1)
        else:
            other = torch.randn_like(value) if name == "pixel_values" else value
            doubled[name] = torch.cat([value, other], dim=int(family in BY_PROMPT and name != "cross_attention_mask"))
    if family == "mllama":
        doubled["cross_attention_mask"] = torch.ones(1, doubled["input_ids"].shape[1], 2, 1).long()
    return doubled


def test_two_images_in_one_prompt_equal_hooks(family: str, tiny: Build, support: FamilyTable) -> None:
    model = tiny(family)
    if family in NEEDS_IMAGE:  # one image is projected into one span of query tokens
        support.states(family, "two images", "the family takes one")
        return
    model.inputs = _with_two_images(family, model.inputs)
    with HookedVhr(model, gain=2.5, layers={0, 1, 2}).hooked():
        expected = model.generate()
    with attach(model.model, [HeadReinforcement(gain=2.5, layers="all")]):
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(model.generate().logits[0], got.logits[0]) > 1e-2
    support.states(family, "two images", "equals hooks")


def test_the_table_holds_every_family_and_every_cell(support: FamilyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRITE_FAMILIES", raising=False)
    families = [name.split("[")[0] for name in support.read()[1]]
    assert len(families) == len(set(families)) == 23
    assert all(cell for row in support.read()[1].values() for cell in row.values())
    with pytest.raises(AssertionError, match="stale"):
        support.states("llava", "vhr", "does not work")
