"""Writes broken or malicious model folders.

`sound` writes a folder that passes the inspection for a use. Each function of `CODE` then changes it so that it runs
code if it is opened carelessly: the code creates the file `SENTINEL` in the working directory. This module imports
nothing heavy.
"""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vpctl

WEIGHTS = Path(vpctl.__file__).parent / "shapes" / "weights"
SENTINEL = "RAN"
EVIL = f"open({SENTINEL!r}, 'w').close()\n\n\nclass Evil:\n    pass\n"
"""The source of a module that leaves a mark when it is imported."""
LORA = "pytorch_lora_weights"


class Payload:
    """When it is unpickled, it creates the sentinel."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (SENTINEL, "w")


def tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def pickled(path: Path) -> None:
    """Write a pickle that runs code."""
    path.write_bytes(pickle.dumps({"weight": Payload()}))


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file. Creates the file if it does not exist."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **values}))


def copy(source: Path, folder: Path) -> None:
    """Copy a folder, with links to the weights, as in the hub's cache.

    So no test can change a packaged file by writing.
    """
    for file in source.rglob("*"):
        target = folder / file.relative_to(source)
        if file.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            target.symlink_to(file)
        else:
            shutil.copyfile(file, target)


def sound(use: str, folder: Path) -> Path:
    """Write a folder without faults for a use: a key of `vpctl.models.folder.USES`, or ``adapter``, or ``clip``."""
    folder.mkdir(parents=True, exist_ok=True)
    if use == "pipeline":
        copy(WEIGHTS / "small", folder)
    elif use == "adapter":
        layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
        tensors(folder / f"{LORA}.safetensors", {f"{layer}.lora_A.weight": (2, 64), f"{layer}.lora_B.weight": (64, 2)})
    else:
        copy(WEIGHTS / "backbone", folder)
    if use == "unsafe pictures":
        change(folder / "config.json", architectures=["ViTForImageClassification"], id2label={"0": "nsfw"})
    if use == "clip":
        change(folder / "config.json", model_type="clip", architectures=["CLIPModel"])
        (folder / "model.safetensors").unlink()
        tensors(folder / "model.safetensors", {"visual_projection.weight": (2, 2)})
    if use == "unsafe":
        labels = {"id2label": {"0": "toxic", "1": "fine"}}
        change(folder / "config.json", architectures=["BlipForSequenceClassification"], **labels)
    if use == "judge":
        change(folder / "config.json", model_type="llava")
        (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message }}{% endfor %}")
    return folder


def _module(folder: Path, name: str = "evil") -> None:
    (folder / f"{name}.py").write_text(EVIL)


def auto_map_in_the_config(folder: Path) -> None:
    """Of a model."""
    _module(folder)
    change(folder / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})


def auto_map_of_an_unknown_type(folder: Path) -> None:
    """Of a model that transformers does not have."""
    _module(folder)
    change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})


def auto_map_in_a_part_of_the_config(folder: Path) -> None:
    """Of the text encoder only, in a module named as transformers names its own."""
    _module(folder, "configuration_blip")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config={**text, "auto_map": {"AutoConfig": "configuration_blip.Evil"}})


def auto_map_in_the_tokenizer(folder: Path) -> None:
    """Of the tokenizer only."""
    _module(folder)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")


def auto_map_in_the_image_processor(folder: Path) -> None:
    """Of the image processor."""
    _module(folder)
    mapped = {"AutoImageProcessor": "evil.Evil", "AutoProcessor": "evil.Evil"}
    change(folder / "preprocessor_config.json", auto_map=mapped, image_processor_type="Evil")


def auto_map_in_a_processor(folder: Path) -> None:
    """Of a processor."""
    _module(folder)
    change(folder / "processor_config.json", auto_map={"AutoProcessor": "evil.Evil"}, processor_class="Evil")


def custom_generate(folder: Path) -> None:
    """A decoding loop of its own."""
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(EVIL)


def attention_from_the_hub(folder: Path) -> None:
    """An implementation of attention that transformers fetches and runs."""
    change(folder / "config.json", attn_implementation="someone/evil")


def adapter_to_another_model(folder: Path) -> None:
    """The folder names a base model that asks for code."""
    other = sound("reward", folder / "other")
    auto_map_in_the_config(other)
    change(folder / "adapter_config.json", base_model_name_or_path=str(other), peft_type="LORA")


def pickled_weights(folder: Path) -> None:
    """As ``pytorch_model.bin`` in place of safetensors."""
    (folder / "model.safetensors").unlink()
    pickled(folder / "pytorch_model.bin")


def pickle_named_safetensors(folder: Path) -> None:
    """Under the name of safe ones."""
    (folder / "model.safetensors").unlink()
    pickled(folder / "model.safetensors")


def pickles_in_an_index(folder: Path) -> None:
    """An index of safetensors that names a pickle."""
    (folder / "model.safetensors").unlink()
    pickled(folder / "part.bin")
    change(folder / "model.safetensors.index.json", weight_map={"weight": "part.bin"}, metadata={})


def an_index_of_pickles(folder: Path) -> None:
    """Of PyTorch."""
    (folder / "model.safetensors").unlink()
    pickled(folder / "part.bin")
    change(folder / "pytorch_model.bin.index.json", weight_map={"weight": "part.bin"}, metadata={})


def a_weight_file_of_its_own_choice(folder: Path) -> None:
    """Named by the config."""
    pickled(folder / "weights.bin")
    change(folder / "config.json", transformers_weights="weights.bin")


def custom_pipeline(folder: Path) -> None:
    """A class of its own, in a module beside."""
    _module(folder, "my_pipeline")
    change(folder / "model_index.json", _class_name=["my_pipeline", "Evil"])


def custom_component(folder: Path) -> None:
    """A component of its own, in a module in its folder."""
    _module(folder / "unet", "my_unet")
    change(folder / "model_index.json", unet=["my_unet", "Evil"])


def module_named_as_the_library(folder: Path) -> None:
    """It is found before the real diffusers."""
    _module(folder / "unet", "diffusers")


def module_beside_the_index(folder: Path) -> None:
    """A component of a module that is found in the working directory."""
    _module(folder)
    _module(Path(), "evil_of_the_working_directory")
    change(folder / "model_index.json", scheduler=["evil_of_the_working_directory", "Evil"])


def component_of_the_standard_library(folder: Path) -> None:
    """A class that is not a model's."""
    change(folder / "model_index.json", scheduler=["subprocess", "Popen"])


