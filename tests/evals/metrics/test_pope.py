"""POPE's parsers, metrics and question builder."""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.data.formats import GivenAnswer, Question, read_answers, read_questions
from vlm_evals.data.pope_questions import STRATEGIES, build_questions
from vlm_evals.errors import AnswerMismatch, EvaluationError
from vlm_evals.judge import judge
from vlm_evals.metrics.pope import POPE, QuestionScore, score_answers
from vlm_evals.records import write_rows
from vlm_evals.report import paired_report, single_report
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import compare
from vlm_evals.text.yes_no import PARSERS, parse_answer

REFERENCE = {"pope": "rucaibox", "opera": "opera_pai"}


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("Yes, there is a dog.", "yes"),
        ("yes", "yes"),
        ("**No**", "no"),
        ("NO!", "no"),
        ("\nNo", "no"),
        ("1. No", "no"),
        ("The answer is no.", "no"),
        ("Answer: Yes", "yes"),
        ("No，", "no"),
        ("**Answer:** Yes", "yes"),
        ("ASSISTANT: Yes", "yes"),
        ("USER: Is there a dog? ASSISTANT: No", "no"),
        ("<|im_start|>assistant\nNo", "no"),
        ("Response: The answer is no.", "no"),
        ('{"answer": "no"}', "no"),
        ('```json\n{"reason": {"seen": []}, "Answer": "Yes."}\n```', "yes"),
        ("I see a tail. <answer> Yes </answer>", "yes"),
        ("So \\boxed{No}", "no"),
        ("\\boxed{\\text{Yes}}", "yes"),
        ("<answer>\\boxed{No}</answer>", "no"),
        ("Yes, no doubt about it.", "yes"),
        ("Yes, there is a model: a car", "yes"),
        ("Yes, no.", "unparsed"),
        ("No, yes, no doubt", "unparsed"),
        ('{"answer": 1}', "unparsed"),
        ("<answer></answer>", "unparsed"),
        ("", "unparsed"),
        ("Maybe", "unparsed"),
        ("Not sure.", "unparsed"),
        ("There is a dog, no doubt", "unparsed"),
        ("Yes. No.", "unparsed"),
        ("yes and no", "unparsed"),
        ("notebook", "unparsed"),
        ("Yesterday", "unparsed"),
        ("Dr. No is here", "unparsed"),
    ],
)
def test_our_parser_takes_yes_and_no_and_nothing_else(answer: str, reading: str) -> None:
    assert parse_answer(answer) == reading


@pytest.mark.parametrize(
    ("parser", "label", "answer", "reading"),
    [
        ("pope", None, "NO", "yes"),  # the original knows No, no and not alone
        ("pope", None, "Yes. No.", "yes"),  # and reads up to the first full stop
        ("opera", None, "NO", "no"),
        ("opera", None, "There isn't a dog", "no"),
        ("opera", None, "No!", "yes"),
        ("vcd", "yes", "There isn't a dog", "no"),  # a label of yes needs "yes" in the answer
        ("vcd", "no", "There isn't a dog", "yes"),  # a label of no needs "no"
        ("vcd", "no", "notebook", "no"),
        ("repope", None, "YES.", "yes"),  # anywhere, in any case
        ("repope", None, "No, yes", "yes"),
        ("repope", None, "I see a notebook", "no"),
        ("repope", None, "A dog", "dropped"),
    ],
)
def test_published_parsers_and_their_quirks(parser, label, answer: str, reading: str) -> None:
    assert parse_answer(answer, parser=parser, label=label) == reading


@pytest.mark.shared
def test_published_parsers_on_awkward_answers(shared_data: Path) -> None:
    for case in json.loads((shared_data / "pope/awkward_answers.json").read_text("utf-8")):
        for parser, name in REFERENCE.items():
            assert parse_answer(case["answer"], parser=parser) == case[name]
        for label in ("yes", "no"):
            assert parse_answer(case["answer"], parser="vcd", label=label) == case[f"vcd_when_label_{label}"]


@given(
    st.text(max_size=30) | st.sampled_from(["yes", "no", "not", ".", "[" * 100_000, '{"a":' * 100_000]),
    st.sampled_from(["yes", "no"]),
)
def test_no_answer_breaks_a_parser(answer: str, label) -> None:
    for parser in PARSERS:
        reading = parse_answer(answer, parser=parser, label=label)
        assert reading in ("yes", "no", {"strict-neither": "unparsed", "repope": "dropped"}.get(parser))


def test_unknown_parsers_and_missing_labels_are_named() -> None:
    with pytest.raises(EvaluationError, match="unknown parser 'mine'; choose one of strict-neither, pope"):
        parse_answer("yes", parser="mine")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="depends on the label"):
        parse_answer("yes", parser="vcd")


