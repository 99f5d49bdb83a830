"""Counts the CLIP tokens of a prompt.

CLIP reads the prompts of Stable Diffusion 1 and 2 and, together with T5, those of SDXL and SD 3. All these models use
the tokens of OpenAI's CLIP, and silently drop everything after the 75th token. The merges that define these tokens are
packaged, so no model has to be downloaded to count them.
"""

import gzip
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

MERGES = Path(__file__).parent / "clip_merges.txt.gz"
_WORD_END = "</w>"
_PIECES = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The number of every token of CLIP, without those for the beginning and end of a text, and the merges in order."""
    pairs = [line.split(" ") for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}{_WORD_END}" for letter in letters), *map("".join, pairs)]
    return {token: number for number, token in enumerate(tokens)}, [(first, second) for first, second in pairs]


class ClipTokens:
    """Counts the tokens of a text. The constructor builds the vocabulary, which takes a fraction of a second."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer(BPE(*vocabulary(), end_of_word_suffix=_WORD_END))
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(_PIECES, behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def count(self, text: str) -> int:
        """The number of tokens of a text, without the tokens for its beginning and end."""
        return len(self._tokenizer.encode(text).ids)
