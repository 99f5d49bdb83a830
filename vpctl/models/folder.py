"""Inspects a model folder before a library opens it: its JSON files and the headers of its weights.

This module runs no code of the folder and imports no heavy library: a check takes milliseconds. Each function in `USES`
takes a `Folder` and returns the names of the model's weight files. It raises `UnusableFolder` with the first problem
that it finds. All of them refuse a folder that brings its own code. They also refuse pickled weights: a pickle runs
code when it is opened.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import os_reason
from ..plugins import LORA_FILE
from ..streams.jsonlines import depth
from . import pipelines

REWARD_KINDS = ("blip", "clip", "siglip")
"""Values of `model_type` that a reward model may have."""
LABELS = frozenset(["toxicity", "toxic", "sexual_explicit", "nsfw", "unsafe"])
"""Labels of a classifier that count as unsafe: Detoxify's two that DiffusionDB used, and common names of others."""

SAFETY_CHECKER = "StableDiffusionSafetyChecker"
"""The class of the safety checker of Stable Diffusion."""

SCALE_FILE = "reward.json"
"""Mean and standard deviation of a reward, which train-rm writes beside the model."""

MODEL, COMPONENT = "model", "diffusion_pytorch_model"
"""Names of weight files without suffix, in transformers and in diffusers."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
_NO_CODE = "vpctl never runs a model folder's code; "
_HAS_ITSELF = _NO_CODE + "name a model that {} supports without it"
_AS_SAFETENSORS = "name a copy in safetensors"

_DEEPEST = 32
"""Maximum depth of nested objects and lists. Tokenizers are the deepest files, with less than ten levels."""
_LARGEST_JSON = 64 << 20
_LARGEST_HEADER = 100 << 20
"""Bytes; this is the limit of the safetensors library."""
_LARGEST_SIZE, _MOST_LAYERS, _MOST_BLOCKS = 1 << 24, 4096, 16
_LARGEST_DIMENSION, _MOST_DIMENSIONS = 1 << 48, 16
"""Limits on the shape of a tensor: the size of a dimension, and the number of dimensions."""
_SIZES = frozenset(
    "attention_head_dim block_out_channels cross_attention_dim d_model embed_dim hidden_size image_size in_channels "
    "intermediate_size latent_channels layers_per_block max_position_embeddings num_attention_heads "
    "num_channels num_hidden_layers num_key_value_heads num_layers num_train_timesteps out_channels patch_size "
    "projection_dim sample_size transformer_layers_per_block vocab_size".split()
)
"""Keys of a config whose value is a positive integer or a list of them."""
_COUNTS = re.compile(r"num_(hidden_)?layers$|layers_per_block$")
_NUMBERS = re.compile(r".*_(eps|dropout|dropout_prob|factor)$|initializer_range$|logit_scale_init_value$")
"""Keys of a config whose value is a number."""
_VOCABULARIES = (
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "spm_char.model",
    "tokenizer.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""Files that hold the whole vocabulary of a tokenizer, besides ``tokenizer.json``."""
_TOKEN_KEYS = frozenset("id content single_word lstrip rstrip normalized special".split())
"""Keys of an added token. The tokenizers library ignores any other key, and prints it to stderr without going through
Python.
"""
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Either file can have the settings of an image processor. transformers 5 writes the second for a whole processor."""
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}

_LORA_WEIGHT = re.compile(r"(unet|transformer)\.(.+)\.(?:(lora_A|lora\.down)|(?:lora_B|lora\.up))\.weight")
"""Names that diffusers writes for the weights of a LoRA: the part of the pipeline, the layer, and which of the two."""

_PATCHED = ("StableDiffusion3Pipeline", "FluxPipeline")
"""Pipelines whose latents are divided into patches of 2 × 2."""
_FLUX_SIDE = 128
"""Side of FLUX.1's latents, which is in the code of its pipeline and not in a config."""

Shapes = dict[str, tuple[int, ...]]
"""The shape of every tensor in a weight file, by name."""


