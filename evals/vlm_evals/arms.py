"""The arms of an evaluation: the method, the plain model, its trade-off curve, and the controls that fit.

bottom-heads, random-heads    the same gain on the least vision-aware and on random heads
those of a check              the same check, looking at something that knows nothing
prompt-yes, prompt-no         the plain model, asked for yes or for no in a sentence added to the question
mask-only                     the plain model, sampled among the tokens that a contrast's mask leaves
greedy                        the plain model without sampling or beams, where the protocol has either
first-word+1, …               the plain model with a bias on the word that its answers begin with
bias+0.4, …                   the plain model's trade-off curve

The output control of yes-or-no questions asks no model: it is made of the plain answers, see `yes_no.controls`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_evals.answer import PLAIN
from vlm_evals.endpoint.asking import Asker
from vlm_evals.errors import TaskError
from vlm_evals.first_token import PLAUSIBLE, most_frequent
from vlm_evals.metric import Controls
from vlm_evals.protocol import Protocol, sampling
from vlm_evals.records import Sample
from vlm_evals.reports.pairs import PLAIN as PLAIN_RUN
from vlm_evals.runs import answers_in
from vlm_heads import Mitigation

BIASES = (-1.0, -0.3, 0.4, 1.2, 2.6)  # added to the end-of-text logits of the plain model; 0 is the plain run itself
CONTROLS = {"bottom-heads": "bottom", "random-heads": "random"}
MASK_ONLY, GREEDY = "mask-only", "greedy"
GREEDILY: Mapping[str, Any] = {"do_sample": False, "num_beams": 1}


@dataclass(frozen=True)
class Arm:
    """One way of answering.

    Attributes:
        name: its folder below the evaluation's; empty for the evaluation's own.
        mitigation: what is done to the model.
        end_bias: added to the end-of-text logits.
        added: a sentence added to every prompt.
        decoding: arguments of `generate` in place of the protocol's; None for the protocol's.
        first_word: added to the logits of the word that most plain answers begin with, wherever it is plausible.
    """

    name: str
    mitigation: Mitigation = PLAIN
    end_bias: float = 0.0
    added: str = ""
    decoding: Mapping[str, Any] | None = None
    first_word: float = 0.0

    def asking(self, asking: Asker, out: Path) -> Asker:
        """Return how this arm asks.

        Args:
            asking: the model and how it is asked.
            out: folder of the evaluation; a bias on a first word needs its plain run to be answered.

        Raises:
            TaskError: if the plain answers begin with no word.
        """
        chosen = (_first_token(out / PLAIN_RUN), self.first_word) if self.first_word else None
        return replace(asking, mitigation=self.mitigation, end_bias=self.end_bias, first_word=chosen)

    def decoded(self, protocol: Protocol) -> Protocol:
        """Return a protocol as this arm decodes it; what it asks stays the same."""
        return protocol if self.decoding is None else replace(protocol, decoding=self.decoding)

    def prompted(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return samples as this arm asks them."""
        return [replace(one, prompt=one.prompt + self.added) for one in samples] if self.added else samples

    def changes(self, asking: Asker) -> dict[str, Any]:
        """Return what it changes in how a model is asked, as JSON; nothing where it changes nothing."""
        found: dict[str, Any] = {}
        if self.added:
            found["added_to_prompt"] = self.added
        if self.decoding is not None:
            found["decoding"] = dict(self.decoding)
        if asking.first_word is not None:
            token, bias = asking.first_word
            found["first_word"] = {"token": token, "word": asking.named(token), "bias": bias}
        return found


def _first_token(folder: Path) -> int:
    found = most_frequent(answer.token_ids[0] for answer in answers_in(folder).values() if len(answer.token_ids) > 1)
    if found is None:
        raise TaskError(f"{folder}: no answer begins with a word, so that no first word can be biased")
    return found


