"""Any diffusers text-to-image pipeline: diffusion:FOLDER or diffusion:HUB-ID.

The contract of a generator: ``load(argument, *, device)`` returns a callable
``(prompts, seeds, settings) -> list[PIL.Image]`` that draws one picture a prompt, each from its own seed. It may have
``settings``, what it uses where `Settings` says None; ``fingerprint``, which changes with its weights; and
``adapt(folder)``, which puts a LoRA on it.

A packaged plug-in may also have ``check(argument)``, which raises `UserError` if the argument cannot be used. It is
called first and takes a second at most, so nothing heavy is imported at the top of this file. A generator's ``check``
also gets ``adapter``, ``width`` and ``height``, and ``tuned`` from the tune commands, if it has these parameters.
"""

from typing import TYPE_CHECKING

from ..errors import UserError
from ..models import sources

if TYPE_CHECKING:
    from ._pipeline import Diffusion

ARGUMENTS = "DIR"
OPTION = "--model diffusion:"
TUNED = "StableDiffusionPipeline"
"""The class of the pipelines that can be tuned."""


def check(
    argument: str, *, adapter: str = "", width: int | None = None, height: int | None = None, tuned: bool = False
) -> None:
    """Raise `UserError` if `argument` is no pipeline, does not draw pictures of this size, or does not fit the LoRA.

    With `tuned`, also if it is a pipeline that the tune commands do not know.
    """
    if not argument:
        raise UserError(f"{OPTION} name a model, as in diffusion:FOLDER or diffusion:HUB-ID")
    sources.check_pipeline(argument, option=OPTION, adapter=adapter, size=(width, height))
    if tuned:
        kind = sources.check("pipeline", argument, option=OPTION).read("model_index.json")["_class_name"]
        if kind != TUNED:
            raise UserError(
                f"{OPTION}{argument}: a {kind}; only Stable Diffusion 1 and 2 and similar models can be tuned"
            )


def load(argument: str, *, device: str = "auto") -> "Diffusion":
    """The pipeline of a folder or a hub id."""
    check(argument)
    from ._pipeline import Diffusion

    return Diffusion(argument, device, option=OPTION)
