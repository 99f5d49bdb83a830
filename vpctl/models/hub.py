"""The one place where transformers and diffusers open a folder: `sources.fetch` has inspected it before.

Whatever a folder says, no code of it is run and no pickle is opened, nothing is asked on standard output or read from
standard input, nothing is fetched, and what goes wrong becomes one line. The libraries raise errors of any kind for
folders that are wrong, so that all are caught here.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    dynamic_module_utils,
)

from ..errors import UserError
from ..plugins import LORA_FILE
from .sources import first_line

# transformers drops `trust_remote_code=False` where AutoProcessor falls back to another class, and would ask the user
# there. Without time for an answer it refuses.
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
# Whatever is worth saying is said by vpctl, in a line of its own.
for _logging in (transformers.utils.logging, diffusers.utils.logging):
    _logging.set_verbosity(_logging.CRITICAL)
    _logging.disable_progress_bar()


def config(folder: Path, *, where: str) -> Any:
    """The configuration of a transformers model. `where` names the option and the source in an error."""
    with _opening(where):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def tokenizer(folder: Path, *, where: str) -> Any:
    """The tokenizer of a transformers model."""
    with _opening(where):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def image_processor(folder: Path, *, where: str) -> Any:
    """The image processor of a transformers model, the one that works on PIL pictures."""
    with _opening(where):
        return AutoImageProcessor.from_pretrained(
            folder, use_fast=False, trust_remote_code=False, local_files_only=True
        )


def processor(folder: Path, *, where: str) -> Any:
    """Tokenizer and image processor of a vision-language model, as one."""
    with _opening(where):
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def model(kind: Any, folder: Path, *, dtype: torch.dtype, where: str) -> Any:
    """A model of the class `kind`, all of whose weights are in the folder.

    `kind` is a class of models of transformers or diffusers, or one of transformers' Auto classes.
    """
    with _opening(where):
        opened, found = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(found["missing_keys"]):
            raise UserError(f"{where}: its weights are not all there: {missing[0]} is missing")
        return opened


def pipeline(folder: Path, *, dtype: torch.dtype, where: str) -> Any:
    """A text-to-image pipeline in one precision throughout, without its safety checker.

    The precision has to be said: a folder saved in halves would load in two at once. Each model is opened by itself,
    as a pipeline does not say which weights were missing and are random now.
    """
    with _opening(where):
        index = DiffusionPipeline.load_config(folder, local_files_only=True)
        parts: dict[str, Any] = {}
        if "safety_checker" in index:
            parts = {"safety_checker": None, "requires_safety_checker": False}
        for name, origin in index.items():
            kind = _model_class(origin)
            if kind and name not in parts:
                parts[name] = model(kind, folder / name, dtype=dtype, where=f"{where}: {name}")
        return DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True, **parts
        )


def _model_class(origin: Any) -> Any:
    """The class of a pipeline's component that has weights; None for every other entry of ``model_index.json``."""
    if not isinstance(origin, list | tuple):
        return None
    library = {"diffusers": diffusers, "transformers": transformers}.get(origin[0])
    kind = getattr(library, origin[1], None) if library else None
    return kind if isinstance(kind, type) and issubclass(kind, ModelMixin | PreTrainedModel) else None


def add_lora(pipe: Any, folder: str, *, where: str) -> None:
    """Put the LoRA of a folder on a pipeline."""
    with _opening(where):
        pipe.load_lora_weights(
            folder, weight_name=LORA_FILE, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        if not pipe.get_active_adapters():
            raise UserError(f"{where}: belongs to another model: none of its weights fit this one")


@contextmanager
def _opening(where: str) -> Iterator[None]:
    """While a library opens something: it warns of nothing, and what it raises becomes a `UserError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{where}: {_why(error)}") from None


def _why(error: Exception) -> str:
    """What a library's error means, in one line."""
    said = str(error)
    if isinstance(error, ImportError) and "torchvision" in said.lower():
        return "its processor needs torchvision of the same build as torch; pip install torchvision"
    if "ignore_mismatched_sizes" in said:
        return "cannot be loaded: its weights do not have the sizes that its config.json says"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # "Validation error for field 'x':", and what is wrong with it in the next line.
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else first_line(error)
    return f"cannot be loaded: {text}"
