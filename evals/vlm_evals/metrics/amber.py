"""AMBER as its official program computes it: descriptions of images, and questions about them (Wang et al. 2023).

    CHAIR = hallucinated nouns / nouns of the vocabulary        Hal = descriptions with such a noun / descriptions
    Cover = true words named / true words                       Cog = hallucination targets named / targets
    accuracy over questions; precision, recall and F1 of the answer "No"
    AMBER score = (100 - CHAIR + F1) / 2

Whether a noun that is no word of the image is like one of them is decided by vectors of spaCy that can not be had here.
A table of similar words stands in for them; `examples/amber_similarity.py` makes it. Without a table CHAIR and Hal are
the largest, Cover and Cog the smallest values that any table could give, and their other ends stand beside them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.benchmark import Benchmark
from vlm_evals.data.amber import ATTRIBUTES, DESCRIPTION, Lexicon, read_folder, read_responses
from vlm_evals.data.items import Item, match
from vlm_evals.errors import AnswerMismatch
from vlm_evals.metric import Judging, Metric, Option, Scored
from vlm_evals.protocol import Protocol
from vlm_evals.ratios import Counts, Formula, HarmonicMean, Ratio, Sum, total
from vlm_evals.records import Score, file_hash, write_json, write_rows
from vlm_evals.text.amber_words import describe
from vlm_evals.text.nouns import OTHER_WORDS, NounFinder, is_known
from vlm_evals.text.spoken import notes_on_thinking, spoken
from vlm_evals.text.yes_no import Reading, parse_answer, read_words, unparsed_alerts

PARSERS = ("exact", "strict-neither", "words")
TASKS = ("all", "generative", "discriminative")
WORDS = "words.json"
_NO_DESCRIPTION = "there is no description"
_NO_NOUN = "no description names a word of the vocabulary"
_NO_QUESTION = "there is no answer to a question"
_NO_LABEL = "no question has the label no"
_NOT_SAID = "no answer is no"
_DENIED = ("accuracy", "precision", "recall", "f1")


def _answers(prefix: str = "") -> dict[str, Formula]:
    """Return the figures of questions from counts with a prefix."""
    precision = Ratio(f"{prefix}true_no", f"{prefix}said_no", _NOT_SAID)
    recall = Ratio(f"{prefix}true_no", f"{prefix}label_no", _NO_LABEL)
    accuracy = Ratio(f"{prefix}right", f"{prefix}questions", _NO_QUESTION)
    f1 = HarmonicMean(precision, recall, "precision or recall is undefined")
    return dict(zip(_DENIED, (accuracy, precision, recall, f1), strict=True))


RATIOS: dict[str, Formula] = {
    "chair": Ratio("hallucinated", "nouns", _NO_NOUN),
    "chair_least": Ratio("hallucinated_least", "nouns", _NO_NOUN),
    "cover": Ratio("covered", "truth", _NO_DESCRIPTION),
    "cover_most": Ratio("covered_most", "truth", _NO_DESCRIPTION),
    "hal": Ratio("hallucinating", "descriptions", _NO_DESCRIPTION),
    "hal_least": Ratio("hallucinating_least", "descriptions", _NO_DESCRIPTION),
    "cog": Ratio("marked", "targets", _NO_DESCRIPTION),
    "cog_most": Ratio("marked_most", "targets", _NO_DESCRIPTION),
    **_answers(),
    "yes_ratio": Ratio("said_yes", "questions", _NO_QUESTION),
    "unparsed": Ratio("neither", "questions", _NO_QUESTION),
}
WHOLE: dict[str, Formula] = {
    **{f"attribute_{name}": formula for name, formula in _answers("attribute_").items()},
    "amber_score": Sum((Ratio("not_hallucinated", "nouns", _NO_NOUN), RATIOS["f1"]), "CHAIR or F1 is undefined", 50),
}
LABELS = {
    "chair": "CHAIR",
    "chair_least": "CHAIR at least",
    "cover": "Cover",
    "cover_most": "Cover at most",
    "hal": "Hal",
    "hal_least": "Hal at least",
    "cog": "Cog",
    "cog_most": "Cog at most",
    "accuracy": "accuracy",
    "precision": "precision of no",
    "recall": "recall of no",
    "f1": "F1 of no",
    "yes_ratio": "yes ratio",
    "unparsed": "unparsed",
    **{f"attribute_{name}": f"{name} of attributes".replace("f1", "F1") for name in _DENIED},
    "amber_score": "AMBER score",
}
_EMPTY = dict.fromkeys(describe((), (), (), {}, frozenset(), None).counts(), 0)
_UNASKED = dict.fromkeys(
    [
        f"{prefix}{name}"
        for prefix in ("", "attribute_")
        for name in ("questions", "right", "true_no", "said_no", "label_no")
    ]
    + ["said_yes", "neither", "right_by_words"],
    0,
)


def read_answer(answer: str, parser: str) -> Reading:
    """Return how an answer is read; "exact", the official way, takes `Yes` and `No` as they stand and nothing else."""
    if parser == "exact":
        return "yes" if answer == "Yes" else "no" if answer == "No" else "unparsed"
    return read_words(answer) if parser == "words" else parse_answer(answer)


def score_question(item: Item, answer: str, parser: str) -> Score:
    """Return what the answer to a question is worth, with its evidence."""
    said = spoken(answer).text
    reading = read_answer(said, parser)
    counts = {
        "questions": 1,
        "right": int(reading == item.label),
        "true_no": int(reading == item.label == "no"),
        "said_no": int(reading == "no"),
        "label_no": int(item.label == "no"),
    }
    if item.split in ATTRIBUTES:
        counts |= {f"attribute_{name}": count for name, count in counts.items()}
    more = {
        "said_yes": int(reading == "yes"),
        "neither": int(reading == "unparsed"),
        "right_by_words": int(read_words(said) == item.label),
    }
    evidence = {
        "id": item.key,
        "split": item.split,
        "question": item.text,
        "label": item.label,
        "reading": reading,
        "answer": answer,
    }
    return Score(item.key, item.unit, {**_EMPTY, **_UNASKED, **counts, **more}, item.split, evidence)


def score_description(item: Item, answer: str, lexicon: Lexicon, finder: NounFinder) -> Score:
    """Return what a description is worth, with its evidence."""
    truth, targets = item.facts["truth"], item.facts["targets"]
    words = lexicon.words
    nouns = [noun for noun in finder.nouns(spoken(answer).text) if noun in words]
    found = describe(nouns, truth, targets, lexicon.relations, lexicon.safe, lexicon.similar)
    evidence = {
        "id": item.key,
        "split": item.split,
        "question": item.text,
        "nouns": nouns,
        "hallucinated": list(found.wrong),
        "covered": [truth[place] for place in sorted(found.covered)],
        "targets": [targets[place] for place in sorted(found.marked)],
        "answer": answer,
    }
    return Score(item.key, item.unit, {**_UNASKED, **found.counts()}, item.split, evidence)


def score_items(items: Sequence[Item], texts: Sequence[str], lexicon: Lexicon, parser: str) -> Scored:
    """Return the scores of responses, with the notes that a report needs."""
    described = any(item.split == DESCRIPTION for item in items)
    finder = NounFinder() if described else None
    scores = [
        score_question(item, text, parser)
        if item.split != DESCRIPTION or finder is None
        else score_description(item, text, lexicon, finder)
        for item, text in zip(items, texts, strict=True)
    ]
    notes = [*notes_on_thinking(texts), *(finder.notes if finder else ())]
    if described and not is_known(lexicon.words):
        notes.append(OTHER_WORDS)
    if described and lexicon.similar is None:
        notes.append(
            "no table of similar words is given, so CHAIR and Hal are the most, Cover and Cog the least that they can "
            "be; examples/amber_similarity.py makes the table where spaCy's en_core_web_lg is installed"
        )
    table = "none" if lexicon.similar is None else f"{len(lexicon.similar) // 2} pairs"
    return Scored(scores, {"parser": parser, "similar_words": table, "notes": notes})


def official(scores: Sequence[Score], *, exact: bool = True) -> dict[str, Any]:
    """Return what the official program prints, rounded as it rounds; without a table an interval [least, most].

    It starts every denominator at 0.001, takes F1 of rounded precision and recall, and rounds to one decimal.

    Args:
        scores: of responses.
        exact: whether answers were read as the program reads them; else its figures of questions are left out.
    """
    whole = total([score.counts for score in scores])
    found: dict[str, Any] = {}
    if whole.get("descriptions"):
        found |= _printed_descriptions(whole)
    for split in dict.fromkeys(["", "existence", "attribute", *ATTRIBUTES, "relation"]) if exact else ():
        if counts := _counts_of(scores, whole, split):
            found |= {" ".join(filter(None, (split, name))): value for name, value in _printed(counts, split).items()}
    if "CHAIR" in found and "F1" in found:
        chair = found["CHAIR"]
        ends = [(100 - one + found["F1"]) / 2 for one in (reversed(chair) if isinstance(chair, list) else [chair])]
        found["AMBER score"] = ends if len(ends) > 1 else ends[0]
    return found


def _counts_of(scores: Sequence[Score], whole: Counts, split: str) -> Counts:
    """Return the counts of the questions of a split, of all attributes, or of everything; nothing without questions."""
    if split == "attribute":
        counts = {name.removeprefix("attribute_"): n for name, n in whole.items() if name.startswith("attribute_")}
    else:
        counts = total([score.counts for score in scores if score.split == split]) if split else dict(whole)
    return counts if counts.get("questions") else {}


def _printed_descriptions(counts: Counts) -> dict[str, Any]:
    pairs = {
        "CHAIR": ("hallucinated_least", "hallucinated", "nouns"),
        "Cover": ("covered", "covered_most", "truth"),
        "Hal": ("hallucinating_least", "hallucinating", "descriptions"),
        "Cog": ("marked", "marked_most", "targets"),
    }
    found: dict[str, Any] = {}
    for name, (least, most, below) in pairs.items():
        ends = [_percent(counts[one], counts[below]) for one in (least, most)]
        if name == "Hal":  # the program takes what is left of 100
            part, rest = counts["descriptions"], 0.001
            ends = [round(100 - (part - counts[one]) / (part + rest) * 100, 1) for one in (least, most)]
        found[name] = ends if counts[least] != counts[most] else ends[0]
    return found


def _printed(counts: Counts, split: str) -> dict[str, float]:
    start = 0.003 if split == "attribute" else 0.001  # attributes are three sums
    precision = _percent(counts["true_no"], counts["said_no"], start)
    recall = _percent(counts["true_no"], counts["label_no"], start)
    more = 0.001 if split == "existence" else 0.0001
    f1 = round(2 * (precision / 100) * (recall / 100) / ((precision / 100) + (recall / 100) + more) * 100, 1)
    accuracy = _percent(counts["right"], counts["questions"], start)
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "F1": f1}


def _percent(part: int, whole: int, start: float = 0.001) -> float:
    return round(part / (whole + start) * 100, 1)


def vlmevalkit(scores: Sequence[Score]) -> dict[str, float]:
    """Return what VLMEvalKit prints as AMBER: three accuracies of questions by their words, and the mean of these."""
    parts = {"Attribute": ATTRIBUTES, "Existence": ("existence",), "Relation": ("relation",)}
    found = {}
    for name, splits in parts.items():
        asked = [score.counts for score in scores if score.split in splits]
        if asked:
            found[name] = 100 * sum(counts["right_by_words"] for counts in asked) / len(asked)
    return found | ({"Avg ACC": sum(found.values()) / len(found)} if found else {})


def versions(scores: Sequence[Score], *, exact: bool) -> dict[str, dict[str, Any]]:
    """Return what programs print under the name of AMBER: version -> figures."""
    return {"AMBER-official": official(scores, exact=exact), "VLMEvalKit's AMBER": vlmevalkit(scores)}


def _findings(scores: Sequence[Score]) -> dict[str, Any]:
    exact = all(
        score.evidence["reading"] == read_answer(spoken(score.evidence["answer"]).text, "exact")
        for score in scores
        if score.split != DESCRIPTION
    )
    return {"versions": versions(scores, exact=exact)}


def read_saved(
    answers: Path | str,
    data: Path | str,
    *,
    similarity: Path | str | None = None,
    parser: str = "exact",
    per_response: Path | str | None = None,
) -> Scored:
    """Return the scores of a file of responses, to all of AMBER or to a part of it.

    Args:
        answers: a list of `id` and `response`.
        data: the folder of AMBER's annotations, queries, relations and safe words.
        similarity: a table of similar words, unless the folder has one.
        parser: how answers to questions are read; see `read_answer`.
        per_response: JSON lines to write, the evidence of every response.

    Returns:
        The scores, and as facts `versions` (what the official program and VLMEvalKit print), `responses`, `parser`,
        `similar_words`, `files`, `hashes` and `notes`.

    Raises:
        FileFormatError: naming file and line.
        AnswerMismatch: naming a response that is doubled or belongs to nothing.
    """
    path = Path(answers)
    folder = read_folder(Path(data), None if similarity is None else Path(similarity))
    given = read_responses(path)
    names = {answer.question_id for answer in given}
    items = [item for item in folder.items if item.key in names]
    texts = match(items, given, lambda answer: answer.question_id or "", path)
    if not items:
        raise AnswerMismatch(f"{path}: holds no response to AMBER")
    found = score_items(items, texts, folder.lexicon, parser)
    if per_response is not None:
        write_rows(Path(per_response), (score.evidence for score in found.scores))
    printed = versions(found.scores, exact=parser == "exact")
    files = {"answers": path, **folder.files}
    facts = {
        **found.facts,
        "versions": printed,
        "responses": f"{len(items)} of {len(folder.items)}",
        "files": {name: [file.name] for name, file in files.items()},
        "hashes": {name: file_hash(file) for name, file in files.items()},
        "notes": [*found.facts["notes"], *_notes(printed, len(items), len(folder.items))],
    }
    return Scored(found.scores, facts)


def _notes(printed: Mapping[str, Mapping[str, Any]], answered: int, asked: int) -> list[str]:
    """Return what other programs print, a sentence each, and how much was answered."""
    said = [
        f"{version} prints " + ", ".join(f"{name} {_shown(value)}" for name, value in figures.items())
        for version, figures in printed.items()
        if figures
    ]
    return said + ([f"{answered} of AMBER's {asked} items were answered"] if answered < asked else [])


def _shown(value: Any) -> str:
    return f"[{value[0]}, {value[1]}]" if isinstance(value, list) else f"{value:.4g}"


def _score(folder: Path, items: Sequence[Item], texts: Sequence[str], protocol: Protocol) -> Scored:
    return score_items(items, texts, Lexicon.load(folder / WORDS), protocol.option("parser"))


def _write(folder: Path, items: Sequence[Item], texts: Sequence[str]) -> None:
    rows = [{"id": int(item.key), "response": text} for item, text in zip(items, texts, strict=True)]
    write_json(folder / "responses.json", rows)


def _wanted(item: Item, protocol: Protocol) -> bool:
    task: str = protocol.option("task")
    return task == "all" or (task == "generative") == (item.split == DESCRIPTION)


def _called(score: Score) -> str:
    return f"item {score.key} ({score.split})"


_PARSER_HELP = "exact (the official way: Yes or No alone), strict-neither or words."

AMBER = Metric(
    name="amber",
    title="AMBER",
    items="responses",
    ratios=RATIOS,
    labels=LABELS,
    numbers=frozenset({"amber_score"}),
    headline="chair",
    recall="cover",
    accuracy="accuracy",
    tested=("hal", "descriptions that invent something"),
    over_splits="pooled",
    whole_only=lambda splits: WHOLE,
    counted="responses",
    called=_called,
    alerts=unparsed_alerts,
    findings=_findings,
    in_splits=(*_DENIED, "yes_ratio", "unparsed"),
    summary=("chair", "cover", "hal", "cog", "accuracy", "f1"),
    judging=Judging(
        help="Score responses with AMBER, as its official program does.",
        file=Option("answers", "Responses: a list of id and response.", Path),
        read=read_saved,
        options=(
            Option("data", "AMBER's folder with annotations, queries, relations, safe words.", Path, required=True),
            Option("similarity", "A table of similar words; see examples/amber_similarity.py.", Path),
            Option("parser", _PARSER_HELP, default="exact", choices=PARSERS),
            Option("per_response", "JSON lines to write.", Path, written=True),
        ),
    ),
    asked=Benchmark(
        name="amber",
        help="Ask for AMBER's descriptions and its yes-or-no questions.",
        data_is="AMBER's annotations, queries, relations, safe words, and its pictures in `image`",
        find=read_folder,
        score=_score,
        write=_write,
        keep=lambda folder, data: data.lexicon.save(folder / WORDS),
        wanted=_wanted,
        max_new_tokens=512,
        options=(
            Option("parser", _PARSER_HELP, default="strict-neither", choices=PARSERS),
            Option("task", "all, generative or discriminative.", default="all", choices=TASKS),
        ),
        batch_size=16,
    ).asked(),
)
