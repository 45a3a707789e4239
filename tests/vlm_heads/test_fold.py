"""Folded is what attached is: on every family, in memory and through a plain checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import logging

from tests.support.compare import equal
from tests.support.families import Build, Tiny
from vlm_heads import HeadProfile, StaticGains, attach, fold_checkpoint, fold_gains
from vlm_heads.errors import BadOption, BadProfile, UnsupportedModel
from vlm_heads.families import examine
from vlm_heads.fold import changed_layers
from vlm_heads.profiles.checkpoint_names import names_in_checkpoint

POWERS = torch.tensor([[2.0, 1.0, 0.5, 4.0], [1.0, 1.0, 1.0, 1.0], [0.25, 2.0, 1.0, 0.0]])
OTHERS = torch.tensor([[1.3, 1.0, 0.7, 1.0], [1.0, 1.0, 1.0, 1.0], [1.1, 0.9, 1.0, 3.3]])


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.disable_progress_bar()


def _profile(gains: Tensor = POWERS) -> HeadProfile:
    return HeadProfile(torch.zeros(3, 4), gains=gains)


def test_folded_is_attached_on_every_family(family: str, tiny: Build, tmp_path: Path) -> None:
    """Powers of two only move exponents: every product, and so every logit, is the same bit for bit."""
    model = tiny(family)
    model.model.save_pretrained(tmp_path / "original", max_shard_size="200KB")
    gains = POWERS if len(model.projections()) > 1 else POWERS[[1, 0, 1]]  # one layer with heads, the second
    plain = model.generate()
    with attach(model.model, [StaticGains()], profile=_profile(gains)):
        attached = model.generate()
    fold_gains(model.model, gains)
    assert equal(attached, model.generate())
    assert not equal(attached, plain)

    folded = fold_checkpoint(tmp_path / "original", _profile(gains), tmp_path / "folded")
    assert (len(folded.tensors), folded.exact) == (len(changed_layers(gains)), True)
    assert len(list((tmp_path / "folded").glob("*.safetensors"))) > 1
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "folded").state_dict()
    assert loaded.keys() == model.model.state_dict().keys()
    assert all(equal(value, loaded[name]) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_gains_round_each_weight_once(dtype: torch.dtype, llava: Tiny) -> None:
    model = llava.model.to(dtype)
    projection = examine(model).projections[2]
    before = projection.weight.detach().double()
    fold_gains(model, OTHERS)
    exact = before * OTHERS[2].double().repeat_interleave(16)
    # half a unit in the last place of the result, and the float32 product on the way
    half, least = torch.finfo(dtype).eps / 2 * (1 + 2**-12), torch.finfo(dtype).smallest_normal
    assert ((projection.weight.double() - exact).abs() <= half * exact.abs().clamp(min=least)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_powers_of_two_are_exact_in_half_precision(dtype: torch.dtype, llava: Tiny) -> None:
    model = llava.model.to(dtype)
    llava.inputs["pixel_values"] = llava.inputs["pixel_values"].to(dtype)
    with attach(model, [StaticGains()], profile=_profile()):
        attached = llava.generate()
    fold_gains(model, POWERS)
    assert equal(attached, llava.generate())


def test_the_bias_belongs_to_no_head(tiny: Build) -> None:
    model = tiny("blip2")
    projection = examine(model.model).projections[0]
    torch.nn.init.normal_(projection.bias)
    before = projection.bias.clone()
    with attach(model.model, [StaticGains()], profile=_profile()):
        attached = model.generate()
    fold_gains(model.model, POWERS)
    assert equal(before, projection.bias)
    assert equal(attached, model.generate())


@pytest.mark.parametrize("wrong", ["next head", "key heads"])
def test_columns_of_other_heads_would_be_seen(wrong: str, llava: Tiny) -> None:
    with attach(llava.model, [StaticGains()], profile=_profile()):
        attached = llava.generate()
    # with two key heads for four query heads, taking columns by key head gives 0 and 2 the gains of 0 and 1
    fold_gains(llava.model, POWERS.roll(1, dims=1) if wrong == "next head" else POWERS[:, [0, 0, 1, 1]])
    assert not equal(attached, llava.generate())


def _quantised(model: PreTrainedModel) -> None:
    model.config.quantization_config = {"quant_method": "awq"}


def _int8(model: PreTrainedModel) -> None:
    examine(model).projections[0].weight = torch.nn.Parameter(
        torch.zeros(64, 64, dtype=torch.int8), requires_grad=False
    )


def _offloaded(model: PreTrainedModel) -> None:
    examine(model).projections[0].to("meta")


def _adapter(model: PreTrainedModel) -> None:
    attention = examine(model).attentions[0]
    attention.o_proj = torch.nn.Sequential(attention.o_proj)


def _shared(model: PreTrainedModel) -> None:
    attentions = examine(model).attentions
    attentions[2].o_proj = attentions[0].o_proj


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(_quantised, "awq"), (_int8, "int8"), (_offloaded, "offloaded"), (_adapter, "merge"), (_shared, "share")],
)
def test_weights_that_cannot_be_folded_are_refused(
    spoil: Callable[[PreTrainedModel], None], said: str, llava: Tiny
) -> None:
    spoil(llava.model)
    last = examine(llava.model).projections[2]
    before = getattr(last, "weight", torch.zeros(1)).clone()
    with pytest.raises(UnsupportedModel, match=said):
        fold_gains(llava.model, POWERS)
    assert equal(before, last.weight)


def test_nothing_is_folded_twice(llava: Tiny, tmp_path: Path) -> None:
    fold_gains(llava.model, POWERS)
    with pytest.raises(UnsupportedModel, match="already"):
        fold_gains(llava.model, POWERS)
    llava.model.save_pretrained(tmp_path / "saved")
    with pytest.raises(UnsupportedModel, match="already"):
        fold_checkpoint(tmp_path / "saved", _profile(), tmp_path / "out")


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        (torch.ones(3, 4), "every gain"),
        (torch.full((2, 4), 2.0), "2 layers"),
        (torch.full((3, 4), -1.0), "at least 0"),
        (torch.full((3, 4), torch.inf), "finite"),
        (torch.full((3, 4), 3e38), "range"),  # weights of 4 and more, see below
    ],
)
def test_gains_that_do_not_fit_are_refused(gains: Tensor, said: str, llava: Tiny) -> None:
    torch.nn.init.constant_(examine(llava.model).projections[0].weight, 4.0)
    before = examine(llava.model).projections[0].weight.clone()
    with pytest.raises(BadProfile, match=said):
        fold_gains(llava.model, gains)
    assert equal(before, examine(llava.model).projections[0].weight)
    with pytest.raises(BadProfile, match="no gains"):
        fold_gains(llava.model, HeadProfile(torch.zeros(3, 4)))


def test_a_gain_where_there_is_no_head_is_refused(tiny: Build) -> None:
    gains = torch.ones(3, 4)
    gains[1, 0] = 2.0  # a layer of cross attention
    with pytest.raises(BadProfile, match="layer 1"):
        fold_gains(tiny("mllama").model, gains)


@pytest.fixture
def original(llava: Tiny, tmp_path: Path) -> Path:
    folder = tmp_path / "original"
    llava.model.save_pretrained(folder)
    (folder / "README.md").write_text("# A model\n")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "short.jinja").write_text("x")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights, not folded")
    save_file({"x": torch.zeros(1)}, folder / "consolidated.safetensors")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7" / "optimizer.json").write_text("{}")
    return folder


def test_what_stands_beside_the_weights_comes_along(original: Path, tmp_path: Path) -> None:
    card = {"model": "llava", "benefit": False, "measured": [
        {"metric": "CHAIR_S", "plain": 0.3, "reinforced": 0.2, "difference": -0.1, "low": -0.2, "high": 0.0}
    ]}  # fmt: skip
    profile = HeadProfile(torch.zeros(3, 4), gains=OTHERS, card=card)
    folded = fold_checkpoint(original, profile, tmp_path / "new" / "folded")
    out = folded.folder
    assert folded.left_out == ("consolidated.safetensors", "pytorch_model.bin")
    assert not folded.exact
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    kept = ("tokenizer.json", "generation_config.json", "additional_chat_templates/short.jinja")
    assert all((out / name).read_bytes() == (original / name).read_bytes() for name in kept)
    text = (out / "README.md").read_text()
    assert text.startswith("# A model\n\n# Reinforced profile")
    assert "No benefit was shown" in text
    assert "| CHAIR_S | 0.300 | 0.200 | -0.100 [-0.200, 0.000] |" in text
    config = json.loads((out / "config.json").read_text())
    assert config.pop("vlm_heads_fold")["heads"] == 5
    assert config == json.loads((original / "config.json").read_text())
    assert json.loads((out / "vlm_heads_fold.json").read_text())["card"] == card
    before, after = load_file(original / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in before if not equal(before[name], after[name])}
    assert changed == set(folded.tensors)


@pytest.mark.parametrize("when", ["first file", "last check"])
def test_an_interrupted_folding_leaves_nothing(when: str, original: Path, tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    hooks: dict[str, Callable[[object], None]] = {"progress": stop} if when == "first file" else {"check": stop}
    with pytest.raises(KeyboardInterrupt):
        fold_checkpoint(original, _profile(), tmp_path / "out", **hooks)
    assert sorted(tmp_path.iterdir()) == before


def test_the_check_sees_a_whole_checkpoint_under_another_name(original: Path, tmp_path: Path) -> None:
    seen = []

    def look(draft: Path) -> None:
        seen.append(draft)
        assert not (tmp_path / "out").exists()
        AutoModelForImageTextToText.from_pretrained(draft)

    fold_checkpoint(original, _profile(), tmp_path / "out", check=look)
    assert seen[0].name.endswith(".part")
    assert not seen[0].exists()


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def _without_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _stored_as_int8(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.to(torch.int8) for name, value in tensors.items()}, folder / "model.safetensors")


def _fused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    fused = {name: value.repeat(2, 1) if "o_proj" in name else value for name, value in tensors.items()}
    save_file(fused, folder / "model.safetensors")


def _other_names(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("o_proj", "wo"): value for name, value in tensors.items()}
    save_file(renamed, folder / "model.safetensors")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _text_only(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}')


def _awq(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut, "damaged"), (_without_safetensors, "only checkpoints in safetensors"), (_missing_shard, "00001-of-0000"),
        (_elsewhere, "has no"), (_stored_as_int8, "I8"), (_fused, "128, 64"), (_other_names, "is not there"),
        (_no_config, "config.json"), (_text_only, "no vision-language model"), (_awq, "awq"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_folded_is_refused(
    spoil: Callable[[Path], None], said: str, original: Path, tmp_path: Path
) -> None:
    spoil(original)
    with pytest.raises(UnsupportedModel, match=said):
        fold_checkpoint(original, _profile(), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_is_there_is_not_written_over(original: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="there already"):
        fold_checkpoint(original, _profile(), original)
    (tmp_path / "empty").mkdir()
    assert fold_checkpoint(original, _profile(), tmp_path / "empty").exact


def test_older_names_are_told_from_a_vision_towers() -> None:
    """As Mllama is stored: the tower's layers end like the decoder's, and have names of their own in memory."""
    end = "layers.0.self_attn.o_proj.weight"
    memory = [f"model.language_model.{end}", f"model.vision_model.transformer.{end}"]
    stored = [f"language_model.model.{end}", f"vision_model.transformer.{end}"]
    assert names_in_checkpoint(memory[:1], memory, stored) == {memory[0]: stored[0]}
    assert names_in_checkpoint(memory[1:], memory, stored) == {memory[1]: stored[1]}
    with pytest.raises(UnsupportedModel, match="could be"):
        names_in_checkpoint(memory[:1], memory, [*stored, f"draft.{end}"])
    with pytest.raises(UnsupportedModel, match="is not there"):
        names_in_checkpoint(memory[:1], memory, stored[1:])
