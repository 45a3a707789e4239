"""What `compare` takes: runs, evaluations with all their arms, saved answers; and budgets of tokens and of words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.data.truth import Truth, save_truth
from vlm_evals.errors import AnswerMismatch, EvaluationError, FileFormatError, RunError, TaskError
from vlm_evals.gathered import gather, short_names
from vlm_evals.many import compare_paths
from vlm_evals.protocol import Protocol
from vlm_evals.records import Answer
from vlm_evals.runs import answers_in, merge_answers, open_run
from vlm_evals.scored import score_run
from vlm_evals.text.budget import Budget, first_words, text_ends

PROTOCOL = Protocol(
    "p", "chair", {}, (1, 2, 3), "Describe.", 512, 0, pipeline="chair-2018", vocabulary="published"
)  # fmt: skip
TRUTH = Truth({str(image): frozenset({"dog", "cat"}) for image in (1, 2, 3)}, "made", "made")
VHR = {"interventions": [{"name": "vhr", "gain": 2.0}]}
LONG = "A dog and a cat sit here together. " * 3


def run_in(
    folder: Path, said: list[str], setting: Mapping[str, Any] | None = None, protocol: Protocol = PROTOCOL
) -> Path:
    """Write a run directory whose tokens are its characters."""
    identity = {"protocol": protocol.as_json(), "setting": {"model": "m", "interventions": [], **(setting or {})}}
    with open_run(folder, identity) as run:
        run.append(answered(str(image), text) for image, text in enumerate(said, start=1))
    merge_answers(folder, [str(image) for image in range(1, len(said) + 1)])
    save_truth(folder / "truth.json", TRUTH)
    return folder


def answered(name: str, text: str) -> Answer:
    ids = tuple(map(ord, text))
    return Answer(name, text, ids, ends=text_ends(ids, text, lambda some: "".join(map(chr, some))))


def evaluation_in(folder: Path, method: list[str]) -> Path:
    plain = ["A dog and an oven.", "A dog.", "A cat."]
    run_in(folder / "plain", plain)
    run_in(folder / "mitigated", method, VHR)
    run_in(folder / "bottom-heads", plain, {"interventions": [{"name": "vhr", "gain": 2.0, "heads": "bottom"}]})
    run_in(folder / "bias+1.2", ["A dog.", "A dog.", "Here."], {"end_bias": 1.2})
    run_in(folder / "first-word+1", plain, {"first_word": {"token": 5, "word": "A", "bias": 1.0}})
    run_in(folder / "prompt-yes", plain, {"added_to_prompt": " Say yes."})
    return folder


def saved(path: Path, said: list[str]) -> Path:
    rows = ({"image_id": image, "caption": text} for image, text in enumerate(said, start=1))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def truth_in(folder: Path) -> Path:
    path = folder / "index.json"
    path.write_text(json.dumps({name: sorted(objects) for name, objects in TRUTH.objects.items()}), "utf-8")
    return path


def test_an_evaluation_is_read_with_all_its_arms(tmp_path: Path) -> None:
    folder = evaluation_in(tmp_path / "vhr", ["A dog.", "A dog.", "A cat."])
    found = {one.name: (one.role, one.of, one.strength) for one in gather([folder], {})}
    assert found == {
        "plain": ("method", "", 0.0),
        "mitigated": ("method", "", 0.0),
        "bottom-heads": ("control", "mitigated", 0.0),
        "prompt-yes": ("control", "mitigated", 0.0),
        "bias+1.2": ("end-of-text", "", 1.2),
        "first-word+1": ("first-word", "", 1.0),
    }
    assert next(one for one in gather([folder], {}) if one.name == "mitigated").said == "vhr:gain=2.0"


def test_an_evaluation_alone_is_a_table(tmp_path: Path) -> None:
    report = compare_paths([evaluation_in(tmp_path / "vhr", ["A dog.", "A dog.", "A cat."])], seed=0)
    assert report["kind"] == "frontier"
    assert report["against"] == "plain"
    assert [row["name"] for row in report["rows"]] == ["mitigated", "bottom-heads", "prompt-yes"]
    assert report["line"] == "end-of-text"
    assert report["rows"][0]["difference"]["chair_s"]["estimate"] == pytest.approx(-1 / 3)


def test_the_plain_run_and_the_lines_of_a_second_evaluation_count_once(tmp_path: Path) -> None:
    paths = [evaluation_in(tmp_path / name, said) for name, said in (("a", ["A dog."] * 3), ("b", ["A cat."] * 3))]
    report = compare_paths(paths, seed=0)
    assert report["against"] == "plain"
    assert [row["name"] for row in report["rows"]] == [
        "a", "a: bottom-heads", "a: prompt-yes", "b", "b: bottom-heads", "b: prompt-yes",
    ]  # fmt: skip
    assert [point["strength"] for point in report["lines"]["end-of-text"]] == [1.2]


def test_two_runs_give_a_paired_report_unless_a_base_is_named(tmp_path: Path) -> None:
    a, b = run_in(tmp_path / "a", ["A dog."] * 3), run_in(tmp_path / "b", ["A cat and a bird."] * 3, VHR)
    paired = compare_paths([a, b], seed=0)
    assert paired["kind"] == "paired"
    assert paired["difference"]["chair_s"]["estimate"] == 1
    named = compare_paths([a, b], base=b, seed=0)
    assert named["kind"] == "frontier"
    assert named["against"] == "b"
    assert [row["name"] for row in named["rows"]] == ["a"]
    assert named["rows"][0]["difference"]["chair_s"]["estimate"] == -1
    outside = compare_paths([a], base=b, seed=0)
    assert outside["against"] == "b"
    evaluation = compare_paths([a], base=evaluation_in(tmp_path / "vhr", ["A dog."] * 3), seed=0)
    assert evaluation["against"] == "plain"
    assert [row["name"] for row in evaluation["rows"]] == ["a"]
    assert evaluation["line"] == "end-of-text"


def test_saved_captions_are_compared_with_one_another_and_with_a_run(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", ["A dog."] * 3)
    one = saved(tmp_path / "one.jsonl", ["A dog."] * 3)
    two = saved(tmp_path / "two.jsonl", ["A bird."] * 3)
    options = {"truth": [truth_in(tmp_path)], "pipeline": None, "questions": []}
    pair = compare_paths([one, two], options=options, seed=0)
    assert pair["difference"]["chair_s"]["estimate"] == 1
    assert pair["settings"]["file"] == "two.jsonl"
    assert "protocol" not in pair["settings"]
    assert any("do not tell how they were asked" in note for note in pair["settings"]["notes"])
    mixed = compare_paths([run, one, two], options=options, seed=0)
    assert [row["difference"]["chair_s"]["estimate"] for row in mixed["rows"]] == [0, 1]
    assert "2 of the runs are saved answers" in " ".join(mixed["settings"]["notes"])


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", ["A dog."] * 3)
    file = saved(tmp_path / "one.jsonl", ["A dog."] * 3)
    with pytest.raises(TaskError, match="one run alone"):
        compare_paths([run], seed=0)
    with pytest.raises(TaskError, match="with --truth for captions or --questions"):
        compare_paths([run, file], seed=0)
    with pytest.raises(TaskError, match="chair has no option 'parser'"):
        compare_paths([run, file], options={"truth": [truth_in(tmp_path)], "parser": "pope"}, seed=0)
    with pytest.raises(AnswerMismatch, match="run was read with the vocabulary published, one with corrected"):
        compare_paths([run, file], options={"truth": [truth_in(tmp_path)], "vocabulary": "corrected"}, seed=0)
    other = run_in(tmp_path / "other", ["A dog."] * 3, protocol=PROTOCOL.changed(prompt="Say more."))
    with pytest.raises(AnswerMismatch, match="differ in prompt"):
        compare_paths([run, other, file], options={"truth": [truth_in(tmp_path)]}, seed=0)
    fewer = saved(tmp_path / "fewer.jsonl", ["A dog."] * 2)
    with pytest.raises(AnswerMismatch, match="image 3"):
        compare_paths([file, fewer], options={"truth": [truth_in(tmp_path)]}, seed=0)
    with pytest.raises(RunError, match=r"nothing is at .*typo"):
        compare_paths([run, tmp_path / "typo"], seed=0)
    with pytest.raises(RunError, match=r"has no protocol\.json"):
        compare_paths([run, tmp_path], seed=0)
    with pytest.raises(TaskError, match="named twice"):
        compare_paths([run, run, run], seed=0)


def test_names_are_the_shortest_that_tell_paths_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "vhr" / "plain", tmp_path / "vcd" / "plain"]
    for path in paths:
        path.mkdir(parents=True)
    assert short_names(paths) == ["vhr/plain", "vcd/plain"]
    file = saved(tmp_path / "greedy.jsonl", ["A dog."])
    assert short_names([file, paths[0]]) == ["greedy", "plain"]


# budgets


@given(st.text("ab \n\t", max_size=30), st.integers(1, 6))
def test_the_first_words_are_a_beginning_with_so_many_words(text: str, count: int) -> None:
    cut = first_words(text, count)
    assert text.startswith(cut)
    assert cut.split() == text.split()[:count]


@given(st.lists(st.sampled_from("ab é"), min_size=0, max_size=600))
def test_ends_are_where_the_first_tokens_end(pieces: list[str]) -> None:
    text = "".join(pieces)
    ends = text_ends(range(len(pieces)), text, lambda ids: "".join(pieces[place] for place in ids))
    assert ends == {count: count for count in (16, 32, 64, 128, 256, 512) if count < len(pieces)}


def test_half_a_character_and_rewritten_texts_have_no_end_of_their_own() -> None:
    pieces = ["a"] * 15 + ["\ufffd", "x"]  # the sixteenth token is half of what two of them say

    def decode(ids: Any) -> str:
        return "".join(pieces[place] for place in ids) if len(ids) < 17 else "a" * 15 + "é"

    assert text_ends(range(17), "a" * 15 + "é", decode) == {16: 15}
    assert text_ends(range(17), "rewritten", decode) == {}


def test_a_run_within_a_budget_is_the_run_of_shorter_answers(tmp_path: Path) -> None:
    texts = [LONG, "A dog.", "A bird and a dog sit on a long red bench."]
    run = run_in(tmp_path / "long", texts)
    for budget, cut in (
        (Budget(32, "tokens"), [text[:32] for text in texts]),
        (Budget(4, "words"), [" ".join(text.split()[:4]) for text in texts]),
    ):
        expected = score_run(run_in(tmp_path / f"cut {budget}", cut))
        assert [one.counts for one in score_run(run, budget).scores] == [one.counts for one in expected.scores]
    assert answers_in(run)["1"].ends == {16: 16, 32: 32, 64: 64}
    with pytest.raises(EvaluationError, match="does not tell where 40 tokens end"):
        score_run(run, Budget(40, "tokens"))


def test_a_budget_is_of_tokens_where_all_runs_remember_them(tmp_path: Path) -> None:
    a, b = run_in(tmp_path / "a", [LONG] * 3), run_in(tmp_path / "b", ["A bird and a dog."] * 3, VHR)
    report = compare_paths([a, b], budgets=[16, 64], seed=0)
    assert [part["budget"] for part in report["budgets"]] == ["16 tokens", "64 tokens"]
    assert all(part["tests"]["comparisons"] == 2 for part in report["budgets"])
    # "A dog and a cat " has both objects within 16 characters; "A bird and a dog" has the dog
    assert report["budgets"][0]["plain"]["recall"] == 1
    assert report["budgets"][0]["rows"][0]["difference"]["recall"]["estimate"] == -0.5
    with pytest.raises(TaskError, match="16, 32, 64, 128, 256, 512"):
        compare_paths([a, b], budgets=[40], seed=0)
    file = saved(tmp_path / "one.jsonl", ["A dog."] * 3)
    words = compare_paths([a, file], options={"truth": [truth_in(tmp_path)]}, budgets=[2], seed=0)
    assert words["budgets"][0]["budget"] == "2 words"


def test_ends_that_lie_outside_the_text_are_refused(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", [LONG] * 3)
    (run / "manifest.json").unlink()
    rows = (run / "answers.jsonl").read_text().replace('"16": 16', '"16": 1600')
    (run / "answers.jsonl").write_text(rows)
    with pytest.raises(FileFormatError, match="`ends` of an answer"):
        answers_in(run)
