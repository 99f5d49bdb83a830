"""Which weights of a reward model are not trained: the lower part of its text and vision towers.

Of the full-size BLIP (24 vision layers, 12 text layers) and a share of 0.7, both rules freeze the embeddings, vision
layers 0 to 15 and text layers 0 to 7:

rule         text tensors    vision tensors  also frozen
layers       212 of 316      196 of 294      nothing
imagereward  213 of 316      197 of 294      text layer 8: attention.self.query.weight; vision layer 16:
                                             layer_norm1.weight; the two projections, which no reward depends on
"""

from torch import nn

_FIRST_OF_LAYER = {"text_encoder": "attention.self.query.weight", "vision_model": "layer_norm1.weight"}
"""The first tensor of a layer in ImageReward's code. Its vision layers begin with `norm1`, those of transformers with
the attention."""
_LAST_OF_TOWER = {"vision_model": "post_layernorm"}
_PROJECTIONS = ("vision_proj", "text_proj")


def freeze(model: nn.Module, fraction: float, rule: str = "layers") -> int:
    """Freeze embeddings and the lowest `fraction` of the layers of every stack. Returns the number of frozen tensors.

    Of n layers, the lowest int(fraction × n) are frozen. A fraction of 0 freezes nothing.

    The rule `imagereward` is for a BLIP. It freezes the tensors that ImageReward's code freezes (Xu et al. 2023, arXiv
    2304.05977). That code walks the tensors of a tower in the order of its own names, and stops after the first tensor
    of the first free layer, which it freezes too. It never stops if the fraction is 1.
    """
    if fraction == 0:
        return 0
    frozen = 0
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    for name, parameter in model.named_parameters():
        stack = next((one for one in stacks if name.startswith(f"{one}.")), None)
        if stack is None:
            # pre_layrnorm is CLIP's, spelt so there.
            keep = not any(part in name for part in ("embeddings", "pre_layrnorm"))
        else:
            layer = int(name.removeprefix(f"{stack}.").partition(".")[0])
            keep = layer >= int(fraction * len(stacks[stack]))
        if rule == "imagereward" and keep:
            keep = not _beyond(name, stack, fraction, len(stacks[stack]) if stack else 0)
        if not keep:
            parameter.requires_grad_(False)
            frozen += 1
    return frozen


def _beyond(name: str, stack: str | None, fraction: float, layers: int) -> bool:
    """Whether ImageReward's code freezes a tensor that is not in the embeddings or in a lower layer."""
    tower = name.partition(".")[0]
    if stack:
        return name == f"{stack}.{int(fraction * layers)}.{_FIRST_OF_LAYER[tower]}"
    return tower in _PROJECTIONS or (fraction == 1 and name.startswith(f"{tower}.{_LAST_OF_TOWER.get(tower)}."))