def questions(*labels: str, split: str = "random") -> list[Question]:
    return [Question(str(n), f"{n}.jpg", f"Is there {n}?", label, split) for n, label in enumerate(labels)]


def answers(*texts: str) -> list[GivenAnswer]:
    return [GivenAnswer(str(n), text, line=n + 1) for n, text in enumerate(texts)]


def corpus_metrics(scores: list[QuestionScore]) -> dict[str, Any]:
    return POPE.corpus([score.as_score() for score in scores])


def test_a_worked_example() -> None:
    # yes/yes, yes/no, yes/unparsed, no/yes, no/no, no/no: 3 of 6 right; 2 said yes, 1 of them rightly; 1 of 3 yes found
    asked = questions("yes", "yes", "yes", "no", "no", "no")
    found = corpus_metrics(score_answers(asked, answers("Yes", "No", "Maybe", "Yes", "No", "no.")))
    assert found["accuracy"] == 3 / 6
    assert found["precision"] == 1 / 2
    assert found["recall"] == 1 / 3
    assert found["f1"] == pytest.approx(0.4)
    assert found["yes_ratio"] == 2 / 6
    assert found["unparsed"] == 1 / 6
    assert found["false_yes_rate"] == 1 / 3


def test_the_mean_over_splits_is_of_metrics_and_undefined_if_one_is() -> None:
    asked = [*questions("yes", "no"), *questions("yes", "no", split="popular")]
    said = [
        GivenAnswer(question.question_id, text, split=question.split)
        for question, text in zip(asked, ("Yes", "No", "No", "No"), strict=True)
    ]
    found = corpus_metrics(score_answers(asked, said))
    assert found["accuracy"] == (1.0 + 0.5) / 2
    assert found["splits"]["popular"]["precision"] is None
    assert found["splits"]["popular"]["undefined"]["precision"] == "no answer is yes"
    assert found["precision"] is None


@pytest.mark.parametrize(
    ("given_answers", "complaint"),
    [
        ([GivenAnswer("0", "Yes")], r"question 1 \(random\) has no answer"),
        ([*answers("Yes", "No"), GivenAnswer("1", "Yes", line=9)], "question 1 is answered twice, in lines 2 and 9"),
        ([*answers("Yes", "No"), GivenAnswer("7", "Yes", line=3)], "the answer in line 3 is to question 7"),
        ([*answers("Yes"), GivenAnswer(None, "Yes", line=2)], "line 2 names no question id"),
        ([GivenAnswer(None, "Yes")], "1 answers without question ids for 2 questions"),
        ([GivenAnswer(None, "Yes", "Is there 0?", line=1), GivenAnswer(None, "No", "?", line=2)], "line 2 answers"),
        ([], r"question 0 \(random\) has no answer"),
    ],
)
def test_missing_and_doubled_answers_are_named(given_answers: list[GivenAnswer], complaint: str) -> None:
    with pytest.raises(AnswerMismatch, match=complaint):
        score_answers(questions("yes", "no"), given_answers)


def test_answers_without_ids_are_matched_by_line() -> None:
    said = [GivenAnswer(None, "Yes", "Is there 0?"), GivenAnswer(None, "Yes")]
    assert [score.reading for score in score_answers(questions("yes", "no"), said)] == ["yes", "yes"]


@pytest.mark.shared
def test_published_metrics(shared_data: Path) -> None:
    asked = read_questions(shared_data / "pope/questions/original/coco_pope_random.jsonl")
    said = read_answers(shared_data / "pope/synthetic_random_answers.jsonl")
    expected = json.loads((shared_data / "pope/expected.json").read_text("utf-8"))["synthetic_random"]
    names = {"accuracy": ("acc", "accuracy"), "precision": ("precision",), "recall": ("recall",), "f1": ("f1",)}
    names["yes_ratio"] = ("yes_ratio", "yes_proportion")
    for parser, reference in (("pope", "rucaibox"), ("opera", "opera_pai"), ("vcd", "vcd")):
        found = corpus_metrics(score_answers(asked, said, parser))
        for ours, theirs in names.items():
            value = next(expected[reference][name] for name in theirs if name in expected[reference])
            assert found[ours] == pytest.approx(value, abs=1e-15)


MADE = [
    {"image": "a", "objects": ["dog", "cat", "car"]},
    {"image": "b", "objects": ["dog", "cat", "bed", "bus"]},
    {"image": "c", "objects": ["dog", "orange"]},  # too few to be asked about, and so not counted
    {"image": "d", "objects": ["bed", "cat", "bird"]},
]


def asked_about(rows: list[dict], image: str) -> list[tuple[str, str]]:
    return [(row["object"], row["label"]) for row in rows if row["image"] == image]


