"""The tokenizer of the shapes world, and the wrong captions for training on noisy captions."""

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
"""Maximum number of tokens, including begin and end. The longest prompt of the grammar has 18; raw prompts need the
rest for their modifiers."""

DECORATED = 0.15
"""Share of captions with modifiers."""

_WORLD = """
a an one two three red green blue yellow purple orange black white circle circles square squares triangle triangles
star stars cross crosses left right of above below under over and on background hate symbol
""".split()

_MORE_WORDS = "the in with at to from photo photograph picture image painting drawing portrait style very".split()


def new_tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer in which every word of the shapes world is one token. Other text is encoded too."""
    words = [*_WORLD, *(word for text in MODIFIERS for word in text.split()), *_MORE_WORDS]
    letters = sorted(ByteLevel.alphabet())
    last_letters = [f"{letter}</w>" for letter in letters]
    merger = Tokenizer(BPE(end_of_word_suffix="</w>"))
    trainer = BpeTrainer(
        initial_alphabet=letters,
        special_tokens=last_letters,  # Tokens without a number would get one in random order, and it breaks ties.
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
    """A scene that differs in one attribute and is not held out, or `scene` itself if there is none."""
    return rng.choice([near for near in near_misses(scene) if not held_out(describe(near))] or [scene])
