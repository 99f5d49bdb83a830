"""A diffusers pipeline that draws, for the generators `diffusion` and `shapes`."""

import inspect
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import DummyObject
from PIL import Image

from .. import progress
from ..errors import UserError
from ..models import devices, hub, sources
from ..plugins import Settings
from ..records import fingerprint

MODELS_OWN = Settings()


class Diffusion:
    """A text-to-image pipeline. Its weights are loaded when the first picture is drawn."""

    def __init__(self, source: str, device: str, *, option: str, defaults: Settings = MODELS_OWN) -> None:
        """`option` is what stands before the source on the command line, such as ``--model diffusion:``."""
        self.source = source
        self._option = option
        index = sources.check("pipeline", source, option=option).read("model_index.json")
        self._device = devices.pick(device)
        self._adapter = ""
        self._cut: set[str] = set()
        pipeline = getattr(diffusers, index["_class_name"], None)
        if isinstance(pipeline, DummyObject):  # stands for a pipeline whose libraries are not installed
            missing = [name for name in pipeline._backends if find_spec(name) is None] or pipeline._backends
            raise UserError(
                f"{option}{source}: a {index['_class_name']} needs {' and '.join(missing)}; install it first"
            )
        if pipeline is None or "prompt" not in inspect.signature(pipeline.__call__).parameters:
            raise UserError(f"{option}{source}: {index['_class_name']} is not a text-to-image pipeline of diffusers")
        given = inspect.signature(pipeline.__call__).parameters
        own = {name: given[name].default for name in ("guidance_scale", "num_inference_steps") if name in given}
        self.settings = Settings(**{**own, **{k: v for k, v in defaults._asdict().items() if v is not None}})
        local = Path(source).is_dir()
        self.fingerprint = fingerprint(source) if local else source

    def adapt(self, folder: str) -> None:
        """Draw with the LoRA in `folder` from now on. Raises `UserError` if there is none, or one of another model."""
        sources.check_adapter(folder, sources.check("pipeline", self.source, option=self._option))
        self._adapter = folder

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline on its device, its progress bar off, its safety checker left out: annotate judges harm."""
        folder = sources.fetch("pipeline", self.source, option=self._option)
        pipe = hub.pipeline(folder, dtype=devices.half_on_gpu(self._device), where=f"{self._option}{self.source}")
        if self._adapter:
            hub.add_lora(pipe, self._adapter, where=f"--adapter {self._adapter}")
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self._device)

    def __call__(self, prompts: list[str], seeds: list[int], settings: Settings) -> list[Image.Image]:
        """One picture a prompt, each from a generator of its own: the batch it is in does not change it."""
        pipeline = self.pipeline
        self._report_cut(prompts)
        wanted = {key: value for key, value in settings._asdict().items() if value is not None}
        if settings.negative_prompt is not None:
            wanted["negative_prompt"] = [settings.negative_prompt] * len(prompts)
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        where = f"{self._option}{self.source}"
        with hub.computing(where):
            try:
                with torch.inference_mode():
                    pictures: list[Image.Image] = pipeline(prompt=prompts, generator=noise, **wanted).images
            except ValueError as error:  # a size or a number of steps that this pipeline does not do
                raise UserError(f"{where}: {sources.first_line(error)}") from None
        return pictures

    def _report_cut(self, prompts: list[str]) -> None:
        """Warn once of prompts longer than the text encoder reads; diffusers itself warns at every batch."""
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        if tokenizer is None or self._cut:
            return
        limit = tokenizer.model_max_length
        with hub.computing(f"{self._option}{self.source}"):
            self._cut.update(prompt for prompt in prompts if len(tokenizer(prompt).input_ids) > limit)
        if self._cut:
            progress.warn(
                f"prompts of more than {limit} tokens are cut off, for example {next(iter(self._cut))[:60]!r}"
            )
