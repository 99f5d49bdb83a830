"""A local vision-language model: transformers:FOLDER or transformers:HUB-ID, with several calls in a batch.

The model must have a chat template, and transformers' AutoModelForImageTextToText must open it. It runs on one device,
on a GPU in bfloat16. Decoding is greedy: the same call gets the same answer.

The model is told to answer in JSON, but transformers cannot force it to. If an answer is unusable, the model is told
why, and asked once more. If a model is too weak for this, or too large for one device, use a server that can force
JSON, such as vLLM, and judge with ``openai:``.
"""

from typing import TYPE_CHECKING

from ..errors import UserError
from ..models import sources

if TYPE_CHECKING:
    from ._vision_language import LocalJudge

ARGUMENTS = "DIR"
OPTION = "--annotator transformers:"


def check(argument: str) -> None:
    """Raise `UserError` if `argument` is no folder or hub id of a vision-language model with a chat template."""
    if not argument:
        raise UserError(f"{OPTION} name a model, as in transformers:Qwen/Qwen2.5-VL-7B-Instruct")
    sources.check("judge", argument, option=OPTION)


def load(argument: str, *, device: str = "auto") -> "LocalJudge":
    """The model of a folder or a hub id. Raises `UserError` if it cannot be talked to about pictures."""
    check(argument)
    from ._vision_language import open_judge

    return open_judge(argument, device)