class UnusableFolder(Exception):
    """Why a folder cannot be used. The text continues the line that names the option and the source."""


class Folder:
    """A model folder.

    `path` is the folder on this machine. For a model on the hub, `listed` has the names of all its files. Then `path`
    has the small files only, and the weights may still be missing. For a local folder `listed` is None.
    """

    def __init__(self, path: Path, listed: frozenset[str] | None = None) -> None:
        self.path, self.listed = path, listed

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, such as ``config.json`` or ``vae/config.json``."""
        return (self.path / name).is_file() if self.listed is None else name in self.listed

    def names(self, inside: str = "") -> list[str]:
        """The sorted names of the files directly in the folder, or directly in its subfolder `inside`."""
        if self.listed is not None:
            names = [name for name in self.listed if os.path.dirname(name) == inside]
        else:
            try:
                names = [os.path.join(inside, one.name) for one in (self.path / inside).iterdir() if one.is_file()]
            except OSError as error:
                raise UnusableFolder(f"{inside or 'the folder'} cannot be read: {os_reason(error)}") from None
        return sorted(names)

    def what_else(self) -> str:
        """What the folder holds instead of the model that was asked for, for the end of a message; empty if unknown."""
        if self.has(LORA_FILE):
            return "; it holds a LoRA, which generate takes as --adapter"
        if self.has(SCALE_FILE) and self.has("config.json"):
            return f"; it holds a reward model, which score takes as --reward vp:{self.path}"
        if self.has("model_index.json"):
            return f"; it holds a pipeline, which generate takes as --model diffusion:{self.path}"
        if self.has("model/model_index.json"):
            return f"; it holds a tuned model, which generate takes as --model diffusion:{self.path / 'model'}"
        return (
            "; it holds a training that has not ended; run its command again to finish it"
            if self.has("run.json")
            else ""
        )

    def stamp(self) -> frozenset[tuple[str, int, int]]:
        """Path, size in bytes and modification time in ns of everything that an inspection can read here.

        If two stamps are equal, an inspection has the same result.
        """
        found = set()
        for path in (self.path, *self.path.glob("*"), *self.path.glob("*/*")):
            try:
                about = path.stat()
            except OSError:  # a link to nowhere
                about = path.lstat()
            found.add((str(path), about.st_size, about.st_mtime_ns))
        return frozenset(found)

    def read(self, name: str) -> dict[str, Any]:
        """The object in a JSON file. Raises `UnusableFolder` if it is missing, too large, or not an object."""
        if not self.has(name):
            what = self.what_else() if name == "config.json" else ""
            raise UnusableFolder(f"there is no {name} in it{what}")
        try:
            if (self.path / name).stat().st_size > _LARGEST_JSON:
                raise UnusableFolder(f"{name}: more than {_LARGEST_JSON >> 20} MB")
            value = json.loads((self.path / name).read_text("utf-8"), parse_constant=_constant)
        except OSError as error:
            raise UnusableFolder(f"{name}: cannot be read: {os_reason(error)}") from None
        except RecursionError:
            raise UnusableFolder(f"{name}: is nested too deeply") from None
        except ValueError as error:
            raise UnusableFolder(f"{name}: is not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise UnusableFolder(f"{name}: is not a JSON object")
        if depth(value) > _DEEPEST:
            raise UnusableFolder(f"{name}: is nested too deeply")
        return value

    def config(self, name: str) -> dict[str, Any]:
        """The object in a JSON config file. Raises `UnusableFolder` if the value of a known key is invalid."""
        config = self.read(name)
        for config_part in _objects(config):
            for key, value in config_part.items():
                if why := _wrong(key, value):
                    raise UnusableFolder(f"{name}: {key} is {_short(value)}; {why}")
            width, heads = config_part.get("hidden_size"), config_part.get("num_attention_heads")
            if isinstance(width, int) and isinstance(heads, int) and width % heads and "head_dim" not in config_part:
                raise UnusableFolder(f"{name}: hidden_size {width} is not a multiple of num_attention_heads {heads}")
        return config


def reward_model(folder: Folder) -> list[str]:
    """The weight files of a BLIP for image-text matching, a CLIP or a SigLIP. Checks the rest of the folder."""
    config = _transformers_config(folder)
    kind = config["model_type"]
    if kind not in REWARD_KINDS:
        raise UnusableFolder(f"a {kind} model; a reward model must be one of {', '.join(REWARD_KINDS)}")
    _check_tokenizer(folder)
    _check_pixels(_image_processor(folder), config)
    weights = _weights(folder, MODEL)
    needed = {"blip": "itm_head.weight", "clip": "visual_projection.weight", "siglip": "logit_bias"}[kind]
    shapes = _shapes(folder, weights)
    if shapes and not any(name.endswith(needed) for name in shapes):
        raise UnusableFolder(f"a {kind} model that does not compare pictures with text: {needed} is not in its weights")
    return weights


def vision_language_model(folder: Folder) -> list[str]:
    """The weight files of a model that takes pictures and text and answers in text."""
    config = _transformers_config(folder)
    _check_tokenizer(folder)
    if not any(map(folder.has, _PROCESSORS)):
        raise UnusableFolder(
            f"a {config['model_type']} model, which does not read pictures and answer in text: there is no image "
            "processor beside its tokenizer; name a vision-language model"
        )
    for name in filter(folder.has, _PROCESSORS):
        folder.config(name)
    if not (
        folder.has("chat_template.jinja")
        or folder.has("chat_template.json")
        or any("chat_template" in folder.read(name) for name in _there(folder, "tokenizer_config.json", *_PROCESSORS))
    ):
        raise UnusableFolder("has no chat template; name a model that was trained to follow instructions")
    return _checked_weights(folder, MODEL)


def unsafe_classifier(folder: Folder) -> list[str]:
    """The weight files of a text classifier with a label that means unsafe."""
    config = _transformers_config(folder)
    made_for: list[str] = config.get("architectures") or []
    if made_for and not any(name.endswith("ForSequenceClassification") for name in made_for):
        raise UnusableFolder(f"a {made_for[0]}, which is not a classifier")
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise UnusableFolder("config.json: has no id2label, the names of the classes")
    if LABELS.isdisjoint(label.lower() for label in labels.values()):
        raise UnusableFolder(
            f"its labels are {', '.join(labels.values())}; one of them must be {', '.join(sorted(LABELS))}"
        )
    _check_tokenizer(folder)
    return _checked_weights(folder, MODEL)


def unsafe_picture_classifier(folder: Folder) -> list[str]:
    """The weight files of a classifier of pictures with a label that means unsafe, or of diffusers' safety checker."""
    config = _transformers_config(folder)
    made_for: list[str] = config.get("architectures") or []
    if SAFETY_CHECKER not in made_for:
        if not any(name.endswith("ForImageClassification") for name in made_for):
            raise UnusableFolder(f"a {', '.join(made_for) or config['model_type']}, which does not classify pictures")
        labels = config.get("id2label")
        known = labels.values() if isinstance(labels, dict) else []
        if LABELS.isdisjoint(str(label).lower() for label in known):
            raise UnusableFolder(f"none of its labels means unsafe; one must be {', '.join(sorted(LABELS))}")
    _image_processor(folder)
    return _checked_weights(folder, MODEL)


