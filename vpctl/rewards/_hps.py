"""HPS v2 and v2.1, which differ only in their weights."""

import html
from typing import TYPE_CHECKING, Any

from ..models.checkpoints import PublishedCheckpoint

if TYPE_CHECKING:
    from ..models.reward import Score

HUB_ID = "xswu/HPSv2"
SIDE, LONGEST_TEXT = 224, 77
ANTIALIAS = "antialias"


def _split(argument: str) -> tuple[str, str]:
    """What stands before the path in an argument, and the path. Both may be empty."""
    first, _, rest = argument.partition(":")
    return (f"{ANTIALIAS}:", rest) if first == ANTIALIAS else ("", argument)


def check(argument: str, checkpoint: PublishedCheckpoint, *, option: str) -> None:
    """Raise `UserError` if the checkpoint in `argument`, or the published one, cannot be used."""
    before, file = _split(argument)
    checkpoint.check(file, option=f"{option}{before}")


def load(argument: str, checkpoint: PublishedCheckpoint, *, option: str, device: str, dtype: str) -> "Score":
    """The model as it was released. The score is the cosine itself, without the logit scale.

    With ``antialias`` in the argument, the resize is that of torchvision 0.17 and later.
    """
    check(argument, checkpoint, option=option)
    from ..models import devices, hub, layouts
    from ..models.preprocess import Recipe
    from ..models.reward import RewardModel, Score, placed

    where = f"{option}{argument}"
    antialias, name = _split(argument)
    file = checkpoint.fetch(name, option=f"{option}{antialias}")
    backbone: Any = layouts.open_clip(layouts.weights(hub.checkpoint(file, where=where), where=where), where=where)
    recipe = Recipe(
        SIDE, which="longer", crop=(SIDE, SIDE), offsets="torchvision", rounds=False, antialias=bool(antialias)
    )
    model = RewardModel(backbone, OpenClipTokenizer(), None, where=where, recipe=recipe, longest_text=LONGEST_TEXT)
    scale = backbone.logit_scale.exp().item()
    model = placed(model, devices.resolve_device(device), devices.resolve_dtype(dtype))
    return Score(model, std=scale, weights=[file])


def clip_tokenizer() -> Any:
    """The tokenizer of CLIP from transformers, with the packaged vocabulary."""
    from transformers import CLIPTokenizer

    from ..prompts.clip_tokens import vocabulary

    numbers, pairs = vocabulary()
    merges: Any = pairs  # the library takes pairs, though its annotation says texts
    specials = {"<|startoftext|>": len(numbers), "<|endoftext|>": len(numbers) + 1}
    return CLIPTokenizer({**numbers, **specials}, merges, model_max_length=LONGEST_TEXT)


class OpenClipTokenizer:
    """CLIP's tokenizer, with the cleaning of open_clip in front of it.

    open_clip repairs broken Unicode, replaces typographic quotes and ligatures, and resolves HTML entities, twice. The
    tokenizer of transformers does not, and gives other tokens for such prompts. The names of control tokens in a prompt
    are text, so that a prompt cannot end before its end.
    """

    def __init__(self) -> None:
        self._tokenizer = clip_tokenizer()
        self._tokenizer.split_special_tokens = True

    @property
    def model_max_length(self) -> int:
        """The maximum number of tokens, with those for the beginning and the end."""
        return int(self._tokenizer.model_max_length)

    @model_max_length.setter
    def model_max_length(self, limit: int) -> None:
        self._tokenizer.model_max_length = limit

    def __call__(self, texts: str | list[str], **settings: Any) -> Any:
        """The tokens of a text or of several, as a tokenizer of transformers returns them."""
        cleaned = clean(texts) if isinstance(texts, str) else [clean(text) for text in texts]
        return self._tokenizer(cleaned, **settings)


def clean(text: str) -> str:
    """A text as open_clip reads it. Its lower case and its spaces are the tokenizer's work."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
