"""Where a word stands among the tokens of a row, words that the vocabulary lacks among them."""

import pytest

from vlm_heads import VLM, examine
from vlm_heads.errors import BadOption
from vlm_heads.scorers.example import Text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dog", ["dog"]),
        ("hot dog", ["hot", "dog"]),
        ("sports ball", ["<unk>", "ball"]),  # decoding leaves what is unknown out
        ("dining table", ["<unk>", "<unk>"]),
    ],
)
def test_a_word_is_found_where_it_stands(word: str, said: list[str]) -> None:
    vlm = VLM.from_pretrained("mini")
    tokenizer = vlm.processor.tokenizer
    ids = tokenizer(f"Is there a {word} in the image?", add_special_tokens=False)["input_ids"]
    columns = Text(tokenizer, ids, examine(vlm.model), 0).columns_of(word, last=False)
    assert [tokenizer.convert_ids_to_tokens(ids[at]).lstrip("▁") for at in columns] == said


@pytest.mark.parametrize("word", ["cat", "sports car", "dining table"])
def test_a_word_that_does_not_stand_there_is_refused(word: str) -> None:
    vlm = VLM.from_pretrained("mini")
    tokenizer = vlm.processor.tokenizer
    ids = tokenizer("Is there a sports ball in the image?", add_special_tokens=False)["input_ids"]
    with pytest.raises(BadOption, match=f"'{word}' does not stand"):
        Text(tokenizer, ids, examine(vlm.model), 0).columns_of(word, last=False)
