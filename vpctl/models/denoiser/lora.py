"""The LoRA of a linear layer, with fewer passes over the activations than in peft."""

from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn


class FusedLinear(Linear):  # type: ignore[misc]
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
    """The config of a LoRA of `rank` on the layers `targets`, with the scale 1 and without dropout."""
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets)
    config._register_custom_module({nn.Linear: FusedLinear})
    return config
