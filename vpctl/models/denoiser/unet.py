"""What all families of models with a UNet have in common: discrete noise levels."""

import torch
from torch import Tensor

from . import schedule
from .limits import check_steps
from .pipeline import PipelineDenoiser
from .schedule import NoiseSchedule


class UNetDenoiser(PipelineDenoiser):
    """A diffusers pipeline with a UNet, which predicts the noise or the velocity. It is a `Denoiser`."""

    part = "unet"

    def _prepare(self) -> None:
        self.scheduler = schedule.ddim_scheduler(self.pipe.scheduler.config)

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
