"""A diffusion model with a LoRA, as tuning sees it: noise predictions, denoising steps, pictures.

It is the policy with the LoRA and its own reference without. Weights of the LoRA stay in float32 whatever the rest is
in: an AdamW step of 1e-5 would change next to nothing of them in bfloat16.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from PIL import Image, ImageOps
from torch import Tensor

from ...errors import UserError
from ..tensors import fits, from_pictures

ADAPTER = "default"
PREDICTIONS = ("epsilon", "v_prediction")
REMEMBERED = 4096
"""Prompts whose embeddings are kept: of Stable Diffusion 1 one takes a quarter of a megabyte."""
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


class Policy:
    """A Stable Diffusion pipeline whose UNet carries a trainable LoRA on its attention."""

    def __init__(self, pipe: Any, *, rank: int, source: str, seed: int, exact: bool = False) -> None:
        """`exact` is for what compares its own predictions to 1e-4: on a GPU 16 bits would drown that in rounding."""
        if not isinstance(pipe, StableDiffusionPipeline):
            raise UserError(
                f"--model {source}: a {type(pipe).__name__}; only Stable Diffusion 1 and 2 and similar models can "
                "be tuned"
            )
        if pipe.scheduler.config.prediction_type not in PREDICTIONS:
            raise UserError(
                f"--model {source}: predicts {pipe.scheduler.config.prediction_type}; "
                f"tuning is for models that predict {' or '.join(PREDICTIONS)}"
            )
        if pipe.unet.dtype == torch.float16:
            # A gradient that is a mean over pictures, steps and pixels is smaller than what float16 can say.
            wide = not exact and torch.cuda.is_bf16_supported(including_emulation=False)
            pipe.to(dtype=torch.bfloat16 if wide else torch.float32)
            if exact:
                torch.set_float32_matmul_precision("high")  # TF32: as fast as 16 bits nearly, and exact enough
            pipe.vae.to(dtype=torch.float32)  # in bfloat16 it is off by half the deviation of its own latents
        self.pipe = pipe
        self.device = pipe.device
        self.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        torch.manual_seed(seed)
        pipe.unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=ATTENTION), ADAPTER
        )
        cast_training_params(pipe.unet, torch.float32)
        self.trainable = [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]
        self._embedded: dict[str, Tensor] = {}

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: ``epsilon`` or ``v_prediction``."""
        return str(self.scheduler.config.prediction_type)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the LoRA is off and nothing is recorded for gradients."""
        self.pipe.unet.disable_adapters()
        try:
            with torch.no_grad():
                yield
        finally:
            self.pipe.unet.enable_adapters()

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Text embeddings (B, L, D); a prompt is encoded once and remembered."""
        if len(self._embedded) > REMEMBERED:
            self._embedded = {prompt: self._embedded[prompt] for prompt in prompts if prompt in self._embedded}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embedded]
        for start in range(0, len(new), 64):
            chunk = new[start : start + 64]
            embedded, _ = self.pipe.encode_prompt(chunk, self.device, 1, do_classifier_free_guidance=False)
            self._embedded.update(zip(chunk, embedded.cpu(), strict=True))
        return torch.stack([self._embedded[prompt] for prompt in prompts]).to(self.device)

    def predict(self, latents: Tensor, timesteps: Tensor, embedded: Tensor, guidance: float = 1.0) -> Tensor:
        """The UNet's prediction (B, C, H, W) in float32, guided by `guidance` unless that is 1.

        Classifier-free guidance, Ho and Salimans 2022 (arXiv 2207.12598), equation 6, as Stable Diffusion writes it.
        """
        dtype = self.pipe.unet.dtype
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            if guidance == 1:
                alone: Tensor = self.pipe.unet(latents, timesteps, embedded).sample.float()
                return alone
            nothing = self.embed([""]).expand_as(embedded)
            both: Tensor = self.pipe.unet(
                torch.cat([latents, latents]), torch.cat([timesteps, timesteps]), torch.cat([nothing, embedded])
            ).sample.float()
        without, given = both.chunk(2)
        return without + guidance * (given - without)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents of pixels (B, 3, H, W) in [0, 1], before scaling."""
        posterior = self.pipe.vae.encode((2 * pixels - 1).to(self.device, self.pipe.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] of scaled latents."""
        vae = self.pipe.vae
        pixels: Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()
        return (pixels / 2 + 0.5).clamp(0, 1)

    def lora(self) -> dict[str, Tensor]:
        """The LoRA's weights, by peft's names; on a CPU they are the very tensors that train."""
        return {name: weight.cpu() for name, weight in get_peft_model_state_dict(self.pipe.unet).items()}

    def set_lora(self, weights: dict[str, Tensor]) -> None:
        """Put weights from `lora` back into the LoRA that is there; a second one would train and save nothing.

        Raises `ValueError` where they do not fit it.
        """
        if not fits(weights, self.lora()):
            raise ValueError("weights of another LoRA")
        set_peft_model_state_dict(self.pipe.unet, weights, ADAPTER)

    def save_lora(self, folder: Path) -> None:
        """Write the file that `pipe.load_lora_weights(folder)` takes."""
        weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.pipe.unet))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights, safe_serialization=True)

    def fitted(self, pictures: list[Image.Image]) -> Tensor:
        """Pixels (B, 3, S, S) in [0, 1] of the size the model draws in, cut at the sides where the shape is another."""
        side = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        return from_pictures([ImageOps.fit(one, (side, side), Image.Resampling.BICUBIC) for one in pictures])