def tokenizer(folder: Folder) -> list[str]:
    """No weight files. Checks that there is a tokenizer."""
    _check_no_code(folder)
    _check_tokenizer(folder)
    return []


def pipeline(folder: Folder) -> list[str]:
    """The weight files of a text-to-image pipeline of diffusers.

    Its safety checker is never loaded, so it is not inspected.
    """
    if not folder.has("model_index.json"):
        raise UnusableFolder("not a diffusers pipeline: there is no model_index.json in it" + folder.what_else())
    index = folder.read("model_index.json")
    name = index.get("_class_name")
    if isinstance(name, list) or "auto_map" in index:
        raise UnusableFolder(
            f"model_index.json: asks to run its own code (_class_name); {_HAS_ITSELF.format('diffusers')}"
        )
    if not isinstance(name, str):
        raise UnusableFolder("not a diffusers pipeline: model_index.json has no _class_name")
    if not name.endswith("Pipeline") or not pipelines.exists(name):
        raise UnusableFolder(f"{name} is not a text-to-image pipeline of diffusers")
    if name.endswith("CombinedPipeline"):
        raise UnusableFolder(
            f"a {name}, which opens a second model that its README.md names; name a pipeline of one folder"
        )
    parts = [*_parts(index)]
    if not any(class_name for _, _, class_name in parts):
        raise UnusableFolder("not a diffusers pipeline: model_index.json names no components")
    weights: list[str] = []
    for part, library, class_name in parts:
        _check_origin(folder, part, library, class_name)
        if library and part != "safety_checker":
            weights += _part(folder, part, library, class_name or "")
    return weights


