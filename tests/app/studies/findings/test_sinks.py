"""Sinks by layer: arithmetic, the planted model whose sinks are known, and plain attention as the reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from vlm_app.studies.findings.captions import Caption, greedy_captions, picture_of
from vlm_app.studies.findings.heads import other_scores
from vlm_app.studies.findings.looking import Looks, look
from vlm_app.studies.findings.sinks import most_attended, position_sinks, shows_objects, sinks_by_layer, var_for
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.world import BACKGROUND, Instance, Scene, scenes

from tests.support.compare import rounding
from vlm_heads import VLM, examine
from vlm_heads.models import image_with_sinks, model_inputs
from vlm_heads.profiles import SinkCriterion, find_sinks

NONE = SinkCriterion((), "phi", 1.0)


def _scene(image: NDArray[np.uint8], owner: NDArray[np.uint8] | None = None) -> Scene:
    empty = np.full((112, 112), BACKGROUND, np.uint8)
    return Scene(0, image, empty if owner is None else owner, (Instance(0, (0, 0, 1, 1), 1),))


def test_the_most_attended_position_and_what_it_shows() -> None:
    """Position 0 is first in two of three scenes. Its shares are 4/8, 3/6 and 1/10; an object is there in the last."""
    places = np.array([[4, 2, 1, 1], [3, 1, 1, 1], [1, 7, 1, 1]], np.float32)
    shown = np.array([[False, True, False, False], [False, False, False, True], [True, True, False, False]])
    found = most_attended(places, shown)
    assert (found["position"], found["even"]) == (0, 0.25)
    assert found["scenes"] == pytest.approx(2 / 3)
    assert found["share"] == pytest.approx((0.5 + 0.5 + 0.1) / 3)
    assert (found["on_background"], found["on_object"]) == pytest.approx((0.5, 0.1))
    assert (found["shows_object"], found["objects"]) == pytest.approx((1 / 3, 4 / 12))
    unknown = most_attended(places, None)
    assert unknown == found | dict.fromkeys(("on_object", "on_background", "shows_object", "objects"))


def test_position_sinks_are_often_first_with_a_large_share() -> None:
    """Of 20 layers position 0 passes in two, a tenth; 48 in one; 7 is not first often enough, 9 holds too little."""

    def row(layer: int, position: int, scenes: float, share: float) -> dict[str, object]:
        return {"layer": layer, "most_attended": {"position": position, "scenes": scenes, "share": share, "even": 0.02}}

    passing = [row(2, 48, 0.9, 0.2), row(3, 0, 0.5, 0.06), row(9, 0, 1.0, 0.3)]
    others = [row(4, 7, 0.4, 0.3), row(5, 9, 0.9, 0.05), *(row(layer, 1, 0.0, 0.0) for layer in range(20, 35))]
    assert position_sinks([*passing, *others]) == [
        {"position": 0, "layers": [3, 9], "proposed": True},
        {"position": 48, "layers": [2], "proposed": False},
    ]


def test_var_is_worded_for_what_was_found() -> None:
    none, some = {"marked": {"image": 0.2}}, {"marked": {"image": 2.0}}
    corner = [{"position": 0, "proposed": True}, {"position": 5, "proposed": False}]
    by_median, by_phi = SinkCriterion((5,), "median", 7.0), SinkCriterion((5,), "phi", 2.5)
    assert var_for(by_median, [none], corner) == "var:criterion=median,sinks=any,position_sinks=0"
    assert var_for(by_phi, [none, some], []) == "var:threshold=relative"
    assert var_for(NONE, [none], corner) == "var:position_sinks=0"
    assert var_for(NONE, [none], corner[1:]) is None


def test_objects_are_found_on_the_grid_of_the_picture() -> None:
    owner = np.full((112, 112), BACKGROUND, np.uint8)
    owner[:16, 96:] = 3  # the last patch of the first row of seven
    scene = _scene(np.zeros((112, 112, 3), np.uint8), owner)
    shown = shows_objects([scene, replace(scene, owner=np.full_like(owner, BACKGROUND))], 49)
    assert shown is not None
    assert np.argwhere(shown).tolist() == [[0, 6]]
    assert shows_objects([scene], 50) is None  # no square
    assert shows_objects([scene], 24 * 24) is None  # its cells are no whole pixels


def test_planted_sinks_are_found_where_they_were_planted() -> None:
    """The start token and two black corners, the first and the last of 16 patches, explode in channel 60."""
    vlm = VLM.from_pretrained("planted-sinks")
    pictures = [_scene(np.asarray(image_with_sinks(word))) for word in ("car", "banana")]
    criterion = find_sinks(examine(vlm.model))[1]
    looks = look(vlm, pictures, [Caption((), (), "")] * 2, criterion)
    for row in sinks_by_layer(looks, pictures, dict.fromkeys(looks.prompt_ids, "word")):
        assert row["marked"] == {"text": 1.0, "image": 2.0, "tokens": {"the first": 1.0}, "positions": [0, 15]}
        assert row["largest"]["channel"] == row["over_median"]["first_channel"] == 60
        assert row["largest"]["over_rms"] > 0.9 * 64**0.5
        assert row["over_median"]["first_in_channel"] > 10
        assert row["over_median"]["image"] == pytest.approx(row["over_median"]["first"], rel=0.1)


def _eager(vlm: VLM, scene: Scene, caption: Caption) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Return a scene's attention `[Hq, T, T]` and hidden states `[T, width]` by layer, and the prompt's length."""
    inputs = model_inputs(vlm.model, vlm.processor, [picture_of(scene)], [DESCRIBE])
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([caption.ids], dtype=torch.int64)], dim=1)
    vlm.model.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad():
        output = vlm.model(
            input_ids=ids, pixel_values=inputs["pixel_values"], output_attentions=True, output_hidden_states=True
        )
    vlm.model.set_attn_implementation({"text_config": "sdpa"})
    return [one[0] for one in output.attentions], [one[0] for one in output.hidden_states], length


