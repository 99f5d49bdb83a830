"""What all families of models with a UNet have in common: discrete noise levels, and a LoRA in kohya's format."""

from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from safetensors.torch import save_file
from torch import Tensor

from . import schedule
from .limits import check_steps
from .pipeline import PipelineDenoiser
from .schedule import NoiseSchedule


class UNetDenoiser(PipelineDenoiser):
    """A diffusers pipeline with a UNet, which predicts the noise or the velocity. It is a `Denoiser`."""

    part = "unet"

    def __init__(self, pipe: Any, *, rank: int, seed: int, targets: str = "", checkpointing: bool = False) -> None:
        """For the arguments see `PipelineDenoiser`."""
        super().__init__(pipe, rank=rank, seed=seed, targets=targets, checkpointing=checkpointing)
        self.scheduler = schedule.ddim_scheduler(pipe.scheduler.config)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of the latents of one picture."""
        unet = self.model.config
        return unet.in_channels, unet.sample_size, unet.sample_size

    def sample_timesteps(self, number: int, generator: torch.Generator) -> Tensor:
        """Random timesteps (number,), uniformly distributed, on the CPU."""
        return torch.randint(self.scheduler.config.num_train_timesteps, (number,), generator=generator)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noised latents, and the target of the prediction, both on `device`."""
        noisy, target = schedule.noised(self.scheduler, clean, noise, timesteps)
        return noisy.to(self.device), target.to(self.device)

    def noise_schedule(self, steps: int) -> NoiseSchedule:
        """The noise levels of a DDIM run of `steps` steps. Raises `UserError` if there are not so many."""
        check_steps(self.scheduler.config, steps, "the model")
        return schedule.noise_schedule(self.scheduler, steps)

    def save_lora(self, folder: Path, export: str = "") -> None:
        """Write the file that ``pipe.load_lora_weights(folder)`` reads.

        If `export` is ``kohya``, also write the weights as ``lora_kohya.safetensors``, with kohya's names.
        """
        super().save_lora(folder)
        if export == "kohya":
            named = {f"unet.{name}": weight.contiguous() for name, weight in self.lora().items()}
            save_file(convert_state_dict_to_kohya(named), folder / "lora_kohya.safetensors", {"format": "pt"})

    def _named_for_diffusers(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        named: dict[str, Tensor] = convert_state_dict_to_diffusers(weights)
        return named
