"""FLUX.1 by Black Forest Labs, and models of the same architecture.

FLUX.1 [dev] is distilled from a model with classifier-free guidance: the weight of the guidance is an input of the
transformer, and a prediction takes one pass. FLUX.1 [schnell] has no guidance at all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .conditioning import Conditioning
from .flow import FlowDenoiser


class Flux(FlowDenoiser):
    """A FLUX.1 pipeline.

    Its conditioning is the text embeddings (B, L, D) of T5, and the pooled embeddings (B, P) of CLIP.
    """

    evenly = True

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of the latents of one picture, before 2 × 2 of them become a token."""
        side: int = self.pipe.default_sample_size
        return self.model.config.in_channels // 4, side, side

    def _encode_prompt(self, prompt: str) -> Conditioning:
        embedded, pooled, _ = self.pipe.encode_prompt(prompt, device=self.device)
        return Conditioning((embedded, pooled))

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: float = 1.0) -> Tensor:
        """The velocity (B, C, H, W) in float32.

        A distilled model gets the number `guidance` as an input. For a model without guidance it changes nothing.
        """
        weights = torch.full((len(latents),), guidance, device=self.device)
        return self._run(latents, timesteps, Conditioning((*conditioning.tensors, weights)))

    def _run(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        embedded, pooled, guidance = conditioning.tensors
        rows, columns = (torch.arange(side // 2, device=self.device) for side in latents.shape[-2:])
        predicted: Tensor = self.model(
            hidden_states=F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2),
            timestep=timesteps / self._levels,
            guidance=guidance if self.model.config.guidance_embeds else None,
            encoder_hidden_states=embedded,
            pooled_projections=pooled,
            txt_ids=torch.zeros(embedded.shape[1], 3, device=self.device),
            img_ids=torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns).float(),
        ).sample
        return self._unpacked(predicted)

    def _unpacked(self, drawn: Tensor) -> Tensor:
        """Latents (B, C, H, W) of tokens (B, H·W/4, 4·C). A token holds a patch of 2 × 2 latents."""
        side = self.latent_shape[-1] // 2
        return F.pixel_shuffle(drawn.transpose(1, 2).unflatten(2, (side, side)), 2)
