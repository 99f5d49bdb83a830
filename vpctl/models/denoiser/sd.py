"""Stable Diffusion 1 and 2, and models of the same architecture."""

from torch import Tensor

from .conditioning import Conditioning
from .unet import UNetDenoiser


class StableDiffusion(UNetDenoiser):
    """A Stable Diffusion pipeline. Its conditioning is the text embeddings (B, L, D)."""

    def _encode_prompt(self, prompt: str) -> Conditioning:
        embedded, _ = self.pipe.encode_prompt(prompt, self.device, 1, do_classifier_free_guidance=False)
        return Conditioning((embedded,))

    def _run(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        [embedded] = conditioning.tensors
        predicted: Tensor = self.pipe.unet(latents, timesteps, embedded).sample
        return predicted
