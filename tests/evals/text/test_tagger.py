"""The fast tagger is nltk's: on every published caption, on sentences made to be awkward, and where sums are equal."""

import json
import random
from pathlib import Path

import pytest
from nltk.tag.perceptron import PerceptronTagger
from vlm_app.speed.opera import bench_opera, published_steps
from vlm_evals.errors import FileFormatError
from vlm_evals.text.language import tagger_folder
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.tagger import Tagger, tagger

SENTENCES = 20_000
FRAGMENTS = "a the two of on in and is are sitting standing riding plays red wooden tie ties bus glasses skis dogs"
AWKWARD = "-- - '' `` . , 1984 3 42nd 2nd-hand -x x- well-made U.S. Dogs THE ² ½ İ é 's n't ''' ("


@pytest.fixture(scope="module")
def slow(nltk_data: Path) -> PerceptronTagger:
    return PerceptronTagger()


@pytest.fixture(scope="module")
def captions(shared_data: Path) -> list[str]:
    files = sorted((shared_data / "chair" / "captions").glob("*.jsonl"))
    return [json.loads(line)["caption"] for file in files for line in file.read_text("utf-8").splitlines()]


def made(words: list[str], generator: random.Random) -> list[str]:
    """Return a sentence of words that were seen, of made ones, and of awkward ones."""
    pools = (words, words, FRAGMENTS.split(), FRAGMENTS.split(), AWKWARD.split())
    length = generator.randrange(0, 13)
    found = [generator.choice(generator.choice(pools)) for _ in range(length)]
    return [word[::-1] if generator.random() < 0.05 else word for word in found]


def test_every_published_caption_is_tagged_as_nltk_does(captions: list[str], slow: PerceptronTagger) -> None:
    finder = ObjectFinder("chair-opera")
    assert len(captions) == 5500
    for caption in captions:
        words = finder.words(caption)
        assert tagger().tag(words) == slow.tag(words)


def test_made_sentences_are_tagged_as_nltk_does_wherever_one_looks(captions: list[str], slow: PerceptronTagger) -> None:
    generator = random.Random(0)
    words = sorted({word for caption in captions[::7] for word in caption.split()})
    for _ in range(SENTENCES):
        sentence = made(words, generator)
        expected = slow.tag(sentence)
        assert tagger().tag(sentence) == expected
        wanted = sorted(generator.sample(range(len(sentence)), generator.randint(0, len(sentence))))
        assert tagger().tags_where(sentence, wanted) == [expected[place][1] for place in wanted]


def test_base_forms_are_the_published_steps(captions: list[str], nltk_data: Path) -> None:
    published, finder = published_steps(), ObjectFinder("chair-opera")
    for caption in captions[::5]:
        assert finder.base_forms(caption) == published(caption)


def test_equal_sums_are_decided_by_nltks_rounding() -> None:
    # exactly, 0.1 + 0.2 = 0.3 for either class; in floating point 0.1 + 0.2 = 0.30000000000000004, and so AA wins over
    # the alphabet, which would choose BB
    weights = {"bias": {"AA": 0.1}, "i word x": {"AA": 0.2, "BB": 0.3}}
    slow = PerceptronTagger(load=False)
    slow.decode_json_params((weights, {}, ["AA", "BB"]))
    assert slow.tag(["x"]) == [("x", "AA")]
    assert Tagger(weights, {}, ["AA", "BB"]).tag(["x"]) == [("x", "AA")]
    assert Tagger({"i word x": {"AA": 0.3, "BB": 0.3}}, {}, ["AA", "BB"]).tag(["x"]) == [("x", "BB")]


def test_a_word_rests_on_the_two_before_it() -> None:
    # the class of z is what the one two places before it was
    weights = {
        "i word x": {"X": 1.0}, "i word y": {"Y": 1.0}, "i-2 tag X": {"X": 2.0}, "i-2 tag Y": {"Y": 2.0},
        "i word z": {"Z": 1.0},
    }  # fmt: skip
    found = Tagger(weights, {"known": "K"}, ["K", "X", "Y", "Z"])
    assert found.tags(["x", "y", "z", "z"]) == ["X", "Y", "X", "Y"]
    assert found.tags_where(["x", "y", "z", "z"], [3]) == ["Y"]
    assert found.tags_where(["x", "known", "known", "z"], [3]) == ["Z"]


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, nltk_data: Path) -> None:
    with pytest.raises(ValueError, match=r"0\.0005 of 'bias'"):
        Tagger({"bias": {"A": 0.0005}}, {}, ["A"])
    with pytest.raises(ValueError, match="or too large"):
        Tagger({"bias": {"A": 40_000.0}}, {}, ["A"])
    folder = tmp_path / tagger_folder().name
    folder.mkdir()
    for part in ("weights", "tagdict", "classes"):
        (folder / f"{folder.name}.{part}.json").write_text("[]")
    with pytest.raises(FileFormatError, match="cannot be read as NLTK's tagger"):
        Tagger.read(folder)


def test_no_speed_is_told_of_other_words(nltk_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench_opera(["Two dogs are riding a bus. A man glasses the boats."], rounds=1)
    assert found["ratio"] > 0
    assert found["tokens_per_caption"] == 7 + 6
    monkeypatch.setattr("vlm_app.speed.opera.published_steps", lambda: lambda caption: ["other"])
    with pytest.raises(Exception, match="disagrees with nltk"):
        bench_opera(["A dog."], rounds=1)
