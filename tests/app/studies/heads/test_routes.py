"""What heads tell directly: the routes make up the whole, and all of it makes up the model's own token logits."""

import torch
from torch import Tensor
from vlm_app.studies.heads.asked import Beginning, Rows
from vlm_app.studies.heads.blocks import Block
from vlm_app.studies.heads.reading import Reading
from vlm_app.studies.heads.rerun import Rerun, cached
from vlm_app.studies.heads.routes import joined, routes
from vlm_app.studies.heads.words import object_tokens

from tests.support.compare import distance, rounding
from vlm_heads import VLM, examine


def test_both_routes_are_the_heads_whole_output(mini: VLM, begun: Beginning, captioned: Rows) -> None:
    """Against the inputs of the output projections, read by hooks, and each head's slice of the weight written out."""
    reading, objects = Reading(mini), object_tokens(mini.processor.tokenizer)
    told = routes(mini, begun, captioned, reading, objects)
    anatomy, seen = examine(mini.model), dict[int, Tensor]()
    handles = [
        projection.register_forward_pre_hook(lambda _, args, layer=layer: seen.__setitem__(layer, args[0]))
        for layer, projection in anatomy.projections.items()
    ]
    with torch.inference_mode():
        mini.model(**joined(begun, captioned), use_cache=False)
        for handle in handles:
            handle.remove()
        plain = Rerun(mini, cached(mini, begun), begun, captioned).plain
        directions = reading.directions(plain, captioned.places, objects)
        size = anatomy.width // anatomy.heads
        for layer, outputs in seen.items():
            weight = anatomy.projections[layer].weight
            at = outputs[captioned.scenes, begun.length + captioned.columns]
            for head in range(anatomy.heads):
                mine = slice(head * size, (head + 1) * size)
                whole = ((at[:, mine] @ weight[:, mine].T) * directions).sum(-1)
                both = told["image"][layer, head] + told["text"][layer, head]
                assert distance(both, whole) < rounding(torch.float32, terms=1024, size=10.0)
    assert told["image"].abs().max() > 0.1


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
