"""What all families of models have in common: the trained weights, the text embeddings, the autoencoder and drawing."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...contracts import Settings
from ..tensors import digest_of, from_pictures
from .conditioning import Conditioning, Embeddings
from .latents import Posteriors
from .lora import LoRA
from .schedule import FlowSchedule, NoiseSchedule
from .sharding import shard, size_of
from .trained import AllWeights, Trained


class PipelineDenoiser(ABC):
    """A diffusers pipeline with one trained part: a LoRA on it, or all its weights. It is a `Denoiser`.

    A family of models says how its prompts are encoded, what the part is given, and what its noise levels are.
    """

    part: ClassVar[str]
    """The part that predicts and is trained: ``unet`` or ``transformer``."""
    attention: ClassVar[str] = "to_q,to_k,to_v,to_out.0"
    """Names of the layers that get a LoRA by default, separated by commas."""

    def __init__(
        self,
        pipe: Any,
        *,
        rank: int,
        seed: int,
        targets: str = "",
        lora: str = "",
        full: bool = False,
        dtype: torch.dtype | None = None,
        checkpointing: bool = False,
        device: torch.device | None = None,
        processes: int = 1,
    ) -> None:
        """`targets` are names of layers, separated by commas; empty means `attention`.

        `lora` is the folder or the file of the LoRA to start from, which has its own rank and layers; without one there
        is a new LoRA, which changes nothing yet. Raises `UserError` if there is no such layer, or no such LoRA. `full`
        trains all weights of the part in place of a LoRA.

        Trainings compare predictions that differ by 1e-4. So the pipeline computes in float32. On a GPU, matrices are
        multiplied in TF32, which is nearly as fast as 16 bits: it rounds the factors as float16 does, but no sum and no
        result. With a `dtype` of 16 bits, the part that predicts has its frozen weights and computes in this precision,
        by the rules of torch's autocast, and its predictions are float32 again, also where the pipeline draws. With
        `checkpointing`, model and VAE keep little memory for the gradient, and compute it again.

        The pipeline is moved to the `device`, if one is given. More than one of the `processes` divide the weights of
        the part among themselves, but for those of a LoRA.
        """
        self.pipe = pipe
        self.device: torch.device = device or pipe.device
        dtype = dtype or torch.float32
        self.model.to(torch.float32 if full else dtype)
        if processes > 1:
            shard(self.model, processes, self.device)
        pipe.to(self.device)
        self._widen()
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        torch.manual_seed(seed)
        names = targets or self.attention
        self.trained: Trained = (
            AllWeights(pipe, self.part) if full else LoRA(pipe, self.part, rank=rank, targets=names, path=lora)
        )
        self.trainable = self.trained.parameters
        if dtype != torch.float32:
            # In the model itself, so that nothing else computes in 16 bits when the pipeline draws.
            self.model.forward = partial(_in_16_bits, self.model.forward, self.device.type, dtype)
        if checkpointing:
            self.model.enable_gradient_checkpointing()
            pipe.vae.enable_gradient_checkpointing()
        self.embeddings = Embeddings(self._encode_prompt, self.device)
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Make `scheduler` and set up other parts of the pipeline, in the ways of the family."""

    def _widen(self) -> None:
        """Let the other parts compute in float32."""
        for name, part in self.pipe.components.items():
            if name != self.part and isinstance(part, torch.nn.Module):
                part.to(torch.float32)

    @property
    def size(self) -> int:
        """The number of bytes that all weights of the pipeline take in this process."""
        parts = [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]
        return sum(size_of(one) for part in parts for one in part.parameters())

    @property
    def model(self) -> Any:
        """The part of the pipeline that predicts and is trained."""
        return getattr(self.pipe, self.part)

    @abstractmethod
    def _encode_prompt(self, prompt: str) -> Conditioning:
        """The conditioning of a prompt, one row. An empty prompt gives that of a prediction without a prompt."""

    @abstractmethod
    def _run(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The model's prediction (B, C, H, W), without guidance."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of the latents of one picture. H and W are equal."""

    @abstractmethod
    def sample_timesteps(self, number: int, generator: torch.Generator) -> Tensor:
        """Random timesteps (number,) on the CPU, distributed as in the model's own training."""

    @abstractmethod
    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noised latents, and the target of the prediction, both on `device`."""

    @abstractmethod
    def noise_schedule(self, steps: int) -> NoiseSchedule | FlowSchedule:
        """The noise levels of a sampling run of `steps` steps."""

    def embed(self, prompts: list[str], sizes: Tensor | None = None) -> Conditioning:  # noqa: ARG002
        """The conditioning of the prompts, one row for each, without gradients. `sizes` (B, 6) changes nothing."""
        return self.embeddings(prompts)

    def _without_prompts(self, conditioning: Conditioning) -> Conditioning:
        """The conditioning with no prompt in place of each of its prompts."""
        return self.embed([""]).repeat(len(conditioning))

    def reference(self) -> AbstractContextManager[None]:
        """A context with the policy as it was before the training, in which no gradients are recorded."""
        return self.trained.reference()

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: float = 1.0) -> Tensor:
        """The model's prediction (B, C, H, W) in float32. With a `guidance` of 1 or less there is no guidance.

        Classifier-free guidance, Ho and Salimans 2022 (arXiv 2207.12598), equation 6, in the form that Stable Diffusion
        uses.
        """
        if guidance <= 1:
            return self._run(latents, timesteps, conditioning)
        both = self._run(
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
        """Latents of the autoencoder as the model takes them."""
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
        factor: int = self.pipe.vae_scale_factor
        return self.latent_shape[-1] * factor

    @torch.no_grad()
    def draw(self, prompts: list[str], generators: list[torch.Generator], settings: Settings) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1], one picture for each prompt, drawn by the pipeline's own scheduler."""
        wanted = {"num_inference_steps": settings.num_inference_steps, "guidance_scale": settings.guidance_scale}
        given = {name: value for name, value in wanted.items() if value is not None}
        drawn = self.pipe(**self._prompted(prompts), generator=generators, output_type="latent", **given).images
        return self.decode(self._unpacked(drawn))

    def _prompted(self, prompts: list[str]) -> dict[str, Any]:
        """The arguments of the pipeline that say what to draw."""
        return {"prompt": prompts}

    def _unpacked(self, drawn: Tensor) -> Tensor:
        """Latents (B, C, H, W) of those that the pipeline gives."""
        return drawn


def _in_16_bits(forward: Callable[..., Any], device: str, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """What `forward` gives for these arguments: it computes in `dtype`, and its prediction is float32.

    As in diffusers, the prediction is in a tuple, or in the field `sample`.
    """
    with torch.autocast(device, dtype):
        found = forward(*args, **kwargs)
    if isinstance(found, tuple):
        return tuple(one.float() for one in found)
    return type(found)(sample=found.sample.float())