USES: dict[str, Callable[[Folder], list[str]]] = {
    "reward": reward_model,
    "judge": vision_language_model,
    "unsafe": unsafe_classifier,
    "unsafe pictures": unsafe_picture_classifier,
    "tokenizer": tokenizer,
    "pipeline": pipeline,
}


def picture_sides(folder: Folder) -> tuple[int, int]:
    """Two sizes in pixels: the sides of a picture must be multiples of the first; the second is the model's own size.

    A size is 0 if the configs do not have it.
    """
    index = folder.read("model_index.json")
    parts = {part for part, library, _ in _parts(index) if library}
    blocks = folder.config("vae/config.json").get("block_out_channels") if "vae" in parts else None
    if not isinstance(blocks, list) or not blocks:
        return 0, 0
    factor: int = 2 ** (len(blocks) - 1)
    if index["_class_name"] in _PATCHED:
        step, sample = 2 * factor, folder.config("transformer/config.json").get("sample_size", _FLUX_SIDE)
    else:
        step, sample = factor, folder.config("unet/config.json").get("sample_size") if "unet" in parts else None
    return math.lcm(8, step), factor * sample if isinstance(sample, int) else 0


def lora_ranks(lora: Shapes) -> dict[str, int]:
    """The rank of a LoRA in each layer, by the name of the layer with that of its part before it.

    Raises `UnusableFolder` if the LoRA cannot be trained: if it has other weights than the two matrices of each layer,
    A (R, …) and B (…, R), or if one of them is missing.
    """
    pairs: dict[str, dict[bool, int]] = {}
    for name, shape in lora.items():
        found = _LORA_WEIGHT.fullmatch(name)
        if not found or len(shape) < 2:
            raise UnusableFolder(
                f"holds {_short(name)}, which cannot be trained; only a LoRA of a UNet or a transformer can, with the "
                "names that diffusers writes"
            )
        is_down = bool(found[3])
        pairs.setdefault(f"{found[1]}.{found[2]}", {})[is_down] = shape[0 if is_down else 1]
    for layer, pair in pairs.items():
        if len(pair) < 2:
            raise UnusableFolder(f"is incomplete: it has only one of the two matrices of {layer}")
        if pair[True] != pair[False] or not pair[True]:
            raise UnusableFolder(f"is damaged: the matrices of {layer} have the ranks {pair[True]} and {pair[False]}")
    return {layer: pair[True] for layer, pair in pairs.items()}


def check_lora(path: str, *, file_too: bool = False) -> Shapes:
    """The shapes of the weights of the LoRA in a folder. Raises `UnusableFolder` if there is none.

    With `file_too`, `path` may also be the file itself.
    """
    if file_too and os.path.isfile(path):
        return _lora_shapes(Path(path))
    folder = Folder(Path(path))
    if not folder.path.is_dir():
        raise UnusableFolder("there is no such folder" if not folder.path.exists() else "is not a folder")
    if not folder.has(LORA_FILE):
        pickled = [name for name in folder.names() if name.endswith(PICKLES)]
        if what := folder.what_else():
            raise UnusableFolder(f"there is no {LORA_FILE} in it{what}")
        if pickled:
            raise UnusableFolder(f"its weights are a pickle ({pickled[0]}), which is not opened; {_AS_SAFETENSORS}")
        raise UnusableFolder(f"there is no {LORA_FILE} in it; name the folder a tune command wrote")
    return _lora_shapes(folder.path / LORA_FILE)


