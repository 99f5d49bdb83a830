"""A diffusers pipeline as a generator, for the plug-ins `diffusion` and `shapes`."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import progress
from ..contracts import Settings, TunableGenerator
from ..errors import RecordFailed, UserError
from ..models import pipelines, sources
from ..models.denoiser.limits import FLOWS
from ..models.folder import picture_sides
from ..records import fingerprint

if TYPE_CHECKING:
    from PIL import Image

MODELS_OWN = Settings()
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer_3", "tokenizer_2", "tokenizer")


class Running(NamedTuple):
    """How a pipeline is run: options of generate, which has the same names."""

    dtype: str = ""
    """Precision of the weights; by default that of `devices.half_on_gpu`."""
    scheduler: str = ""
    offload: str = ""
    """Which parts wait in the memory of the CPU: ``model`` or ``sequential``, as in diffusers."""
    vae_tiling: bool = False
    compile: bool = False


AS_IT_IS = Running()


class Diffusion(TunableGenerator):
    """A text-to-image pipeline. Its settings and fingerprint need no torch; its weights are loaded at the first use."""

    def __init__(
        self, source: str, device: str, *, option: str, running: Running = AS_IT_IS, defaults: Settings = MODELS_OWN
    ) -> None:
        """`option` is the text before the source on the command line, such as ``--model diffusion:``."""
        self.source = source
        self._option, self._where, self._device = option, f"{option}{source}", device
        self._running = running
        folder = sources.check("pipeline", source, option=option)
        index = folder.read("model_index.json")
        name = index["_class_name"]
        self._adapters: list[tuple[str, float]] = []
        self._cut: set[str] = set()
        if not pipelines.needs_nothing_more(name):
            from ..models import hub

            hub.check_installed(name, where=self._where)
        self._is_flow = name in FLOWS  # the activations of a flow model and of its T5 overflow float16
        given = pipelines.parameters(name)
        if "prompt" not in given:
            raise UserError(f"{self._where}: {name} is not a text-to-image pipeline of diffusers")
        own = Settings(given.get("guidance_scale"), given.get("num_inference_steps"))
        self._gives_arrays = "output_type" in given
        self._most_tokens: float = given.get("max_sequence_length") or math.inf
        self.settings = own._replace(**{name: one for name, one in defaults._asdict().items() if one is not None})
        scheduler = pipelines.scheduler_class(running.scheduler) if running.scheduler else ""
        self.sampler = (scheduler or (index.get("scheduler") or ["", ""])[1]).removesuffix("Scheduler")
        self.side = picture_sides(folder)[1] or 0
        self.fingerprint = fingerprint(source) if Path(source).is_dir() else source

    def adapt(self, folder: str, weight: float = 1.0) -> None:
        """Add the LoRA in `folder`, with this weight. Raises `UserError` if there is none or it does not fit."""
        sources.check_adapter(folder, sources.check("pipeline", self.source, option=self._option))
        self._adapters.append((folder, weight))

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline on its device, without progress bar and safety checker: harm is judged by annotate."""
        from ..models import devices, hub

        device = devices.resolve_device(self._device)
        folder = sources.fetch("pipeline", self.source, option=self._option)
        half = devices.half_on_gpu(device, wide=self._is_flow)
        how = self._running
        if how.offload and device.type == "cpu":
            raise UserError(
                f"--offload {how.offload}: spares the memory of a GPU, and this runs on the CPU; leave it out"
            )
        dtype = devices.resolve_dtype(how.dtype) if how.dtype else half
        pipe = hub.pipeline(folder, dtype=dtype, where=self._where)
        for number, (adapter, _) in enumerate(self._adapters):
            hub.add_lora(pipe, adapter, name=f"default_{number}", where=f"--adapter {adapter}")
        if [weight for _, weight in self._adapters] not in ([], [1.0]):
            names = [f"default_{number}" for number in range(len(self._adapters))]
            pipe.set_adapters(names, [weight for _, weight in self._adapters])
        if how.scheduler:
            hub.replace_scheduler(pipe, pipelines.scheduler_class(how.scheduler), where=f"--scheduler {how.scheduler}")
        if how.vae_tiling:
            if not hasattr(pipe.vae, "enable_tiling"):
                raise UserError(f"--vae-tiling: the autoencoder of {self._where} cannot do it; leave it out")
            pipe.vae.enable_tiling()
        pipe.set_progress_bar_config(disable=True)
        if how.compile:
            for part in filter(None, (getattr(pipe, name, None) for name in ("unet", "transformer"))):
                part.compile()
        if how.offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif how.offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        return pipe if how.offload else pipe.to(device)

    def __call__(self, prompts: list[str], seeds: list[int], settings: Settings) -> "list[Image.Image | RecordFailed]":
        """One picture for each prompt. Each picture has its own random generator, so the batch does not change it.

        A picture is a failure if it has a value that is not a number, or if a safety checker has replaced it. Raises
        `UserError` if the pipeline does not support the settings.
        """
        import torch

        from ..models import hub

        pipeline = self.pipeline
        self._report_cut(prompts)
        wanted = {key: value for key, value in settings._asdict().items() if value is not None}
        if settings.negative_prompt is not None:
            wanted["negative_prompt"] = [settings.negative_prompt] * len(prompts)
        if self._gives_arrays:
            wanted["output_type"] = "np"  # in a picture of bytes, NaN is black
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with hub.compute_errors(self._where):
            try:
                with torch.inference_mode(), _each_text_once(pipeline):
                    found = pipeline(prompt=prompts, generator=noise, **wanted)
            except ValueError as error:  # a size or a number of steps that this pipeline does not support
                raise UserError(f"{self._where}: {sources.first_line(error)}") from None
        flags = found.get("nsfw_content_detected") or [False] * len(prompts)
        return [_checked(picture, flagged=bool(flag)) for picture, flag in zip(found.images, flags, strict=False)]

    def _report_cut(self, prompts: list[str]) -> None:
        """Warn once about prompts longer than the text encoder reads. diffusers itself warns in every batch."""
        from ..models import hub

        tokenizers = [getattr(self.pipeline, name, None) for name in TOKENIZERS]
        if not any(tokenizers) or self._cut:
            return
        # The last text encoder reads most: after one or two of CLIP there may be a T5.
        tokenizer = next(filter(None, tokenizers))
        limit = min(tokenizer.model_max_length, self._most_tokens)
        with hub.compute_errors(self._where):
            texts = list(dict.fromkeys(prompts))
            found = zip(texts, tokenizer(texts).input_ids, strict=True)
            self._cut.update(text for text, tokens in found if len(tokens) > limit)
        if self._cut:
            progress.warn(
                f"prompts of more than {limit} tokens are cut off, for example {next(iter(self._cut))[:60]!r}"
            )


