"""What all families of models with a UNet have in common: the LoRA, the latents and the noise levels.

The weights of the LoRA are float32 in every case: in bfloat16, an AdamW step of 1e-5 would change almost nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor

from ...contracts import Settings
from ...errors import UserError
from ..tensors import digest_of, from_pictures, same_layout
from . import schedule
from .conditioning import Conditioning, Embeddings
from .latents import Posteriors
from .limits import check_steps
from .lora import lora_config
from .schedule import NoiseSchedule

ADAPTER = "default"
ATTENTION = "to_q,to_k,to_v,to_out.0"


class UNetDenoiser(ABC):
    """A diffusers pipeline with a trainable LoRA on the attention layers of its UNet. It is a `Denoiser`.

    A family of models says how its prompts are encoded and what its UNet is given.
    """

    def __init__(
        self, pipe: Any, *, rank: int, seed: int, targets: str = ATTENTION, checkpointing: bool = False
    ) -> None:
        """`targets` are names of the UNet's layers, separated by commas. Raises `UserError` if there is no such layer.

        Trainings compare predictions that differ by 1e-4. So the pipeline computes in float32. On a GPU, matrices are
        multiplied in TF32, which is nearly as fast as 16 bits: it rounds the factors as float16 does, but no sum and no
        result. With `checkpointing`, UNet and VAE keep little memory for the gradient, and compute it again.
        """
        pipe.to(dtype=torch.float32)
        if pipe.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.pipe = pipe
        self.device: torch.device = pipe.device
        self.scheduler = schedule.ddim_scheduler(pipe.scheduler.config)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        torch.manual_seed(seed)
        pipe.unet.add_adapter(lora_config(rank, _layers(pipe.unet, targets)), ADAPTER)
        cast_training_params(pipe.unet, torch.float32)
        if checkpointing:
            pipe.unet.enable_gradient_checkpointing()
            pipe.vae.enable_gradient_checkpointing()
        self.trainable: list[torch.nn.Parameter] = [one for one in pipe.unet.parameters() if one.requires_grad]
        self.embeddings = Embeddings(self._encode_prompts, self.device)

    @abstractmethod
    def _encode_prompts(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts, one row for each. An empty prompt gives that of a prediction without one."""

    @abstractmethod
    def _run_unet(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction (B, C, H, W) in float32."""

    def embed(self, prompts: list[str], sizes: Tensor | None = None) -> Conditioning:  # noqa: ARG002
        """The conditioning of the prompts, one row for each, without gradients. `sizes` (B, 6) changes nothing."""
        return self.embeddings(prompts)

    def _without_prompts(self, conditioning: Conditioning) -> Conditioning:
        """The conditioning with no prompt in place of each of its prompts."""
        return self.embed([""]).repeat(len(conditioning))

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
        """The UNet's prediction (B, C, H, W) in float32. With a `guidance` of 1 or less there is no guidance.

        Classifier-free guidance, Ho and Salimans 2022 (arXiv 2207.12598), equation 6, in the form that Stable Diffusion
        uses.
        """
        if guidance <= 1:
            return self._run_unet(latents, timesteps, conditioning)
        both = self._run_unet(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            Conditioning.cat([self._without_prompts(conditioning), conditioning]),
        )
        without, given = both.chunk(2)
        return without + guidance * (given - without)

    @torch.no_grad()
    def encode(self, pixels: Tensor, sizes: Tensor | None = None) -> Posteriors:
        """The posteriors of the latents of pixels (B, 3, H, W) in [0, 1], whose `sizes` are (B, 6)."""
        vae = self.pipe.vae
        posterior = vae.encode((2 * pixels - 1).to(self.device, vae.dtype)).latent_dist
        mean, std = (values.float().half().cpu() for values in (posterior.mean, posterior.std))
        return self.posteriors(mean, std, self._own_sizes(len(pixels)) if sizes is None else sizes)

    def posteriors(self, mean: Tensor, std: Tensor, sizes: Tensor) -> Posteriors:
        """Posteriors (B) from the tensors of posteriors that `encode` gave earlier."""
        return Posteriors(mean, std, sizes, self._scaled)

    def latents_identity(self) -> str:
        """A text that changes with the posteriors of a picture: with the autoencoder, or the size of its pictures."""
        return f"{self._side} {digest_of(self.pipe.vae.config, self.pipe.vae.state_dict())}"

    def embeddings_identity(self) -> str:
        """A text that changes with the conditioning of a prompt: with the text encoders, or their tokenizers."""
        found = []
        for name, part in self.pipe.components.items():
            if name.startswith("text_encoder") and part is not None:
                found.append(digest_of(part.config, part.state_dict()))
            elif name.startswith("tokenizer"):
                found.append(repr(part))
        return f"{' '.join(found)} {dict(self.pipe.config)}"

    def _scaled(self, latents: Tensor) -> Tensor:
        """Latents of the autoencoder as the UNet takes them."""
        scale: float = self.pipe.vae.config.scaling_factor
        return latents * scale

    def _unscaled(self, latents: Tensor) -> Tensor:
        """The inverse of `_scaled`."""
        scale: float = self.pipe.vae.config.scaling_factor
        return latents / scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] of scaled latents. Gradients flow to the latents."""
        vae = self.pipe.vae
        pixels: Tensor = vae.decode(self._unscaled(latents).to(vae.dtype)).sample.float()
        return (pixels / 2 + 0.5).clamp(0, 1)

    def fitted(self, pictures: list[Image.Image]) -> Tensor:
        """Pixels (B, 3, S, S) in [0, 1], scaled to the model's own size S. Pictures that are not square are cropped."""
        size = self._side, self._side
        return from_pictures([ImageOps.fit(one, size, Image.Resampling.BICUBIC) for one in pictures])

    def sizes(self, pictures: list[Image.Image]) -> Tensor:
        """The sizes (B, 6) of pictures before and after `fitted`, in float32."""
        own, found = self._side, []
        for width, height in (one.size for one in pictures):
            # The shorter side becomes the model's own, and the longer one is cropped evenly on both ends.
            left, top = (round((own * side / min(width, height) - own) / 2) for side in (width, height))
            found.append([height, width, top, left, own, own])
        return torch.tensor(found, dtype=torch.float32)

    def _own_sizes(self, number: int) -> Tensor:
        """The sizes (`number`, 6) of pictures that the model draws."""
        return torch.tensor([[self._side, self._side, 0, 0, self._side, self._side]], dtype=torch.float32).expand(
            number, 6
        )

    @property
    def _side(self) -> int:
        """The side of the model's own pictures, in pixels."""
        side: int = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        return side

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

    @torch.no_grad()
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

    def save_lora(self, folder: Path, export: str = "") -> None:
        """Write the file that ``pipe.load_lora_weights(folder)`` reads.

        If `export` is ``kohya``, also write the weights as ``lora_kohya.safetensors``, with kohya's names.
        """
        weights = self.lora()
        of_diffusers = convert_state_dict_to_diffusers(weights)
        self.pipe.save_lora_weights(folder, unet_lora_layers=of_diffusers, safe_serialization=True)
        if export == "kohya":
            named = {f"unet.{name}": weight.contiguous() for name, weight in weights.items()}
            save_file(convert_state_dict_to_kohya(named), folder / "lora_kohya.safetensors", {"format": "pt"})


def _layers(model: torch.nn.Module, targets: str) -> list[str]:
    """The names in `targets`. Raises `UserError` for a name that no layer of the model has."""
    names = [name.strip() for name in targets.split(",")]
    known = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear | torch.nn.Conv2d)]
    for name in names:
        if not any(one == name or one.endswith(f".{name}") for one in known):
            raise UserError(f"--lora-targets {name}: the model has no such layer; it has, for example, {known[-1]}")
    return names
