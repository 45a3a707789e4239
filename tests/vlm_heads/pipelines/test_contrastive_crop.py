"""CARVE on the embedded model, against a plain loop without a cache in float64, numpy and scipy."""

import copy
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from vlm_evals.scenes.world import scenes

from tests.support.families import Build
from vlm_heads import VLM, attach, errors
from vlm_heads.pipelines.contrastive_crop import ContrastiveCrop, quotient
from vlm_heads.toolkit.regions import label, strongest

QUESTIONS = ["Is there a dog in the image?", "Please describe this image in detail.", "Is there a car in the image?"]
GENERAL = "Write a general description of the image."
SUFFIX = "Answer the question using a single word or phrase."
SIDE, TOKENS = 7, 6
Mode = Literal["paper", "code"]


@pytest.fixture(scope="module")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(one.image) for one in scenes("validation", 11, 3)]


class PlainLoop:
    """CARVE for one picture and question, written out.

    Args:
        mini: the model.
        layers: that are read.
    """

    def __init__(self, mini: VLM, layers: tuple[int, ...]) -> None:
        self.mini, self.layers = mini, layers
        self.model = copy.deepcopy(mini.model).double()
        self.model.set_attn_implementation("eager")

    def maps(self, picture: Image.Image, prompt: str) -> list[NDArray[np.float64]]:
        """Return each token's attention to the image, `[L, n]`."""
        inputs = self.mini.inputs([picture], prompt)
        ids, pixels = inputs["input_ids"], inputs["pixel_values"].double()
        image = (ids[0] == self.model.config.image_token_id).numpy()
        found = []
        for _ in range(TOKENS):
            with torch.no_grad():
                output = self.model(input_ids=ids, pixel_values=pixels, output_attentions=True, use_cache=False)
            rows = [output.attentions[layer][0, :, -1].mean(0).numpy()[: len(image)][image] for layer in self.layers]
            found.append(np.stack(rows))
            token = output.logits[:, -1:].argmax(-1)
            if int(token) == self.mini.processor.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, token], dim=1)
        return found

    def part(self, picture: Image.Image, question: str, mode: Mode) -> tuple[tuple[int, ...], Image.Image]:
        """Return the box and what is shown of it."""
        asked = self.maps(picture, question)
        told = self.maps(picture, f"{GENERAL} {SUFFIX}" if mode == "code" else GENERAL)
        whole = np.zeros((picture.height, picture.width))
        for step, (one, other) in enumerate(zip(asked, told, strict=False)):
            for more in one / (other + 1e-8):
                small = Image.fromarray(more.reshape(SIDE, SIDE).astype(np.float32))
                whole += (step + 1) * np.asarray(small.resize(picture.size, Image.Resampling.BILINEAR))
        mask = whole >= np.percentile(whole, 80)
        labelled, count = ndimage.label(mask)
        sums = ndimage.sum(whole, labelled, range(1, count + 1))
        best = np.argsort(sums)[::-1][: max(3, int(count * 0.2))] + 1
        kept = np.isin(labelled, best)
        down, across = np.where(kept)
        box = (int(across.min()), int(down.min()), int(across.max()) + 1, int(down.max()) + 1)
        part = Image.fromarray(np.array(picture) * kept[..., None].astype(np.uint8)).crop(box)
        scale = max(picture.width / part.width, picture.height / part.height)
        size = (int(part.width * scale), int(part.height * scale))
        return box, part.resize(size, Image.Resampling.LANCZOS)

    def answer(self, picture: Image.Image, part: Image.Image, question: str, mode: Mode) -> list[int]:
        """Return the tokens said about the part, or about both."""
        shown = [part] if mode == "paper" else [picture, part]
        content = [*({"type": "image"} for _ in shown), {"type": "text", "text": question}]
        text = self.mini.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.mini.processor(images=[shown], text=[text], return_tensors="pt", add_special_tokens=False)
        output = self.mini.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        said: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return said


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_equals_a_plain_loop_and_a_batch_equals_its_rows(mode: Mode, mini: VLM, pictures: list[Image.Image]) -> None:
    method = ContrastiveCrop(mode=mode, tokens=TOKENS, layers=(2, 3))
    loop = PlainLoop(mini, (2, 3))
    together = mini.answer_batch(pictures, QUESTIONS, method, max_new_tokens=12)
    for picture, question, answer in zip(pictures, QUESTIONS, together, strict=True):
        box, part = loop.part(picture, question, mode)
        assert answer.receipt is not None
        assert tuple(answer.receipt["pipeline"]["row"]["box"]) == box
        assert list(answer.token_ids) == loop.answer(picture, part, question, mode)
        alone = mini.answer(picture, question, method, max_new_tokens=12)
        assert alone.token_ids == answer.token_ids
    assert [one.token_ids for one in together] != [
        one.token_ids for one in mini.answer_batch(pictures, QUESTIONS, max_new_tokens=12)
    ]