@contextmanager
def _each_text_once(pipeline: Any) -> Iterator[None]:
    """A context in which the text encoders of a pipeline read each text of a batch once.

    A prompt with four pictures is there four times, and the negative prompt as often as there are pictures.
    """
    import torch
    from torch.utils._pytree import tree_map

    taken: list[torch.Tensor | None] = []

    def before(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs = [one for one in (*args, *named.values()) if isinstance(one, torch.Tensor)]
        rows = [tuple(row) for row in torch.cat([one.flatten(1) for one in inputs], 1).tolist()] if inputs else []
        firsts = {row: place for place, row in reversed([*enumerate(rows)])}
        if len(firsts) == len(rows):
            taken.append(None)
            return args, named
        kept = sorted(firsts.values())
        places = {row: kept.index(place) for row, place in firsts.items()}
        taken.append(torch.tensor([places[row] for row in rows]))
        return tuple(map(partial(_rows, kept), args)), {name: _rows(kept, one) for name, one in named.items()}

    def after(_: Any, args: tuple[Any, ...], output: Any) -> Any:
        places = taken.pop()
        return output if places is None else tree_map(partial(_rows, places), output)

    encoders = [encoder for name in TEXT_ENCODERS if (encoder := getattr(pipeline, name, None))]
    hooks = [encoder.register_forward_pre_hook(before, with_kwargs=True) for encoder in encoders]
    hooks += [encoder.register_forward_hook(after) for encoder in encoders]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rows(places: Any, value: Any) -> Any:
    """These rows of a tensor; any other value as it is."""
    import torch

    return value[torch.as_tensor(places, device=value.device)] if isinstance(value, torch.Tensor) else value


def _checked(picture: Any, *, flagged: bool) -> "Image.Image | RecordFailed":
    """The picture of an array (H, W, C) of numbers from 0 to 1, rounded as diffusers does it, or why it is a failure.

    A few pipelines give pictures of PIL in place of arrays.
    """
    import numpy as np
    from PIL import Image

    if flagged:
        return RecordFailed("the pipeline's safety checker replaced it")
    if not isinstance(picture, np.ndarray):
        made: Image.Image = picture
        return made
    if not np.isfinite(picture).all():
        return RecordFailed("it has values that are not numbers; name --dtype bfloat16 or float32")
    levels = (picture * 255).round().astype(np.uint8)
    return Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels)
