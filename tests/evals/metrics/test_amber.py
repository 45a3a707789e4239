"""AMBER: descriptions and questions by hand, and against the official program written again from its description."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.data.amber import SIMILARITY
from vlm_evals.errors import AnswerMismatch, EvaluationError, FileFormatError, TaskError
from vlm_evals.judge import judge
from vlm_evals.metrics.amber import AMBER, read_answer, read_saved
from vlm_evals.reports.pairs import compare
from vlm_evals.text.amber_words import WITHOUT_VECTOR, Described, describe
from vlm_evals.text.nouns import base_forms

RELATIONS = {
    "car": ["vehicle"], "person": ["man"], "dog": [], "cat": ["animal"], "truck": [], "scoon": [], "line": [],
}  # fmt: skip
SAFE = ("line", "sign")
IMAGE = {"id": 1, "type": "generative", "truth": ["car", "person"], "hallu": ["dog", "cat"]}
ASKED = [
    ("discriminative-attribute-state", "yes"),
    ("discriminative-attribute-number", "no"),
    ("discriminative-hallucination", "no"),
    ("relation", "no"),
    ("discriminative-relation", "yes"),
]


def folder(root: Path) -> Path:
    """Return a folder with AMBER's files: one description, five questions."""
    annotations: list[dict[str, Any]] = [IMAGE]
    annotations += [{"id": number, "type": kind, "truth": truth} for number, (kind, truth) in enumerate(ASKED, start=2)]
    queries = [{"id": one["id"], "image": f"AMBER_{one['id'] % 2}.jpg", "query": "Is it?"} for one in annotations]
    root.mkdir(exist_ok=True)
    for name, value in (("annotations", annotations), ("query_all", queries), ("relation", RELATIONS)):
        (root / f"{name}.json").write_text(json.dumps(value), "utf-8")
    (root / "safe_words.txt").write_text("\n".join(SAFE), "utf-8")
    return root


def responses(path: Path, *texts: str, start: int = 1) -> Path:
    path.write_text(json.dumps([{"id": n, "response": text} for n, text in enumerate(texts, start=start)]), "utf-8")
    return path


def said(*nouns: str, similar: set[tuple[str, str]] | None = None) -> Described:
    both = None if similar is None else {pair for one, other in similar for pair in ((one, other), (other, one))}
    return describe(nouns, IMAGE["truth"], IMAGE["hallu"], RELATIONS, set(SAFE), both)


def test_a_description_by_hand() -> None:
    # line is safe: in the denominator alone. vehicle covers car, man covers person. animal marks cat and is wrong.
    # truck is nobody's word: wrong without a table
    found = said("line", "vehicle", "man", "animal", "truck")
    assert found.wrong == ("animal", "truck")
    counts = found.counts()
    assert (counts["nouns"], counts["hallucinated"], counts["hallucinating"]) == (5, 2, 1)
    assert (counts["covered"], counts["truth"], counts["marked"], counts["targets"]) == (2, 2, 1, 2)


def test_a_table_forgives_what_is_like_a_true_word_and_marks_what_is_like_a_target() -> None:
    assert said("truck", similar={("truck", "car")}).covered == {0}
    assert said("truck", similar={("truck", "car")}).wrong == ()
    found = said("truck", similar={("truck", "cat")})
    assert (found.wrong, found.marked) == (("truck",), {1})
    # a target that is like a true word is marked, and is no hallucination
    found = said("dog", similar={("dog", "person")})
    assert (found.wrong, found.marked, found.covered) == ((), {0}, {1})
    # a target that is like another target marks its own place and the first that is like it
    assert said("cat", similar={("cat", "dog")}).marked == {0, 1}


def test_without_a_table_the_ends_of_what_a_table_could_give() -> None:
    counts = said("truck", "truck", "scoon").counts()  # scoon has no vector: no table forgives it
    assert (counts["hallucinated_least"], counts["hallucinated"]) == (1, 3)
    assert (counts["covered"], counts["covered_most"]) == (0, 2)
    assert (counts["marked"], counts["marked_most"]) == (0, 2)
    exact = said("truck", similar=set()).counts()
    assert exact["hallucinated_least"] == exact["hallucinated"] == 1
    assert exact["covered_most"] == exact["covered"] == 0