def test_what_is_seen_is_what_plain_attention_does() -> None:
    """Captions of different length in one batch, against each scene alone with its attention written out."""
    vlm = VLM.from_pretrained("mini")
    pictures = list(scenes("held-out", 7, 3))
    captions = greedy_captions(vlm, pictures)
    assert len({len(caption.ids) for caption in captions}) > 1
    looks: Looks = look(vlm, pictures, captions, NONE)
    tolerance = rounding(torch.float32, terms=256)
    for scene, caption in enumerate(captions):
        weights, hidden, length = _eager(vlm, pictures[scene], caption)
        image = looks.image
        for layer, seen in looks.layers.items():
            rows = weights[layer][:, image[-1] + 1 :]
            question = rows[:, : length - image[-1] - 1]
            prompt = hidden[layer][:length]
            expected = {
                "first": rows[..., 0].mean(1),
                "first_of_prompt": question[..., 0].mean(1),
                "image": rows[..., image].sum(-1).mean(1),
                "places": rows[..., image].mean((0, 1)),
            }
            for name, value in expected.items():
                assert np.abs(seen.of(name)[scene] - value.numpy()).max() < tolerance, (name, layer)
            assert seen.of("norm")[scene] == pytest.approx(prompt.norm(dim=-1).numpy(), rel=1e-4)
            assert seen.of("channel")[scene, 0] == prompt[0].abs().argmax()
    assert looks.scenes == 3


def test_other_scores_are_the_images_weight_and_what_hiding_the_rest_leaves() -> None:
    """The mass is the last row's weight on image keys; the route is these weights times the keys' values."""
    vlm = VLM.from_pretrained("mini")
    pictures = list(scenes("held-out", 7, 1))
    caption = Caption((), (), "")
    values: list[torch.Tensor] = []
    attention = vlm.model.model.language_model.layers[3].self_attn
    handle = attention.v_proj.register_forward_hook(lambda _, __, output: values.append(output[0].detach()))
    weights, _, length = _eager(vlm, pictures[0], caption)
    handle.remove()
    looks = look(vlm, pictures, [caption], NONE)
    found = other_scores(vlm, pictures, np.zeros((8, 8)))
    heads, groups = weights[3].shape[0], attention.num_key_value_groups
    split = values[0].reshape(length, heads // groups, -1).transpose(0, 1).repeat_interleave(groups, dim=0)
    at_end = weights[3][:, length - 1, looks.image]
    expected = torch.einsum("hn,hnd->hd", at_end, split[:, looks.image]).norm(dim=-1)
    assert found["image_route"][3] == pytest.approx(expected.numpy(), rel=1e-3)
    assert found["image_mass"][3] == pytest.approx(at_end.sum(dim=-1).numpy(), rel=1e-3)
    assert list(found) == ["vhd", "image_mass", "image_route"]
