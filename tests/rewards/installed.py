"""The authors' packages `image-reward` 1.5 and `open-clip-torch` 3.3, if they are installed, beside our libraries.

They were made for other versions of transformers and torch. What those had, and ours have not, is added here. Neither
package is a dependency of vpctl. Unpack them in a folder of their own, and name it in VPCTL_PEERS:

    pip install --no-deps --target FOLDER image-reward==1.5 timm==0.6.13 torchvision open-clip-torch==3.3.0

The folder is searched only while a package is imported: transformers would find torchvision in it and use it.
"""

import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

IMAGE_REWARD = ("ImageReward", "timm", "torchvision")
OPEN_CLIP = ("open_clip", "torchvision")


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed."""
    with _searched():
        return [name for name in packages if importlib.util.find_spec(name) is None]


@contextmanager
def _searched() -> Iterator[None]:
    """A context in which packages are also found in the folders of VPCTL_PEERS."""
    before = [*sys.path]
    sys.path += filter(None, os.environ.get("VPCTL_PEERS", "").split(os.pathsep))
    try:
        yield
    finally:
        sys.path[:] = before


def open_clip() -> Any:
    """The package open_clip."""
    with _searched():
        _define_torchvision_operators()
        return importlib.import_module("open_clip")


def image_reward(
    tokenizer: Any,
    config: Path,
    *,
    vision: tuple[int, int] = (1024, 24),
    text: tuple[int, int] = (768, 12),
    words: int = 30524,
) -> Any:
    """The model of image-reward, with random weights, for scoring. `config` is the file to which its sizes are written.

    `vision` and `text` are widths and numbers of layers; the default is the published size. `words` is the size of the
    vocabulary.
    """
    blip = _image_reward_package()
    blip.init_tokenizer = lambda: tokenizer  # its own fetches one from the hub
    width, layers = vision
    transformer = sys.modules["ImageReward.models.BLIP.vit"].VisionTransformer
    blip.create_vit = lambda *_: (transformer(224, 16, embed_dim=width, depth=layers, num_heads=16), width)
    sizes = {
        "hidden_size": text[0],
        "intermediate_size": 4 * text[0],
        "vocab_size": words,
        "num_hidden_layers": text[1],
        "num_attention_heads": 12,
        "add_cross_attention": True,
        "chunk_size_feed_forward": 0,
    }
    config.write_text(json.dumps(sizes))
    package = sys.modules["ImageReward.ImageReward"]
    made = package.ImageReward(med_config=str(config))
    made.mlp = package.MLP(text[0])
    return made.eval()


def draw(model: nn.Module, *, seed: int = 0) -> None:
    """Replace the weights of a model by random ones with which its layers neither fade nor grow."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(noise / weight[0].numel() ** 0.5)
            else:
                weight.add_(noise, alpha=0.1)


def _image_reward_package() -> Any:
    """The module that makes ImageReward's parts. The package itself would import a training and other scorers."""
    if "ImageReward" not in sys.modules:
        with _searched(), _of_its_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _define_torchvision_operators()
            spec = importlib.util.find_spec("ImageReward")
            assert spec
            assert spec.submodule_search_locations
            folder = spec.submodule_search_locations[0]
            for name, place in {"ImageReward": folder, "ImageReward.models": f"{folder}/models"}.items():
                package = sys.modules[name] = ModuleType(name)
                package.__path__ = [place]
            importlib.import_module("ImageReward.ImageReward")
        encoder: Any = sys.modules["ImageReward.models.BLIP.med"]
        encoder.BertModel.init_weights = lambda self: None  # the weights are loaded
        encoder.BertModel.get_head_mask = lambda self, mask, layers: [None] * layers
        encoder.BertModel.invert_attention_mask = _inverted
    return sys.modules["ImageReward.models.BLIP.blip_pretrain"]


def _inverted(self: Any, mask: Tensor) -> Tensor:
    """What is added to attention scores: the lowest number where the mask (B, L) is 0."""
    return (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min


@contextmanager
def _of_its_time() -> Iterator[None]:
    """A context in which transformers has the functions that image-reward imports, and there is a fairscale.

    It only calls one of them when it scores, and nothing of fairscale.
    """
    utils: Any = transformers.modeling_utils
    names = ("apply_chunking_to_forward", "find_pruneable_heads_and_indices", "prune_linear_layer")
    added = [name for name in names if not hasattr(utils, name)]
    for name in added:
        setattr(utils, name, getattr(transformers.pytorch_utils, name, None))
    fairscale = "fairscale.nn.checkpoint.checkpoint_activations"
    parts = [fairscale.rsplit(".", cut)[0] for cut in range(fairscale.count(".") + 1)]
    modules = {name: ModuleType(name) for name in parts if importlib.util.find_spec("fairscale") is None}
    for name, module in modules.items():
        vars(module)["checkpoint_wrapper"] = None
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in added:
            delattr(utils, name)
        for name in modules:
            del sys.modules[name]


def _define_torchvision_operators() -> None:
    """Let torchvision be imported where it was built for another torch: operators that it describes must exist."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")


_KEPT: list[Any] = []
"""The operators, which exist only as long as this does."""