def published(
    nouns: list[str], truth: list[str], targets: list[str], alike: Callable[[str, str], bool], relations: Any, safe: Any
) -> tuple[int, int, int]:
    """Return hallucinated nouns, covered words and marked targets, from the program's description and slowly."""
    flags = {"truth": [False] * len(truth), "targets": [False] * len(targets)}

    def look(kind: str, words: list[str], fits: Callable[[str], bool]) -> bool:
        for owner, word in enumerate(words):
            for one in relations[word]:
                if fits(one):
                    flags[kind][owner] = True
                    return True
        for owner, word in enumerate(words):
            if fits(word):
                flags[kind][owner] = True
                return True
        return False

    wrong = 0
    for noun in nouns:
        if noun in safe or look("truth", truth, lambda one, noun=noun: one == noun):
            continue
        look("targets", targets, lambda one, noun=noun: one == noun)
        look("targets", targets, lambda one, noun=noun: alike(one, noun))
        wrong += not look("truth", truth, lambda one, noun=noun: alike(one, noun))
    return wrong, sum(flags["truth"]), sum(flags["targets"])


WORDS = sorted({*RELATIONS, *(word for words in RELATIONS.values() for word in words)})
CHOSEN = st.lists(st.sampled_from(WORDS), max_size=6)
OWNERS = st.lists(st.sampled_from(sorted(RELATIONS)), max_size=4)
PAIRS = st.sets(st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS)))


@given(CHOSEN, OWNERS, OWNERS, PAIRS)
def test_the_official_program_and_the_interval_around_it(nouns, truth, targets, pairs) -> None:
    real = {(one, other) for one, other in pairs if not WITHOUT_VECTOR & {one, other}}
    both = real | {(other, one) for one, other in real}
    alike = lambda one, other: one == other or (one, other) in both  # noqa: E731
    expected = published(nouns, truth, targets, alike, RELATIONS, SAFE)
    found = describe(nouns, truth, targets, RELATIONS, set(SAFE), both).counts()
    assert (found["hallucinated"], found["covered"], found["marked"]) == expected
    ends = describe(nouns, truth, targets, RELATIONS, set(SAFE), None).counts()
    assert ends["hallucinated_least"] <= expected[0] <= ends["hallucinated"]
    assert ends["covered"] <= expected[1] <= ends["covered_most"]
    assert ends["marked"] <= expected[2] <= ends["marked_most"]
    assert ends["hallucinating_least"] <= found["hallucinating"] <= ends["hallucinating"]


@pytest.mark.parametrize(
    ("answer", "exact", "strict"),
    [("Yes", "yes", "yes"), ("No", "no", "no"), ("No.", "unparsed", "no"), ("yes", "unparsed", "yes")],
)
def test_the_official_way_takes_two_words_alone(answer: str, exact: str, strict: str) -> None:
    assert (read_answer(answer, "exact"), read_answer(answer, "strict-neither")) == (exact, strict)


def test_questions_by_hand(tmp_path: Path) -> None:
    # state yes: Yes is right; number no: No is right; existence no: "No." is wrong; relation: one right, one wrong
    # 3 of 5 right; no: 3 said, 2 rightly, of 3 labels -> P = R = F1 = 2/3
    given_answers = responses(tmp_path / "responses.json", "Yes", "No", "No.", "No", "No", start=2)
    found = judge("amber", given_answers, data=folder(tmp_path / "data"), per_response=tmp_path / "out.jsonl")
    assert (found["accuracy"], found["precision"], found["recall"]) == (3 / 5, 2 / 3, 2 / 3)
    assert (found["attribute_accuracy"], found["splits"]["existence"]["accuracy"]) == (1, 0)
    assert found["chair"] is None
    assert found["undefined"]["chair"] == "no description names a word of the vocabulary"
    # printed: 2 / 3.001 = 66.6 %; F1 of 0.666 and 0.666 with 0.0001 below is 66.6; attributes: 1 / 1.003 = 99.7
    printed = found["versions"]["AMBER-official"]
    assert [printed[name] for name in ("accuracy", "precision", "recall", "F1")] == [60.0, 66.6, 66.6, 66.6]
    assert printed["attribute precision"] == 99.7
    assert printed["existence F1"] == 0
    # VLMEvalKit finds the word: attribute 100, existence 100, relation 50
    assert found["versions"]["VLMEvalKit's AMBER"]["Avg ACC"] == pytest.approx(250 / 3)
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8").splitlines()[2])["reading"] == "unparsed"
    loose = judge("amber", given_answers, data=tmp_path / "data", parser="strict-neither")
    assert (loose["accuracy"], loose["versions"]["AMBER-official"]) == (4 / 5, {})


