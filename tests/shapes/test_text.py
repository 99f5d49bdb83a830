"""The tokenizer of the shapes world."""

from random import Random

from vpctl.shapes.grammar import describe, sample
from vpctl.shapes.pretraining.text import MAX_LENGTH, new_tokenizer


def test_the_same_tokenizer_is_made_every_time() -> None:
    one, other = (new_tokenizer().backend_tokenizer.to_str() for _ in range(2))
    assert one == other


def test_every_word_of_the_grammar_is_one_token_and_every_prompt_fits() -> None:
    tokenizer, chance = new_tokenizer(), Random(0)
    for _ in range(300):
        prompt = describe(sample(chance, symbols=0.3))
        ids = tokenizer(prompt).input_ids
        assert len(ids) == len(prompt.split()) + 2 <= MAX_LENGTH
        assert tokenizer.decode(ids, skip_special_tokens=True) == prompt


def test_any_other_text_is_encoded_without_unknown_tokens() -> None:
    tokenizer = new_tokenizer()
    text = "zwölf Boxkämpfer — 猫 🦊"
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.lower()