def _lora_shapes(file: Path) -> Shapes:
    if file.suffix in PICKLES:
        raise UnusableFolder(f"is a pickle, which is not opened; {_AS_SAFETENSORS}")
    shapes = tensor_shapes(file, file.name)
    if not any("lora" in name for name in shapes):
        raise UnusableFolder(f"{file.name}: holds no LoRA: its first tensor is {min(shapes)}")
    return shapes


def check_fit(lora: Shapes, folder: Folder) -> None:
    """Raise `UnusableFolder` if the shapes of a LoRA show that it belongs to another model than the pipeline `folder`.

    It checks weights with the names that diffusers writes. Other names are left to the library.
    """
    parts = {part for part, library, _ in _parts(folder.read("model_index.json")) if library}
    known: dict[str, Shapes] = {}
    for name, shape in lora.items():
        found = _LORA_WEIGHT.fullmatch(name)
        if not found or len(shape) < 2:
            continue
        part, layer = found[1], found[2]
        if part not in parts:
            raise UnusableFolder(f"belongs to another model: it is for a {part}, which this one does not have")
        if part not in known:
            known[part] = _shapes(folder, _weights(folder, COMPONENT, part))
        if not known[part]:
            continue
        place, size = (1, shape[1]) if found[3] else (0, shape[0])
        own = known[part].get(f"{layer}.weight", ())
        if len(own) < 2:
            raise UnusableFolder(f"belongs to another model: there is no {layer} in this one")
        if own[place] != size:
            raise UnusableFolder(f"belongs to another model: {layer} has {own[place]} channels here, and {size} there")


def _transformers_config(folder: Folder) -> dict[str, Any]:
    """The object in ``config.json``, after the folder was searched for code."""
    _check_no_code(folder)
    config = folder.config("config.json")
    if not isinstance(config.get("model_type"), str):
        raise UnusableFolder("config.json: has no model_type")
    return config


def _check_no_code(folder: Folder, inside: str = "") -> None:
    """Raise `UnusableFolder` if the folder asks for code, its own or the hub's, for other weights, or is an adapter."""
    configs = [name for name in folder.names(inside) if name.endswith("config.json")]
    for name in configs:
        for config in _objects(folder.read(name)):
            if "auto_map" in config:
                raise UnusableFolder(
                    f"{name}: asks to run its own code (auto_map); {_NO_CODE}"
                    f"if transformers supports this model without it, remove auto_map from a copy of {name}"
                )
            for key, value in config.items():
                # If an implementation is named USER/NAME, transformers fetches it from the hub and runs it.
                if key.endswith("_implementation") and any("/" in text for text in _texts(value)):
                    raise UnusableFolder(
                        f"{name}: asks to run code of the hub ({key}); {_HAS_ITSELF.format('transformers')}"
                    )
            if "transformers_weights" in config:
                raise UnusableFolder(f"{name}: names its own weight file (transformers_weights); {_AS_SAFETENSORS}")
    if folder.has(os.path.join(inside, "custom_generate", "generate.py")):
        raise UnusableFolder(f"asks to run its own code (custom_generate); {_HAS_ITSELF.format('transformers')}")
    if folder.has(os.path.join(inside, "adapter_config.json")):
        raise UnusableFolder("is an adapter for the model named in adapter_config.json; merge the two first")