def test_a_description_is_tagged_and_a_capital_is_kept(tmp_path: Path, nltk_data: Path) -> None:
    text = "Dogs sleep near two cars and a man. A truck waits beside the dogs."
    given_answers = responses(tmp_path / "responses.json", text)
    found = judge("amber", given_answers, data=folder(tmp_path / "data"), per_response=tmp_path / "out.jsonl")
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").splitlines())
    assert row["nouns"] == ["car", "man", "truck", "dog"]  # "Dogs" keeps its capital and matches nothing
    assert (row["hallucinated"], row["covered"], row["targets"]) == (["truck", "dog"], ["car", "person"], ["dog"])
    assert (found["chair"], found["cover"], found["hal"], found["cog"]) == (2 / 4, 1, 1, 1 / 2)
    assert (found["chair_least"], found["cog_most"]) == (0, 1)
    assert found["versions"]["AMBER-official"]["CHAIR"] == [0.0, 50.0]
    table = {"words": WORDS, "similar": [["truck", "car"]]}
    (tmp_path / "data" / SIMILARITY).write_text(json.dumps(table), "utf-8")
    found = judge("amber", given_answers, data=tmp_path / "data")
    assert (found["chair"], found["chair_least"], found["versions"]["AMBER-official"]["CHAIR"]) == (1 / 4, 1 / 4, 25.0)
    assert found["versions"]["AMBER-official"]["Hal"] == 100.0
    assert found["similar_words"] == "1 pairs"


