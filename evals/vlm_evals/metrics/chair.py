"""CHAIR: how much of what a caption mentions is not in the image (Rohrbach et al. 2018).

    CHAIR_S = captions with at least one hallucinated mention / captions
    CHAIR_I = hallucinated mentions / mentions, repeats counted
    recall  = distinct objects correctly mentioned / objects of the ground truth, summed over captions

The score of a caption keeps its evidence. The figures of a corpus are ratios of summed counts, never means of means.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.formats import Caption, read_captions, write_captions
from vlm_evals.data.image_names import told_apart
from vlm_evals.data.truth import Truth, load_truth, save_truth
from vlm_evals.errors import FileFormatError, UnknownImage
from vlm_evals.metric import Asked, Controls, Curve, Judging, Metric, Option, Plane, Scored
from vlm_evals.protocol import DESCRIBE, Protocol
from vlm_evals.ratios import Formula, HarmonicMean, Ratio
from vlm_evals.records import Answer, Sample, Score, file_hash, image_key, write_rows
from vlm_evals.runs import require_complete
from vlm_evals.text.budget import Budget
from vlm_evals.text.objects import PIPELINES, VOCABULARIES, CaptionObjects, Mention, ObjectFinder
from vlm_evals.text.spoken import notes_on_thinking, spoken

TRUTH = "truth.json"
_NO_CAPTION = "there is no caption"
_NO_MENTION = "no caption mentions an object"
_NO_TRUTH = "the images of these captions have no object in the ground truth"

_RECALL = Ratio("found", "truth", _NO_TRUTH)
_PRECISION = Ratio("found", "distinct", _NO_MENTION)
RATIOS: dict[str, Formula] = {
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
LABELS = {
    "chair_s": "CHAIR_S",
    "chair_i": "CHAIR_I",
    "chair_i_distinct": "CHAIR_I, distinct objects",
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "mean_tokens": "length, tokens",
    "objects_per_caption": "objects per caption",
    "distinct_per_caption": "distinct objects per caption",
    "repeated_mentions": "repeated mentions",
    "repeated_sentences": "repeated sentences",
    "repeated_4grams": "repeated 4-grams",
}

MEANINGS = {
    "chair_s": "captions that mention an object which is not in the picture",
    "chair_i": "mentions of objects which are not in the picture, among all; repeating a true object lowers it",
    "chair_i_distinct": "the same, where every object of a caption counts once",
    "recall": "objects of the pictures that are mentioned",
    "precision": "objects mentioned that are in the picture",
    "f1": "the harmonic mean of precision and recall",
    "mean_tokens": "words and punctuation marks of a caption, on average",
    "objects_per_caption": "mentions of objects in a caption, repeats counted",
    "distinct_per_caption": "different objects in a caption",
    "repeated_mentions": "mentions of an object that was mentioned before in the same caption",
    "repeated_sentences": "sentences that stood before in the same caption",
    "repeated_4grams": "runs of four words that stood before in the same caption",
}


@dataclass(frozen=True, slots=True)
class CaptionScore:
    """What was found in one caption.

    Attributes:
        image_id: as the caption's file states it.
        said: what the caption says.
        truth: the objects of the image.
        key: of the image in the ground truth; by default its name's.
        text: the caption, word for word; empty where it is not kept.
    """

    image_id: int | str
    said: CaptionObjects
    truth: frozenset[str]
    key: str = ""
    text: str = ""

    @property
    def hallucinated(self) -> tuple[Mention, ...]:
        """The mentions of objects that are not in the image, in order, repeats kept."""
        return tuple(mention for mention in self.said.mentions if mention.node not in self.truth)

    def counts(self) -> dict[str, int]:
        """Return the counts that every figure of `RATIOS` is made of."""
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

    def as_score(self) -> Score:
        """Return the counts with their evidence: `words` are those of the hallucinated mentions, `caption` the text."""
        image = self.key or image_key(self.image_id)
        words = [mention.word for mention in self.hallucinated]
        kept = {"words": words} | ({"caption": self.text} if self.text else {})
        return Score(image, image, self.counts(), evidence=self.as_row() | kept)


def score_caption(caption: Caption, truth: Truth, finder: ObjectFinder) -> CaptionScore:
    """Return the score of one caption.

    Raises:
        UnknownImage: if the ground truth does not know its image.
    """
    try:
        key = truth.key_of(caption.image_id)
    except UnknownImage as error:
        raise UnknownImage(f"line {caption.line}: {error}" if caption.line else str(error)) from error
    text = spoken(caption.text).text
    return CaptionScore(caption.image_id, finder.find(text), truth.objects[key], key, text)


def score_captions(captions: Iterable[Caption], truth: Truth, finder: ObjectFinder) -> list[CaptionScore]:
    """Return the scores of captions, in order."""
    return [score_caption(caption, truth, finder) for caption in captions]


def most_invented(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """Return the invented objects, the most frequent first: object, mentions, captions, and its most frequent word."""
    mentions: Counter[str] = Counter()
    captions: Counter[str] = Counter()
    words: dict[str, Counter[str]] = {}
    for score in scores:
        invented = score.evidence["hallucinated"]
        captions.update(set(invented))
        mentions.update(invented)
        for node, word in zip(invented, score.evidence["words"], strict=True):
            words.setdefault(node, Counter())[word] += 1
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


def read_saved(
    file: Path | str,
    truth: Path | str | Sequence[Path | str],
    *,
    pipeline: Any = "chair-2018",
    vocabulary: Any = "published",
    per_caption: Path | str | None = None,
    budget: int | None = None,
    cache: Path | None = None,
) -> Scored:
    """Return the scores of a file of captions.

    Args:
        file: captions in any layout of `formats.read_captions`.
        truth: a saved index, a folder of COCO annotations, or COCO files; see `truth.load_truth`.
        pipeline: the text pipeline of the captions. Human captions in COCO files are always read with chair-2018, as
            in the published tables; an index says for itself.
        vocabulary: "published" or "corrected".
        per_caption: JSON lines to write, in the order of the file: image_id, mentions, hallucinated.
        budget: words after which a caption is cut; None for all of it.
        cache: folder of the index built from COCO files; by default the user's cache folder.

    Returns:
        The scores, and as facts `images`, `most_invented`, `pipeline`, `vocabulary`, `files` and `hashes` (names and
        SHA-256 of captions and truth; of the sources where the truth was built from COCO files), `truth_images` and
        `notes`.

    Raises:
        FileFormatError: naming file and line.
        UnknownImage: for an image that is not in the ground truth.
    """
    finder = ObjectFinder(pipeline, vocabulary)
    reader = finder if pipeline == "chair-2018" else ObjectFinder("chair-2018", vocabulary)
    objects = load_truth(truth, reader, cache)
    captions = read_captions(file)
    if budget is not None:
        captions = [replace(one, text=Budget(budget).text(one.text)) for one in captions]
    try:
        found = score_captions(captions, objects, finder)
    except UnknownImage as error:
        raise UnknownImage(f"{file}, {error}") from error
    if per_caption is not None:
        write_rows(Path(per_caption), (one.as_row() for one in found))
    _require_told_apart(Path(file), captions, found)
    scores = [one.as_score() for one in found]
    facts = {
        "images": len({score.unit for score in scores}),
        "most_invented": most_invented(scores),
        "pipeline": pipeline,
        "vocabulary": vocabulary,
        **({} if budget is None else {"budget": f"{budget} words"}),
        "files": {"captions": Path(file).name, "truth": objects.source},
        "hashes": {"captions": file_hash(Path(file)), "truth": objects.digest},
        "truth_images": len(objects.objects),
        "notes": [*finder.notes, *notes_on_thinking(one.text for one in captions), *_notes_on_doubled(captions, found)],
    }
    return Scored(scores, facts)


def _require_told_apart(file: Path, captions: Sequence[Caption], scores: Sequence[CaptionScore]) -> None:
    """Refuse captions of images in different folders that the ground truth knows as one image.

    Raises:
        FileFormatError: naming both.
    """
    apart = told_apart(caption.image_id for caption in captions)
    first: dict[str, Caption] = {}
    for caption, score in zip(captions, scores, strict=True):
        other = first.setdefault(score.key, caption)
        if apart[other.image_id] != apart[caption.image_id]:
            raise FileFormatError(
                file, caption.line,
                f"{caption.image_id} and {other.image_id} (line {other.line}) are both image {score.key} of the ground "
                "truth; give ids, and a ground truth, that tell them apart",
            )  # fmt: skip


def _notes_on_doubled(captions: Sequence[Caption], scores: Sequence[CaptionScore]) -> list[str]:
    """Return a sentence where an image has several captions."""
    lines: dict[str, list[str]] = {}
    for caption, score in zip(captions, scores, strict=True):
        lines.setdefault(score.key, []).append(str(caption.line))
    doubled = {key: found for key, found in lines.items() if len(found) > 1}
    if not doubled:
        return []
    key, found = next(iter(doubled.items()))
    shown = ", ".join(found[:5])
    return [f"{len(doubled)} images have several captions, such as {key} (lines {shown}), and each caption counts"]


def _finder(pipeline: Any, vocabulary: Any) -> ObjectFinder:
    return ObjectFinder(pipeline or "chair-2018", vocabulary or "published")


def _check(entries: Mapping[str, Any]) -> None:
    """Refuse a pipeline or a vocabulary that is unknown or lacks its language data."""
    _finder(entries.get("pipeline"), entries.get("vocabulary"))


def _samples(protocol: Protocol, data: CocoFolder) -> list[Sample]:
    return [Sample(str(image), str(data.images[image]), protocol.prompt, str(image)) for image in protocol.image_ids]


def _keep_truth(folder: Path, protocol: Protocol, data: CocoFolder) -> None:
    # human captions are read with chair-2018 whichever pipeline reads the model's, as in the published tables
    reader = _finder("chair-2018", protocol.vocabulary)
    truth = load_truth([*data.instances, *data.captions], reader)
    own = {str(image): truth.of(image) for image in protocol.image_ids}
    save_truth(folder / TRUTH, replace(truth, objects=own))


def _said(protocol: Protocol, answers: Mapping[str, Answer]) -> list[Caption]:
    """Return the captions of a run in the protocol's order, without those that failed."""
    named = ((image, answers[str(image)]) for image in protocol.image_ids)
    return [Caption(image, answer.text) for image, answer in named if not answer.error]


