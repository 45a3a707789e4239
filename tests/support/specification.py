"""What the float64 specification says of an attention call, and whether a backend agrees."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from vlm_kernels import Aux, KeyClass, attend, reference

from tests.support.attention_calls import WANT, Call
from tests.support.compare import distance

TOLERANCE = 2e-6
MASS_TOLERANCE = 5e-7
NEAR_A_THRESHOLD = 1e-4


def clear_rows(call: Call, expected: Aux) -> Tensor:
    """Return bool `[B, Hq, Tq]`: rows far enough from a rule's thresholds that no precision flips them."""
    rule = call.plan.redistribution
    if rule is None:
        return torch.ones(call.query.shape[:3], dtype=torch.bool)
    assert expected.mass is not None
    sink, image = expected.mass[..., KeyClass.IMAGE_SINK], expected.mass[..., KeyClass.IMAGE]
    keys = ((call.key_class == KeyClass.IMAGE_SINK) | (call.key_class == KeyClass.IMAGE)).sum(-1)[:, None, None]
    room = sink - rule.max_sink_share * (sink + image + rule.share_epsilon * keys)
    edge = (sink + image - rule.min_image_mass).abs()
    return (room.abs() > NEAR_A_THRESHOLD) & (edge > NEAR_A_THRESHOLD) | (sink + image == 0)


def specified(call: Call) -> tuple[Tensor, Aux]:
    """Return what the specification says in float64, on the CPU."""
    arguments = call.to(torch.device("cpu")).to(torch.float64).arguments()
    keys, rows = call.key.shape[2], call.query.shape[2]
    if call.mask is None and 1 < rows < keys:
        return attend(**arguments, backend="reference", want=WANT)
    return reference.attend(**arguments, want=WANT)


def stock_error(call: Call, blinded: bool = False) -> float:
    """Return how far stock attention in the call's dtype is from stock attention in float64, on the CPU.

    Args:
        call: whose states and mask are used; its plan is not.
        blinded: attend to the keys that a blinded output counts only. Fewer keys average less, and so round more.
    """
    mask, rows, keys = call.mask, call.query.shape[2], call.key.shape[2]
    if blinded:
        if mask is None:
            mask = torch.ones(rows, keys, dtype=torch.bool).tril(0 if rows > 1 else keys)
        hidden = torch.tensor([int(KeyClass.IMAGE_SINK), int(KeyClass.IMAGE), int(KeyClass.PADDING)])
        seen = ~torch.isin(call.key_class, hidden)[:, None, None]
        mask = mask & seen if mask.dtype is torch.bool else mask.masked_fill(~seen, -torch.inf)
    half, double = (
        scaled_dot_product_attention(
            call.query.to(dtype),
            call.key.to(dtype),
            call.value.to(dtype),
            attn_mask=mask if mask is None or mask.dtype is torch.bool else mask.to(dtype),
            is_causal=mask is None and rows > 1,
            enable_gqa=True,
        )
        for dtype in (call.query.dtype, torch.float64)
    )
    return distance(half.double(), double)


def complaint(
    call: Call,
    output: Tensor,
    aux: Aux,
    tolerance: float = TOLERANCE,
    mass: float = MASS_TOLERANCE,
    blinded: float | None = None,
) -> str:
    """Return what disagrees with the specification, or an empty string; errors count relative to a size above 1.

    A boost or a factor makes logits up to twice as large, or three times both, and with them the weights' rounding.
    Where nothing is said of the blinded output, it may be off as far as the output.
    """
    blinded = tolerance if blinded is None else blinded
    if call.plan.logit_factor is not None:
        tolerance, mass, blinded = 2 * tolerance, 2 * mass, 2 * blinded
    if call.plan.logit_boost is not None:
        tolerance, mass, blinded = 2 * tolerance, 2 * mass, 2 * blinded
    expected, expected_aux = specified(call)
    clear = clear_rows(call.to(torch.device("cpu")), expected_aux)
    pairs = {"output": (output, expected, tolerance)}
    for name in WANT:
        if getattr(aux, name) is not None:
            allowed = blinded if name == "blinded" else mass
            pairs[name] = (getattr(aux, name), getattr(expected_aux, name), allowed)
    found = []
    for name, (actual, wanted, allowed) in pairs.items():
        error = (actual.cpu().double() - wanted)[clear].abs() / wanted[clear].abs().clamp_min(1.0)
        worst = error.nan_to_num(torch.inf).max().item() if error.numel() else 0.0
        if worst > allowed:
            found.append(f"{name} is off by {worst:.1e}, allowed {allowed:.1e}")
    return "; ".join(found)
