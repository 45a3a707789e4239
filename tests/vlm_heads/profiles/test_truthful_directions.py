"""Directions from pairs of captions: what layers leave, their mean and component, and the files they come from."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance, equal, rounding
from tests.support.families import Tiny
from vlm_heads import VLM, TruthfulDirection, attach, errors
from vlm_heads.models.planted import planted_image
from vlm_heads.profiles import CaptionPair, Directions, find_directions, read_caption_pairs

CLOSE = rounding(torch.float32, terms=64, size=10.0)
PROMPT = "what do you see?"
CAPTIONS = [("car", "there is a car", "there is a dog"), ("bird", "there is a bird", "there is a car")]


@pytest.fixture(scope="module")
def vlm() -> VLM:
    planted = VLM.from_pretrained("planted")
    torch.manual_seed(3)
    return VLM(type(planted.model)(planted.model.config).eval(), planted.processor)  # no state is like another


def _pairs() -> list[CaptionPair]:
    return [CaptionPair(planted_image(name), PROMPT, true, invented) for name, true, invented in CAPTIONS]


def _left(vlm: VLM, pair: CaptionPair, caption: str) -> Tensor:
    """Return what each layer leaves at the caption's end, read by `hidden_states` and before the last norm."""
    inputs = vlm.inputs([pair.image], [PROMPT])
    ids = vlm.processor.tokenizer(caption, add_special_tokens=False, return_tensors="pt")["input_ids"]
    longer = {name: torch.cat([inputs[name], ids if name == "input_ids" else torch.ones_like(ids)], 1)
              for name in ("input_ids", "attention_mask")}  # fmt: skip
    last: list[Tensor] = []
    handle = vlm.model.get_decoder().norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    with torch.no_grad():
        output = vlm.model(**longer, pixel_values=inputs["pixel_values"], output_hidden_states=True)
    handle.remove()
    return torch.stack([state[0, -1] for state in (*output.hidden_states[1:-1], last[0])])


def test_directions_lead_from_invented_captions_to_true_ones(vlm: VLM) -> None:
    pairs = _pairs()
    apart = torch.stack([_left(vlm, one, one.true) - _left(vlm, one, one.invented) for one in pairs])
    mean = find_directions(vlm.model, vlm.processor, pairs, component=False).vectors
    assert distance(apart.mean(0), mean) < CLOSE
    both = find_directions(vlm.model, vlm.processor, pairs).vectors - mean
    # two samples about their mean lie on one line, so the component is along their difference
    line = (apart[0] - apart[1]) / (apart[0] - apart[1]).norm()
    assert both.norm().item() == pytest.approx(1.0, abs=1e-4)
    assert abs((both * line).sum().item()) == pytest.approx(1.0, abs=1e-3)


def test_a_file_gives_the_directions_back_and_steers(llava: Tiny, tmp_path: Path) -> None:
    made = Directions(torch.randn(3, 64))
    made.save(tmp_path / "directions.safetensors")
    assert equal(made.vectors, Directions.load(tmp_path / "directions.safetensors").vectors)
    plain = llava.generate(steps=1)
    with attach(llava.model, f"vti:strength=9,directions={tmp_path / 'directions.safetensors'}") as run:
        assert distance(plain.logits[0], llava.generate(steps=1).logits[0]) > 1e-3
    assert run.receipt.interventions[0].layers == (0, 1, 2)


def test_what_cannot_be_used_is_named(llava: Tiny, tmp_path: Path, vlm: VLM) -> None:
    Directions(torch.randn(2, 64)).save(tmp_path / "other")
    (tmp_path / "broken").write_bytes(b"none")
    for directions, said in (("none", "find_directions"), ("other", "2 layers and width 64 do not fit llava"),
                             ("broken", "holds no directions"), ("gone", "holds no directions")):  # fmt: skip
        given = directions if directions == "none" else str(tmp_path / directions)
        with pytest.raises(errors.BadOption, match=said):
            attach(llava.model, TruthfulDirection(directions=given))
    with pytest.raises(errors.BadOption, match="no numbers"):
        Directions(torch.full((1, 2), torch.nan))
    with pytest.raises(errors.BadOption, match="no pairs"):
        find_directions(vlm.model, vlm.processor, [])
    with pytest.raises(errors.BadPrompt, match="empty"):
        find_directions(vlm.model, vlm.processor, [CaptionPair(planted_image("car"), PROMPT, "a car", "")])


def test_a_file_of_pairs_is_read_as_the_authors_have_it(tmp_path: Path) -> None:
    line = {"id": "1", "image": "a.jpg", "question": PROMPT, "value": "a car", "h_value": "a dog", "more": 3}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line) + "\n\n")
    assert read_caption_pairs(tmp_path / "pairs.jsonl", "images") == [
        CaptionPair(Path("images/a.jpg"), PROMPT, "a car", "a dog")
    ]
    (tmp_path / "pairs.jsonl").write_text('{"image": "a.jpg"}\n')
    with pytest.raises(errors.BadOption, match="line 1: image, question, value, h_value are needed"):
        read_caption_pairs(tmp_path / "pairs.jsonl", "images")
    with pytest.raises(errors.BadOption, match="cannot be read"):
        read_caption_pairs(tmp_path / "gone", "images")