def test_images_are_the_units_of_a_comparison(tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    before = read_saved(responses(tmp_path / "a.json", "Yes", "Yes", "Yes", "Yes", "Yes", start=2), data).scores
    after = read_saved(responses(tmp_path / "b.json", "Yes", "No", "No", "No", "Yes", start=2), data).scores
    found = compare(AMBER, before, {"mitigated": after}, resamples=50).pair()
    assert (found["n"], found["responses"]) == (2, 5)
    assert found["difference"]["accuracy"]["estimate"] == pytest.approx(3 / 5)


def test_mistakes_are_named(tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    path = tmp_path / "r.json"
    with pytest.raises(AnswerMismatch, match="answers question 9, which is not asked"):
        judge("amber", responses(path, "Yes", start=9), data=data)
    path.write_text('[{"id": 2, "response": "Yes"}, {"id": 2, "response": "No"}]', "utf-8")
    with pytest.raises(AnswerMismatch, match="question 2 is answered twice"):
        judge("amber", path, data=data)
    path.write_text('[{"image_id": 2, "caption": "A dog."}]', "utf-8")
    with pytest.raises(FileFormatError, match="line 1: a response needs `id` and `response`; the object has image_id"):
        judge("amber", path, data=data)
    responses(path, "Yes", start=2)
    with pytest.raises(FileFormatError, match="is no table of similar words"):
        judge("amber", path, data=data, similarity=path)
    table = tmp_path / "table.json"
    table.write_text('{"words": ["car"], "similar": []}', "utf-8")
    with pytest.raises(FileFormatError, match=r"was made without \d+ of the words, such as 'animal'"):
        judge("amber", path, data=data, similarity=table)
    with pytest.raises(EvaluationError, match="unknown parser 'loose'"):
        judge("amber", path, data=data, parser="loose")
    (data / "relation.json").unlink()
    with pytest.raises(TaskError, match=r"holds no relation\.json: give the folder `data` of AMBER's repository"):
        judge("amber", path, data=data)


def printed_by_the_program(asked: list[dict[str, Any]], answers: list[str]) -> dict[str, float]:
    """Return the official figures of questions, summed as the program sums: from 0.001, one by one."""
    parts = {"state": "state", "number": "number", "action": "action", "hallucination": "existence"}
    names = [parts.get(one["type"].rpartition("-")[2], "relation") for one in asked]
    sums: Counter[str] = Counter()
    for name in dict.fromkeys(names):
        for below in ("asked", "no", "denied"):
            sums[f"{name} {below}"] = 0.001  # type: ignore[assignment]
    for one, name, answer in zip(asked, names, answers, strict=True):
        sums[f"{name} asked"] += 1
        sums[f"{name} right"] += answer.lower() == one["truth"] and answer in ("Yes", "No")
        sums[f"{name} no"] += one["truth"] == "no"
        sums[f"{name} denied"] += answer == "No"
        sums[f"{name} rightly"] += answer == "No" and one["truth"] == "no"
    found = {}
    groups = {"": list(dict.fromkeys(names)), "attribute ": ["state", "number", "action"]}
    for group, members in [*groups.items(), *((f"{name} ", [name]) for name in dict.fromkeys(names))]:
        start = 0.0 if group else 0.001 - 0.001 * len(members)  # the whole is summed apart, from one 0.001
        over = {
            key: sum(sums[f"{name} {key}"] for name in members) for key in ("asked", "right", "no", "denied", "rightly")
        }
        p = round(over["rightly"] / (over["denied"] + start) * 100, 1)
        r = round(over["rightly"] / (over["no"] + start) * 100, 1)
        more = 0.001 if group == "existence " else 0.0001
        found |= {
            f"{group}accuracy": round(over["right"] / (over["asked"] + start) * 100, 1),
            f"{group}precision": p,
            f"{group}recall": r,
            f"{group}F1": round(2 * (p / 100) * (r / 100) / ((p / 100) + (r / 100) + more) * 100, 1),
        }
    return found


@pytest.mark.shared
@pytest.mark.parametrize("seed", range(3))
def test_made_answers_to_all_questions(shared_data: Path, tmp_path: Path, seed: int) -> None:
    data = shared_data / "amber"
    asked = json.loads((data / "annotations.json").read_text("utf-8"))[1004:]
    rng = random.Random(seed)
    answers = [rng.choice([one["truth"].capitalize(), "Yes", "No", "no", "No."]) for one in asked]
    path = responses(tmp_path / "responses.json", *answers, start=1005)
    found = judge("amber", path, data=data)
    assert (found["counts"]["questions"], found["responses"]) == (14_216, "14216 of 15220")
    assert found["versions"]["AMBER-official"] == printed_by_the_program(asked, answers)


@pytest.mark.shared
def test_captions_as_descriptions_of_all_images(shared_data: Path, nltk_data: Path, tmp_path: Path) -> None:
    import nltk

    data = shared_data / "amber"
    images = json.loads((data / "annotations.json").read_text("utf-8"))[:1004]
    relations = json.loads((data / "relation.json").read_text("utf-8"))
    safe = (data / "safe_words.txt").read_text("utf-8").split()
    captions = [
        json.loads(line)["caption"]
        for line in (shared_data / "chair/captions/llava-1.5__greedy.jsonl").read_text("utf-8").splitlines()[:150]
    ]
    words = sorted({*relations, *(word for others in relations.values() for word in others)})
    rng = random.Random(0)
    pairs = {(one, other) for one in words for other in rng.sample(words, 8) if not WITHOUT_VECTOR & {one, other}}
    both = pairs | {(other, one) for one, other in pairs}
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"words": words, "similar": sorted(pairs)}), "utf-8")
    expected: Counter[str] = Counter()
    for image, caption in zip(images, captions, strict=False):
        tagged = nltk.pos_tag(nltk.word_tokenize(caption))
        nouns = [base_forms().get(word, word) for word, part in tagged if part.startswith("NN")]
        kept = [noun for noun in nouns if noun in words]
        alike = lambda one, other: one == other or (one, other) in both  # noqa: E731
        wrong, covered, marked = published(kept, image["truth"], image["hallu"], alike, relations, safe)
        expected.update(hallucinated=wrong, nouns=len(kept), covered=covered, marked=marked, hallucinating=wrong > 0)
    found = judge("amber", responses(tmp_path / "r.json", *captions), data=data, similarity=table)
    assert {name: found["counts"][name] for name in expected} == dict(expected)
    assert found["versions"]["AMBER-official"]["CHAIR"] == round(
        expected["hallucinated"] / (expected["nouns"] + 0.001) * 100, 1
    )
