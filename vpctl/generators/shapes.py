"""The shapes world's own models: shapes:base, or shapes:small, which is worse."""

from pathlib import Path

from ..errors import UserError
from ..plugins import Settings
from . import diffusion

WEIGHTS = Path(__file__).parent.parent / "shapes" / "weights"
ARGUMENTS = ("base", "small")
DEFAULTS = Settings(guidance_scale=1.0, num_inference_steps=10)


def load(argument: str, *, device: str = "auto") -> diffusion.Diffusion:
    """One of the packaged pipelines; base if `argument` is empty."""
    name = argument or "base"
    if name not in ARGUMENTS:
        raise UserError(f"--model shapes:{name}: known: {', '.join(f'shapes:{model}' for model in ARGUMENTS)}")
    return diffusion.Diffusion(str(WEIGHTS / name), device, defaults=DEFAULTS)
