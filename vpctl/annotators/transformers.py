"""A local vision-language model: transformers:FOLDER or transformers:HUB-ID, with several calls in a batch.

It can be any model that transformers' AutoModelForImageTextToText opens and that has a chat template. It runs on one
device, in bfloat16 on a GPU. Decoding is greedy: the same question gets the same answer.

The model is instructed to answer in JSON, but nothing enforces it: transformers has no grammars. An unusable answer is
sent back once, with the reason. For a model that is too weak to follow the format, or too large for one device, use a
server with constrained decoding, such as vLLM, and judge with ``openai:``.
"""

from typing import TYPE_CHECKING

from ..errors import UserError
from ..models import sources

if TYPE_CHECKING:
    from ._vision_language import LocalJudge

ARGUMENTS = "DIR"
OPTION = "--annotator transformers:"


def check(argument: str) -> None:
    """Raise `UserError` if `argument` is not a folder or hub id of a vision-language model with a chat template."""
    if not argument:
        raise UserError(f"{OPTION} name a model, as in transformers:Qwen/Qwen2.5-VL-7B-Instruct")
    sources.check("judge", argument, option=OPTION)


def load(argument: str, *, device: str = "auto") -> "LocalJudge":
    """The model of a folder or a hub id, as an annotator. Raises `UserError` if it cannot chat about pictures."""
    check(argument)
    from ._vision_language import LocalJudge

    return LocalJudge(argument, device)