def arms_of(
    mitigation: Mitigation,
    *,
    paired: bool,
    curve: bool = False,
    controls: bool = False,
    fitting: Controls | None = None,
) -> list[Arm]:
    """Return the arms of an evaluation, the plain one first where there are several.

    Args:
        mitigation: the method.
        paired: whether the plain model is asked too.
        curve: whether it is asked at several end-of-text biases.
        controls: whether the controls that fit are asked.
        fitting: those of the metric; None for none.

    Raises:
        TaskError: if arms are to be compared and there is no method, or no control fits.
    """
    if not (paired or curve or controls):
        return [Arm("", mitigation)]
    if not mitigation:
        raise TaskError("--paired, --curve and --controls compare with a method: name one, as in --with vhr")
    plain = Mitigation(profile=mitigation.profile)  # a plain run names it too, though it reads none
    arms = [Arm(PLAIN_RUN, plain), Arm("mitigated", mitigation)]
    if controls:
        arms += control_arms(arms[1], plain, fitting or Controls())
    return arms + (curve_arms(plain) if curve else [])


def control_arms(method: Arm, plain: Mitigation, fitting: Controls) -> list[Arm]:
    """Return the controls that fit a method and a metric.

    Raises:
        TaskError: if none fits.
    """
    done = method.mitigation
    on_others = any(one.chooses_heads for one in done.interventions)
    arms = [control(method, name, heads) for name, heads in CONTROLS.items()] if on_others else []
    if done.check is not None:
        checks = done.check.controls()
        arms += [replace(method, name=name, mitigation=replace(done, check=one)) for name, one in checks.items()]
    arms += [Arm(name, plain, added=sentence) for name, sentence in fitting.added.items()]
    weighing = (*done.lenses, *(() if done.contrast is None else (done.contrast,)))
    if (bound := max((one.mask() for one in weighing), default=0.0)) > 0:
        arms.append(Arm(MASK_ONLY, plain, decoding=masked(bound)))
    arms += [Arm(f"first-word{bias:+g}", plain, first_word=bias) for bias in fitting.first_word]
    if not arms:
        names = ", ".join(one.name for one in done.methods())
        raise TaskError(
            f"--controls: {names} chooses no heads, and the metric has no controls of its own: leave it out"
        )
    return arms


def decoding_controls(arms: Sequence[Arm], decoding: Mapping[str, Any]) -> list[Arm]:
    """Return the controls of a protocol that samples: greedy decoding, and sampling among plausible tokens alone.

    Args:
        arms: those there are; the first is plain.
        decoding: of the protocol.
    """
    sampled = bool(decoding.get("do_sample"))
    plain, names = arms[0].mitigation, {arm.name for arm in arms}
    found = [Arm(GREEDY, plain, decoding=dict(GREEDILY))] if sampled or decoding.get("num_beams", 1) != 1 else []
    if sampled and MASK_ONLY not in names:
        found.append(Arm(MASK_ONLY, plain, decoding=masked(PLAUSIBLE)))
    return found


def masked(bound: float) -> dict[str, Any]:
    """Return arguments of `generate` for sampling at temperature 1 among plausible tokens.

    Args:
        bound: the share of the most probable token's probability below which tokens are left out.
    """
    return sampling(1.0) | {"min_p": bound}


def curve_arms(plain: Mitigation = PLAIN) -> list[Arm]:
    """Return the arms of the plain model's trade-off curve, without the plain one itself."""
    return [Arm(bias_name(bias), plain, bias) for bias in BIASES]


def bias_name(bias: float) -> str:
    """Return the folder of a point of the plain model's curve."""
    return f"bias{bias:+g}"


def control(arm: Arm, name: str, heads: str) -> Arm:
    """Return the same arm acting on other heads, where its interventions choose any.

    Raises:
        TaskError: if none has heads to choose.
    """
    done = arm.mitigation
    if not any(one.chooses_heads for one in done.interventions):
        names = ", ".join(one.name for one in done.methods())
        raise TaskError(f"--controls takes the same gain on other heads, and {names} chooses no heads: leave it out")
    changed = tuple(one.with_heads(heads) if one.chooses_heads else one for one in done.interventions)
    return replace(arm, name=name, mitigation=replace(done, interventions=changed))
