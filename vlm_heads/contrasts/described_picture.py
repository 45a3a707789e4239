"""VDGD: among likely tokens, those that a description of the picture made likely (Ghosh et al., ICLR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.models.prompts import DEFAULT_PROMPT, preceded, said_last
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class DescribedPicture(Contrast):
    """VDGD: the model describes the picture first, and then chooses tokens that the description made likely.

    The description is put before the question in the second stream. Its most probable tokens are the candidates, and
    each is scored by how probable it was at any place of the description. The plain stream weighs nothing, so no
    intervention goes beside it.

    Formula:
        p_j[v]   probability of token v at place j of the description, which is written greedily
        z2       token logits after "The input image is described as follows: <description> <question>"
        C        the most probable tokens by z2 / temperature, as few as hold the share `nucleus` together
        z[v]  <- max over j of log p_j[v]   for v in C, mode "paper": minus the least divergence KL(v || p_j)
        z[v]  <- max over j of log p_j[v] / V   for v in C, mode "code": V is the size of the vocabulary
        z[v]  <- -inf   for every other token

    Paper and program:
        The program's divergence is divided by the size of the vocabulary, because of how it reduces a sum. So its
        candidates are drawn almost alike. mode="code" does the same. It samples from what is left; so does
        `generate(do_sample=True)`, and greedy decoding takes the best. It asks for the description in a long prompt of
        its own, which states the task first; `describe` may hold {question}. It uses no key cache.
    """

    name: ClassVar[str] = "vdgd"
    label: ClassVar[str] = "VDGD"
    paper: ClassVar[Paper | None] = Paper(
        "Ghosh et al.",
        "Visual Description Grounding Reduces Hallucinations and Boosts Reasoning in LVLMs",
        2025,
        "ICLR",
        "2405.15683",
    )
    needs_inputs_alone: ClassVar[bool] = False
    weighs_the_first: ClassVar[bool] = False
    trial: ClassVar[dict[str, Any]] = {"longest": 8}

    nucleus: float = option(0.5, at_least=0.0, at_most=1.0, help="share of the probability that candidates hold")
    temperature: float = option(0.5, at_least=0.01, help="divides the logits of which candidates are taken")
    describe: str = option(DEFAULT_PROMPT, help="asks for the description; {question} stands for what is asked")
    longest: int = option(256, at_least=1, help="tokens of the description at most; 1024 in the authors' program")
    mode: Literal["paper", "code"] = option("paper", help='"code" divides scores by the size of the vocabulary')
    bound: float = option(
        0.0, at_least=0.0, at_most=1.0, kw_only=True,
        help="tokens less probable than this share of the plain stream's most probable one are excluded; ours",
    )  # fmt: skip

    def second_stream(self, asked: Asked) -> SecondStream:
        return _Described(asked, self)

    def weights(self, step: int) -> tuple[float, float]:
        return 0.0, 1.0


class _Described(SecondStream):
    """A stream that describes the picture before it begins, and gives scores in place of token logits.

    Args:
        asked: what is asked about it.
        method: says how.
    """

    def __init__(self, asked: Asked, method: DescribedPicture) -> None:
        super().__init__(asked.model, asked.inputs)
        self._asked = asked
        self._method = method
        self._scores: Tensor | None = None

    def begin(self, copies: int) -> Tensor:
        texts, scores = self._description()
        prompts = [
            preceded(prompt, f"The input image is described as follows: {text}")
            for text, prompt in zip(texts, self._asked.prompts, strict=True)
        ]
        self._inputs = self._asked.showing(self._asked.images, prompts)
        self._scores = scores.repeat_interleave(copies, dim=0)
        return self._scored(super().begin(copies))

    def step(self, tokens: Tensor, parents: Tensor | None = None) -> Tensor:
        return self._scored(super().step(tokens, parents))

    def _description(self) -> tuple[list[str], Tensor]:
        """Return each row's description, and `[B, V]`: each token's largest log-probability in it."""
        asked, method = self._asked, self._method
        ends = self._ends()
        prompts = [method.describe.replace("{question}", said_last(prompt)) for prompt in asked.prompts]
        stream = SecondStream(asked.model, asked.showing(asked.images, prompts))
        likely = stream.begin(1).log_softmax(dim=-1)
        best = likely
        tokens = [likely.argmax(dim=-1)]
        open_rows = ~torch.isin(tokens[0], ends)
        while len(tokens) < method.longest and bool(open_rows.any()):
            likely = stream.step(tokens[-1]).log_softmax(dim=-1)
            best = torch.where(open_rows[:, None], torch.maximum(best, likely), best)
            tokens.append(torch.where(open_rows, likely.argmax(dim=-1), tokens[-1]))
            open_rows = open_rows & ~torch.isin(tokens[-1], ends)
        return [self._text(row, ends) for row in torch.stack(tokens, dim=1)], best

    def _text(self, ids: Tensor, ends: Tensor) -> str:
        assert self._asked.decode is not None, "a contrast with needs_inputs_alone=False is given a way to decode"
        ended = torch.isin(ids, ends).nonzero()
        return self._asked.decode(ids if not len(ended) else ids[: int(ended[0])])

    def _ends(self) -> Tensor:
        """Return int64 `[n]`: the ids that end an answer."""
        found = self._model.generation_config.eos_token_id
        some = [] if found is None else found if isinstance(found, list) else [found]
        return torch.tensor(some, dtype=torch.long, device=self._asked.inputs["input_ids"].device)

    def _scored(self, logits: Tensor) -> Tensor:
        """Return `[R, V]`: the scores of the candidates that token logits tell, `-inf` elsewhere."""
        assert self._scores is not None, "the stream has begun"
        ordered, order = (logits / self._method.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        candidate = ordered.cumsum(dim=-1) - ordered < self._method.nucleus
        candidate[:, 0] = True
        chosen = torch.zeros_like(candidate).scatter(1, order, candidate)
        scores = self._scores / (logits.shape[-1] if self._method.mode == "code" else 1)
        return scores.masked_fill(~chosen, -torch.inf)
