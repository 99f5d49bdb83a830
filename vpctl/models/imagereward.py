"""The published ImageReward: where its parts are, and the constants of its authors.

The constants that scale its score are not in the checkpoint. They are those of the authors' code, as are the 35 tokens
after which a prompt is cut off.
"""

import os

from . import sources
from .checkpoints import PublishedCheckpoint

CHECKPOINT = PublishedCheckpoint("THUDM/ImageReward", "ImageReward.pt")
TOKENIZER, VOCABULARY = "google-bert/bert-base-uncased", "vocab.txt"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LONGEST_TEXT, SIDE = 35, 224


def check(argument: str, *, option: str) -> None:
    """Raise `UserError` if the checkpoint in `argument`, or the published one if it is empty, cannot be used.

    `option` is the text before the argument on the command line, such as ``--reward imagereward:``.
    """
    CHECKPOINT.check(argument, option=option)
    beside = f"a folder that holds both {CHECKPOINT.file} and {VOCABULARY} of {TOKENIZER}"
    sources.check("tokenizer", tokenizer(argument), option=f"{option}{argument} needs the tokenizer ", instead=beside)


def tokenizer(argument: str) -> str:
    """The folder of the checkpoint if it has a tokenizer, otherwise the published tokenizer."""
    folder = argument if os.path.isdir(argument) else os.path.dirname(argument) or "."
    own = any(os.path.isfile(os.path.join(folder, name)) for name in ("tokenizer.json", VOCABULARY))
    return folder if argument and own else TOKENIZER