def test_the_quotient_by_hand() -> None:
    """Two tokens, one layer, two positions: 1 * (0.2, 0.6) / (0.4, 0.3) + 2 * (0.3, 0.1) / (0.1, 0.4) = (6.5, 2.5)."""
    asked = torch.tensor([[[0.2, 0.6]], [[0.3, 0.1]], [[9.0, 9.0]]], dtype=torch.float64)
    told = torch.tensor([[[0.4, 0.3]], [[0.1, 0.4]]], dtype=torch.float64)
    assert torch.allclose(quotient(asked, told), torch.tensor([6.5, 2.5], dtype=torch.float64))


@pytest.mark.parametrize("seed", range(8))
def test_regions_are_those_of_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((random.integers(1, 30), random.integers(1, 30))) < 0.6
    labelled, count = label(torch.from_numpy(mask))
    expected, known = ndimage.label(mask)
    assert count == known
    pairs = {*zip(labelled.flatten().tolist(), expected.flatten().tolist(), strict=True)}
    assert len(pairs) == count + (0 in labelled)


def test_the_strongest_regions_are_kept() -> None:
    """Of twenty pixels the five largest are two regions, (9 8) with 17 and (7 7 7) with 21; one is kept."""
    values = torch.zeros(4, 5, dtype=torch.float64)
    values[0, :2], values[3, 2:] = torch.tensor([9.0, 8.0]), 7.0
    kept = strongest(values, 0.25, 1)
    assert kept.nonzero().tolist() == [[3, 2], [3, 3], [3, 4]]
    assert strongest(values, 0.25, 2).sum() == 5


def test_generate_gives_the_caller_s_own_prompt_back(mini: VLM, pictures: list[Image.Image]) -> None:
    inputs = mini.inputs(pictures, QUESTIONS)
    arguments: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    with attach(mini.model, "carve:mode=code", processor=mini.processor) as run:
        said = mini.model.generate(**inputs, **arguments)
        whole = mini.model.generate(**inputs, **arguments, return_dict_in_generate=True).sequences
    assert torch.equal(said[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert torch.equal(said, whole)
    assert run.receipt.pipeline is not None
    assert (run.receipt.pipeline.calls, run.receipt.pipeline.first_passes, run.receipt.generations) == (2, 4, 2)


def test_without_the_pictures_those_of_the_pixel_values_are_cut(mini: VLM, pictures: list[Image.Image]) -> None:
    """The embedded world's pictures are as large as the model takes them, so both ways cut the same."""
    inputs = mini.inputs(pictures, QUESTIONS)
    copied = {name: value.clone() for name, value in inputs.items()}
    found = []
    for given in (inputs, copied):
        with attach(mini.model, "carve", processor=mini.processor):
            found.append(mini.model.generate(**given, max_new_tokens=5, do_sample=False))
    assert torch.equal(*found)


@pytest.mark.parametrize("beside", ["m3id:rate=1", "vhr:gain=2,layers=all", "askback:objects=nouns"])
def test_others_act_on_what_is_asked_instead(
    beside: str, mini: VLM, pictures: list[Image.Image], nltk_data: object
) -> None:
    question = "Please describe this image in detail."
    method = ContrastiveCrop(layers=(2, 3), tokens=TOKENS)
    _, part = PlainLoop(mini, (2, 3)).part(pictures[0], question, "paper")
    expected = mini.answer(part, question, beside, max_new_tokens=12)
    got = mini.answer(pictures[0], question, [beside, method], max_new_tokens=12)
    assert got.token_ids == expected.token_ids


def test_what_cannot_be_asked_is_refused(mini: VLM, pictures: list[Image.Image], tiny: Build) -> None:
    inputs = mini.inputs(pictures[:2], QUESTIONS[:2])
    with pytest.raises(errors.BadOption, match="processor=processor"):
        attach(mini.model, "carve")
    for family, reason in (("mllama", "cross-attention"), ("instructblip", "not known"), ("janus", "of its own")):
        with pytest.raises(errors.UnsupportedModel, match=reason):
            attach(tiny(family).model, "carve", processor=mini.processor)
    image = mini.model.config.image_token_id
    half = inputs["input_ids"].clone()
    half[1] = half[1].where(half[1] != image, 9)
    with attach(mini.model, "carve", processor=mini.processor, allow_idle=True) as run:
        with pytest.raises(errors.UnsupportedGeneration, match="has none"):
            mini.model.generate(**inputs | {"input_ids": half}, max_new_tokens=2)
        text = half[1:].where(half[1:] != image, 9)
        mini.model.generate(input_ids=text, max_new_tokens=2)
    assert run.receipt.pipeline is not None
    assert run.receipt.pipeline.calls == 0
    with (
        pytest.raises(errors.NothingIntervened, match="carve was attached and asked nothing"),
        attach(mini.model, "carve", processor=mini.processor),
    ):
        pass
