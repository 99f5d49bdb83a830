"""PickScore v1 (Kirstain et al. 2023, arXiv 2305.01569): from the hub, or pickscore:FOLDER from a local copy.

The score is the scaled cosine, about 17 to 24. The softmax over the pictures of one prompt is the preference.
"""

from typing import TYPE_CHECKING

from ..errors import UserError
from ..models import sources

if TYPE_CHECKING:
    from ..models.reward import Score

ARGUMENTS = "DIR"
HUB_ID = "yuvalkirstain/PickScore_v1"
OPTION = "--reward pickscore:"


def check(argument: str) -> None:
    """Raise `UserError` if the model in `argument`, or the one on the hub if it is empty, cannot be used."""
    folder = sources.check("reward", argument or HUB_ID, option=OPTION)
    if folder.read("config.json")["model_type"] != "clip":
        raise UserError(f"{OPTION}{argument}: not a CLIP model, as PickScore is")


def load(argument: str, *, device: str = "auto", dtype: str = "") -> "Score":
    """PickScore as it was released, without any further scaling."""
    check(argument)
    from ..models.reward import load_score

    return load_score(argument or HUB_ID, option=OPTION, device=device, dtype=dtype)