def auto_map_in_a_component(folder: Path) -> None:
    """Of the UNet."""
    _module(folder / "unet")
    change(folder / "unet" / "config.json", auto_map={"AutoModel": "evil.Evil"})


def auto_map_in_the_text_encoder(folder: Path) -> None:
    """Of transformers' part."""
    _module(folder / "text_encoder")
    change(folder / "text_encoder" / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})


def auto_map_in_a_pipelines_tokenizer(folder: Path) -> None:
    """Of the tokenizer."""
    _module(folder / "tokenizer")
    change(folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})


def auto_map_in_the_index(folder: Path) -> None:
    """Of the pipeline."""
    _module(folder)
    change(folder / "model_index.json", auto_map={"DiffusionPipeline": "evil.Evil"})


def pickled_unet(folder: Path) -> None:
    """As diffusers once wrote it."""
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    pickled(folder / "unet" / "diffusion_pytorch_model.bin")


def pickled_text_encoder(folder: Path) -> None:
    """As transformers once wrote it."""
    pickled_weights(folder / "text_encoder")


def an_index_of_pickles_in_the_unet(folder: Path) -> None:
    """An index that names a pickle."""
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    pickled(folder / "unet" / "part.bin")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    change(index, weight_map={"weight": "part.bin"}, metadata={})


def an_index_of_pickles_beside_the_weights(folder: Path) -> None:
    """diffusers opens the index and not the single file."""
    pickled(folder / "unet" / "part.bin")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    change(index, weight_map={"conv_in.weight": "part.bin"}, metadata={})


def an_index_beside_the_weights_that_leaves_the_folder(folder: Path) -> None:
    """It names a file elsewhere."""
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    outside = os.path.join("..", "vae", "diffusion_pytorch_model.safetensors")
    change(index, weight_map={"conv_in.weight": outside}, metadata={})


