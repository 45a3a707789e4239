"""VDGD against a description and an answer that are written token by token, uncached and in float64."""

import copy

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.compare import distance, rounding
from tests.support.uncached import uncached
from vlm_heads import VLM, HeadReinforcement
from vlm_heads.contrasts.described_picture import DescribedPicture
from vlm_heads.errors import BadOption
from vlm_heads.models.planted import planted_image

QUESTION = "what do you see?"


@pytest.fixture(scope="module")
def vlm() -> VLM:
    """The planted model with weights drawn at random: no token stands far above the others."""
    planted = VLM.from_pretrained("planted")
    torch.manual_seed(3)
    return VLM(type(planted.model)(planted.model.config), planted.processor)


def logits_after(vlm: VLM, picture: Image.Image, prompt: str, said: list[int]) -> Tensor:
    """Return the token logits `[V]` of a model in float64 after a prompt and an answer so far."""
    inputs = vlm.inputs([picture], [prompt])
    exact = copy.deepcopy(vlm.model).double()
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].double()}
    return uncached(exact, inputs, torch.tensor([said], dtype=torch.long))[0]


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_likely_tokens_are_scored_by_the_description(mode: str, vlm: VLM) -> None:
    picture = planted_image("car")
    described, best = [], torch.tensor(-torch.inf)
    for _ in range(4):
        likely = logits_after(vlm, picture, "please describe this image in detail.", described).log_softmax(-1)
        best = torch.maximum(best, likely)
        described.append(int(likely.argmax()))
    text = vlm.processor.tokenizer.decode(described, skip_special_tokens=True).strip()
    prompt = f"The input image is described as follows: {text} {QUESTION}"

    seen: list[Tensor] = []

    def keep(_: Tensor, scores: Tensor) -> Tensor:
        seen.append(scores[0])
        return scores

    method = DescribedPicture(
        longest=4, nucleus=0.6, temperature=0.7, mode=mode, describe="please describe this image in detail."
    )
    inputs, decoding, processor = vlm._asked([picture], [QUESTION], method, {"max_new_tokens": 4, "eos_token_id": None})
    said = vlm.model.generate(**inputs, **decoding, logits_processor=[processor, keep])
    answer = said[0, inputs["input_ids"].shape[1] :].tolist()
    for step, scores in enumerate(seen):
        p = (logits_after(vlm, picture, prompt, answer[:step]) / 0.7).softmax(-1)
        candidates: list[int] = []
        for token in p.argsort(descending=True).tolist():
            candidates.append(token)
            if float(p[candidates].sum()) >= 0.6:
                break
        expected = torch.full_like(best, -torch.inf)
        expected[candidates] = best[candidates] / (len(best) if mode == "code" else 1)
        assert 1 < len(candidates) < len(best)
        assert distance(expected.log_softmax(-1), scores) < rounding(torch.float32, terms=64, size=10.0)


def test_a_description_ends_where_the_model_ends_it(vlm: VLM) -> None:
    """An end token that is always most likely is said at once: the description is empty, and nothing follows it."""
    ended = VLM(copy.deepcopy(vlm.model), vlm.processor)
    end = ended.model.generation_config.eos_token_id
    ended.model.lm_head.bias = torch.nn.Parameter(torch.zeros(ended.model.get_output_embeddings().out_features))
    with torch.no_grad():
        ended.model.lm_head.bias[end] = 50.0
    _, _, processor = ended._asked([planted_image("car")], [QUESTION], DescribedPicture(), {})
    assert processor is not None
    texts, _ = processor.streams[0]._description()  # type: ignore[attr-defined]
    assert texts == [""]


def test_an_intervention_beside_it_is_refused(vlm: VLM) -> None:
    with pytest.raises(BadOption, match="vhr acts in the first alone"):
        vlm.answer(planted_image("car"), QUESTION, HeadReinforcement(), contrast=DescribedPicture(longest=2))
