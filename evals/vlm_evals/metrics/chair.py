"""CHAIR: how much of what a caption mentions is not in the image (Rohrbach et al. 2018).

    CHAIR_S = captions with at least one hallucinated mention / captions
    CHAIR_I = hallucinated mentions / mentions, repeats counted
    recall  = distinct objects correctly mentioned / objects of the ground truth, summed over captions

The score of a caption keeps its evidence; the metrics of a corpus are ratios of summed counts, never means of means.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_evals.data.formats import Caption
from vlm_evals.data.truth import Truth
from vlm_evals.ratios import HarmonicMean, Metric, Ratio, evaluate, total
from vlm_evals.records import Score
from vlm_evals.text.objects import CaptionObjects, Mention, ObjectFinder

_NO_CAPTION = "there is no caption"
_NO_MENTION = "no caption mentions an object"
_NO_TRUTH = "the images of these captions have no object in the ground truth"

_RECALL = Ratio("found", "truth", _NO_TRUTH)
_PRECISION = Ratio("found", "distinct", _NO_MENTION)
RATIOS: dict[str, Metric] = {
    "chair_s": Ratio("hallucinated_captions", "captions", _NO_CAPTION),
    "chair_i": Ratio("hallucinated_mentions", "mentions", _NO_MENTION),
    "chair_i_distinct": Ratio("distinct_hallucinated", "distinct", _NO_MENTION),
    "recall": _RECALL,
    "precision": _PRECISION,
    "f1": HarmonicMean(_PRECISION, _RECALL, "precision or recall is undefined"),
    "mean_tokens": Ratio("tokens", "captions", _NO_CAPTION),
    "objects_per_caption": Ratio("mentions", "captions", _NO_CAPTION),
    "distinct_per_caption": Ratio("distinct", "captions", _NO_CAPTION),
    "repeated_mentions": Ratio("mentions_again", "mentions", _NO_MENTION),
    "repeated_sentences": Ratio("sentences_again", "sentences", "there is no sentence"),
    "repeated_4grams": Ratio("fourgrams_again", "fourgrams", "no caption has four tokens"),
}


@dataclass(frozen=True, slots=True)
class CaptionScore:
    """The score of one caption.

    Attributes:
        image_id: as the caption's file states it.
        said: what the caption says.
        truth: the objects of the image.
    """

    image_id: int | str
    said: CaptionObjects
    truth: frozenset[str]

    @property
    def hallucinated(self) -> tuple[Mention, ...]:
        """The mentions of objects that are not in the image, in order, repeats kept."""
        return tuple(mention for mention in self.said.mentions if mention.node not in self.truth)

    def counts(self) -> dict[str, int]:
        """Return the counts that every metric of `RATIOS` is made of."""
        said = self.said
        distinct = {mention.node for mention in said.mentions}
        invented = sum(mention.node not in self.truth for mention in said.mentions)
        fourgrams = max(len(said.tokens) - 3, 0)
        return {
            "captions": 1,
            "hallucinated_captions": int(invented > 0),
            "mentions": len(said.mentions),
            "hallucinated_mentions": invented,
            "mentions_again": len(said.mentions) - len(distinct),
            "distinct": len(distinct),
            "distinct_hallucinated": len(distinct - self.truth),
            "found": len(distinct & self.truth),
            "truth": len(self.truth),
            "empty_truth": int(not self.truth),
            "without_mention": int(not said.mentions),
            "tokens": len(said.tokens),
            "sentences": len(said.sentences),
            "sentences_again": len(said.sentences) - len(set(said.sentences)),
            "fourgrams": fourgrams,
            "fourgrams_again": fourgrams - len(set(zip(*(said.tokens[i:] for i in range(4)), strict=False))),
        }

    def as_row(self) -> dict[str, Any]:
        """Return what a per-caption file holds: image, all mentions and the hallucinated ones, in order."""
        return {
            "image_id": self.image_id,
            "mentions": [mention.node for mention in self.said.mentions],
            "hallucinated": [mention.node for mention in self.hallucinated],
        }

    def as_score(self, sample_id: str) -> Score:
        """Return the counts with their evidence."""
        words = [mention.word for mention in self.hallucinated]
        return Score(sample_id, self.counts(), self.as_row() | {"words": words})


def score_caption(caption: Caption, truth: Truth, finder: ObjectFinder) -> CaptionScore:
    """Return the score of one caption.

    Raises:
        UnknownImage: if the ground truth does not know its image.
    """
    return CaptionScore(caption.image_id, finder.find(caption.text), truth.of(caption.image_id))


def score_captions(captions: Iterable[Caption], truth: Truth, finder: ObjectFinder) -> list[CaptionScore]:
    """Return the scores of captions, in order."""
    return [score_caption(caption, truth, finder) for caption in captions]


def corpus_metrics(scores: Sequence[CaptionScore]) -> dict[str, Any]:
    """Return every metric of `RATIOS` as a fraction, with `counts` and `undefined` (metric -> reason).

    An undefined metric is None: nothing is divided by zero and nothing is counted as a perfect score.
    """
    totals = total([score.counts() for score in scores]) or _NOTHING
    values, undefined = evaluate(RATIOS, totals)
    return {**values, "counts": dict(totals), "undefined": undefined}


_NOTHING = dict.fromkeys(CaptionScore("", CaptionObjects((), (), ()), frozenset()).counts(), 0)


def most_invented(scores: Iterable[CaptionScore]) -> list[dict[str, Any]]:
    """Return the invented objects, the most frequent first: object, mentions, captions, and its most frequent word."""
    mentions: Counter[str] = Counter()
    captions: Counter[str] = Counter()
    words: dict[str, Counter[str]] = {}
    for score in scores:
        invented = score.hallucinated
        captions.update({mention.node for mention in invented})
        for mention in invented:
            mentions[mention.node] += 1
            words.setdefault(mention.node, Counter())[mention.word] += 1
    order = sorted(mentions, key=lambda node: (-mentions[node], node))
    return [
        {
            "object": node,
            "mentions": mentions[node],
            "captions": captions[node],
            "word": words[node].most_common(1)[0][0],
        }
        for node in order
    ]