def _score_run(folder: Path, protocol: Protocol, answers: Mapping[str, Answer]) -> Scored:
    finder = _finder(protocol.pipeline, protocol.vocabulary)
    truth = load_truth(folder / TRUTH)
    require_complete(folder, [str(image) for image in protocol.image_ids], answers)
    said = _said(protocol, answers)
    found = score_captions(said, truth, finder)
    notes = [*finder.notes, *notes_on_thinking(one.text for one in said)]
    facts = {"pipeline": finder.pipeline, "vocabulary": finder.vocabulary_name, "truth": truth.digest}
    return Scored([one.as_score() for one in found], facts | {"notes": notes})


def _write_exchange(folder: Path, protocol: Protocol, answers: Mapping[str, Answer]) -> None:
    write_captions(folder / "captions.jsonl", _said(protocol, answers))


_PIPELINE = Option("pipeline", "chair-2018 or chair-opera.", choices=PIPELINES)
_VOCABULARY = Option("vocabulary", "published or corrected.", choices=VOCABULARIES)

CHAIR = Metric(
    name="chair",
    title="CHAIR",
    items="captions",
    ratios=RATIOS,
    labels=LABELS,
    meanings=MEANINGS,
    numbers=frozenset({"mean_tokens", "objects_per_caption", "distinct_per_caption"}),
    headline="chair_s",
    recall="recall",
    tested=("chair_s", "captions that invent something"),
    curve=Curve("recall", ("chair_s", "chair_i", "chair_i_distinct"), beside=("mean_tokens",)),
    plane=Plane("recall", "chair_i_distinct", length="mean_tokens"),
    controls=("chair_s", "recall"),
    summary=("chair_s", "chair_i", "chair_i_distinct", "recall", "mean_tokens"),
    called=lambda score: f"image {score.key}",
    findings=lambda scores: {"most_invented": most_invented(scores)},
    nothing=dict.fromkeys(CaptionScore("", CaptionObjects((), (), ()), frozenset()).counts(), 0),
    judging=Judging(
        help="Score captions with CHAIR.",
        file=Option("file", "Captions: JSON lines or a list with image_id and caption.", Path),
        read=read_saved,
        options=(
            Option(
                "truth",
                "A saved index of objects, a folder with COCO's annotations, or such files.",
                Path,
                required=True,
                several=True,
            ),
            replace(_PIPELINE, default="chair-2018"),
            replace(_VOCABULARY, default="published"),
            Option("per_caption", "JSON lines to write.", Path, written=True),
            Option("budget", "Cut captions after so many words.", int),
        ),
    ),
    asked=Asked(
        help="Caption images and count the objects that are not there.",
        max_new_tokens=512,
        world_max_new_tokens=96,
        defaults={"prompt": DESCRIBE, "pipeline": "chair-2018", "vocabulary": "published"},
        options=(Option("prompt", "In place of the protocol's."), _PIPELINE, _VOCABULARY),
        check=_check,
        controls=Controls(first_word=(1.0, 3.0)),
        eligible=lambda data: sorted(data.images),
        samples=_samples,
        keep=_keep_truth,
        score=_score_run,
        exchange=_write_exchange,
    ),
)
