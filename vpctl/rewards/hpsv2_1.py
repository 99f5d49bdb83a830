"""HPS v2.1 (Wu et al. 2023, arXiv 2306.09341): from the hub, or hpsv2.1:FILE from a local copy.

The score is the cosine of picture and prompt, about 0.13 to 0.35; published tables show it times 100. Compare it only
between pictures of one prompt. A picture is resized without antialiasing, as when the model was trained and published.
hpsv2.1:antialias, or hpsv2.1:antialias:FILE, resizes as torchvision does since version 0.17.
"""

from typing import TYPE_CHECKING

from ..models.checkpoints import PublishedCheckpoint
from . import _hps

if TYPE_CHECKING:
    from ..models.reward import Score

ARGUMENTS = "DIR"
OPTION = "--reward hpsv2.1:"
CHECKPOINT = PublishedCheckpoint(_hps.HUB_ID, "HPS_v2.1_compressed.pt")


def check(argument: str) -> None:
    """Raise `UserError` if the checkpoint in `argument`, or the published one if it is empty, cannot be used."""
    _hps.check(argument, CHECKPOINT, option=OPTION)


def load(argument: str, *, device: str = "auto", dtype: str = "") -> "Score":
    """HPS v2.1 as it was released."""
    return _hps.load(argument, CHECKPOINT, option=OPTION, device=device, dtype=dtype)
