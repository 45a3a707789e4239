"""CHAIR's scores, metrics and ground truth."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vlm_evals.data.formats import Caption, read_captions
from vlm_evals.data.truth import Truth, build_truth, load_truth, save_truth
from vlm_evals.errors import EvaluationError, FileFormatError, UnknownImage
from vlm_evals.metrics import chair
from vlm_evals.metrics.chair import CHAIR, CaptionScore, score_captions
from vlm_evals.text.language import PunktData
from vlm_evals.text.objects import CaptionObjects, Mention, ObjectFinder

FINDER = ObjectFinder(punkt=PunktData())
TRUTH = Truth({"1": frozenset({"dog", "cat"}), "2": frozenset({"car"}), "3": frozenset()}, "d", "made")
KEYS = (
    "id",
    "image_id",
    "category_id",
    "caption",
    "name",
    "images",
    "annotations",
    "categories",
    "format",
    "objects",
    "",
)
NAMES = ("Instruction1_instructblip", "Instruction2_mmgpt", "llava-1.5__greedy", "llava-1.5__ours", "shikra__beam5")


def scored(*captions: tuple[int, str]) -> list[CaptionScore]:
    return score_captions([Caption(image, text) for image, text in captions], TRUTH, FINDER)


def corpus_metrics(scores: list[CaptionScore]) -> dict[str, Any]:
    return CHAIR.corpus([score.as_score() for score in scores])


def most_invented(scores: list[CaptionScore]) -> list[dict[str, Any]]:
    return chair.most_invented([score.as_score() for score in scores])


def test_a_worked_example() -> None:
    # image 1 holds dog, cat: mentions dog, dog, cat, car, car -> 2 of 5 invented; distinct dog, cat, car -> 1 of 3
    # image 2 holds car: mentions car, person -> 1 of 2 invented; distinct car, person -> 1 of 2
    first = "A dog, a dog and a cat near a car. A car."  # 13 tokens: 8 words, 1 comma, 1 stop, then A car .
    scores = scored((1, first), (2, "A car and a man"))
    found = corpus_metrics(scores)
    assert found["chair_s"] == 2 / 2
    assert found["chair_i"] == 3 / 7
    assert found["chair_i_distinct"] == 2 / 5
    assert found["recall"] == 3 / 3
    assert found["precision"] == 3 / 5
    assert found["f1"] == pytest.approx(2 * 1 * 0.6 / 1.6)
    assert found["mean_tokens"] == (15 + 5) / 2
    assert found["objects_per_caption"] == 7 / 2
    assert found["repeated_mentions"] == 2 / 7  # one dog and one car again
    assert found["undefined"] == {}
    assert scores[0].as_row() == {
        "image_id": 1,
        "mentions": ["dog", "dog", "cat", "car", "car"],
        "hallucinated": ["car", "car"],
    }
    assert scores[1].hallucinated == (Mention("man", "person"),)


def test_metrics_are_pooled_and_not_means_of_means() -> None:
    # 1 of 4 mentions and 1 of 1: pooled 2/5, mean of means 0.625
    found = corpus_metrics(scored((1, "dog cat dog car"), (1, "car")))
    assert found["chair_i"] == 2 / 5


@pytest.mark.parametrize(
    ("captions", "undefined"),
    [
        ([], {"chair_s", "chair_i", "recall", "precision", "f1", "mean_tokens"}),
        ([(1, "Nothing here")], {"chair_i", "chair_i_distinct", "precision", "f1"}),
        ([(1, "")], {"chair_i", "precision", "f1", "repeated_sentences"}),
        ([(3, "A dog")], {"recall", "f1"}),
    ],
)
def test_undefined_has_a_reason_and_no_number(captions: list[tuple[int, str]], undefined: set[str]) -> None:
    found = corpus_metrics(scored(*captions))
    assert undefined <= set(found["undefined"])
    assert all(found[name] is None and found["undefined"][name] for name in found["undefined"])
    assert all(found[name] is not None for name in set(chair.RATIOS) - set(found["undefined"]))


def test_finding_nothing_right_is_an_f1_of_zero() -> None:
    assert corpus_metrics(scored((1, "A car")))["f1"] == 0.0


def test_repeated_sentences_and_4grams() -> None:
    # two of three sentences are the same; 6 + 6 + 4 = 16 tokens make 13 4-grams, 3 of them within the second sentence
    found = corpus_metrics(scored((1, "there is a big dog. there is a big dog. a cat too.")))
    assert found["repeated_sentences"] == 1 / 3
    sentence = ["there", "is", "a", "big", "dog", "."]
    tokens = [*sentence, *sentence, "a", "cat", "too", "."]
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    assert found["repeated_4grams"] == (len(grams) - len(set(grams))) / len(grams) == 3 / 13


def test_an_image_that_is_not_in_the_truth_is_an_error() -> None:
    with pytest.raises(UnknownImage, match=r"image 9 is not in the ground truth made \(3 images\)"):
        scored((9, "A dog"))


def test_most_invented_names_objects_and_words() -> None:
    invented = most_invented(scored((1, "A car, a man and a woman"), (2, "A man"), (3, "A dog")))
    assert [(one["object"], one["word"], one["mentions"], one["captions"]) for one in invented] == [
        ("person", "man", 3, 2),
        ("car", "car", 1, 1),
        ("dog", "dog", 1, 1),
    ]


def test_a_score_carries_its_evidence() -> None:
    score = scored((2, "A car and a man"))[0].as_score()
    assert score.counts["hallucinated_mentions"] == 1
    assert score.evidence["words"] == ["man"]


def test_counting_tokens_instead_of_mentions_would_be_seen() -> None:
    """A deliberately wrong score (every token a mention) does not pass for the worked example."""
    right = scored((2, "A car and a man"))[0]
    wrong = CaptionScore(
        2, CaptionObjects((*right.said.mentions, Mention("a", "dog")), right.said.tokens, ()), right.truth
    )
    assert corpus_metrics([wrong])["chair_i"] != corpus_metrics([right])["chair_i"]


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_to_the_last_digit(shared_data: Path, nltk_data: Path, name: str) -> None:
    truth = load_truth(shared_data / "chair/coco_val2014_objects.json")
    scores = score_captions(read_captions(shared_data / f"chair/captions/{name}.jsonl"), truth, ObjectFinder())
    found, reference = corpus_metrics(scores), json.loads((shared_data / "chair/expected.json").read_text())[name]
    names = {"chair_s": "CHAIRs", "chair_i": "CHAIRi", "recall": "Recall", "mean_tokens": "mean_tokens"}
    counts = {"captions": "n", "hallucinated_mentions": "hallucinated_words", "mentions": "object_words"}
    counts |= {"truth": "gt_objects", "found": "recalled", "tokens": "total_tokens", "empty_truth": "empty_gt"}
    assert {ours: found[ours] for ours in names} == {ours: reference["pattern"][name] for ours, name in names.items()}
    assert {ours: found["counts"][ours] for ours in counts} == {
        ours: reference["pattern"][name] for ours, name in counts.items()
    }
    expected = (shared_data / f"chair/expected/pattern__{name}.jsonl").read_text().splitlines()
    for score, line in zip(scores, expected, strict=True):
        row = json.loads(line)
        assert score.image_id == row["image_id"]
        assert [list(mention) for mention in score.hallucinated] == row["hallucinated"]


@pytest.mark.shared
def test_published_opera_numbers(shared_data: Path, nltk_data: Path) -> None:
    captions = read_captions(shared_data / "chair/captions/llava-1.5__greedy.jsonl")
    finder = ObjectFinder("chair-opera")
    said = [finder.find(caption.text) for caption in captions]
    expected = json.loads((shared_data / "chair/expected.json").read_text())["llava-1.5__greedy"]
    for index, key in (("", "wordnet"), ("_wordnet", "wordnet_with_wordnet_gt")):
        truth = load_truth(shared_data / f"chair/coco_val2014_objects{index}.json")
        scores = [
            CaptionScore(caption.image_id, one, truth.of(caption.image_id))
            for caption, one in zip(captions, said, strict=True)
        ]
        found = corpus_metrics(scores)
        assert found["chair_s"] == expected[key]["CHAIRs"]
        assert found["chair_i"] == expected[key]["CHAIRi"]
        assert found["recall"] == expected[key]["Recall"]


IMAGES = [{"id": 5, "file_name": "5.jpg"}, {"id": 6, "file_name": "6.jpg"}, {"id": 7, "file_name": "7.jpg"}]
INSTANCES = {
    "images": IMAGES,
    "categories": [{"id": 18, "name": "dog"}, {"id": 62, "name": "chair"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 18, "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 18, "iscrowd": 0},
        {"id": 3, "image_id": 6, "category_id": 62, "iscrowd": 1},  # a crowd counts
    ],
}
CAPTIONS = {
    "images": IMAGES,
    "annotations": [
        {"id": 9, "image_id": 5, "caption": "A puppy near a man."},
        {"id": 10, "image_id": 6, "caption": "Two seats in front of a pizza."},
    ],
}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir(parents=True)
    (folder / "instances_val2014.json").write_text(json.dumps(INSTANCES), "utf-8")
    (folder / "captions_val2014.json").write_text(json.dumps(CAPTIONS), "utf-8")
    return folder.parent


def test_truth_is_instances_and_human_captions(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = load_truth(coco, FINDER, tmp_path / "cache")
    assert dict(truth.objects) == {
        "5": frozenset({"dog", "person"}),
        "6": frozenset({"chair", "pizza"}),
        "7": frozenset(),  # an image without annotation has no objects, and is known
    }
    assert capsys.readouterr().out == ""  # pycocotools' own words


def test_several_files_of_each_kind(coco: Path, tmp_path: Path) -> None:
    more = {"images": [{"id": 8}], "annotations": [{"id": 1, "image_id": 8, "category_id": 18}]}
    path = tmp_path / "instances_train2014.json"
    path.write_text(json.dumps(more | {"categories": INSTANCES["categories"]}), "utf-8")
    files = [*(coco / "annotations").glob("*.json"), path]
    truth = load_truth(files, FINDER, tmp_path / "cache")
    assert truth.of(8) == {"dog"}
    assert truth.of("COCO_val2014_000000000005.jpg") == {"dog", "person"}


def test_the_built_index_is_kept_until_a_source_changes(coco: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    built = load_truth(coco, FINDER, cache)
    (saved,) = cache.iterdir()
    assert load_truth(coco, FINDER, cache) == built
    assert load_truth(saved).objects == built.objects  # the kept index is an index
    saved.write_text("{", "utf-8")  # a damaged one is built anew
    assert load_truth(coco, FINDER, cache) == built
    captions = coco / "annotations/captions_val2014.json"
    captions.write_text(json.dumps(CAPTIONS | {"annotations": []}), "utf-8")
    changed = load_truth(coco, FINDER, cache)
    assert changed.of(5) == {"dog"}
    assert changed.digest != built.digest
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_done_without(coco: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", "utf-8")
    assert load_truth(coco, FINDER, blocked / "cache").of(5) == {"dog", "person"}


def test_a_saved_truth_comes_back(tmp_path: Path) -> None:
    truth = build_truth([], FINDER)
    made = Truth(TRUTH.objects, truth.digest, "made", "chair-2018", "published")
    save_truth(tmp_path / "index.json", made)
    back = load_truth(tmp_path / "index.json")
    assert (back.objects, back.digest, back.pipeline) == (made.objects, made.digest, "chair-2018")
    with pytest.raises(EvaluationError, match="never mixed"):
        load_truth(tmp_path / "index.json", ObjectFinder(vocabulary_name="corrected", punkt=PunktData()))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[1]", "is not an index of objects"),
        ('{"1": ["dragon"]}', "image '1' does not have a list of objects that CHAIR knows"),
        ('{"1": "dog"}', "image '1' does not have a list of objects"),
        ('{"format": 2, "objects": {}}', "has index format 2; this version reads 1"),
        ('{\n"1": ["dog"', "line 2: is not JSON"),
        ('{"images": [], "annotations": [{"id": 1}]}', "is not a COCO annotation file"),
        ('{"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "category_id": 3}]}', "is not a COCO"),
        (json.dumps(INSTANCES | {"categories": [{"id": 18, "name": "dragon"}]}), "category 'dragon' is not one of"),
    ],
)
def test_a_bad_truth_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(content, "utf-8")
    with pytest.raises(FileFormatError, match=f"truth.json.*{complaint}"):
        load_truth(path, FINDER, tmp_path / "cache")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.floats(allow_nan=False) | st.text("ab1", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)
COCO = st.fixed_dictionaries({"images": JSON, "annotations": st.lists(JSON, max_size=3)}, optional={"categories": JSON})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(JSON | COCO)
def test_no_truth_breaks_the_reader(tmp_path: Path, value: object) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(value), "utf-8")
    with contextlib.suppress(FileFormatError):  # which names the file by its making
        load_truth(path, FINDER, tmp_path / "cache")


def test_a_folder_without_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"holds no instances\*\.json"):
        load_truth(tmp_path)