def an_index_of_pickles_beside_a_single_file(folder: Path) -> None:
    """Of transformers."""
    pickled(folder / "part.bin")
    change(folder / "model.safetensors.index.json", weight_map={"weight": "part.bin"}, metadata={})


def _nested(folder: Path, class_name: str) -> Path:
    """A component that is a pipeline itself, with a configuration and weights like those of a model."""
    inner = folder / "feature_extractor"
    copy(folder / "vae", inner)
    change(folder / "model_index.json", feature_extractor=["diffusers", class_name])
    _module(inner)
    change(inner / "model_index.json", _class_name=["evil", "Evil"])
    return inner


def pipeline_in_the_pipeline(folder: Path) -> None:
    """Of a class of its own."""
    _nested(folder, "DiffusionPipeline")


def component_in_the_inner_pipeline(folder: Path) -> None:
    """A module of the inner pipeline."""
    inner = _nested(folder, "StableDiffusionPipeline")
    change(inner / "model_index.json", _class_name="StableDiffusionPipeline", vae=["evil", "Evil"])
    (inner / "vae").mkdir()
    _module(inner / "vae")


def pickle_in_the_inner_pipeline(folder: Path) -> None:
    """A model of the inner pipeline that has no safetensors."""
    inner = _nested(folder, "StableDiffusionPipeline")
    change(inner / "model_index.json", _class_name="StableDiffusionPipeline", vae=["diffusers", "AutoencoderKL"])
    (inner / "vae").mkdir()
    shutil.copyfile(folder / "vae" / "config.json", inner / "vae" / "config.json")
    pickled(inner / "vae" / "diffusion_pytorch_model.bin")


def second_pipeline_in_the_readme(folder: Path) -> None:
    """A class of diffusers that opens what README.md names."""
    change(folder / "model_index.json", _class_name="KandinskyCombinedPipeline")
    (folder / "README.md").write_text("---\nprior:\n- someone/evil\n---\n")


def weights_outside_the_folder(folder: Path) -> None:
    """An index that names a file elsewhere."""
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    change(index, weight_map={"weight": os.path.join("..", "vae", "diffusion_pytorch_model.safetensors")}, metadata={})


def pickled_lora(folder: Path) -> None:
    """As diffusers once wrote it."""
    (folder / f"{LORA}.safetensors").unlink()
    pickled(folder / f"{LORA}.bin")


def pickle_named_lora(folder: Path) -> None:
    """Under the name of a safe one."""
    pickled(folder / f"{LORA}.safetensors")


_OF_TRANSFORMERS: list[Callable[[Path], None]] = [
    auto_map_in_the_config,
    auto_map_of_an_unknown_type,
    auto_map_in_a_part_of_the_config,
    auto_map_in_the_tokenizer,
    auto_map_in_the_image_processor,
    auto_map_in_a_processor,
    custom_generate,
    attention_from_the_hub,
    adapter_to_another_model,
    pickled_weights,
    pickle_named_safetensors,
    pickles_in_an_index,
    an_index_of_pickles,
    an_index_of_pickles_beside_a_single_file,
    a_weight_file_of_its_own_choice,
]
_OF_DIFFUSERS: list[Callable[[Path], None]] = [
    custom_pipeline,
    custom_component,
    module_named_as_the_library,
    module_beside_the_index,
    component_of_the_standard_library,
    auto_map_in_a_component,
    auto_map_in_the_text_encoder,
    auto_map_in_a_pipelines_tokenizer,
    auto_map_in_the_index,
    pickled_unet,
    pickled_text_encoder,
    an_index_of_pickles_in_the_unet,
    an_index_of_pickles_beside_the_weights,
    an_index_beside_the_weights_that_leaves_the_folder,
    pipeline_in_the_pipeline,
    component_in_the_inner_pipeline,
    pickle_in_the_inner_pipeline,
    second_pipeline_in_the_readme,
    weights_outside_the_folder,
]
CODE: dict[str, list[Callable[[Path], None]]] = {
    "reward": _OF_TRANSFORMERS,
    "clip": _OF_TRANSFORMERS,
    "judge": _OF_TRANSFORMERS,
    "unsafe": _OF_TRANSFORMERS,
    "pipeline": _OF_DIFFUSERS,
    "adapter": [pickled_lora, pickle_named_lora],
}
"""For each use, the functions that make a sound folder run code."""
