"""Stable Diffusion 3 and 3.5, Esser et al. 2024 (arXiv 2403.03206), and models of the same architecture."""

from typing import Any

from torch import Tensor

from .conditioning import Conditioning
from .flow import FlowDenoiser


class StableDiffusion3(FlowDenoiser):
    """A Stable Diffusion 3 pipeline.

    Its conditioning is the text embeddings (B, L, D) of its three text encoders, and the pooled embeddings (B, P) of
    two of them. Without the third one, T5, its embeddings are zeros, as in the pipeline.
    """

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of the latents of one picture."""
        side: int = self.pipe.default_sample_size
        return self.model.config.in_channels, side, side

    def _prompted(self, prompts: list[str]) -> dict[str, Any]:
        embedded, pooled = self.embed([""] * len(prompts)).tensors
        without = {"negative_prompt_embeds": embedded, "negative_pooled_prompt_embeds": pooled}
        return {**super()._prompted(prompts), **without}

    def _encode_prompt(self, prompt: str) -> Conditioning:
        embedded, _, pooled, _ = self.pipe.encode_prompt(
            prompt, None, None, device=self.device, do_classifier_free_guidance=False
        )
        return Conditioning((embedded, pooled))

    def _run(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        embedded, pooled = conditioning.tensors
        predicted: Tensor = self.model(
            hidden_states=latents, timestep=timesteps, encoder_hidden_states=embedded, pooled_projections=pooled
        ).sample
        return predicted