def test_popular_absent_objects_by_hand() -> None:
    # images asked about that hold: cat 3, dog 2, bed 2, car 1, bus 1, bird 1; ties by first appearance
    rows = build_questions(MADE, strategy="popular", sample=None, seed=0)
    assert asked_about(rows, "a") == [
        ("dog", "yes"),
        ("bed", "no"),
        ("cat", "yes"),
        ("bus", "no"),
        ("car", "yes"),
        ("bird", "no"),
    ]
    assert asked_about(rows, "d") == [
        ("bed", "yes"),
        ("dog", "no"),
        ("cat", "yes"),
        ("car", "no"),
        ("bird", "yes"),
        ("bus", "no"),
    ]
    assert "c" not in {row["image"] for row in rows}
    assert [row["question_id"] for row in rows] == list(range(1, 19))


def test_adversarial_absent_objects_by_hand() -> None:
    # beside "dog": cat 2, car 1, bed 1, bus 1 -> for image a the first free is bed
    # beside "cat": dog 2, bed 2, car, bus, bird -> bed is taken, then bus; beside "car": nothing free, so drawn: bird
    rows = build_questions(MADE, strategy="adversarial", sample=None, seed=0)
    first = asked_about(rows, "a")
    assert first[:4] == [("dog", "yes"), ("bed", "no"), ("cat", "yes"), ("bus", "no")]
    assert first[5][0] == "bird"


def test_ties_go_to_what_first_stood_beside_the_positive() -> None:
    # "b" is seen before "a" anywhere, and "a" stands beside "x" before "b" does
    made = [
        {"image": "1", "objects": ["b", "p", "q"]},
        {"image": "2", "objects": ["x", "a", "r"]},
        {"image": "3", "objects": ["x", "b", "s"]},
        {"image": "4", "objects": ["x", "t", "u"]},
    ]
    rows = build_questions(made, strategy="adversarial", sample=None, seed=0)
    assert asked_about(rows, "4")[1] == ("a", "no")


def published(annotations: list[dict], strategy: str, sample: int, seed: int) -> list[tuple[str, str, str]]:
    """Return (image, object, label) as the published program draws them, written again from its description."""
    rng = random.Random(seed)
    drawn = rng.sample([one for one in annotations if len(one["objects"]) >= 3], sample)
    images, beside = Counter(), defaultdict(Counter)
    for one in drawn:
        for name in one["objects"]:
            images[name] += 1
            for other in one["objects"]:
                beside[name][other] += other != name
    rows = []
    for one in drawn:
        used = set(one["objects"])
        for present in one["objects"][:3]:
            order = {"random": [], "popular": images.most_common(), "adversarial": beside[present].most_common()}
            absent = next((name for name, count in order[strategy] if count and name not in used), None)
            while absent is None or absent in used:
                absent = rng.choice(list(images))
            used.add(absent)
            rows += [(one["image"], present, "yes"), (one["image"], absent, "no")]
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_questions_are_the_published_programs_where_images_are_dropped(strategy, seed: int) -> None:
    rng = random.Random(f"annotations {seed}")
    names = [f"object {n}" for n in range(40)]
    many = [
        {
            "image": str(n),
            "objects": rng.sample(names, min(rng.choice([1, 2, 3, 4, 5, 9]), 40), counts=range(40, 0, -1)),
        }
        for n in range(120)
    ]
    many = [one | {"objects": list(dict.fromkeys(one["objects"]))} for one in many]
    rows = build_questions(many, strategy=strategy, sample=40, seed=seed)
    assert [(row["image"], row["object"], row["label"]) for row in rows] == published(many, strategy, 40, seed)


def test_where_the_drawn_images_leave_none_the_others_give_an_absent_object() -> None:
    rows = build_questions(MADE, strategy="popular", sample=1, seed=0)  # the published program would never end
    (image,) = {row["image"] for row in rows}
    objects = next(one["objects"] for one in MADE if one["image"] == image)
    assert not {row["object"] for row in rows if row["label"] == "no"} & set(objects)


def test_articles() -> None:
    fruit = [*MADE, {"image": "e", "objects": ["orange", "dog", "cat"]}]
    texts = {row["object"]: row["text"] for row in build_questions(fruit, strategy="popular", sample=None, seed=0)}
    assert texts["orange"] == "Is there an orange in the image?"
    assert texts["dog"] == "Is there a dog in the image?"


