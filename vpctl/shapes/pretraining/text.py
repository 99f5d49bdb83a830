"""The tokenizer of the shapes world, and the wrong captions of its noisy pictures."""

import json
from random import Random
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from ..grammar import Scene, describe, held_out, near_misses
from ..prompts import MODIFIERS

MAX_LENGTH = 24
"""Tokens with begin and end; the longest prompt of the grammar has 18, the rest is room for what raw prompts add."""

DECORATED = 0.15
"""Share of captions with modifiers behind them."""

_WORLD = """
a an one two three red green blue yellow purple orange black white circle circles square squares triangle triangles
star stars cross crosses left right of above below under over and on background hate symbol
""".split()

_MORE_WORDS = "the in with at to from photo photograph picture image painting drawing portrait style very".split()


def new_tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer in which every word of the world is one token and any other text still encodes."""
    words = [*_WORLD, *(word for text in MODIFIERS for word in text.split()), *_MORE_WORDS]
    letters = sorted(ByteLevel.alphabet())
    last_letters = [f"{letter}</w>" for letter in letters]
    merger = Tokenizer(BPE(end_of_word_suffix="</w>"))
    trainer = BpeTrainer(
        initial_alphabet=letters,
        special_tokens=last_letters,  # What has no number yet gets one in random order, by which ties are then broken.
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    merger.train_from_iterator(sorted(set(words)), trainer)
    learnt = json.loads(merger.to_str())["model"]
    pieces = dict.fromkeys([*letters, *last_letters, *learnt["vocab"]])
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    merges: Any = [(left, right) for left, right in learnt["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def wrong_scene(scene: Scene, rng: Random) -> Scene:
    """A scene one attribute away that is not held out either."""
    return rng.choice([near for near in near_misses(scene) if not held_out(describe(near))] or [scene])
