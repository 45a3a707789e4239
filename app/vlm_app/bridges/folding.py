"""Checks that a folded checkpoint does what its profile does when attached: compares token logits on real prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm_app.options import DEFAULT_PROMPT
from vlm_heads import VLM, HeadProfile, StaticGains, attach
from vlm_heads.errors import UnsupportedModel

PROMPTS = (DEFAULT_PROMPT, "Is there a car in the image?")
ALLOWED = 0.1  # of what the gains do to the logits


@dataclass(frozen=True)
class Verified:
    """How far a folded checkpoint is from the attached profile.

    Attributes:
        prompts: how many were asked.
        tokens: generated in all, with the profile attached.
        identical: prompts whose generated tokens are all the same.
        exact: whether every token logit compared was the same bit for bit.
        difference: root mean square of the logits' difference at the first token.
        effect: the same between attached and plain: what the gains do.
        largest: largest difference of any logit as far as the tokens agree.
    """

    prompts: int
    tokens: int
    identical: int
    exact: bool
    difference: float
    effect: float
    largest: float

    def as_row(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.exact:
            return f"verified: token logits equal bit for bit over {self.tokens} tokens of {self.prompts} prompts"
        return (
            f"verified: the same tokens for {self.identical} of {self.prompts} prompts; token logits differ by "
            f"{self.difference:.2g} (root mean square) where the gains change them by {self.effect:.2g}"
        )


def verify_folded(
    original: VLM, profile: HeadProfile, folder: Path, pictures: Sequence[Path], *, tokens: int = 32
) -> Verified:
    """Compare a folded checkpoint, loaded as any other, with the original and its profile attached.

    Args:
        original: the model that was folded.
        profile: with the gains.
        folder: the folded checkpoint.
        pictures: each is asked every prompt.
        tokens: generated per prompt at most.

    Raises:
        UnsupportedModel: if the two differ by more than a tenth of what the gains do.
    """
    asked = [(picture, prompt) for picture in pictures for prompt in PROMPTS]
    plain = [_generate(original, *one, 1) for one in asked]
    with attach(original.model, [StaticGains()], profile=profile):
        attached = [_generate(original, *one, tokens) for one in asked]
    copy = VLM.from_pretrained(folder, device=original.device, local_files_only=True)
    folded = [_generate(copy, *one, tokens) for one in asked]
    largest = max(_largest(left, right) for left, right in zip(attached, folded, strict=True))
    found = Verified(
        prompts=len(asked),
        tokens=sum(len(one.ids) for one in attached),
        identical=sum(left.ids == right.ids for left, right in zip(attached, folded, strict=True)),
        exact=largest == 0.0,
        difference=_at_first_token(attached, folded),
        effect=_at_first_token(attached, plain),
        largest=largest,
    )
    if not found.exact and not found.difference <= ALLOWED * found.effect:
        raise UnsupportedModel(
            f"the folded checkpoint is not what the attached profile is: token logits differ by {found.difference:.2g} "
            f"where the gains change them by {found.effect:.2g}; nothing was written"
        )
    return found


@dataclass(frozen=True)
class _Said:
    """Generated ids, and the token logits `[tokens, words]` in float32 they were chosen from."""

    ids: list[int]
    logits: Tensor


def _generate(vlm: VLM, picture: Path, prompt: str, tokens: int) -> _Said:
    inputs = vlm.inputs([picture], prompt)
    with torch.inference_mode():
        output = vlm.model.generate(
            **inputs, do_sample=False, max_new_tokens=tokens, return_dict_in_generate=True, output_logits=True
        )
    logits = torch.stack([one[0].float().cpu() for one in output.logits])
    return _Said(output.sequences[0, -len(logits) :].tolist(), logits)


def _largest(left: _Said, right: _Said) -> float:
    """Return the largest difference of any logit, up to the first place where the tokens differ."""
    pairs = zip(left.ids, right.ids, strict=False)
    same = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    shared = min(len(left.ids), len(right.ids)) if same is None else same + 1
    return float((left.logits[:shared] - right.logits[:shared]).abs().max())


def _at_first_token(left: Sequence[_Said], right: Sequence[_Said]) -> float:
    """Return the root mean square of the differences at the first token, where the texts so far are the same."""
    squares = [(one.logits[0] - other.logits[0]).square().mean() for one, other in zip(left, right, strict=True)]
    return float(torch.stack(squares).mean().sqrt())
