"""Stable Diffusion 1 and 2, and models of the same architecture.

The weights of the LoRA are float32 in every case: in bfloat16, an AdamW step of 1e-5 would change almost nothing.
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

from ...contracts import Settings
from ..tensors import from_pictures, same_layout
from . import schedule
from .conditioning import Conditioning, Embeddings
from .latents import Posteriors
from .schedule import NoiseSchedule

ADAPTER = "default"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


class StableDiffusion:
    """A Stable Diffusion pipeline with a trainable LoRA on the attention layers of its UNet. It is a `Denoiser`."""

    def __init__(self, pipe: Any, *, rank: int, seed: int, exact: bool = False) -> None:
        """`exact` is for training that compares predictions to 1e-4. On a GPU, 16 bits round by more than that."""
        if pipe.unet.dtype == torch.float16:
            # Gradients, which are means over pictures, steps and pixels, underflow in float16.
            wide = not exact and torch.cuda.is_bf16_supported(including_emulation=False)
            pipe.to(dtype=torch.bfloat16 if wide else torch.float32)
            if exact:
                torch.set_float32_matmul_precision("high")  # TF32: nearly as fast as 16 bits, and exact enough
            pipe.vae.to(dtype=torch.float32)  # in bfloat16 its error is half the std of its latents
        self.pipe = pipe
        self.device: torch.device = pipe.device
        self.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        torch.manual_seed(seed)
        pipe.unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=ATTENTION), ADAPTER
        )
        cast_training_params(pipe.unet, torch.float32)
        self.trainable: list[torch.nn.Parameter] = [one for one in pipe.unet.parameters() if one.requires_grad]
        self.embed = Embeddings(self._encode_prompts, self.device)

    def _encode_prompts(self, prompts: list[str]) -> Conditioning:
        embedded, _ = self.pipe.encode_prompt(prompts, self.device, 1, do_classifier_free_guidance=False)
        return Conditioning((embedded,))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of the latents of one picture."""
        unet = self.pipe.unet.config
        return unet.in_channels, unet.sample_size, unet.sample_size

    @contextmanager
    def reference(self) -> Iterator[None]:
        """A context in which the LoRA is off and no gradients are recorded."""
        self.pipe.unet.disable_adapters()
        try:
            with torch.no_grad():
                yield
        finally:
            self.pipe.unet.enable_adapters()

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: float = 1.0) -> Tensor:
        """The UNet's prediction (B, C, H, W) in float32. With a `guidance` of 1 there is no guidance.

        Classifier-free guidance, Ho and Salimans 2022 (arXiv 2207.12598), equation 6, in the form that Stable Diffusion
        uses.
        """
        dtype = self.pipe.unet.dtype
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            if guidance == 1:
                return self._run_unet(latents, timesteps, conditioning)
            empty = self.embed([""]).repeat(len(conditioning))
            both = self._run_unet(
                torch.cat([latents, latents]),
                torch.cat([timesteps, timesteps]),
                Conditioning.cat([empty, conditioning]),
            )
        without, given = both.chunk(2)
        return without + guidance * (given - without)

    def _run_unet(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        [embedded] = conditioning.tensors
        predicted: Tensor = self.pipe.unet(latents, timesteps, embedded).sample.float()
        return predicted

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Posteriors:
        """The posteriors of the latents of pixels (B, 3, H, W) in [0, 1]."""
        vae = self.pipe.vae
        posterior = vae.encode((2 * pixels - 1).to(self.device, vae.dtype)).latent_dist
        return Posteriors(
            posterior.mean.float().half().cpu(),
            posterior.std.float().half().cpu(),
            lambda latents: latents * vae.config.scaling_factor,
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] of scaled latents."""
        vae = self.pipe.vae
        pixels: Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()
        return (pixels / 2 + 0.5).clamp(0, 1)

    def fitted(self, pictures: list[Image.Image]) -> Tensor:
        """Pixels (B, 3, S, S) in [0, 1], scaled to the model's own size S. Pictures that are not square are cropped."""
        side = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        return from_pictures([ImageOps.fit(one, (side, side), Image.Resampling.BICUBIC) for one in pictures])

    def sample_timesteps(self, number: int, generator: torch.Generator) -> Tensor:
        """Random timesteps (number,), uniformly distributed, on the CPU."""
        return torch.randint(self.scheduler.config.num_train_timesteps, (number,), generator=generator)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noised latents, and the target of the prediction, both on `device`."""
        noisy, target = schedule.noised(self.scheduler, clean, noise, timesteps)
        return noisy.to(self.device), target.to(self.device)

    def noise_schedule(self, steps: int) -> NoiseSchedule:
        """The noise levels of a DDIM run of `steps` steps."""
        return schedule.noise_schedule(self.scheduler, steps)

    def draw(self, prompts: list[str], generators: list[torch.Generator], settings: Settings) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1], one picture for each prompt, drawn by the pipeline's own scheduler."""
        wanted = {"num_inference_steps": settings.num_inference_steps, "guidance_scale": settings.guidance_scale}
        given = {name: value for name, value in wanted.items() if value is not None}
        return self.decode(self.pipe(prompts, generator=generators, output_type="latent", **given).images)

    def lora(self) -> dict[str, Tensor]:
        """The weights of the LoRA by peft's names, on the CPU. For a UNet on the CPU they are the trained tensors."""
        return {name: weight.cpu() for name, weight in get_peft_model_state_dict(self.pipe.unet).items()}

    def set_lora(self, weights: dict[str, Tensor]) -> None:
        """Load weights from `lora` into the trained LoRA. A second LoRA would be trained but not saved.

        Raises `ValueError` if the weights do not fit.
        """
        if not same_layout(weights, self.lora()):
            raise ValueError("weights of another LoRA")
        set_peft_model_state_dict(self.pipe.unet, weights, ADAPTER)

    def save_lora(self, folder: Path) -> None:
        """Write the file that ``pipe.load_lora_weights(folder)`` reads."""
        weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.pipe.unet))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights, safe_serialization=True)
