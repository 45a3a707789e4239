"""Mentions of objects equal the reference programs', caption by caption."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlm_evals.errors import EvaluationError, FileFormatError
from vlm_evals.text.language import PUNKT, SUBSTITUTE, PunktData, punkt_data
from vlm_evals.text.objects import PIPELINES, ObjectFinder, vocabulary

REFERENCE = {"chair-2018": "pattern", "chair-opera": "wordnet"}
PUBLISHED = [
    ("chair-2018", "Instruction1_instructblip"),
    ("chair-2018", "Instruction2_mmgpt"),
    ("chair-2018", "llava-1.5__greedy"),
    ("chair-2018", "llava-1.5__ours"),
    ("chair-2018", "shikra__beam5"),
]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def nodes(finder: ObjectFinder, caption: str) -> list[str]:
    return [mention.node for mention in finder.find(caption).mentions]


@pytest.fixture(scope="module")
def finder() -> ObjectFinder:
    return ObjectFinder(punkt=PunktData())


@pytest.mark.shared
@pytest.mark.parametrize(("pipeline", "name"), PUBLISHED)
def test_published_captions_agree_to_the_last_one(shared_data: Path, nltk_data: Path, pipeline, name) -> None:
    finder = ObjectFinder(pipeline)
    captions = rows(shared_data / f"chair/captions/{name}.jsonl")
    expected = rows(shared_data / f"chair/expected/{REFERENCE[pipeline]}__{name}.jsonl")
    for caption, reference in zip(captions, expected, strict=True):
        said = finder.find(caption["caption"])
        assert [mention.node for mention in said.mentions] == reference["nodes"]
        assert len(said.tokens) == reference["n_tokens"]


@pytest.mark.shared
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_awkward_captions_agree(shared_data: Path, nltk_data: Path, pipeline) -> None:
    finder = ObjectFinder(pipeline)
    for case in json.loads((shared_data / "chair/awkward_captions.json").read_text("utf-8")):
        said, reference = finder.find(case["caption"]), case[REFERENCE[pipeline]]
        assert [mention.word for mention in said.mentions] == reference["words"]
        assert [mention.node for mention in said.mentions] == reference["nodes"]
        assert len(said.tokens) == len(reference["tokens"])


@pytest.mark.shared
def test_the_vocabulary_is_the_published_one(shared_data: Path) -> None:
    published = json.loads((shared_data / "chair/synonyms.json").read_text("utf-8"))
    reachable = {word: node for word, node in published["word_to_node"].items() if word == word.strip().lower()}
    assert vocabulary().nodes == reachable
    assert {" ".join(pair): name for pair, name in vocabulary().compounds.items()} == published["double_words"]
    assert len(set(vocabulary().nodes.values())) == 80


@pytest.mark.shared
def test_surface_forms_are_the_reference_singularisers(shared_data: Path) -> None:
    tried = json.loads((shared_data / "chair/pattern_forms.json").read_text("utf-8"))["singular"]
    assert {token: vocabulary().singular.get(token, token) for token in tried} == tried


# What is worked out by hand here holds without the published files.
@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Three teddy bears", ["teddy bear"]),
        ("A baby elephant walks with an adult elephant", ["elephant", "elephant"]),  # "baby" is part of the name
        ("A baby panda", ["person", "bear"]),  # no such name, so "baby" is a person
        ("The seat of the toilet is up, next to a seat", ["toilet"]),
        ("A seat and a chair", ["chair", "chair"]),
        ("Home plate on a baseball field near a train track", []),
        ("Wine glasses and a glass of wine", ["wine glass"]),
        ("A bus and a minibus", []),  # the singulariser makes "bu" of it
        ("Buses are parked", ["bus"]),
        ("A tennis racket and a sports ball", ["tennis racket", "sports ball"]),  # by "racket" and "ball" alone
        ("An orange cat", ["orange", "cat"]),
        ("No dog", ["dog"]),
        ("A cat/dog and a dog-bed", []),
        ("It is hot. Dogs run.", ["dog"]),  # the full stop stands between "hot" and "dog"
        ("", []),
    ],
)
def test_worked_examples_of_chair_2018(finder: ObjectFinder, caption: str, expected: list[str]) -> None:
    assert nodes(finder, caption) == expected


def test_the_substitute_is_named_and_trained_data_is_not(finder: ObjectFinder) -> None:
    assert finder.notes == (SUBSTITUTE,)
    assert ObjectFinder(punkt=PunktData(abbreviations=frozenset({"mr"}))).notes == ()


@pytest.mark.shared
def test_the_substitute_matters_as_seldom_as_the_note_says(shared_data: Path, nltk_data: Path) -> None:
    exact, substitute = ObjectFinder(), ObjectFinder(punkt=PunktData())
    changed = []
    for file in sorted((shared_data / "chair/captions").glob("*.jsonl")):
        for row in rows(file):
            one, other = exact.find(row["caption"]), substitute.find(row["caption"])
            assert one.mentions == other.mentions
            changed += [row["image_id"]] if len(one.tokens) != len(other.tokens) else []
    assert len(changed) == 1


def test_unknown_settings_are_named() -> None:
    with pytest.raises(EvaluationError, match="unknown pipeline 'chair'; choose one of chair-2018, chair-opera"):
        ObjectFinder("chair")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="unknown vocabulary"):
        ObjectFinder(vocabulary_name="mine")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="there is none for chair-opera"):
        ObjectFinder("chair-opera", "corrected")


def test_damaged_punkt_data_is_named_with_its_line(tmp_path: Path) -> None:
    folder = tmp_path / PUNKT
    folder.mkdir(parents=True)
    for name in ("abbrev_types.txt", "sent_starters.txt", "collocations.tab"):
        (folder / name).write_text("", "utf-8")
    (folder / "ortho_context.tab").write_text("dog\t36\ncat\tmany\n", "utf-8")
    with pytest.raises(FileFormatError, match=r"ortho_context\.tab, line 2: 'many'"):
        punkt_data(folder)
    with pytest.raises(FileFormatError, match="cannot be read as NLTK's Punkt data"):
        punkt_data(tmp_path)


@settings(max_examples=150)
@given(st.text(max_size=60) | st.lists(st.sampled_from(sorted(vocabulary().nodes)), max_size=8).map(" ".join))
def test_no_text_breaks_the_finder(text: str) -> None:
    for finder in _FINDERS:
        said = finder.find(text)
        assert all(mention.node in _NODES for mention in said.mentions)
        assert len(said.mentions) <= len(said.tokens)


_FINDERS = (ObjectFinder(punkt=PunktData()), ObjectFinder(vocabulary_name="corrected", punkt=PunktData()))
_NODES = set(vocabulary().nodes.values())


@given(st.lists(st.sampled_from(sorted(word for word in vocabulary().nodes if " " not in word)), max_size=6))
def test_sentences_of_known_words_are_found_apart(words: list[str]) -> None:
    """Between full stops no two words join, so a caption has the mentions of its words, one by one."""
    finder = _FINDERS[0]
    alone = [node for word in words for node in nodes(finder, f"a {word} .")]
    if "toilet" in words:
        alone = [node for word in words if word != "seat" for node in nodes(finder, f"a {word} .")]
    assert nodes(finder, " ".join(f"a {word} ." for word in words)) == alone
