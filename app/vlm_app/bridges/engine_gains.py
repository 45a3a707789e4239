"""What a serving engine is told: the gain of every head, and which heads one rank of it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlm_heads import Anatomy, HeadProfile, Intervention, parse_intervention
from vlm_heads.errors import BadOption, BadProfile, UnsupportedModel
from vlm_heads.methods import known_interventions


@dataclass(frozen=True)
class Share:
    """The query heads of one rank where an engine splits them over several: whole heads, one stretch to each rank.

    Attributes:
        rank: zero-based.
        ranks: how many there are.
    """

    rank: int = 0
    ranks: int = 1

    def of(self, heads: Tensor) -> Tensor:
        """Return this rank's part of `[..., Hq]`.

        Raises:
            UnsupportedModel: if the heads do not divide evenly.
        """
        count = heads.shape[-1]
        if count % self.ranks:
            raise UnsupportedModel(f"{count} heads do not divide over {self.ranks} ranks; take a divisor of {count}")
        local = count // self.ranks
        return heads[..., self.rank * local : (self.rank + 1) * local]


def static_gains(what: str, anatomy: Anatomy) -> Tensor:
    """Return float32 `[L, Hq]`: the gain of every head, the same for every picture.

    Args:
        what: a folder of a head profile with gains, a repository `owner/name` of one, or the word of a method of static
            gains, as `reinforced:gains=14.3:2` or `allpath:format_list=FILE,image_list=FILE`.
        anatomy: of the model that is served.

    Raises:
        BadProfile: if there is no such profile, or it holds no gains, or it does not fit the model.
        BadOption: if the word is wrong, or its method needs the picture.
    """
    with own_defaults():
        if Path(what).is_dir() or what.partition(":")[0] not in known_interventions():
            return _of_profile(what, anatomy)
        return _of_method(parse_intervention(what), anatomy)


@contextmanager
def own_defaults() -> Iterator[None]:
    """Make new tensors float32 in memory: while an engine makes its model, they are the model's dtype on its device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def _of_profile(folder: str, anatomy: Anatomy) -> Tensor:
    profile = HeadProfile.from_pretrained(folder)
    profile.check(anatomy)
    if profile.gains is None:
        raise BadProfile(f"{folder} holds scores and no gains; `vlm-heads calibrate` makes a profile with gains")
    return profile.gains


def _of_method(method: Intervention, anatomy: Anatomy) -> Tensor:
    """Return what a method of static gains prepares; 1 on the layers that it leaves alone."""
    method.check(anatomy, None)
    layers = sorted(method.layers_in(anatomy))
    with method.prepared(torch.nn.Module(), anatomy, None) as memory:
        prepared: Tensor | None = memory.get("gains")
    if prepared is None:
        raise BadOption(
            f"{method.name} looks at each picture, and static gains do not: take a folder with gains, `reinforced` or "
            "`allpath`"
        )
    gains = torch.ones_like(prepared)
    gains[layers] = prepared[layers]
    return gains


def scaled_heads(output: Tensor, gains: Tensor) -> Tensor:
    """Return head outputs times their gains, each rounded once to its own precision.

    Args:
        output: `[..., Hq * D]`, the heads one after another, as the output projection takes them.
        gains: float32 `[Hq]`, or `[..., Hq]` for gains of each row.
    """
    return (by_head(output, gains.shape[-1]) * gains[..., None]).to(output.dtype).flatten(-2)


def by_head(output: Tensor, heads: int) -> Tensor:
    """Return `[..., Hq * D]` as `[..., Hq, D]`."""
    return output.view(*output.shape[:-1], heads, output.shape[-1] // heads)
