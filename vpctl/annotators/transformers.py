"""A local vision-language model: transformers:FOLDER or transformers:HUB-ID, with several calls in a batch.

Any model that transformers' AutoModelForImageTextToText opens and that has a chat template, on one device, in bfloat16
on a GPU. Answers are greedy: the same question gets the same answer.

The model is told to answer in JSON, and nothing makes it: transformers has no grammars. An answer that does not hold is
sent back once with what is wrong. A model too weak for that does better behind a server that constrains what it writes,
such as vLLM, and so does one too large for a single device: serve it there, and judge with ``openai:``.
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
