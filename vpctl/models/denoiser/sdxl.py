"""Stable Diffusion XL, Podell et al. 2023 (arXiv 2307.01952), and models of the same architecture.

The model is also conditioned on sizes (section 2.2): the size of a picture before it was resized, the place of the crop
and the size after it. A picture is drawn with the model's own size and no crop, as the pipeline does. A picture of the
training data has the sizes that it really had. Sizes are float32: bfloat16 cannot represent all integers above 256.

The autoencoder computes in float32, like the rest of the pipeline: in float16 it overflows.
"""

import torch
from torch import Tensor

from .conditioning import Conditioning
from .unet import UNetDenoiser


class StableDiffusionXL(UNetDenoiser):
    """A Stable Diffusion XL pipeline.

    Its conditioning is the text embeddings (B, L, D) of both text encoders, the pooled embeddings (B, D) of the second
    one, and sizes (B, 6).
    """

    def _prepare(self) -> None:
        super()._prepare()
        # One picture at a time: at 1024 × 1024, a batch of them needs more memory than the training.
        self.pipe.vae.enable_slicing()

    def embed(self, prompts: list[str], sizes: Tensor | None = None) -> Conditioning:
        """The conditioning of the prompts, one row for each, without gradients.

        `sizes` (B, 6) are those of the pictures, as in `Denoiser.sizes`; by default those of drawn pictures.
        """
        sizes = self._own_sizes(len(prompts)) if sizes is None else sizes
        return Conditioning((*super().embed(prompts).tensors, sizes.to(self.device)))

    def _encode_prompt(self, prompt: str) -> Conditioning:
        embedded, _, pooled, _ = self.pipe.encode_prompt(prompt, device=self.device, do_classifier_free_guidance=False)
        if not prompt and self.pipe.config.force_zeros_for_empty_prompt:
            # Without a prompt, the model was trained on zeros, and not on the embeddings of an empty text.
            embedded, pooled = torch.zeros_like(embedded), torch.zeros_like(pooled)
        return Conditioning((embedded, pooled))

    def _without_prompts(self, conditioning: Conditioning) -> Conditioning:
        embedded, pooled, _ = super()._without_prompts(conditioning).tensors
        return Conditioning((embedded, pooled, conditioning.tensors[2]))

    def _run(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        embedded, pooled, sizes = conditioning.tensors
        added = {"text_embeds": pooled, "time_ids": sizes}
        predicted: Tensor = self.pipe.unet(latents, timesteps, embedded, added_cond_kwargs=added).sample
        return predicted

    def _scaled(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return super()._scaled((latents - mean.to(latents)) / std.to(latents))

    def _unscaled(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return super()._unscaled(latents * std.to(latents)) + mean.to(latents)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and std (C, 1, 1) of the autoencoder's latents; 0 and 1 if its config does not have both."""
        config = self.pipe.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            mean, std = [0.0], [1.0]
        return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
