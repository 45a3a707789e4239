"""OPERA: beam search that avoids words whose attention hangs on one earlier word, and goes back where it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.generation import GenerateBeamDecoderOnlyOutput

from vlm_heads.attached.beam_forwards import BeamForwards, LastRow
from vlm_heads.attached.tracking import Tracker
from vlm_heads.errors import BadOption, UnsupportedGeneration, UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.generate_call import GenerateCall
from vlm_heads.pipelines.base import Answered, Asked, Pipeline
from vlm_heads.receipt import PipelineReceipt
from vlm_heads.toolkit.beam_search import Beams, Search
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.over_trust import AsPrinted, AsReleased, Offers, OverTrust
from vlm_heads.toolkit.row_attention import require_image_keys

_NOT_KEPT = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


@dataclass(frozen=True)
class OverTrustPenalty(Pipeline):
    """OPERA: a beam search in which a word costs more, the more the answer's attention hangs on one earlier word.

    Its authors see invented objects follow a word that all later words attend to, often a full stop. Each candidate
    for the next word is tried, and its score falls by the strength of that pattern. Where one place has been the
    strongest for long, the search goes back to it and says something else.

    Formula:
        w[i, j]  weights of answer row i on answer key j, last layer: the maximum over heads, divided by the row's sum
                 over all keys
        S[j]   = product over rows i = j .. t of scale * w[i, j]    t is the candidate's own row
        z      = token logits; only the `candidates` largest of each beam can be said
        z[c]  <- z[c] - weight * max over the last `window` places j of S[j]
        place[t] = the j of that maximum. If one j is place[t] of at least `threshold` of the last `window` tokens, the
                 tokens after j are taken back, and what had followed j is barred there. No j is gone back to more than
                 `rollbacks` times, then the token before it is, and none that lies before an earlier one.

    Paper and program:
        `mode=paper` and `mode=code`. The program
        - multiplies S by 1e-7 and rounds it to half precision;
        - puts the image's share of a candidate's row, as a bonus, in place of the penalty for the first ten tokens;
        - keeps the whole answer in view: `window` is how many tokens it can go back;
        - takes for place[t] what most candidates have, on each beam for itself, and for j what most beams have; it
          counts the steps, later ones included, by the beams' places, which change what they say;
        - needs more than `threshold` of these on every beam, and never goes back to one of the first ten places;
        - chooses among all tokens after it went back, with no penalty, and gives barred ones the least logit;
        - forgets what it barred at the place after that which it goes back to, and no other;
        - divides scores by the length of prompt and answer in its version of transformers. That one is left out: here
          both modes divide by the answer's, as transformers does today.
        The paper speaks of one answer. With several beams, here each has places of its own, and all that are alive must
        agree on j.

    Choices:
        Plain beams, without penalty and going back, are transformers' own with `num_beams`. All numbers are kept in
        double precision. A product that is larger than those is the largest of them.

    Cost:
        A token takes a forward of all beams and one more for each candidate: with the defaults 6 of 5 rows each. The
        keys and values are held 5 times, and 3 times over while a candidate is tried. Going back feeds the answer so
        far again. One prompt at a time; nothing else can be attached beside it.
    """

    name: ClassVar[str] = "opera"
    label: ClassVar[str] = "OPERA"
    lever: ClassVar[str] = "search"
    needs: ClassVar[tuple[str, ...]] = ("one prompt at a time",)
    passes: ClassVar[int] = 30
    alone: ClassVar[bool] = True
    batched: ClassVar[bool] = False
    streamed: ClassVar[bool] = False
    done: ClassVar[str] = "answered by a search"
    paper: ClassVar[Paper | None] = Paper(
        "Huang et al.",
        "OPERA: Alleviating Hallucination in Multi-Modal Large Language Models via Over-Trust Penalty and "
        "Retrospection-Allocation",
        2024,
        "CVPR",
        "2311.17911",
    )

    beams: int = option(5, at_least=2, help="answers that grow side by side")
    candidates: int = option(5, at_least=1, help="words that are tried on each of them")
    scale: float = option(50.0, at_least=0.0, help="factor on attention weights before they are multiplied")
    threshold: int = option(
        15, at_least=2, help="tokens for which one place is the strongest before it is gone back to"
    )
    weight: float = option(1.0, at_least=0.0, help="factor on the penalty")
    window: int = option(512, at_least=1, help="how far is looked back, in tokens of the answer")
    rollbacks: int = option(5, at_least=0, help="how often one place is gone back to at most")
    mode: Literal["paper", "code"] = option("paper", help="paper follows the print, code the released program")

    def check(self, anatomy: Anatomy) -> None:
        require_image_keys(anatomy)
        if anatomy.quirks.blind_from_decoder or anatomy.quirks.drops_processors:
            raise UnsupportedModel(
                f"{anatomy.model_type} generates past its own forward or in a way of its own, so {self.name} cannot "
                "search for its answer"
            )

    def around(
        self, model: nn.Module, anatomy: Anatomy, processor: Any, tracker: Tracker, receipt: PipelineReceipt
    ) -> Asked:
        return _Searches(self, anatomy, tracker, receipt)

    def rules(self) -> OverTrust:
        """Return the rules of one answer."""
        kind = AsPrinted if self.mode == "paper" else AsReleased
        return kind(self.scale, self.threshold, self.weight, self.window, self.rollbacks)


class _Searches:
    """Answers in place of `generate`; see `OverTrustPenalty`."""

    def __init__(self, method: OverTrustPenalty, anatomy: Anatomy, tracker: Tracker, receipt: PipelineReceipt) -> None:
        self._method, self._anatomy, self._tracker, self._receipt = method, anatomy, tracker, receipt

    def __call__(self, call: GenerateCall, generate: Callable[..., Any], answered: Answered) -> Any:
        """Run in place of `generate`."""
        if not self._has_picture(call):
            return answered(call)
        self._refuse(call)
        row = LastRow(max(self._anatomy.attentions))
        changed = {
            "num_beams": self._method.beams, "do_sample": False, "use_cache": True, "cache_implementation": None,
            "custom_generate": _Loop(self._method, row, self._receipt),
        }  # fmt: skip
        with torch.no_grad(), self._tracker.calling(call), self._tracker.reading(row):
            return generate(**{**call.arguments, **changed})

    def _has_picture(self, call: GenerateCall) -> bool:
        ids = call.inputs.get("input_ids")
        if ids is None or "inputs_embeds" in call.inputs:
            raise BadOption(f"{self._method.name} needs input_ids: give generate() the processor's whole output")
        return bool(torch.isin(ids, torch.tensor(self._anatomy.vision_token_ids, device=ids.device)).any())

    def _refuse(self, call: GenerateCall) -> None:
        """Raise `UnsupportedGeneration` for what the search cannot do."""
        name, config = self._method.name, call.config
        rows = int(call.inputs["input_ids"].shape[0])
        cache = call.arguments.get("past_key_values")
        kept = next((one for one in _NOT_KEPT if getattr(config, one, None)), "")
        reasons: Mapping[str, object] = {
            f"{name} answers one prompt at a time, and here are {rows}: give them one by one": rows > 1,
            f"{name} begins with the whole prompt: give the conversation without its cache": (
                cache is not None and int(cache.get_seq_length())
            ),
            f"do_sample=True: {name} says what its beams find best; leave do_sample out": config.do_sample,
            f"num_beams={config.num_beams}: {name} has beams of its own; write {name}:beams={config.num_beams}": (
                (config.num_beams or 1) not in (1, self._method.beams)
            ),
            f"num_return_sequences={config.num_return_sequences}: {name} returns one answer; leave it out": (
                (config.num_return_sequences or 1) > 1
            ),
            f"streamer: {name} takes words back, so none can be shown before the end; leave it out": (
                call.arguments.get("streamer") is not None
            ),
            f"custom_generate: {name} generates in a way of its own; leave one of them out": (
                call.arguments.get("custom_generate") is not None
            ),
            f"{kept}: {name} goes back on its steps and keeps none of it; leave it out": kept,
        }
        for reason, given in reasons.items():
            if given:
                raise UnsupportedGeneration(reason)


class _Loop:
    """The search itself, as `generate` calls it with everything prepared."""

    def __init__(self, method: OverTrustPenalty, row: LastRow, receipt: PipelineReceipt) -> None:
        self._method, self._row, self._receipt = method, row, receipt

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        **arguments: Any,
    ) -> Any:
        """Return what `generate` returns: the prompt and the answer, int64 `[1, T + n]`, or an output that holds it."""
        forwards, rules = BeamForwards(model, input_ids, arguments), self._method.rules()
        ends = generation_config.eos_token_id
        search = Search(
            input_ids,
            stopping_criteria,
            len(ends) if isinstance(ends, list | tuple) else 1,
            generation_config.max_length - input_ids.shape[1],
            generation_config.length_penalty,
            generation_config.early_stopping,
        )
        score, said = self._found(search, forwards, rules, logits_processor)
        self._receipt.calls += 1
        self._receipt.rows = [{"rollbacks": rules.returned, "forwards": forwards.count}]
        whole = torch.cat([input_ids[:1], said[None]], dim=1)
        if not generation_config.return_dict_in_generate:
            return whole
        return GenerateBeamDecoderOnlyOutput(sequences=whole, sequences_scores=torch.tensor([score]))

    def _found(
        self, search: Search, forwards: BeamForwards, rules: OverTrust, processors: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[float, Tensor]:
        """Return the best answer with its score."""
        beams, logits = Beams.begun(len(search.prompt), search.prompt.device), forwards.begin()
        history: list[tuple[Beams, Offers]] = []
        while True:
            offers = self._offers(beams, logits, forwards, rules)
            history.append((beams, offers))
            kept = rules.return_to(history)
            if kept is None:
                scored = rules.scored(logits, offers)
            else:
                del history[kept + 1 :]
                beams, offers = history[kept]
                logits = forwards.back(beams.said)
                scored = rules.again(logits, offers, kept)
            # a dead beam may have nothing left to say
            log_probabilities = scored.log_softmax(dim=-1).nan_to_num(-torch.inf, neginf=-torch.inf)
            so_far = torch.cat([search.prompt, beams.said], dim=1)
            beams = search.after(beams, processors(so_far, log_probabilities))
            if beams.over:
                return beams.best()
            logits = forwards.go_on(beams.said[:, -1], beams.parents)
            beams = rules.with_said(beams, self._row.answer)

    def _offers(self, beams: Beams, logits: Tensor, forwards: BeamForwards, rules: OverTrust) -> Offers:
        """Return the candidates of each beam, each tried in a forward."""
        tokens = logits.topk(min(self._method.candidates, logits.shape[-1]), dim=-1).indices
        rows, image = [], []
        for one in tokens.unbind(dim=1):
            forwards.aside(one)
            rows.append(self._row.answer)
            image.append(self._row.image)
        return rules.offers(beams, logits, tokens, torch.stack(rows, dim=1), torch.stack(image, dim=1))
