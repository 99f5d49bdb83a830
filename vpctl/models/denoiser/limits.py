"""What a model must be, so that it can be tuned. Knows neither torch nor diffusers."""

from collections.abc import Mapping
from typing import Any

from ...errors import UserError
from ..folder import Folder

UNETS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
FLOWS = ("StableDiffusion3Pipeline", "FluxPipeline")
"""Pipelines of flow models (Esser et al. 2024, arXiv 2403.03206)."""
PIPELINES = (*UNETS, *FLOWS)
"""Classes of diffusers pipelines that can be tuned."""
PREDICTIONS = ("epsilon", "v_prediction")
"""What a tunable model with a UNet may predict: the noise, or the velocity (Salimans and Ho 2022)."""
FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
LEVELS = 1000
"""The number of noise levels of a scheduler whose config does not say it, as in diffusers."""


def check_tunable(
    folder: Folder, *, where: str, algorithm: str = "", steps: int | None = None, export: str = ""
) -> None:
    """Raise `UserError` if the pipeline in `folder` cannot be tuned, or not with this algorithm.

    Also raises it if the pipeline cannot draw in so many `steps`, or if its LoRA cannot be written in the format
    `export`. Loads no weights. `where` names the option and the source in the error.
    """
    index = folder.read("model_index.json")
    kind = index["_class_name"]
    check_pipeline(kind, where, algorithm=algorithm, export=export)
    config = folder.config("scheduler/scheduler_config.json")
    check_scheduler(kind, index["scheduler"][1], config, where)
    if steps and kind in UNETS:
        check_steps(config, steps, where)


def check_pipeline(kind: str, where: str, *, algorithm: str = "", export: str = "") -> None:
    """Raise `UserError` if a pipeline of the class `kind` cannot be tuned, or not with this algorithm.

    Also raises it if its LoRA cannot be written in the format `export`.
    """
    if kind not in PIPELINES:
        raise UserError(
            f"{where}: a {kind}; only Stable Diffusion 1, 2, XL and 3, FLUX.1 and similar models can be tuned"
        )
    if algorithm == "grpo" and kind not in FLOWS:
        raise UserError(
            f"--algorithm grpo: is for flow models, such as Stable Diffusion 3 and FLUX.1, and the model is a {kind}; "
            "name --algorithm ddpo"
        )
    if export == "kohya" and kind not in UNETS:
        raise UserError(
            f"--export kohya: is for Stable Diffusion 1, 2 and XL, and the model is a {kind}; leave it out: ComfyUI "
            "reads such a LoRA as diffusers writes it"
        )


def check_scheduler(kind: str, scheduler: str, config: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` if a pipeline of the class `kind` cannot be tuned with a scheduler of this class and config."""
    if kind in FLOWS:
        if scheduler != FLOW_SCHEDULER or config.get("invert_sigmas"):
            raise UserError(
                f"{where}: its scheduler is a {scheduler}; only flow models with a {FLOW_SCHEDULER} whose noise levels "
                "fall can be tuned"
            )
        first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        if config.get("use_dynamic_shifting") and first == last:
            raise UserError(
                f"{where}: its scheduler has no shift for other sizes, because base_image_seq_len and "
                f"max_image_seq_len are both {first}; fix scheduler/scheduler_config.json"
            )
        return
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
