"""What is asked, and what the plain model says to it."""

import math

import pytest
import torch
from vlm_app.studies.findings.captions import Caption, shown_in
from vlm_app.studies.heads.asked import Beginning, Rows, caption_rows, question_rows
from vlm_app.studies.heads.reading import Reading
from vlm_app.studies.heads.rerun import Rerun, cached
from vlm_app.studies.heads.words import yes_and_no
from vlm_evals.scenes.world import Scene

from tests.support.compare import rounding
from vlm_heads import VLM, UnsupportedModel


def test_places_stand_before_the_tokens_that_decide(captioned: Rows, world: list[Scene]) -> None:
    assert {place.kind for place in captioned.places} <= {"faithful", "invented"}
    for place in captioned.places:
        assert (place.node in shown_in(world[place.scene])) == (place.kind == "faithful")
        if place.column + 1 < captioned.ids.shape[1]:
            assert captioned.ids[place.scene, place.column + 1] == place.token
    assert len({(place.scene, place.node) for place in captioned.places}) == len(captioned.places)


def test_a_mention_is_worth_what_the_model_gave_it(
    mini: VLM, said: list[Caption], begun: Beginning, captioned: Rows
) -> None:
    """What is read again from kept keys is what greedy decoding saw when it chose the token."""
    rerun = Rerun(mini, cached(mini, begun), begun, captioned)
    values = Reading(mini).values(rerun.plain, captioned.places).tolist()
    for place, value in zip(captioned.places, values, strict=True):
        caption = said[place.scene]
        chances = [chance for token, chance in zip(caption.ids, caption.chances, strict=True) if token == place.token]
        assert min(abs(math.log(chance) - value) for chance in chances) < rounding(torch.float32, terms=1024)


@pytest.mark.parametrize("kind", ["present", "absent"])
def test_questions_are_about_what_is_there_or_is_not(
    mini: VLM, world: list[Scene], begun: Beginning, kind: str
) -> None:
    rows = question_rows(mini, begun, world, kind, 7, 0)
    assert rows is not None
    assert [place.scene for place in rows.places] == [0, 1, 2, 3]
    for place in rows.places:
        assert (place.node in shown_in(world[place.scene])) == (kind == "present")
        assert (place.token, place.against) == yes_and_no(mini.processor.tokenizer)
    # what is asked of a scene does not depend on the block that it stands in
    later = question_rows(mini, begun, world[2:], kind, 7, 2)
    assert later is not None
    assert [place.node for place in later.places] == [place.node for place in rows.places[2:]]


def test_the_margin_is_what_the_models_own_logits_say(mini: VLM, world: list[Scene], begun: Beginning) -> None:
    rows = question_rows(mini, begun, world, "absent", 7, 0)
    assert rows is not None
    values = Reading(mini).values(Rerun(mini, cached(mini, begun), begun, rows).plain, rows.places)
    whole = torch.cat([begun.inputs["input_ids"], rows.ids], dim=1)
    with torch.inference_mode():
        logits = mini.model(**(begun.inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole)})).logits
    for value, place in zip(values, rows.places, strict=True):
        row = logits[place.scene, begun.length + place.column]
        assert abs(value - (row[place.token] - row[place.against])) < rounding(torch.float32, terms=1024)


def test_captions_without_objects_ask_nothing(mini: VLM, world: list[Scene], begun: Beginning) -> None:
    assert caption_rows(mini, begun, world, [Caption((), (), "")] * 4) is None


def test_prompts_that_begin_differently_are_refused(mini: VLM, world: list[Scene], begun: Beginning) -> None:
    other = Beginning(begun.inputs | {"input_ids": begun.inputs["input_ids"] + 1}, begun.length)
    with pytest.raises(UnsupportedModel, match="whose prompts begin with the picture is needed"):
        question_rows(mini, other, world, "present", 7, 0)


def test_a_norm_that_takes_means_is_refused() -> None:
    vlm = VLM.from_pretrained("planted")
    decoder = vlm.model.model.language_model
    decoder.norm = torch.nn.LayerNorm(decoder.config.hidden_size)
    with pytest.raises(UnsupportedModel, match="its final norm is no RMSNorm"):
        Reading(vlm)
    del decoder.norm
    with pytest.raises(UnsupportedModel, match="no final norm of its decoder was found"):
        Reading(vlm)
