"""Why a word was said: what it was chosen from, and what heads told for it through the picture and through words."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from vlm_app.session import Session
from vlm_app.view.looking import watch
from vlm_app.view.recipe import Recipe
from vlm_app.view.why import Candidate, Route, Why, why_html

from vlm_heads import VLM, examine, parse_mitigation

CAR = "sample:planted-car"


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    made = Session(VLM.from_pretrained("planted"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


def _asked(vlm: VLM, session: Session) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
    picture = session.sample("planted-car").image
    return vlm.inputs([picture], "Please describe this image in detail."), tuple(
        vlm.answer(picture, max_new_tokens=8).token_ids
    )


def test_probabilities_are_those_of_one_forward_over_the_whole(mini: VLM, session: Session) -> None:
    inputs, ids = _asked(mini, session)
    looks = watch(mini, inputs, ids)
    whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    with torch.no_grad():
        logits = mini.model(**{**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}).logits
    expected = logits[0, -len(ids) - 1 : -1].float().softmax(dim=-1)
    for step, chances, token in zip(looks.steps, expected, ids, strict=True):
        assert step.token == token
        assert step.chance == pytest.approx(float(chances[token]), rel=1e-3)
        assert [chance for _, chance in step.candidates] == pytest.approx(chances.topk(5).values.tolist(), rel=1e-3)
        assert step.against == next(one for one in chances.topk(2).indices.tolist() if one != token)


def test_both_routes_are_the_heads_whole_direct_attribution(mini: VLM, session: Session) -> None:
    """The reference: heads' outputs where they enter the output projection, and the final norm taken apart by hand."""
    inputs, ids = _asked(mini, session)
    looks = watch(mini, inputs, ids)
    anatomy = examine(mini.model)
    outputs: dict[int, torch.Tensor] = {}
    last: list[torch.Tensor] = []

    def keep(layer: int):
        return lambda _, args: outputs.__setitem__(layer, args[0][0])

    handles = [one.register_forward_pre_hook(keep(layer)) for layer, one in anatomy.projections.items()]
    norm = anatomy.decoder.norm
    handles.append(norm.register_forward_pre_hook(lambda _, args: last.append(args[0][0])))
    whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    with torch.no_grad():
        mini.model(**{**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)})
    for handle in handles:
        handle.remove()
    unembedding = mini.model.get_output_embeddings().weight
    begun = whole.shape[1] - len(ids) - 1
    for number, step in enumerate(looks.steps):
        state = last[0][begun + number]
        scale = (state.square().mean() + norm.variance_epsilon).rsqrt()
        direction = (unembedding[step.token] - unembedding[step.against]) * norm.weight * scale
        assert step.image is not None
        assert step.text is not None
        for layer, projection in anatomy.projections.items():
            heads = outputs[layer][begun + number].view(anatomy.heads, -1)
            told = (heads * (direction @ projection.weight).view_as(heads)).sum(dim=-1)
            np.testing.assert_allclose(step.image[layer] + step.text[layer], told.detach(), rtol=1e-3, atol=2e-3)


def test_a_gain_of_two_doubles_what_planted_heads_tell_through_the_picture(session: Session) -> None:
    picture = session.sample("planted-car")
    list(session.visit("a").run(picture, Recipe(CAR)))
    inside = session.visit("a").look()
    assert inside is not None
    inside.pick_token("plain", 3)
    found = inside.why()
    assert found is not None
    assert found.word == "dog"
    plain, mitigated = ({one.text: one.chance for one in rows} for _, rows in found.columns)
    assert plain["dog"] > plain["car"]  # the prior is louder than the picture
    assert mitigated["car"] > mitigated["dog"]  # until it is read twice as loud
    vision = {(2, 1), (2, 3), (3, 0), (3, 2)}
    assert {(one.layer, one.head) for one in found.routes} == vision
    assert all(one.image < 0 and abs(one.text) < 0.1 * abs(one.image) for one in found.routes)  # against “dog”
    ids = inside.said["plain"].ids
    once, twice = (
        watch(session.model.vlm, inside.inputs, ids, parse_mitigation(words).interventions).steps[3]
        for words in ([], ["vhr"])
    )
    assert once.image is not None
    assert twice.image is not None
    for place in ((2, 1), (2, 3)):  # layer 3 sees what layer 2 was given, and the norm's scale moves with it
        assert twice.image[place] / once.image[place] == pytest.approx(2.0, rel=0.15)


def test_a_word_nobody_would_have_said_is_still_among_its_candidates(session: Session) -> None:
    list(session.visit("b").run(session.sample("planted-car"), Recipe(CAR)))
    inside = session.visit("b").look()
    assert inside is not None
    for side in ("plain", "mitigated"):
        for token in range(len(inside.said[side].tokens)):
            inside.pick_token(side, token)
            found = inside.why()
            assert found is not None
            assert all(sum(one.said for one in rows) == 1 for _, rows in found.columns)


def test_what_is_shown_is_escaped_and_says_what_is_left_out() -> None:
    rows = (Candidate("<b>", 0.5, True), Candidate("car", 0.25, False))
    shown = why_html(Why("<b>", "plain", (("Plain", rows),), "car", (Route(2, 1, -1.5, 0.25, True),), apart=True))
    assert "<b>“&lt;b&gt;”</b>" in shown
    assert "50.0 %" in shown
    assert "the heads that were acted on told for “&lt;b&gt;” over “car”" in shown
    assert 'class="vh-against" style="--share:1.000"' in shown
    assert "-1.50" in shown
    assert "+0.25" in shown
    assert "second stream has a part" in shown
    assert "Heads are not read as words: because" in why_html(Why("a", "plain", (), "b", unread="because"))
    assert why_html(None) == ""
