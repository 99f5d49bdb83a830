"""Text-to-image models for training: one Protocol, and one file for each family of models.

A new family is a new file here and an entry in `open_denoiser` and `TUNABLE`. This module does not import torch until a
denoiser is opened.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...contracts import Settings
from ...errors import UserError
from ..folder import Folder

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from .conditioning import Conditioning
    from .latents import Posteriors
    from .schedule import NoiseSchedule

TUNABLE = ("StableDiffusionPipeline",)
"""Classes of diffusers pipelines that can be tuned."""
PREDICTIONS = ("epsilon", "v_prediction")
"""What a tunable model may predict: the noise, or the velocity (Salimans and Ho 2022)."""


class Denoiser(Protocol):
    """A text-to-image model with a trainable LoRA. With its LoRA it is the policy, and without it the reference.

    Latents are always scaled: `encode` and `decode` do the scaling. They are float32, of shape (B, *latent_shape).
    """

    device: "torch.device"
    trainable: "list[torch.nn.Parameter]"
    """The weights of the LoRA, in float32."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the latents of one picture, such as (C, H, W)."""
        ...

    def embed(self, prompts: list[str]) -> "Conditioning":
        """The conditioning of the prompts, one row for each, without gradients."""
        ...

    def predict(
        self, latents: "Tensor", timesteps: "Tensor", conditioning: "Conditioning", guidance: float = 1.0
    ) -> "Tensor":
        """The prediction, in float32 and in the shape of `latents`. `timesteps` is (B,).

        `guidance` is the weight of classifier-free guidance; 1 means no guidance.
        """
        ...

    def encode(self, pixels: "Tensor") -> "Posteriors":
        """The posteriors of the latents of pixels (B, 3, H, W) in [0, 1]."""
        ...

    def decode(self, latents: "Tensor") -> "Tensor":
        """Pixels (B, 3, H, W) in [0, 1] of scaled latents."""
        ...

    def fitted(self, pictures: "list[Image.Image]") -> "Tensor":
        """Pixels (B, 3, H, W) in [0, 1] of the model's own size. Pictures of another aspect ratio are cropped."""
        ...

    def sample_timesteps(self, number: int, generator: "torch.Generator") -> "Tensor":
        """Random timesteps (number,) on the CPU, distributed as in the model's own training."""
        ...

    def noised(self, clean: "Tensor", noise: "Tensor", timesteps: "Tensor") -> "tuple[Tensor, Tensor]":
        """Noised latents, and the target of the prediction, both on `device`."""
        ...

    def noise_schedule(self, steps: int) -> "NoiseSchedule":
        """The noise levels of a sampling run of `steps` steps."""
        ...

    def draw(self, prompts: list[str], generators: "list[torch.Generator]", settings: Settings) -> "Tensor":
        """Pixels (B, 3, H, W) in [0, 1], one picture for each prompt, drawn by the diffusers pipeline."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """A context in which the LoRA is off and no gradients are recorded."""
        ...

    def lora(self) -> "dict[str, Tensor]":
        """The weights of the LoRA by name, on the CPU. For a model on the CPU they are the trained tensors."""
        ...

    def set_lora(self, weights: "dict[str, Tensor]") -> None:
        """Load weights from `lora` into the LoRA. Raises `ValueError` if they do not fit."""
        ...

    def save_lora(self, folder: Path) -> None:
        """Write the file that ``pipe.load_lora_weights(folder)`` reads."""
        ...


def check_tunable(folder: Folder, *, where: str) -> None:
    """Raise `UserError` if no denoiser supports the pipeline in `folder`. Loads no weights.

    `where` names the option and the source in the error.
    """
    kind = folder.read("model_index.json")["_class_name"]
    if kind not in TUNABLE:
        raise _not_tunable(where, kind)
    _check_prediction(folder.config("scheduler/scheduler_config.json").get("prediction_type", PREDICTIONS[0]), where)


def open_denoiser(pipe: Any, *, rank: int, source: str, seed: int, exact: bool = False) -> Denoiser:
    """The denoiser of a diffusers pipeline, with a new LoRA of `rank`. Raises `UserError` if there is none for it.

    `source` is the value of --model. With `exact`, two predictions can be compared to 1e-4, also on a GPU.
    """
    from diffusers import StableDiffusionPipeline

    if isinstance(pipe, StableDiffusionPipeline):
        _check_prediction(pipe.scheduler.config.prediction_type, f"--model {source}")
        from .sd import StableDiffusion

        return StableDiffusion(pipe, rank=rank, seed=seed, exact=exact)
    raise _not_tunable(f"--model {source}", type(pipe).__name__)


def _not_tunable(where: str, kind: str) -> UserError:
    return UserError(f"{where}: a {kind}; only Stable Diffusion 1 and 2 and similar models can be tuned")


def _check_prediction(predicts: Any, where: str) -> None:
    if predicts not in PREDICTIONS:
        known = " or ".join(PREDICTIONS)
        raise UserError(f"{where}: predicts {predicts}; only models that predict {known} can be tuned")
