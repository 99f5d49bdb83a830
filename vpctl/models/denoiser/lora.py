"""The LoRA that is trained: a new one, or one from a file. A linear layer has fewer passes over it than in peft."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.training_utils import cast_training_params
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_kohya,
    convert_unet_state_dict_to_peft,
)
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear, LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import UserError
from ...plugins import LORA_FILE
from .. import hub, sources
from ..tensors import copied
from .trained import Trained, as_at_the_start

ADAPTER = "default"
"""The name of the LoRA in its model."""


class LoRA(Trained):
    """A LoRA on layers of one part of a pipeline. Turned off, a new one leaves the reference.

    A LoRA from a file has done something before: the model with it, as it was at the start, is the reference.
    """

    def __init__(self, pipe: Any, part: str, *, rank: int, targets: str, path: str = "") -> None:
        """A new LoRA of `rank`, or the one in the folder or the file `path`. The others are the weights of the model.

        `targets` are names of layers, separated by commas. Raises `UserError` if there is no such layer, or no such
        LoRA. torch's own generator initializes a new one.
        """
        self._pipe, self._part = pipe, part
        self._model = model = getattr(pipe, part)
        config, weights = loaded_lora(pipe, part, path) if path else (lora_config(rank, _layers(model, targets)), {})
        model.add_adapter(config, ADAPTER)
        cast_training_params(model, torch.float32)
        if weights:
            set_peft_model_state_dict(model, weights, ADAPTER)
            assert weights.keys() == self.weights().keys()
        self.parameters = [one for one in model.parameters() if one.requires_grad]
        self.start = copied(self.parameters) if path else []

    @contextmanager
    def reference(self) -> Iterator[None]:
        """A context in which the model is what it was before the training, and no gradients are recorded."""
        if self.start:
            with as_at_the_start(self.parameters, self.start):
                yield
            return
        self._model.disable_adapters()
        try:
            with torch.no_grad():
                yield
        finally:
            self._model.enable_adapters()

    def weights(self) -> dict[str, Tensor]:
        """The weights by peft's names, on the CPU. For a model on the CPU they are the trained tensors."""
        return {name: weight.cpu() for name, weight in get_peft_model_state_dict(self._model).items()}

    def _load(self, weights: dict[str, Tensor]) -> None:
        # Into the trained LoRA: a second one would be trained but not saved.
        set_peft_model_state_dict(self._model, weights, ADAPTER)

    def save(self, folder: Path, export: str = "") -> None:
        """Write the file that ``pipe.load_lora_weights(folder)`` reads.

        If `export` is ``kohya``, also write the weights as ``lora_kohya.safetensors``, with kohya's names. Only a model
        with a UNet can do this.
        """
        weights = self.weights()
        named = convert_state_dict_to_diffusers(weights) if self._part == "unet" else weights
        layers = {layer: one for layer, one in self._model.named_modules() if isinstance(one, LoraLayer)}
        metadata = metadata_of(self._model.peft_config[ADAPTER], layers)
        lora = {f"{self._part}_lora_layers": named, f"{self._part}_lora_adapter_metadata": metadata}
        self._pipe.save_lora_weights(folder, **lora, safe_serialization=True)
        if export == "kohya":
            named = {f"unet.{name}": weight.contiguous() for name, weight in weights.items()}
            # diffusers writes the rank in place of the alpha.
            alphas = {
                f"lora_unet_{layer.replace('.', '_')}.alpha": torch.tensor(one.lora_alpha[ADAPTER])
                for layer, one in layers.items()
            }
            exported = {**convert_state_dict_to_kohya(named), **alphas}
            save_file(exported, folder / "lora_kohya.safetensors", {"format": "pt"})

    def result(self, folder: Path | str) -> str:
        """Says where the LoRA is, and how to draw with it."""
        return f"the LoRA is in {folder}; use it with generate --adapter {folder}"