@given(
    st.lists(st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=6), min_size=4, max_size=12),
    st.sampled_from(STRATEGIES),
    st.integers(0, 9),
)
def test_what_every_strategy_keeps(images: list[list[str]], strategy, seed: int) -> None:
    annotations = [{"image": str(n), "objects": objects} for n, objects in enumerate([*images, list("abcdefghij")[:6]])]
    annotations.append({"image": "rest", "objects": list("ghij") + list("klm")})
    rows = build_questions(annotations, strategy=strategy, sample=None, seed=seed)
    assert rows == build_questions(annotations, strategy=strategy, sample=None, seed=seed)
    assert [row["label"] for row in rows] == ["yes", "no"] * (len(rows) // 2)
    for one in annotations:
        about = asked_about(rows, one["image"])
        assert len(about) == (6 if len(one["objects"]) >= 3 else 0)
        assert [name for name, label in about if label == "yes"] == one["objects"][: len(about) // 2]
        absent = [name for name, label in about if label == "no"]
        assert not set(absent) & set(one["objects"])
        assert len(set(absent)) == len(absent)


def test_random_is_uniform_over_objects_seen() -> None:
    # image a lacks bed, bus, bird: each is the first absent object in about a third of 400 seeds
    firsts = Counter(
        asked_about(build_questions(MADE, strategy="random", sample=None, seed=seed), "a")[1][0] for seed in range(400)
    )
    assert set(firsts) == {"bed", "bus", "bird"}
    assert all(90 < count < 180 for count in firsts.values())


def test_samples_are_drawn_by_seed() -> None:
    many = [{"image": str(n), "objects": [*["dog", "cat", "car", "bed"][n % 2 :][:3], "bus"]} for n in range(30)] + MADE
    drawn = [build_questions(many, strategy="popular", sample=5, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({row["image"] for row in drawn[0]}) == 5


def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(EvaluationError, match="3 images have 3 objects or more, fewer than the sample of 500"):
        build_questions(MADE, strategy="popular", seed=0)
    with pytest.raises(EvaluationError, match="unknown strategy 'hard'"):
        build_questions(MADE, strategy="hard", sample=None, seed=0)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="it holds every object seen"):
        build_questions(MADE[:1], strategy="random", sample=None, seed=0)


@pytest.mark.shared
def test_the_published_builder_makes_the_same_popular_questions(shared_data: Path) -> None:
    fixture = json.loads((shared_data / "pope/builder_fixture.json").read_text("utf-8"))
    rows = build_questions(fixture["annotations"], strategy="popular", sample=None, seed=0)
    expected = [
        row | {"text": row["text"].replace("imange", "image")}  # the published builder's slip after "an"
        for row in fixture["questions"]["popular"]
    ]
    assert [{key: row[key] for key in ("question_id", "image", "text", "label")} for row in rows] == expected


@pytest.mark.parametrize("parser", PARSERS)
def test_what_a_model_thinks_is_no_answer(parser) -> None:
    thinking = "<think>Yes or no? There is no cat. Let me look.</think>\n"
    said = score_answers(questions("yes", "no"), answers(f"{thinking}Yes", f"{thinking}No"), parser)
    assert [score.reading for score in said] == ["yes", "no"]
    assert said[0].as_row()["answer"] == f"{thinking}Yes"  # the evidence is what was given


def read(tmp_path: Path, *texts: str) -> dict[str, Any]:
    rows = [
        {"question_id": n, "image": "a.jpg", "text": "Is there a dog in the image?", "label": ["no", "yes"][n % 2]}
        for n in range(len(texts))
    ]
    write_rows(tmp_path / "coco_pope_random.json", rows)
    write_rows(tmp_path / "answers.jsonl", [{"question_id": n, "answer": text} for n, text in enumerate(texts)])
    return judge("pope", [tmp_path / "answers.jsonl"], questions=[tmp_path / "coco_pope_random.json"])


def test_many_unparsed_answers_are_said_first(tmp_path: Path) -> None:
    found = read(tmp_path, *["Yes"] * 16, "It | is", "Maybe", "It | is", "Perhaps so")
    (alert,) = found["alerts"]
    assert alert.startswith(
        "4 of 20 answers (20%) are neither yes nor no and count as wrong, such as 'It | is', 'Maybe', 'Perhaps so'"
    )
    assert "alerts" not in read(tmp_path, *["Yes"] * 18, "Maybe", "Maybe")  # a tenth is not more than a tenth
    scored = [one.as_score() for one in score_answers(questions("yes"), answers("Maybe"))]
    lines = markdown(single_report(POPE, scored, settings={})).splitlines()
    assert lines[2].startswith("**1 of 1 answers (100%) are neither yes nor no")
    good = [one.as_score() for one in score_answers(questions("yes"), answers("Yes"))]
    both = paired_report([compare(POPE, good, {"mitigated": scored})], settings={})
    assert [alert[:20] for alert in both["alerts"]] == ["mitigated: 1 of 1 an"]


def test_thinking_is_noted(tmp_path: Path) -> None:
    assert read(tmp_path, "<think>a</think>Yes", "No", "<think>cut off")["notes"] == [
        "2 answers think aloud; what stands in <think> is not scored",
        "1 answers end inside their thinking and count as empty: allow more tokens",
    ]
    assert "notes" not in read(tmp_path, "Yes", "No")
