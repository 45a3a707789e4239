"""ONLY: one layer's heads that spread over the text say what the text alone would say (Wan et al., ICCV 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.families import Anatomy, projects_gated
from vlm_heads.layer_end import require_behind_attention
from vlm_heads.lenses.base import Lens
from vlm_heads.token_step import TokenStep, implausible
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import image_keys, over_keys, read_logits, require_image_keys

_TEXTUAL = "textual"
_SLACK = 1e-6  # in the program's logarithms
_OWN, _SAID = 0.2, 0.5  # of what enters the last layer and of what the model says, in the program's second path
_NORM = "input_layernorm"


@dataclass(frozen=True)
class TextualHeads(Lens):
    """ONLY: `z + together * z2` where text-bound heads agree with the model, `z + apart * (z - z2)` where they do not.

    One layer's attention is read once more, with the heads alone whose attention is spread over the text more than over
    the picture. What they give goes to the last layer in place of its own attention, and `z2` is what the model would
    then say. Nothing is changed in the model, and no second stream runs: beside its forward, each token costs the last
    layer's MLP and the head once more.

    Formula:
        a[i]    weights of head i of layer `layer`, in the row that predicts a token
        H(T), H(V)   entropy of a[i] over the text's keys and over the image's, each share made to sum to 1
        kept    the heads with H(T) / H(V) at least the mean of all heads of the layer
        t       what the layer's attention gives with the others' outputs at 0, behind its output projection
        x       what enters the last layer; f: what that layer does behind its attention, with the model's last norm
        mode "paper": z2 = head(f(x + t))
        mode "code":  z2 = head(f(0.2 * x + n(t)) + 0.5 * h)   n: the last layer's first norm
                                                               h: what the model gives its head
        p, p2   probabilities of z and z2;  d = sum over tokens of |p - p2|
        z <- z + together * z2         where d < near
        z <- z + apart * (z - z2)      elsewhere; both among tokens with p >= bound * max p

    Paper and program:
        They agree on the ratio, on its mean, on d, which is not halved, and on both rules. The program sets weights
        above the mean of their share and one standard deviation to 0, in both shares, before it takes the entropies and
        t; `mode=code` does too, and leaves the prompt's first key out of the text. It also puts x, t and h together by
        the factors above. Its image begins at position 35, whatever the prompt; here it is where the image is. `near`
        is 0.2 for POPE and 0.25 for captions and MME in its scripts, and print has 0.4 for Qwen-VL. `bound` is 0.4 for
        MME. It samples at temperature 1. It asks one prompt at a time, and here every row has its own d.

    Not established:
        Whether print removes outliers too, and whether its `H[L-1]` is what enters the last layer, as here and in the
        program. Print is known at second hand, by readings that agree on the formula.
    """

    name: ClassVar[str] = "only"
    label: ClassVar[str] = "ONLY"
    lever: ClassVar[str] = "lens"
    paper: ClassVar[Paper | None] = Paper(
        "Wan et al.",
        "ONLY: One-Layer Intervention Sufficiently Mitigates Hallucinations in Large Vision-Language Models",
        2025,
        "ICCV",
        "2507.00898",
    )
    trial: ClassVar[Mapping[str, Any]] = {"layer": 1, "together": 200.0, "apart": 200.0}

    together: float = option(3.0, at_least=0.0, neutral=0.0, help="weight of z2 where it agrees with the model")
    apart: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast where it does not")
    near: float = option(0.2, at_least=0.0, at_most=2.0, help="they agree where d is smaller")
    layer: int = option(0, at_least=0, help="layer whose heads are chosen")
    mode: Literal["paper", "code"] = option("paper", help="what is chosen and put together, and how; see below")
    bound: float = option(
        0.1,
        at_least=0.0,
        at_most=1.0,
        help="tokens less probable than this share of the most probable one are excluded",
    )

    def reads(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset({anatomy.depth - 1, anatomy.depth})

    def watches(self, anatomy: Anatomy) -> frozenset[int]:
        require_image_keys(anatomy)
        if self.layer not in anatomy.attentions:
            raise BadOption(
                f"only: layer {self.layer} of {anatomy.model_type} has no attention heads; layers that have: "
                f"{', '.join(map(str, anatomy.attentions))}"
            )
        if projects_gated(anatomy, self.layer):
            raise UnsupportedModel(
                f"only reads what heads give to the output projection, and {anatomy.model_type} gates it first"
            )
        require_behind_attention(anatomy, anatomy.depth - 1, self.name)
        if self.mode == "code":
            _first_norm(anatomy)
        return frozenset({self.layer})

    def see(self, call: AttentionCall) -> None:
        with torch.no_grad():
            weights, kept = self.chosen(call)
            grouped = (weights * kept[..., None]).reshape(len(weights), call.key.shape[1], -1, weights.shape[-1])
            call.memory[_TEXTUAL] = (grouped.to(call.value.dtype) @ call.value).flatten(1)  # [B, Hq * D]

    def weigh(self, step: TokenStep) -> Tensor:
        step.note()
        textual = self._textual(step).to(step.logits)
        apart = (step.logits.softmax(dim=-1) - textual.softmax(dim=-1)).abs().sum(dim=-1, keepdim=True)
        added = step.logits + self.together * textual
        taken_off = (1.0 + self.apart) * step.logits - self.apart * textual
        weighed = torch.where(apart < self.near, added, taken_off)
        return weighed.masked_fill(implausible(step.log_probs(), self.bound), -torch.inf)

    def chosen(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Return the row's weights `[B, Hq, Tk]`, and which heads are kept, bool `[B, Hq]`."""
        weights = read_logits(call).softmax(dim=-1)
        image = image_keys(call)[:, None]
        text = (call.key_class() >= 0)[:, None] & ~image
        if self.mode == "code":
            text = text & ~over_keys(call, _first_key(call))[:, None]
            weights = weights.masked_fill(_outlying(weights, text) | _outlying(weights, image), 0.0)
        slack = _SLACK if self.mode == "code" else 0.0
        ratio = _entropy(weights, text, slack).nan_to_num(0.0) / _entropy(weights, image, slack).nan_to_num(torch.inf)
        ratio = ratio.nan_to_num(0.0, torch.inf)
        return weights, ratio >= ratio.mean(dim=-1, keepdim=True)

    def _textual(self, step: TokenStep) -> Tensor:
        """Return token logits `[R, V]` of the heads that are kept."""
        attended: Tensor = step.anatomy.projections[self.layer](step.seen[_TEXTUAL])
        if self.mode == "paper":
            return step.head.logits(step.leaving(attended))
        left = step.leaving(_first_norm(step.anatomy)(attended), _OWN)
        both = step.head.norm(left) + _SAID * step.head.norm(step.entering(step.depth))
        return step.head.logits(both, norm=False)