class FusedLinear(Linear):  # type: ignore[misc]  # peft has no types
    """A linear layer with LoRAs: W x + b + s B (A x), Hu et al. 2021 (arXiv 2106.09685), equation 3.

    peft multiplies by the scale s and adds the two products in passes of their own, and once more for the gradient. On
    small layers these take as long as the products. Here the second product is scaled and added while it is computed.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The output (…, D) for `x` (…, C)."""
        names = self.active_adapters
        if self.disable_adapters or self.merged or len(names) != 1 or args or kwargs:
            found: Tensor = super().forward(x, *args, **kwargs)
            return found
        [name] = names
        output: Tensor = self.base_layer(x)
        inner = F.linear(x, self.lora_A[name].weight).flatten(0, -2)
        whole = torch.addmm(output.flatten(0, -2), inner, self.lora_B[name].weight.T, alpha=self.scaling[name])
        return whole.view(output.shape)


def lora_config(rank: int, targets: list[str]) -> LoraConfig:
    """The config of a new LoRA of `rank` on the layers `targets`, with the scale 1 and without dropout."""
    return _fused(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))


def _fused(config: LoraConfig) -> LoraConfig:
    config._register_custom_module({nn.Linear: FusedLinear})
    return config


def loaded_lora(pipe: Any, part: str, path: str) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The config and the weights of the LoRA in a folder or a file, as ``generate --adapter`` draws with it.

    The weights are float32, with peft's names; the model itself may have fewer bits. `part` is the part of the pipeline
    that it must be for: ``unet`` or ``transformer``. The pipeline does not keep the LoRA. Dropout, which the file may
    ask for, is left out. Raises `UserError` if the LoRA does not fit the pipeline, has weights or scales that are not
    finite, or is a DoRA.
    """
    where = f"--lora {path}"
    wanted = sources.ranks_to_train(path)
    hub.add_lora(pipe, path, where=where)
    model = getattr(pipe, part)
    [name] = getattr(model, "peft_config", None) or [""]
    layers = {layer: one for layer, one in model.named_modules() if name and isinstance(one, LoraLayer)}
    if {f"{part}.{layer}" for layer in layers} != wanted.keys():
        raise UserError(f"{where}: belongs to another model: not all of its layers are in this one")
    file = Path(path) if Path(path).is_file() else Path(path, LORA_FILE)
    weights = {key.removeprefix(f"{part}."): one.float() for key, one in load_file(file).items()}
    if any(".lora." in key for key in weights):
        weights = convert_unet_state_dict_to_peft(weights)
    for key, one in weights.items():
        if not one.isfinite().all():
            raise UserError(f"{where}: {key} is not finite; the training that wrote it has diverged")
    if model.peft_config[name].use_dora:
        raise UserError(f"{where}: is a DoRA, which cannot be trained; name a LoRA without use_dora in its metadata")
    for layer, one in layers.items():
        if not math.isfinite(scale := one.scaling[name]) or not scale:
            raise UserError(f"{where}: has the scale {scale:g} in {part}.{layer}; it is damaged")
    ranks = {layer: one.r[name] for layer, one in layers.items()}
    # The scale is the alpha divided by the rank, and in some files by its square root.
    alphas = {layer: one.scaling[name] * one.r[name] for layer, one in layers.items()}
    [(rank, _)], [(alpha, _)] = (Counter(some.values()).most_common(1) for some in (ranks, alphas))
    pipe.unload_lora_weights()
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={f"^{re.escape(layer)}": one for layer, one in ranks.items() if one != rank},
        alpha_pattern={f"^{re.escape(layer)}": one for layer, one in alphas.items() if one != alpha},
        # A pattern for whole names: of the names in a list, peft also takes every layer whose name ends with one.
        target_modules="|".join(map(re.escape, layers)),
    )
    return _fused(config), weights


def metadata_of(config: LoraConfig, layers: Iterable[str]) -> dict[str, Any] | None:
    """What diffusers must know of a LoRA on these layers to open it, beside the weights.

    None if its scale is 1 everywhere.
    """
    names = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
    if config.lora_alpha == config.r and config.rank_pattern == config.alpha_pattern:
        return None
    return {**{name: getattr(config, name) for name in names}, "target_modules": sorted(layers)}


def _layers(model: torch.nn.Module, targets: str) -> list[str]:
    """The names in `targets`. Raises `UserError` for a name that no layer of the model has."""
    names = [name.strip() for name in targets.split(",")]
    known = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear | torch.nn.Conv2d)]
    for name in names:
        if not any(one == name or one.endswith(f".{name}") for one in known):
            raise UserError(f"--lora-targets {name}: the model has no such layer; it has, for example, {known[-1]}")
    return names
