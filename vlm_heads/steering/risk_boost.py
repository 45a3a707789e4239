"""AdaVBoost: the riskier the token before, the higher the image's attention logits (Zhang et al. 2026)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan, KeyClass

from vlm_heads.blind import last_positions
from vlm_heads.call import AttentionCall
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.steering.base import Site, Steering
from vlm_heads.stream_call import StreamCall
from vlm_heads.token_head import TokenHead
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

_CHUNK = 64  # image positions whose token logits are held at once
_SAME = 1e-6  # a factor as near to 1 is none


@dataclass(frozen=True)
class RiskBoost(Steering):
    """AdaVBoost, later SAVAA: raise image logits by the risk of the token before, and lower the prompt's text.

    A token is risky where the model is unsure, and where no image position would say it next. It is read behind the
    last layer, and changes the attention of the step after. The first token of an answer is the model's own. What was
    risky is remembered by row, so beams are refused.

    Formula:
        G[v]  = max over image positions of p[v]   p: what each would say next, read once with the prompt
        e     = - sum over tokens of p log p / log V   p: of the token said last; v: its most probable token
        risk  = min(1, (share * e + (1 - share) * (1 - G[v])) / scale)
        m     = 1 + (visual - 1) * risk
        mode "paper": z <- z + (m - 1) * |z| for image keys, z - (1 - 1 / text) * |z| for the prompt's text
        mode "code":  z <- m * z             for image keys, z / text                 for the prompt's text
        z: logits before softmax, in the row that predicts a token; where m is 1 nothing is changed

    Paper and program:
        The program multiplies logits, so that it moves attention away from image keys with a negative one, and towards
        such text. `mode=paper` mends the sign, so that attention goes where the paper wants it; `mode=code` does as
        the program. It reads image positions in a forward of its own, and the text between two pictures with them;
        here they are read with the prompt, and alone. Its batch is 1. Its numbers are those of its settings:

            LLaVA-NeXT-7B    share 0.5, scale 0.5, visual 1.1, text 1.7, layers 0 to 14 of 32; the defaults
            Qwen3-VL-8B      share 0.6, scale 0.6, visual 1.3, text 1.3, layers 4 to 14 of 36
            InternVL3.5-8B   share 0.8, scale 0.7, visual 1.3, text 1.6, layers 4 to 14 of 36

    Not established:
        How print writes the change: the program is what was read. An earlier version of it had share 0.75.
    """

    name: ClassVar[str] = "adavboost"
    label: ClassVar[str] = "AdaVBoost"
    lever: ClassVar[str] = "logits"
    paper: ClassVar[Paper | None] = Paper(
        "Zhang et al.",
        "AdaVBoost: Mitigating Hallucinations in LVLMs via Token-Level Adaptive Visual Attention Boosting",
        2026,
        arxiv="2602.13600",
    )
    trial: ClassVar[Mapping[str, Any]] = {"visual": 3.0, "scale": 1.0}
    needs_image_keys: ClassVar[bool] = True
    in_attention: ClassVar[bool] = True
    remembers_steps: ClassVar[bool] = True

    visual: float = option(1.1, at_least=1.0, neutral=1.0, help="factor on image logits at full risk")
    text: float = option(1.7, at_least=1.0, help="what logits of the prompt's text are divided by")
    share: float = option(0.5, at_least=0.0, at_most=1.0, help="weight of entropy in the risk; grounding has the rest")
    scale: float = option(0.5, at_least=0.01, help="where the risk is full")
    mode: Literal["paper", "code"] = option("paper", help="what becomes of negative logits")
    layers: Layers = layers_option(paper="0 to 14 of 32, in proportion")

    @property
    def site(self) -> Site:
        return "layer"

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return range(max(1, round(anatomy.depth * 15 / 32)))

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return self._acting(anatomy) | {anatomy.depth - 1}  # which tells what is said

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        return nullcontext({"acting": self._acting(anatomy), "last": anatomy.depth - 1})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing or call.layer not in call.memory["acting"]:
            return None
        if not call.decoding:
            _require_cache(call)
            return None
        factor = call.once_per_step(self._factor)
        self._note(call, factor)
        return AttentionPlan(logit_factor=factor) if self.mode == "code" else AttentionPlan(logit_boost=factor - 1.0)

    def steer(self, call: StreamCall) -> Tensor | None:
        if not self.changes_nothing and call.layer == call.memory["last"]:
            with torch.no_grad():
                self._read(call)
        return None

    def _acting(self, anatomy: Anatomy) -> frozenset[int]:
        return Intervention.layers_in(self, anatomy)

    def _factor(self, call: AttentionCall) -> Tensor:
        """Return `[B, 1, Tk]`: what each key's logit is multiplied by where it is positive."""
        risk: Tensor = call.memory["risk"]
        raised = (1.0 + (self.visual - 1.0) * risk)[:, None]
        classes = call.key_map.seen_by(call.key.shape[2])
        factor = torch.where((classes == KeyClass.IMAGE) | (classes == KeyClass.IMAGE_SINK), raised, 1.0)
        factor = torch.where((classes == KeyClass.TEXT) | (classes == KeyClass.TEXT_SINK), 1.0 / self.text, factor)
        acting = (raised - 1.0 >= _SAME) & call.key_map.has_image[:, None]
        return torch.where(acting, factor, 1.0)[:, None]

    def _note(self, call: AttentionCall, factor: Tensor) -> None:
        """Count the rows that a layer acts on, at its first step."""
        if call.layer not in call.memory:
            call.memory[call.layer] = True
            call.tally.note((factor != 1.0).any(dim=-1).expand(call.query.shape[:2]))

    def _read(self, call: StreamCall) -> None:
        """Keep how risky the next token is, and with a prompt what its image positions would say."""
        key_map, hidden = call.state.key_map, call.leaving
        end = last_positions(hidden, key_map.last_rows if call.prefill else None)[:, 0]
        logits = call.head.logits(end)
        if hidden.shape[1] > 1:
            classes = key_map.classes[:, -hidden.shape[1] :]
            image = (classes == KeyClass.IMAGE) | (classes == KeyClass.IMAGE_SINK)
            before = call.memory.get("grounding", torch.zeros_like(logits))
            call.memory["grounding"] = torch.maximum(before, _grounding(call.head, hidden, image, logits))
        call.memory["risk"] = self._risk(logits, call.memory["grounding"])

    def _risk(self, logits: Tensor, grounding: Tensor) -> Tensor:
        """Return `[B]`: how risky the most probable token is, 0 to 1."""
        likely = logits.log_softmax(dim=-1)
        entropy: Tensor = torch.special.entr(likely.exp()).sum(dim=-1) / math.log(logits.shape[-1])
        shown = grounding.gather(-1, logits.argmax(dim=-1, keepdim=True))[:, 0]
        return ((self.share * entropy + (1.0 - self.share) * (1.0 - shown)) / self.scale).clamp(0.0, 1.0)


def _grounding(head: TokenHead, hidden: Tensor, image: Tensor, like: Tensor) -> Tensor:
    """Return `[B, V]`: the highest probability that any image position gives each token, 0 in a row without image.

    Args:
        head: reads hidden states.
        hidden: `[B, T, width]`, what leaves the last layer.
        image: bool `[B, T]`.
        like: `[B, V]`, of the dtype wanted.
    """
    found = torch.zeros_like(like)
    for row, positions in enumerate(image):
        seen = hidden[row, positions]
        for first in range(0, len(seen), _CHUNK):
            likely = head.logits(seen[first : first + _CHUNK]).softmax(dim=-1)
            found[row] = torch.maximum(found[row], likely.amax(dim=0))
    return found


def _require_cache(call: AttentionCall) -> None:
    if not call.prefill and call.query.shape[2] == call.key_map.length:
        raise UnsupportedGeneration(
            "without a cache every step computes all rows again, and adavboost's edit of each depends on what was said "
            "before it; generate with use_cache=True"
        )
