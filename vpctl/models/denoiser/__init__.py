"""Text-to-image models for training: one Protocol, and one file for each family of models.

A new family is a new file here, an entry in `_family`, and its pipeline in `limits`; if its latents are divided into
patches, also in `models.folder`. This module does not import
torch until a denoiser is opened.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from ...contracts import Settings
from .limits import PIPELINES, check_pipeline, check_scheduler

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from .conditioning import Conditioning, Embeddings
    from .latents import Posteriors
    from .schedule import FlowSchedule, NoiseSchedule
    from .trained import Trained


class Denoiser(Protocol):
    """A text-to-image model that is trained: the policy. As it was before the training, it is the reference.

    Latents are always scaled: `encode` and `decode` do the scaling. They are float32, of shape (B, *latent_shape).
    """

    device: "torch.device"
    trained: "Trained"
    """What the training changes: a LoRA, or all weights of the part that predicts."""
    trainable: "list[torch.nn.Parameter]"
    """The weights of `trained`, in float32."""
    embeddings: "Embeddings"
    """Encodes the prompts for `embed`, each once."""

    @property
    def size(self) -> int:
        """The number of bytes that all weights of the pipeline take."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the latents of one picture, such as (C, H, W)."""
        ...

    def embed(self, prompts: list[str], sizes: "Tensor | None" = None) -> "Conditioning":
        """The conditioning of the prompts, one row for each, without gradients.

        An empty prompt gives that of a prediction without a prompt, as in classifier-free guidance. `sizes` (B, 6) are
        those of pictures in the training data, as `sizes` gives them; by default those of drawn pictures.
        """
        ...

    def predict(
        self, latents: "Tensor", timesteps: "Tensor", conditioning: "Conditioning", guidance: float = 1.0
    ) -> "Tensor":
        """The prediction, in float32 and in the shape of `latents`. `timesteps` is (B,).

        `guidance` is the weight of classifier-free guidance; 1 or less means no guidance, as in diffusers. A model that
        is distilled from one with guidance gets it as an input.
        """
        ...

    def encode(self, pixels: "Tensor", sizes: "Tensor | None" = None) -> "Posteriors":
        """The posteriors of the latents of pixels (B, 3, H, W) in [0, 1].

        `sizes` (B, 6) are those of the pictures, as `sizes` gives them; by default those of drawn pictures.
        """
        ...

    def posteriors(self, mean: "Tensor", std: "Tensor", sizes: "Tensor") -> "Posteriors":
        """Posteriors from the tensors of posteriors that `encode` gave earlier."""
        ...

    def latents_identity(self) -> str:
        """A text that changes with the posteriors of a picture: with the autoencoder, or the size of its pictures."""
        ...

    def embeddings_identity(self) -> str:
        """A text that changes with the conditioning of a prompt: with the text encoders, or their tokenizers."""
        ...

    def decode(self, latents: "Tensor") -> "Tensor":
        """Pixels (B, 3, H, W) in [0, 1] of scaled latents. Gradients flow to the latents."""
        ...

    def fitted(self, pictures: "list[Image.Image]") -> "Tensor":
        """Pixels (B, 3, H, W) in [0, 1] of the model's own size. Pictures of another aspect ratio are cropped."""
        ...

    def sizes(self, pictures: "list[Image.Image]") -> "Tensor":
        """Sizes (B, 6) in pixels: height and width, top and left of the crop, height and width after `fitted`.

        Some models are conditioned on them. The crop is measured in the resized picture.
        """
        ...

    def sample_timesteps(self, number: int, generator: "torch.Generator") -> "Tensor":
        """Random timesteps (number,) on the CPU, distributed as in the model's own training."""
        ...

    def noised(self, clean: "Tensor", noise: "Tensor", timesteps: "Tensor") -> "tuple[Tensor, Tensor]":
        """Noised latents, and the target of the prediction, both on `device`."""
        ...

    def noise_schedule(self, steps: int) -> "NoiseSchedule | FlowSchedule":
        """The noise levels of a sampling run of `steps` steps."""
        ...

    def draw(self, prompts: list[str], generators: "list[torch.Generator]", settings: Settings) -> "Tensor":
        """Pixels (B, 3, H, W) in [0, 1], one picture for each prompt, drawn by the diffusers pipeline."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """A context with the policy as it was before the training, in which no gradients are recorded.

        A new LoRA is off there. One from a file, and a model whose weights are all trained, are as they were at first.
        """
        ...


def open_denoiser(
    pipe: Any,
    *,
    rank: int,
    source: str,
    seed: int,
    targets: str = "",
    lora: str = "",
    full: bool = False,
    dtype: "torch.dtype | None" = None,
    checkpointing: bool = False,
    algorithm: str = "",
    export: str = "",
    device: "torch.device | None" = None,
    processes: int = 1,
) -> Denoiser:
    """The denoiser of a diffusers pipeline, with a new LoRA of `rank`, or the one in the folder or the file `lora`.

    With `full` all weights of the part that predicts are trained, and there is no LoRA.

    `source` is the value of --model. `targets` are names of the layers that get a LoRA, separated by commas; by default
    all attention layers. `dtype` is the precision of the part that predicts, by default float32. The pipeline is moved
    to the `device`, if one is given. More than one of the `processes` divide the frozen weights of the part among
    themselves: see `sharding`. Raises `UserError` in the cases of `limits.check_tunable`.
    """
    kind = next((one.__name__ for one in type(pipe).__mro__ if one.__name__ in PIPELINES), type(pipe).__name__)
    where = f"--model {source}"
    check_pipeline(kind, where, algorithm=algorithm, export=export)
    check_scheduler(kind, type(pipe.scheduler).__name__, pipe.scheduler.config, where)
    return _family(kind)(
        pipe,
        rank=rank,
        seed=seed,
        targets=targets,
        lora=lora,
        full=full,
        dtype=dtype,
        checkpointing=checkpointing,
        device=device,
        processes=processes,
    )


def _family(kind: str) -> Callable[..., Denoiser]:
    """The class of denoisers for pipelines of the class `kind`, one of `PIPELINES`."""
    match kind:
        case "StableDiffusionPipeline":
            from .sd import StableDiffusion

            return StableDiffusion
        case "StableDiffusionXLPipeline":
            from .sdxl import StableDiffusionXL

            return StableDiffusionXL
        case "StableDiffusion3Pipeline":
            from .sd3 import StableDiffusion3

            return StableDiffusion3
    from .flux import Flux

    return Flux
