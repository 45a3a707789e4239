"""Tokens that decide, in vocabularies of whole words and of pieces."""

import pytest
from vlm_app.studies.heads.words import deciding_piece, object_tokens, yes_and_no
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.places import Placed, pieces_that_mention

from vlm_heads import VLM
from vlm_heads.scorers import pieces_of


@pytest.mark.parametrize(
    ("pieces", "placed", "expected"),
    [
        (["A", " dog", "."], Placed(1, 1, "dog"), 1),
        (["Several", " ze", "bras", "."], Placed(2, 2, "zebra"), 1),  # the object is decided at its first piece
        (["A", " hot", " dog"], Placed(1, 2, "hot dog"), 1),
        (["A", " ho", "t", " do", "g"], Placed(3, 4, "hot dog"), 1),
        (["Ze", "bras", " run"], Placed(1, 1, "zebra"), 0),  # no space before the first word
    ],
)
def test_an_object_is_decided_where_its_first_word_begins(pieces: list[str], placed: Placed, expected: int) -> None:
    assert deciding_piece(pieces, placed) == expected


def test_pieces_make_up_the_text_and_are_found_in_it() -> None:
    tokenizer = VLM.from_pretrained("mini").processor.tokenizer
    ids = tokenizer("The image shows a kitchen with a hot dog and a cup.", add_special_tokens=False)["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    decided = [pieces[deciding_piece(pieces, one)].strip() for one in pieces_that_mention(ObjectFinder(), pieces)]
    assert decided == ["hot", "cup"]


def test_tokens_of_a_vocabulary() -> None:
    tokenizer = VLM.from_pretrained("mini").processor.tokenizer
    tokens = object_tokens(tokenizer)
    assert tokenizer.unk_token_id not in tokens
    words = {tokenizer.decode([token]) for token in tokens}
    assert {"dog", "hot", "cups"} <= words
    assert not {"a", "kitchen"} & words
    answers = yes_and_no(tokenizer)
    assert answers is not None
    assert [tokenizer.decode([token]) for token in answers] == ["Yes", "No"]


def test_a_vocabulary_without_yes_and_no() -> None:
    assert yes_and_no(VLM.from_pretrained("planted").processor.tokenizer) is None