def _check_tokenizer(folder: Folder, inside: str = "") -> None:
    """Raise `UnusableFolder` without a vocabulary: transformers would create a tokenizer that knows no word."""

    def has(name: str) -> bool:
        return folder.has(os.path.join(inside, name))

    if has("tokenizer_config.json"):
        folder.config(os.path.join(inside, "tokenizer_config.json"))
    if has("tokenizer.json"):
        name = os.path.join(inside, "tokenizer.json")
        tokenizer = folder.read(name)
        if not isinstance(tokenizer.get("model"), dict):
            raise UnusableFolder(f"{name}: is not a tokenizer: it has no model")
        added = tokenizer.get("added_tokens")
        for token in added if isinstance(added, list) else ():
            if isinstance(token, dict) and (unknown := token.keys() - _TOKEN_KEYS):
                raise UnusableFolder(f"{name}: an added token has the unknown key {_short(min(unknown))}")
        return
    if not any(map(has, _VOCABULARIES)) and not (has("vocab.json") and has("merges.txt")):
        raise UnusableFolder(f"{inside or 'it'} has no tokenizer (tokenizer.json); copy the whole model folder")


def _image_processor(folder: Folder) -> dict[str, Any]:
    """The settings of the image processor, from its own file or from the file of a whole processor."""
    if folder.has("preprocessor_config.json"):
        return folder.config("preprocessor_config.json")
    if folder.has("processor_config.json"):
        own = folder.config("processor_config.json").get("image_processor")
        if isinstance(own, dict):
            return own
    raise UnusableFolder("there is no image processor in it (preprocessor_config.json); copy the whole model folder")


