"""The packaged vocabulary tokenizes text as CLIP does."""

import gzip
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from vpctl.prompts.clip_tokens import MERGES, ClipTokens

TOKENS = ClipTokens()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("a photo of a cat", 5),
        ("A  Photo\nof a CAT", 5),
        ("8 k, 1 9 5 0 s", 8),
        ("artstation", 2),
        ("greg rutkowski", 3),
        ("it's", 2),
    ],
)
def test_tokens_are_those_of_clip(text: str, expected: int) -> None:
    assert TOKENS.count(text) == expected


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    """The tokenizer of transformers with the same merges."""
    merges: Any = [tuple(line.split(" ")) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    tokens = [*words, "<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == 49408
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)


@given(st.text(max_size=40).filter(lambda text: "|>" not in text))
@example("“ king ’ s court ” … 4 k!!! ﬁne CAFÉ 🐱\u200d🐶 कील")
def test_transformers_counts_the_same(clip: CLIPTokenizer, text: str) -> None:
    assert TOKENS.count(text) == len(clip(text)["input_ids"]) - 2
