"""Sentences, their tokens, the finders of objects, and the questions about them."""

from pathlib import Path

import pytest

from tests.support.words import Words
from vlm_heads import VLM, errors, examine
from vlm_heads.asking.named import Named
from vlm_heads.asking.objects import finder_of, named_in
from vlm_heads.asking.questions import Question, QuestionWriter, YesNo, with_article
from vlm_heads.asking.sentences import ends_sentence, sentence_length, tokens_of


@pytest.mark.parametrize("text", ["A dog.", "A dog!", 'It says "stop."', "A dog...", "a line\n", "A dog. "])
def test_sentences_end(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize(
    "text", ["", "  ", "\n", "A dog", "A dog,", "1.", "  2.", "Mr.", "in the U.S.", "e.g.", "A 3.5"]
)
def test_others_do_not(text: str) -> None:
    assert not ends_sentence(text)


def test_tokens_of_a_sentence_and_of_its_words() -> None:
    """Token 4 ends a sentence: " w1 w2 w4. w5 w8."."""
    ids = [1, 2, 4, 5, 8]
    assert sentence_length(Words(), ids) == 3
    assert sentence_length(Words(), ids[3:]) == 2
    assert sentence_length(Words(), [1, 2]) == 2
    assert list(tokens_of(Words(), ids, 4, 6)) == [1]
    assert list(tokens_of(Words(), ids, 4, 10)) == [1, 2]


def test_a_function_finds_objects() -> None:
    text = "A tea pot, teapots and Tea."
    assert named_in(text, lambda _: ["tea"]) == [Named(2, 5, "tea"), Named(23, 26, "tea")]
    assert named_in(text, lambda _: [(2, 9, "teapot"), (2, 5, "tea"), (6, 9, "pot")]) == [
        Named(2, 5, "tea"),
        (6, 9, "pot"),
    ]
    assert finder_of(str.split) is str.split


def test_nouns_are_found_by_the_tagger(nltk_data: Path) -> None:
    text = "Several people sit on wooden benches, and a small dog is running in the background with a tennis ball."
    found = [(text[one.start : one.end], one.name) for one in named_in(text, finder_of("nouns"))]
    assert found == [("people", "person"), ("benches", "bench"), ("dog", "dog"), ("tennis ball", "tennis ball")]


def test_a_finder_that_is_not_there_is_named() -> None:
    with pytest.raises(errors.BadOption, match=r"did you mean 'nouns'.*a function from a text"):
        finder_of("nonus")


@pytest.mark.parametrize(("noun", "said"), [("dog", "a dog"), ("apple", "an apple"), ("unicorn", "an unicorn")])
def test_articles_are_those_of_pope(noun: str, said: str) -> None:
    assert with_article(noun) == said


def test_a_question_is_written_as_the_processor_writes_it(untrained_mini: Path) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    writer = QuestionWriter(vlm.model, vlm.processor, examine(vlm.model), "Is there {object} in the image?")
    question = writer.write("dog")
    assert question.text == "Is there a dog in the image?"
    tokenizer = vlm.processor.tokenizer
    assert tokenizer.decode(question.before) == "<s>USER:"
    assert tokenizer.decode(question.after) == "Is there a dog in the image?ASSISTANT:"
    assert writer.picture_first
    words = YesNo.of(tokenizer)
    assert [tokenizer.decode(one) for one in (*words.yes, *words.no)] == ["Yes", "No"]


def test_a_template_that_puts_the_picture_last_is_seen(untrained_mini: Path) -> None:
    vlm = VLM.from_pretrained(untrained_mini)
    vlm.processor.chat_template = "USER: {{ messages[0]['content'][1]['text'] }} <image> ASSISTANT:"
    writer = QuestionWriter(vlm.model, vlm.processor, examine(vlm.model), "{name}?")
    assert not writer.picture_first
    assert "dog" in vlm.processor.tokenizer.decode(writer.write("dog").before)


def test_questions_are_kept_for_the_next_answer_and_written_anew_where_the_form_changes(untrained_mini: Path) -> None:
    """A writer is made at every answer; each new text is a run of the processor."""
    vlm = VLM.from_pretrained(untrained_mini)
    template = "Is there {object} in the image?"

    def written() -> Question:
        return QuestionWriter(vlm.model, vlm.processor, examine(vlm.model), template).write("dog")

    first = written()
    assert written() is first
    other = VLM.from_pretrained(untrained_mini)
    assert QuestionWriter(other.model, other.processor, examine(other.model), template).write("dog") is not first
    vlm.processor.chat_template = "USER: {{ messages[0]['content'][1]['text'] }} <image> ASSISTANT:"
    assert "dog" in vlm.processor.tokenizer.decode(written().before)


def test_a_finder_is_made_once() -> None:
    assert finder_of("coco") is finder_of("coco")


def test_what_cannot_be_asked_is_refused() -> None:
    planted = VLM.from_pretrained("planted")
    with pytest.raises(errors.UnsupportedModel, match="no token for 'Yes'"):
        YesNo.of(planted.processor.tokenizer)
    with pytest.raises(errors.BadOption, match="names no object"):
        QuestionWriter(planted.model, planted.processor, examine(planted.model), "Is it there?")
