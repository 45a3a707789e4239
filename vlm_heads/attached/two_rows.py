"""A linear layer on two rows, which on a CPU should cost hardly more than on one.

There BLAS multiplies two rows by reading the weights twice. With the product turned round it reads them once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def takes_two_rows(module: nn.Linear) -> bool:
    """Whether `linear_of_two` is meant for a layer's weights: they are in float32 on a CPU."""
    return module.weight.is_cpu and module.weight.dtype is torch.float32


def linear_of_two(module: nn.Linear, rows: Tensor) -> Tensor:
    """Return a linear layer's output `[2, 1, out]` for rows `[2, 1, in]`, equal to rounding."""
    # the transposed view, never a copy of it: that one goes a slower way
    product = torch.mm(module.weight, rows.reshape(2, -1).t())
    output = product.t().contiguous()
    return (output if module.bias is None else output + module.bias).unsqueeze(1)
