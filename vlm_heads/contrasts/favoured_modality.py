"""Owl: a stream that favours the text is taken off one that favours the picture (Yu et al., AAAI 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan, KeyClass

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.stream_edit import PlannedEdit, SecondStreamCall
from vlm_heads.call import AttentionCall
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy, examine
from vlm_heads.toolkit.layer_sets import Layers, layers_option, resolve_layers
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import image_keys, last_row, require_image_keys, row_weights

_RISE, _MOST = 0.2, 0.6  # of the strengths, where a layer looks at the picture less than its base


@dataclass(frozen=True)
class FavouredModality(Contrast):
    """Owl: `(1 + contrast) z_good - contrast z_bad`, the picture favoured in one stream and the text in the other.

    Both streams have the same prompt with the same picture. The plain stream tells plausible tokens and weighs nothing,
    so no intervention goes beside it.

    Formula:
        z[l, i, j]   attention logit before softmax, in the row that predicts a token, on every head of the layers
        good: z <- z + image * |z|   for image keys;   z <- z - text * |z|   for keys of the prompt's text
        bad:  z <- z - image * |z|   for image keys;   z <- z + text * |z|   for keys of the prompt's text
        r[l]  = mean over heads of (sum of w over image keys / sum of w over the prompt's text)   w after softmax
        image, text <- min(0.6, own + 0.2 * (base[l] - r[l]) / base[l])   where r[l] < base[l]; with a base alone
        z <- (1 + contrast) * z_good - contrast * z_bad   among tokens with p >= bound * max p of the plain stream

    Paper and program:
        Known of the paper at second hand: image 0.4, text 0.5, contrast 0.2, which are the defaults. The program's
        own are 0.2, 0.2 and 1. As released its attention file does not parse, and two modules that it imports are
        missing. It leaves the prompt's first token and generated text alone, as here. Its base is a list for
        LLaVA-1.5-7B; without one, strengths stay as they are. There r is the plain stream's, and at the prompt that of
        its first row, which sees no picture. Here it is each stream's own, before its edit.
    """

    name: ClassVar[str] = "owl"
    label: ClassVar[str] = "Owl"
    paper: ClassVar[Paper | None] = Paper(
        "Yu et al.",
        "Causally-Grounded Dual-Path Attention Intervention for Object Hallucination Mitigation in LVLMs",
        2026,
        "AAAI",
        "2511.09018",
    )
    passes: ClassVar[int] = 3
    weighs_the_first: ClassVar[bool] = False

    image: float = option(0.4, at_least=0.0, neutral=0.0, help="factor on |z| of image keys")
    text: float = option(0.5, at_least=0.0, neutral=0.0, help="factor on |z| of the prompt's text")
    contrast: float = option(0.2, at_least=0.0, help="strength of the contrast")
    base: str = option("none", help="file with a layer's ratio of image to text a line, one for each layer; or none")
    layers: Layers = layers_option(paper="all but the first two")

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        require_image_keys(anatomy)
        self._edit(anatomy, 1.0)

    def streams(self, asked: Asked) -> tuple[SecondStream, ...]:
        anatomy = examine(asked.model)
        return tuple(asked.again(edit=self._edit(anatomy, sign)) for sign in (1.0, -1.0))

    def weights(self, step: int) -> tuple[float, ...]:
        return 0.0, 1.0 + self.contrast, -self.contrast

    def _edit(self, anatomy: Anatomy, sign: float) -> _Favouring:
        layers = resolve_layers(self.layers, anatomy.depth, range(2, anatomy.depth)) & anatomy.attentions.keys()
        return _Favouring(layers, (self.image, self.text), sign, _ratios(self.base, anatomy.depth))


def _ratios(path: str, depth: int) -> Sequence[float] | None:
    """Return a ratio for each layer; None where there is no file.

    Raises:
        BadOption: if the file cannot be read, or has not one number above 0 for each layer.
    """
    if path == "none":
        return None
    try:
        found = [float(line) for line in Path(path).read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as failure:
        raise BadOption(f"owl: base={path} is no file of numbers: {failure}") from None
    if len(found) != depth or not all(0.0 < one < float("inf") for one in found):
        raise BadOption(f"owl: base={path} has to hold one number above 0 for each of {depth} layers")
    return found


@dataclass(frozen=True)
class _Favouring(PlannedEdit):
    """Raises the logits of the image's keys and lowers those of the prompt's text in one row, or the other way round.

    Attributes:
        layers: where.
        strengths: on image and text, as factors on `|z|`.
        sign: 1 favours the picture, -1 the text.
        base: a ratio for each layer under which strengths above 0 grow; None leaves them.
    """

    layers: frozenset[int]
    strengths: tuple[float, float]
    sign: float
    base: Sequence[float] | None

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return self.layers

    def plan(self, call: SecondStreamCall) -> AttentionPlan | None:
        boost = call.once_per_step(self._boost) if self.base is None else self._raised(call, self.base[call.layer])
        return AttentionPlan(logit_boost=boost[:, None], rows=last_row(call))

    def _boost(self, call: AttentionCall) -> Tensor:
        return self._boosted(call, *self.strengths)

    def _boosted(self, call: AttentionCall, image: Tensor | float, text: Tensor | float) -> Tensor:
        """Return `[B, Tk]`, for strengths that are numbers or `[B, 1]`."""
        boost = (image_keys(call) * image - _prompt_text(call) * text) * self.sign
        return boost.float() * call.key_map.has_image[:, None]

    def _raised(self, call: SecondStreamCall, base: float) -> Tensor:
        """Return `[B, Tk]` with both strengths raised where the layer looks at the picture less than its base."""
        of_image, of_text = (
            (row_weights(call) * keys[:, None]).sum(dim=-1) for keys in (image_keys(call), _prompt_text(call))
        )
        short = (base - (of_image / of_text).mean(dim=1, keepdim=True)) / base
        image, text = (
            torch.where(short > 0.0, (one + _RISE * short).clamp_max(_MOST), one) if one else one
            for one in self.strengths
        )
        return self._boosted(call, image, text)


def _prompt_text(call: AttentionCall) -> Tensor:
    """Return bool `[B, Tk]`: keys of the prompt's text, without its first token."""
    classes = call.key_map.classes
    text = (classes == KeyClass.TEXT) | (classes == KeyClass.TEXT_SINK)
    first = (classes >= 0).int().argmax(dim=1, keepdim=True)
    return text.scatter(1, first, False)[:, classes.shape[1] - call.key.shape[2] :]