def _first_norm(anatomy: Anatomy) -> nn.Module:
    """Return the norm before the last layer's attention.

    Raises:
        UnsupportedModel: if there is none of that name.
    """
    found = getattr(anatomy.layers[-1], _NORM, None)
    if not isinstance(found, nn.Module):
        raise UnsupportedModel(
            f"only, mode='code', takes the {_NORM} of the last layer, and {anatomy.model_type} has none: take "
            "mode='paper'"
        )
    return found


def _first_key(call: AttentionCall) -> Tensor:
    """Return bool `[B, T]`: the first key of each prompt."""
    present = call.key_map.classes[:, : call.key_map.prompt_length] >= 0
    return present & (present.cumsum(dim=-1) == 1)


def _outlying(weights: Tensor, share: Tensor) -> Tensor:
    """Return bool `[B, Hq, Tk]`: weights above the mean of a share of the keys and its standard deviation."""
    count = share.sum(dim=-1, keepdim=True)
    mean = (weights * share).sum(dim=-1, keepdim=True) / count.clamp_min(1)
    spread = ((weights - mean).square() * share).sum(dim=-1, keepdim=True) / (count - 1).clamp_min(1)
    return share & (weights > mean + spread.sqrt())


def _entropy(weights: Tensor, share: Tensor, slack: float) -> Tensor:
    """Return `[B, Hq]`: the entropy of a share of the keys, its weights made to sum to 1."""
    part = weights * share
    likely = part / part.sum(dim=-1, keepdim=True)
    return -torch.xlogy(likely, likely + slack).sum(dim=-1)
