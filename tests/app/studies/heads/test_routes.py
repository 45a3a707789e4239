"""What heads tell directly: the routes make up the whole, and all of it makes up the model's own token logits."""

import torch
from torch import Tensor
from vlm_app.studies.heads.blocks import Block
from vlm_app.studies.heads.reading import Reading
from vlm_app.studies.heads.rerun import Rerun, cached
from vlm_app.studies.heads.routes import ROUTES, joined, routes
from vlm_app.studies.heads.words import object_tokens

from tests.support.compare import distance, rounding
from tests.support.heads import Case
from vlm_heads import examine


def _written_out(case: Case) -> tuple[tuple[Tensor, ...], dict[int, Tensor]]:
    """Return attention weights `[S, Hq, T, T]` by layer, and what the value projections gave, by layer."""
    anatomy, values = examine(case.vlm.model), dict[int, Tensor]()
    handles = [
        module.v_proj.register_forward_hook(lambda _, __, output, layer=layer: values.__setitem__(layer, output))
        for layer, module in anatomy.attentions.items()
    ]
    case.vlm.model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.inference_mode():
            output = case.vlm.model(**joined(case.begun, case.rows), output_attentions=True, use_cache=False)
    finally:
        case.vlm.model.set_attn_implementation({"text_config": "sdpa"})
        for handle in handles:
            handle.remove()
    return output.attentions, values


def test_routes_are_what_written_out_attention_tells(case: Case) -> None:
    """Weights times values, over the image's keys and over all others, through each head's slice of the projection."""
    rows, begun, reading = case.rows, case.begun, Reading(case.vlm)
    told = routes(case.vlm, begun, rows, reading, case.objects)
    anatomy = examine(case.vlm.model)
    weights, values = _written_out(case)
    is_image = joined(begun, rows)["input_ids"][0] == anatomy.image_token_id
    with torch.inference_mode():
        plain = Rerun(case.vlm, cached(case.vlm, begun), begun, rows).plain
        directions = reading.directions(plain, rows.places, case.objects)
        for layer, projection in anatomy.projections.items():
            size = projection.weight.shape[1] // anatomy.heads
            for head in range(anatomy.heads):
                key = head * anatomy.key_heads // anatomy.heads
                value = values[layer][..., key * size : (key + 1) * size]
                back = projection.weight[:, head * size : (head + 1) * size]
                for route, seen in (("image", is_image), ("text", ~is_image)):
                    output = (weights[layer][:, head] * seen) @ value
                    at = output[rows.scenes, begun.length + rows.columns]
                    expected = ((at @ back.T) * directions).sum(-1)
                    assert distance(told[route][layer, head], expected) < rounding(torch.float32, 1024, size=10.0)
    assert all((told[route].abs() > 1e-3).any() for route in ROUTES)


def test_everything_told_adds_up_to_the_token_logits(planted: Block) -> None:
    """The planted model has no more than heads and embeddings: together they tell its logits of a word over objects."""
    vlm, (rows,) = planted.vlm, planted.rows
    reading, objects = Reading(vlm), object_tokens(vlm.processor.tokenizer)
    begun = planted.beginning
    told = routes(vlm, begun, rows, reading, objects)
    with torch.inference_mode():
        logits = vlm.model(**joined(begun, rows), use_cache=False).logits[rows.scenes, begun.length + rows.columns]
        plain = Rerun(vlm, cached(vlm, begun), begun, rows).plain
        directions = reading.directions(plain, rows.places, objects)
        embedded = vlm.model.get_input_embeddings()(rows.ids)[rows.scenes, rows.columns]
    tokens = torch.tensor([place.token for place in rows.places])
    expected = logits.gather(1, tokens[:, None])[:, 0] - logits[:, objects].mean(dim=1)
    found = (embedded * directions).sum(-1) + (told["image"] + told["text"]).sum(dim=(0, 1))
    assert distance(found, expected) < rounding(torch.float32, terms=1024, size=float(logits.abs().max()))
    assert expected.min() > 0.1 or expected.max() > 0.1
