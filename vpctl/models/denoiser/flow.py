"""What flow models have in common: continuous noise levels, and a transformer that predicts the velocity ε − x₀.

The autoencoder takes pictures one by one: at 1024 × 1024, a batch of them needs more memory than the training. The text
encoders stay in the 16 bits that they are loaded in: their largest, T5, would take 19 GB in float32. The embeddings are
the same for the policy and the reference.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from . import schedule
from .pipeline import PipelineDenoiser
from .schedule import FlowSchedule


class FlowDenoiser(PipelineDenoiser):
    """A diffusers pipeline with a transformer that was trained by flow matching. It is a `Denoiser`.

    Timesteps are noise levels σ from 0 to 1, multiplied by the number of levels of the scheduler, which is 1000.
    """

    part = "transformer"
    attention = "to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out"
    evenly: ClassVar[bool] = False
    """Whether the pipeline names the noise levels of a run itself, as in `schedule.flow_schedule`."""

    def _prepare(self) -> None:
        self.scheduler = schedule.flow_scheduler(self.pipe.scheduler.config)
        self.pipe.vae.enable_slicing()

    def _widen(self) -> None:
        self.pipe.vae.to(torch.float32)

    def _prompted(self, prompts: list[str]) -> dict[str, Any]:
        # Embeddings in 16 bits would make the pipeline draw in 16 bits, too.
        embedded, pooled = self.embed(prompts).tensors
        return {"prompt_embeds": embedded, "pooled_prompt_embeds": pooled}

    def _scaled(self, latents: Tensor) -> Tensor:
        return super()._scaled(latents - self._latents_mean)

    def _unscaled(self, latents: Tensor) -> Tensor:
        return super()._unscaled(latents) + self._latents_mean

    @property
    def _latents_mean(self) -> float:
        """The mean of the autoencoder's latents."""
        return self.pipe.vae.config.shift_factor or 0.0

    @property
    def _tokens(self) -> int:
        """The number of patches of 2 × 2 latents that the transformer makes of a picture."""
        return (self.latent_shape[-1] // 2) ** 2

    def sample_timesteps(self, number: int, generator: torch.Generator) -> Tensor:
        """Random timesteps (number,) on the CPU: logit-normal noise levels, with the shift of the scheduler.

        Esser et al. 2024 (arXiv 2403.03206), equation 19 with m = 0 and s = 1, and section 5.3.2.
        """
        sigma = torch.randn(number, generator=generator).sigmoid()
        return schedule.shifted(self.scheduler, sigma, self._tokens) * self._levels

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noised latents (1 − σ) x₀ + σ ε, and the velocity ε − x₀, both on `device`."""
        sigma = (timesteps / self._levels).view(-1, 1, 1, 1)
        noisy = (1 - sigma) * clean + sigma * noise
        return noisy.to(self.device), (noise - clean).to(self.device)

    @property
    def _levels(self) -> int:
        levels: int = self.scheduler.config.num_train_timesteps
        return levels

    def noise_schedule(self, steps: int) -> FlowSchedule:
        """The noise levels of an Euler run of `steps` steps, as the pipeline draws."""
        return schedule.flow_schedule(self.scheduler, steps, tokens=self._tokens, evenly=self.evenly)
