"""How long a prompt is for CLIP, which reads prompts for Stable Diffusion 1 and 2 and, beside T5, for SDXL and SD 3.

All of them cut a prompt into the same tokens, those of OpenAI's CLIP, and silently drop what is beyond the 75th. The
merges that make these tokens are packaged: no model needs to be at hand to count them.
"""

import gzip
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

MERGES = Path(__file__).parent / "clip_merges.txt.gz"
_WORD_END = "</w>"
_PIECES = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


class ClipTokens:
    """Counts a text's tokens. The vocabulary is put together once, which takes a fraction of a second."""

    def __init__(self) -> None:
        pairs = [line.split(" ") for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = [*letters, *(f"{letter}{_WORD_END}" for letter in letters), *map("".join, pairs)]
        numbers = {token: number for number, token in enumerate(vocabulary)}
        self._tokenizer = Tokenizer(
            BPE(numbers, [(first, second) for first, second in pairs], end_of_word_suffix=_WORD_END)
        )
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
        """The tokens of a text, without the marks for its beginning and end."""
        return len(self._tokenizer.encode(text).ids)
