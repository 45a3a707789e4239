"""AllPath: heads that a list calls bad are switched off, those that it calls good count twice (Qian et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.head_list import HeadList, HeadListForm, layers_of_heads
from vlm_heads.toolkit.head_ranking import Heads, Ranked, highest, lowest, ranked, read_ranking, union
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.static_plan import static_plan

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile


@dataclass(frozen=True)
class ListedHeads(Intervention):
    """AllPath: multiply the outputs of good heads by 2 and those of bad heads by 0, the same heads for every image.

    A list ranks all heads by a score. The bad heads are the lowest of the list by answer format; the good ones are the
    highest of that list, and the highest of the list by image. A list belongs to one model and one kind of answer: the
    paper finds that scores of yes/no questions and of captions hardly correlate. It takes 40 bad and 40 + 50 good heads
    for captions, the defaults here, and 20 and 20 + 10 for yes/no questions. `vlm-heads score` makes lists with the
    scorers `allpath-format` and `allpath-image`.

    Formula:
        A[l, i] <- good_gain * A[l, i]   for (l, i) in good and not in bad
        A[l, i] <- bad_gain  * A[l, i]   for (l, i) in bad

    Not established:
        What the authors do with a head that is both good and bad. The published lists of Qwen-VL-Chat for captions name
        five such heads. Here they count as bad.
    """

    name: ClassVar[str] = "allpath"
    label: ClassVar[str] = "AllPath"
    lever: ClassVar[str] = "head gain"
    paper: ClassVar[Paper | None] = Paper(
        "Qian et al.",
        "Intervene-All-Paths: Unified Mitigation of LVLM Hallucinations across Alignment Formats",
        2025,
        "NeurIPS",
        "2511.17254",
    )
    trial: ClassVar[Mapping[str, Any]] = {"bad": ((0, 0),), "good": ((-1, 1),)}
    needs_profile: ClassVar[bool] = True
    needs_image_keys: ClassVar[bool] = False

    format_list: str = option(
        "profile", help="file that ranks heads by answer format, a line [[layer, head], score]; or the profile's scores"
    )
    image_list: str = option("none", help="file that ranks heads by image, or none")
    worst: int = option(40, at_least=0, help="bad heads: the lowest by format")
    best: int = option(40, at_least=0, help="good heads: the highest by format")
    image_best: int = option(50, at_least=0, help="good heads: the highest by image")
    good: HeadList = option(
        "ranked", form=HeadListForm("ranked"), help="good heads themselves, written as 14.3+17.0, or by their ranks"
    )
    bad: HeadList = option("ranked", form=HeadListForm("ranked"), help="bad heads themselves, or by their ranks")
    good_gain: float = option(2.0, at_least=0.0, neutral=1.0, help="factor on the outputs of good heads")
    bad_gain: float = option(0.0, at_least=0.0, neutral=1.0, help="factor on the outputs of bad heads")
    layers: Layers = layers_option("all")

    def heads(self, anatomy: Anatomy, profile: HeadProfile | None) -> tuple[Heads, Heads]:
        """Return the (layer, head) pairs of good heads and of bad ones.

        Raises:
            BadProfile: if a list cannot be read.
            BadOption: if more heads are chosen by rank than there are.
        """
        return self.ranked_heads(self._by_format(anatomy, profile))

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        good, bad = self.heads(anatomy, profile)
        if not good and not bad:
            raise BadOption(
                "allpath takes its heads from lists or from a profile, and has none: write format_list=FILE and "
                "image_list=FILE, or give the profile that `vlm-heads score --scorer allpath-format` writes, or the "
                "heads themselves as good=14.3+17.0 and bad=2.1"
            )
        for name, some in (("good", good), ("bad", bad)):
            layers_of_heads(anatomy, some, f"allpath, {name} heads")
        super().check(anatomy, profile)

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        return nullcontext({"gains": self.gains(anatomy, profile)})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        return static_plan(call)

    def gains(self, anatomy: Anatomy, profile: HeadProfile | None = None) -> Tensor:
        """Return float32 `[L, Hq]`: every head's gain, as a `HeadProfile` holds them and `fold_gains` takes them."""
        gains = torch.ones(anatomy.depth, anatomy.heads)
        for heads, gain in zip(self.heads(anatomy, profile), (self.good_gain, self.bad_gain), strict=True):
            for layer, head in heads:
                gains[layer, head] = gain
        return gains

    def ranked_heads(self, by_format: Ranked) -> tuple[Heads, Heads]:
        """Return good and bad heads; where they are not listed themselves, by their ranks."""
        by_image = () if self.image_list == "none" else read_ranking(self.image_list)
        by_rank = (isinstance(self.good, str), isinstance(self.bad, str))
        if by_format and self.best * by_rank[0] + self.worst * by_rank[1] > len(by_format):
            raise BadOption(
                f"allpath: {self.worst} bad and {self.best} good heads are more than the {len(by_format)} that are "
                "ranked; choose fewer, as worst=2,best=2"
            )
        good = union(highest(by_format, self.best), highest(by_image, self.image_best))
        return good if by_rank[0] else _pairs(self.good), lowest(by_format, self.worst) if by_rank[1] else _pairs(
            self.bad
        )

    def _by_format(self, anatomy: Anatomy, profile: HeadProfile | None) -> Ranked:
        if self.format_list != "profile":
            return read_ranking(self.format_list)
        if profile is None:
            return ()
        return tuple(one for one in ranked(profile.scores) if one[0] in anatomy.attentions)


def _pairs(heads: HeadList) -> Heads:
    assert not isinstance(heads, str), "the option's form reads texts"
    return tuple((layer, head) for layer, head in heads)
