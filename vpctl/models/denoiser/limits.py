"""What a scheduler's config must be, so that a model can be tuned. Knows neither torch nor diffusers."""

from collections.abc import Mapping
from typing import Any

from ...errors import UserError

PREDICTIONS = ("epsilon", "v_prediction")
"""What a tunable model may predict: the noise, or the velocity (Salimans and Ho 2022)."""
LEVELS = 1000
"""The number of noise levels of a scheduler whose config does not say it, as in diffusers."""


def check_scheduler(config: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` if a model with a scheduler of this config cannot be tuned."""
    predicts = config.get("prediction_type", PREDICTIONS[0])
    if predicts not in PREDICTIONS:
        known = " or ".join(PREDICTIONS)
        raise UserError(f"{where}: predicts {predicts}; only models that predict {known} can be tuned")
    if "sigma_data" in config:
        raise UserError(
            f"{where}: its scheduler scales latents as EDM does; only models with the noise levels of DDPM can be tuned"
        )
    if config.get("thresholding"):
        raise UserError(
            f"{where}: its scheduler uses dynamic thresholding, which is for models without latents; such a model "
            "cannot be tuned"
        )


def check_steps(config: Mapping[str, Any], steps: int, where: str) -> None:
    """Raise `UserError` if a scheduler of this config has no run of so many `steps`."""
    levels = int(config.get("num_train_timesteps", LEVELS))

    def fits(number: int) -> bool:
        if config.get("timestep_spacing", "leading") != "leading":
            return number <= levels
        return number <= levels and (number - 1) * (levels // number) + config.get("steps_offset", 0) < levels

    if not fits(steps):
        most = next((number for number in range(min(steps, levels), 0, -1) if fits(number)), 0)
        raise UserError(f"--steps {steps}: {where} has {levels} noise levels; name at most {most} steps")
