"""Any diffusers text-to-image pipeline: diffusion:FOLDER or diffusion:HUB-ID.

The contract of a generator: ``load(argument, *, device)`` returns a callable
``(prompts, seeds, settings) -> list[PIL.Image]`` that draws one picture a prompt, each from its own seed. It may have
``settings``, what it uses where `Settings` says None; ``fingerprint``, which changes with its weights; and
``adapt(folder)``, which puts a LoRA on it.
"""

import contextlib
import inspect
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import SafetensorError

from .. import progress, tensors
from ..errors import UserError
from ..plugins import LORA_FILE, Settings
from ..records import fingerprint

ARGUMENTS = "DIR"
MODELS_OWN = Settings()


class Diffusion:
    """A text-to-image pipeline. Its weights are loaded when the first picture is drawn."""

    def __init__(self, source: str, device: str, *, defaults: Settings = MODELS_OWN) -> None:
        if not source:
            raise UserError("diffusion: name a model, as in diffusion:FOLDER or diffusion:HUB-ID")
        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        self.source = source
        self._index = model_index(source)
        self._device = tensors.pick(device)
        self._adapter = ""
        self._cut: set[str] = set()
        pipeline = getattr(diffusers, self._index["_class_name"], None)
        if pipeline is None or "prompt" not in inspect.signature(pipeline.__call__).parameters:
            raise UserError(f"{source}: {self._index['_class_name']} is not a text-to-image pipeline of diffusers")
        given = inspect.signature(pipeline.__call__).parameters
        own = {name: given[name].default for name in ("guidance_scale", "num_inference_steps") if name in given}
        self.settings = Settings(**{**own, **{k: v for k, v in defaults._asdict().items() if v is not None}})
        local = Path(source).is_dir()
        self.fingerprint = fingerprint(source) if local else source

    def adapt(self, folder: str) -> None:
        """Draw with the LoRA in `folder` from now on."""
        if not (Path(folder) / LORA_FILE).is_file():
            raise UserError(f"--adapter {folder}: there is no {LORA_FILE} in it; name the folder a tune command wrote")
        self._adapter = folder

    @cached_property
    def pipeline(self) -> DiffusionPipeline:
        """The pipeline on its device, its progress bar off, its safety checker left out: annotate judges harm."""
        optional: dict[str, Any] = {}
        if "safety_checker" in self._index:
            optional = {"safety_checker": None, "requires_safety_checker": False}
        pipe = from_pretrained(DiffusionPipeline, self.source, tensors.half_on_gpu(self._device), **optional)
        if self._adapter:
            try:
                pipe.load_lora_weights(self._adapter, weight_name=LORA_FILE)
            except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"--adapter {self._adapter}: does not go on {self.source}: {reason}") from None
            if not pipe.get_active_adapters():
                raise UserError(f"--adapter {self._adapter}: none of its weights fit {self.source}")
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self._device)

    def __call__(self, prompts: list[str], seeds: list[int], settings: Settings) -> list[Image.Image]:
        """One picture a prompt, each from a generator of its own: the batch it is in does not change it."""
        self._report_cut(prompts)
        wanted = {key: value for key, value in settings._asdict().items() if value is not None}
        if settings.negative_prompt is not None:
            wanted["negative_prompt"] = [settings.negative_prompt] * len(prompts)
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        pipeline = self.pipeline
        try:
            with torch.inference_mode():
                pictures: list[Image.Image] = pipeline(prompt=prompts, generator=noise, **wanted).images
        except ValueError as error:  # a size or a number of steps that this pipeline does not do
            raise UserError(f"{self.source}: {str(error).splitlines()[0]}") from None
        return pictures

    def _report_cut(self, prompts: list[str]) -> None:
        """Warn once of prompts longer than the text encoder reads; diffusers itself warns at every batch."""
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        if tokenizer is None or self._cut:
            return
        limit = tokenizer.model_max_length
        self._cut.update(prompt for prompt in prompts if len(tokenizer(prompt).input_ids) > limit)
        if self._cut:
            progress.warn(f"prompts of more than {limit} tokens are cut off there, as {next(iter(self._cut))[:60]!r}")


def model_index(source: str) -> dict[str, Any]:
    """A pipeline's `model_index.json`, from a folder or the hub. Raises `UserError` if there is none."""
    folder = Path(source)
    if folder.exists() or source.startswith((".", "/", "~")):
        with contextlib.suppress(OSError, ValueError):
            index = json.loads((folder / "model_index.json").read_text())
            if isinstance(index, dict) and "_class_name" in index:
                return index
        raise UserError(f"{source}: not a diffusers pipeline: there is no readable model_index.json in it")
    try:
        config: dict[str, Any] = DiffusionPipeline.load_config(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source}: no such folder, and not to be had from the hub: {str(error).splitlines()[0]}"
        ) from None
    return config


def from_pretrained(kind: Any, source: str, dtype: torch.dtype, **more: Any) -> Any:
    """`kind.from_pretrained` in one precision throughout, and one line where it fails.

    The precision has to be said: a folder saved in halves would load in two at once.
    """
    try:
        return kind.from_pretrained(source, dtype=dtype, **more)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(f"{source}: cannot be loaded: {str(error).splitlines()[0]}") from None


def load(argument: str, *, device: str = "auto") -> Diffusion:
    """The pipeline of a folder or a hub id."""
    return Diffusion(argument, device)