def _check_pixels(processor: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise `UnusableFolder` if the image processor makes no pictures, or pictures of a size the model cannot take."""
    name = "preprocessor_config.json"
    if "image_processor_type" not in processor and "feature_extractor_type" in processor and "size" not in processor:
        kind = _short(processor["feature_extractor_type"])
        raise UnusableFolder(f"{name}: feature_extractor_type is {kind}, which does not process pictures")
    for key in ("image_mean", "image_std"):
        values = processor.get(key)
        if values is not None and not (
            isinstance(values, list) and len(values) == 3 and all(_is_number(value) for value in values)
        ):
            raise UnusableFolder(f"{name}: {key} is {_short(values)}; it must be three numbers")
    if 0 in (processor.get("image_std") or ()):
        raise UnusableFolder(f"{name}: image_std has a 0, and pixels are divided by it")
    size = processor.get("crop_size") if processor.get("do_center_crop") else None
    size = size or processor.get("size")
    sides = _sides(size)
    if size is not None and not (sides and all(map(_is_size, sides))):
        raise UnusableFolder(f"{name}: size is {_short(size)}; it must be sides in pixels")
    vision = config.get("vision_config")
    taken = _sides(vision.get("image_size")) if isinstance(vision, dict) else []
    if not all(map(_is_size, taken)):
        raise UnusableFolder(f"config.json: image_size is {_short(taken)}; it must be sides in pixels")
    exact = not isinstance(size, dict) or {*size} == {"height", "width"}
    if sides and taken and exact and {*sides} != {*taken}:
        made, wanted = (" × ".join(map(str, each)) for each in (sides, taken))
        raise UnusableFolder(f"{name}: makes pictures of {made} pixels, and the model takes {wanted}")


def _sides(size: Any) -> list[Any]:
    """The sides in the value of a size, which is an integer, a list, or an object such as ``{"height": …}``."""
    return [*_flat([*size.values()] if isinstance(size, dict) else size)]


def _parts(index: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str | None]]:
    """Name, library and class of every component in ``model_index.json``. Those of an unused one are None."""
    for name, value in index.items():
        if isinstance(value, list) and not name.startswith("_"):
            if len(value) != 2 or not all(one is None or isinstance(one, str) for one in value):
                raise UnusableFolder(f"model_index.json: {name} is {_short(value)}; it must be a library and a class")
            yield name, value[0], value[1]


def _check_origin(folder: Folder, part: str, library: str | None, class_name: str | None) -> None:
    """Raise `UnusableFolder` if the class of a component is not of diffusers or transformers."""
    if library is None and class_name is None:
        return
    own_modules = pipelines.home() / "pipelines"
    name, of = class_name or "", library or ""
    if of.isidentifier() and (own_modules / "deprecated" / of / "__init__.py").is_file():
        raise UnusableFolder(
            f"model_index.json: {part} is a {name} of {of}, which diffusers no longer opens; name another model"
        )
    own = of in ("diffusers", "transformers") or (of.isidentifier() and (own_modules / of / "__init__.py").is_file())
    if not own or folder.has(os.path.join(part, f"{of}.py")) or not part.isidentifier():
        raise UnusableFolder(
            f"model_index.json: asks to run its own code ({part}: {library}); "
            f"{_HAS_ITSELF.format('diffusers or transformers')}"
        )
    if not name.isidentifier() or (of == "diffusers" and not pipelines.exists(name)):
        raise UnusableFolder(f"model_index.json: {part} is a {class_name}, which {library} does not have")
    if "Pipeline" in name:  # diffusers would open it as another folder, which is not inspected
        raise UnusableFolder(
            f"model_index.json: {part} is a pipeline itself ({name}), which is not opened; name another model"
        )


def _part(folder: Folder, part: str, library: str, class_name: str) -> list[str]:
    """The names of a component's weight files, after its configuration was checked."""
    _check_no_code(folder, part)
    if class_name.endswith("Scheduler"):
        folder.config(f"{part}/scheduler_config.json")
        return []
    if "Tokenizer" in class_name:
        _check_tokenizer(folder, part)
        return []
    if class_name.endswith(("Processor", "ProcessorFast", "FeatureExtractor")):
        names = [f"{part}/{name}" for name in _PROCESSORS]
        for name in _there(folder, *names) or names[:1]:
            folder.config(name)
        return []
    folder.config(f"{part}/config.json")
    return _checked_weights(folder, COMPONENT if library == "diffusers" else MODEL, part)


def _checked_weights(folder: Folder, stem: str, inside: str = "") -> list[str]:
    weights = _weights(folder, stem, inside)
    _shapes(folder, weights)
    return weights


def _weights(folder: Folder, stem: str, inside: str = "") -> list[str]:
    """The names of a model's weight files: a single file, or an index and the files that it names.

    If there are both, diffusers opens the index and transformers the single file. An index is checked in any case.
    """
    single = os.path.join(inside, f"{stem}.safetensors")
    index = f"{single}.index.json"
    parts = _indexed(folder, index) if folder.has(index) else []
    if folder.has(single) and (stem == MODEL or not parts):
        return [single]
    if not parts:
        raise UnusableFolder(_no_weights(folder, single, inside))
    parts = [os.path.join(inside, part) for part in parts]
    for part in parts:
        if not folder.has(part):
            raise UnusableFolder(
                f"{index}: names {os.path.basename(part)}, which is not there; copy the whole model folder"
            )
    return [index, *parts]


def _no_weights(folder: Folder, single: str, inside: str) -> str:
    """The reason for an error: what the folder has instead of the weights `single`."""
    stem = f"{os.path.basename(single).partition('.')[0]}."
    names = folder.names(inside)
    variants = [name for name in names if name.endswith(".safetensors") and os.path.basename(name).startswith(stem)]
    if variants:
        return (
            f"only a variant of its weights exists ({variants[0]}); rename it to {os.path.basename(single)} in a copy"
        )
    pickled = [name for name in names if name.endswith((*PICKLES, ".bin.index.json"))]
    if pickled:
        return f"its weights are a pickle ({pickled[0]}), which is not opened; {_AS_SAFETENSORS}"
    return f"there are no weights in it ({single})"


def _indexed(folder: Folder, index: str) -> list[str]:
    """The files in an index of weights. Raises `UnusableFolder` for one that is no safetensors beside it."""
    parts = folder.read(index).get("weight_map")
    if not isinstance(parts, dict) or not parts or not all(isinstance(part, str) for part in parts.values()):
        raise UnusableFolder(f"{index}: has no weight_map from names of weights to files")
    names = [*dict.fromkeys(parts.values())]
    for part in names:
        if part != os.path.basename(part) or part in ("", ".", ".."):
            raise UnusableFolder(f"{index}: names a file outside the folder: {_short(part)}")
        if not part.endswith(".safetensors"):
            raise UnusableFolder(f"{index}: its weights are a pickle ({part}), which is not opened; {_AS_SAFETENSORS}")
    return names


def _shapes(folder: Folder, weights: Sequence[str]) -> Shapes:
    """The shapes of all tensors in some weight files; empty if the weights are still on the hub."""
    shapes: Shapes = {}
    if folder.listed is None:
        for name in weights:
            if name.endswith(".safetensors"):
                shapes |= tensor_shapes(folder.path / name, name)
    return shapes


def tensor_shapes(path: Path, name: str) -> Shapes:
    """The shapes in the header of a safetensors file. Raises `UnusableFolder` if the header does not match the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise UnusableFolder(f"{name}: is a pointer of Git LFS in place of the weights; run git lfs pull")
            if len(start) < 8 or not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise UnusableFolder(f"{name}: is not a whole safetensors file; copy it again")
            header = json.loads(file.read(length).decode())
    except OSError as error:
        raise UnusableFolder(f"{name}: cannot be read: {os_reason(error)}") from None
    except (ValueError, RecursionError):
        raise UnusableFolder(f"{name}: is not a safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise UnusableFolder(f"{name}: is not a safetensors file: its header is not a JSON object")
    shapes: Shapes = {}
    end = 0
    for tensor, about in header.items():
        if tensor == "__metadata__":
            continue
        match about:
            case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(first), int(last)]} if (
                all(isinstance(one, int) and 0 <= one < _LARGEST_DIMENSION for one in shape)
                and len(shape) <= _MOST_DIMENSIONS
            ):
                pass
            case _:
                raise UnusableFolder(f"{name}: is not a safetensors file: {_short(tensor)} has no shape and place")
        if not 0 <= first <= last or (kind in _BYTES and last - first != math.prod(shape) * _BYTES[kind]):
            raise UnusableFolder(f"{name}: {_short(tensor)} does not have the size that its shape says; copy it again")
        shapes[tensor] = (*shape,)
        end = max(end, last)
    if not shapes:
        raise UnusableFolder(f"{name}: holds no weights")
    if 8 + length + end > size:
        raise UnusableFolder(f"{name}: is cut off: {size} of {8 + length + end} bytes are there; copy it again")
    return shapes


def _objects(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The object and all objects inside it."""
    rest: list[Any] = [config]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            yield one
            rest += one.values()
        elif isinstance(one, list):
            rest += one


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of a config."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for one in value.values() for text in _texts(one))


def _wrong(key: str, value: Any) -> str:
    """What the value of a key must be, for a message; empty if the value is valid."""
    if value is None:
        return ""
    if key == "model_max_length":  # transformers writes 1e30 for no limit
        return "" if _is_number(value) and value > 0 else "it must be a positive number"
    if key in _SIZES and not isinstance(value, dict):
        most = _MOST_LAYERS if _COUNTS.match(key) else _LARGEST_SIZE
        if not all(_is_size(one, most) for one in _flat(value)):
            return f"it must be an integer from 1 to {most}"
        longest = _MOST_BLOCKS if key == "block_out_channels" else _MOST_LAYERS
        if isinstance(value, list) and len(value) > longest:
            return f"it must have at most {longest} values"
    # Some configs write false for a rate of 0. In Python it equals 0.
    if _NUMBERS.match(key) and value is not False and not all(map(_is_number, _flat(value))):
        return "it must be a number"
    if key.endswith("_config") and not isinstance(value, dict):
        return "it must be an object"
    if key == "architectures" and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        return "it must be a list of texts"
    if key == "model_type" and not isinstance(value, str):
        return "it must be a text"
    return ""


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif value is not None:
        yield value


def _is_size(value: Any, most: int = _LARGEST_SIZE) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("NaN is not a number")
    return float(text)


def _there(folder: Folder, *names: str) -> list[str]:
    return [name for name in names if folder.has(name)]


def _short(value: Any) -> str:
    """A value as JSON in printable characters, cut after 60."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
