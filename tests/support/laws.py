"""What the laws of every kind of method are tested with."""

import torch
from torch import Tensor
from transformers import PreTrainedModel


def fingerprint(model: PreTrainedModel) -> dict[str, object]:
    """Return everything about a model that an attach could leave changed."""
    found: dict[str, object] = {}
    for path, module in model.named_modules():
        found[path] = {
            "attributes": sorted(vars(module)),
            "hooks": {name: repr(value) for name, value in vars(module).items() if "hook" in name and value},
            "forward": "forward" in vars(module),
            "attention": getattr(getattr(module, "config", None), "_attn_implementation", None),
            "training": module.training,
        }
    found["config"] = model.config.to_dict()
    return found


def ragged() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return a left-padded batch of ragged prompts (one image, two images, none) and its rows alone."""
    torch.manual_seed(3)
    image = [150] * 4
    rows = [[1, 5, *image, 7, 8, 9, 10], [1, *image, 6, *image, 9, 12, 13, 10, 11], [1, 20, 21, 22, 23]]
    pixels = [torch.randn(1, 3, 28, 28), torch.randn(2, 3, 28, 28), None]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    alone: list[dict[str, Tensor]] = []
    for row, values in zip(rows, pixels, strict=True):
        one = {"input_ids": torch.tensor([row])}
        alone.append(one if values is None else one | {"pixel_values": values})
    together = torch.cat([values for values in pixels if values is not None])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": together}, alone
