"""A problem with a folder is reported in one line, before a library is loaded. No code of the folder runs."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE, draw, write_lines
from tests.hostile import folders
from tests.hostile.folders import SENTINEL, WEIGHTS, change, sound, tensors
from tests.surroundings import ENVIRONMENT
from vpctl import cli
from vpctl.errors import UserError
from vpctl.models import sources
from vpctl.models.folder import USES, Folder

OPTIONS: dict[str, list[str]] = {
    "reward": [
        "score metadata.jsonl --reward vp:FOLDER",
        "score metadata.jsonl --reward pickscore:FOLDER",
        "eval accuracy pairs.jsonl --reward vp:FOLDER",
        "annotate metadata.jsonl --annotator reward:vp:FOLDER",
        "train-rm pairs.jsonl --out run --backbone FOLDER",
        "tune-ppo prompts.txt --out run --reward vp:FOLDER=0.5",
    ],
    "clip": ["score metadata.jsonl --reward clip:FOLDER", "annotate metadata.jsonl --annotator reward:clip:FOLDER"],
    "judge": ["annotate metadata.jsonl --annotator transformers:FOLDER"],
    "unsafe": ["polish prompts.txt --unsafe-model FOLDER"],
    "pipeline": [
        "generate prompts.txt --model diffusion:FOLDER",
        "tune-dpo pairs.jsonl --out run --model diffusion:FOLDER",
        "tune-ppo prompts.txt --out run --model diffusion:FOLDER",
    ],
    "adapter": ["generate prompts.txt --adapter FOLDER"],
}
"""Every option that takes a folder, by use."""
HOSTILE = [
    pytest.param(use, line, spoil, id=f"{line.partition(' ')[0]} {line.rpartition('--')[2]} {spoil.__name__}")
    for use, lines in OPTIONS.items()
    for number, line in enumerate(lines)
    for spoil in (folders.CODE[use] if number == 0 else folders.CODE[use][:1])
]
"""All hostile folders for the first option of a use, and one for each other option, to see that it inspects too."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with records of every kind. Standard input answers yes to every question."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    records = draw(tmp_path, prompts=1)
    files = {"chosen_file_name": records[0]["file_name"], "rejected_file_name": records[1]["file_name"]}
    pair = {"prompt_id": "p0", "prompt": records[0]["prompt"], **files, "margin": 1.0}
    write_lines(tmp_path / "pairs.jsonl", [pair])
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    return tmp_path


def error_of(line: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that a command prints. The command exits with 2 and prints nothing else."""
    code = cli.main([*(word.replace("FOLDER", str(folder)) for word in line.split()), "-q"])
    said = capfd.readouterr()
    assert (code, said.out) == (2, "")
    assert said.err.count("\n") == 1, said.err
    assert said.err[:-1].isprintable()
    return said.err


@pytest.mark.parametrize(("use", "line", "spoil"), HOSTILE)
def test_a_folder_that_carries_code_is_refused(
    use: str, line: str, spoil: Callable[[Path], None], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = sound(use, place / "hostile")
    spoil(folder)
    before = {*sys.modules}
    said = error_of(line, folder, capfd)
    assert str(folder) in said
    assert any(
        why in said for why in ("code", "pickle", "adapter", "safetensors", "outside the folder", "not opened", "opens")
    ), said
    assert "cannot be loaded" not in said, "a library has opened it"
    assert not (place / SENTINEL).exists()
    assert not {name for name in {*sys.modules} - before if "evil" in name or "transformers_modules" in name}
    assert sys.stdin.read() == "y\n" * 20, "nothing was asked"


@pytest.mark.parametrize("use", [*USES, "clip"])
def test_a_sound_folder_passes_with_a_module_beside_it(use: str, place: Path) -> None:
    folder = sound(use, place / "sound")
    for name in ("evil", "config", "pipeline", "modeling_blip"):
        (folder / f"{name}.py").write_text(folders.EVIL)
    sources.check({"clip": "reward"}.get(use, use), str(folder), option="--x ")
    assert not (place / SENTINEL).exists()


def config_with(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **values)


def part_with(part: str, **values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(folder / "config.json", **{part: {**config[part], **values}})

    return spoil


def text_of(name: str, text: str | bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return spoil


def without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    text_of("model.safetensors", content[:-100])(folder)


def sharded(names: dict[str, Any], *parts: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        change(folder / "model.safetensors.index.json", weight_map=names)
        for part in parts:
            tensors(folder / part, {"itm_head.weight": (2, 2)})

    return spoil


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (without("config.json"), "there is no config.json in it"),
    "half a config": (text_of("config.json", "{"), "config.json: is not valid JSON"),
    "a list": (text_of("config.json", "[]"), "config.json: is not a JSON object"),
    "no UTF-8": (text_of("config.json", b"\xff\xfe{}"), "config.json: is not valid JSON"),
    "deep": (text_of("config.json", "[" * 100_000), "config.json: is nested too deeply"),
    "deep keys": (
        text_of("config.json", '{"model_type": "blip", "hidden_size": ' + "[" * 900 + "]" * 900 + "}"),
        "nested too deeply",
    ),
    "NaN": (text_of("config.json", '{"model_type": "blip", "x": NaN}'), "NaN is not a number"),
    "no type": (config_with(model_type=None), "config.json: has no model_type"),
    "a type of number": (config_with(model_type=3), "config.json: model_type is 3; it must be a text"),
    "another type": (config_with(model_type="bert"), "a bert model; a reward model must be one of blip, clip, siglip"),
    "text for a number": (
        part_with("text_config", hidden_size="128"),
        'config.json: hidden_size is "128"; it must be an integer from 1 to 16777216',
    ),
    "negative": (part_with("text_config", vocab_size=-3), "config.json: vocab_size is -3"),
    "true": (part_with("vision_config", patch_size=True), "config.json: patch_size is true"),
    "no end of layers": (part_with("text_config", num_hidden_layers=10**9), "from 1 to 4096"),
    "a rate of text": (part_with("text_config", layer_norm_eps="x"), 'layer_norm_eps is "x"; it must be a number'),
    "uneven heads": (
        part_with("text_config", num_attention_heads=3),
        "hidden_size 128 is not a multiple of num_attention_heads 3",
    ),
    "a part of text": (config_with(text_config="x"), 'text_config is "x"; it must be an object'),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "it has no tokenizer (tokenizer.json)"),
    "a tokenizer's config alone": (without("tokenizer.json"), "it has no tokenizer (tokenizer.json)"),
    "a tokenizer of nothing": (text_of("tokenizer.json", "{}"), "tokenizer.json: is not a tokenizer"),
    "a limit of keys": (
        lambda folder: change(folder / "tokenizer_config.json", model_max_length={"a": 0}),
        'tokenizer_config.json: model_max_length is {"a": 0}; it must be a positive number',
    ),
    "a misspelt key of a token": (
        lambda folder: change(folder / "tokenizer.json", added_tokens=[{"id": 0, "content": "[PAD]", "lstripp": True}]),
        'tokenizer.json: an added token has the unknown key "lstripp"',
    ),
    "no preprocessor": (without("preprocessor_config.json"), "there is no image processor in it"),
    "a preprocessor of sound": (
        text_of("preprocessor_config.json", '{"feature_extractor_type": "Wav2Vec2FeatureExtractor"}'),
        'feature_extractor_type is "Wav2Vec2FeatureExtractor", which does not process pictures',
    ),
    "other pictures": (
        lambda folder: change(folder / "preprocessor_config.json", size={"height": 384, "width": 384}),
        "makes pictures of 384 × 384 pixels, and the model takes 32",
    ),
    "an object of other pictures": (
        part_with("vision_config", image_size={"height": 48, "width": 48}),
        "makes pictures of 32 × 32 pixels, and the model takes 48 × 48",
    ),
    "a list of other pictures": (part_with("vision_config", image_size=[48, 32]), "the model takes 48 × 32"),
    "pictures of text": (
        part_with("vision_config", image_size={"height": "x"}),
        'config.json: image_size is ["x"]; it must be sides in pixels',
    ),
    "an object of classes": (config_with(architectures={"a": 1}), 'architectures is {"a": 1}; it must be a list of'),
    "a number of classes": (config_with(architectures=5), "architectures is 5; it must be a list of texts"),
    "endless blocks": (config_with(block_out_channels=[8] * 20_000), "it must have at most 16 values"),
    "endless layers": (config_with(num_attention_heads=[8] * 5000), "it must have at most 4096 values"),
    "two colours": (
        lambda folder: change(folder / "preprocessor_config.json", image_mean=[0.5, 0.5]),
        "image_mean is [0.5, 0.5]; it must be three numbers",
    ),
    "no deviation": (
        lambda folder: change(folder / "preprocessor_config.json", image_std=[0.5, 0, 0.5]),
        "image_std has a 0",
    ),
    "no weights": (without("model.safetensors"), "there are no weights in it (model.safetensors)"),
    "cut weights": (cut, "model.safetensors: is cut off"),
    "empty weights": (text_of("model.safetensors", b""), "model.safetensors: is not a whole safetensors file"),
    "garbage": (text_of("model.safetensors", b"\x08" + bytes(7) + b"garbage!"), "is not a safetensors file"),
    "a pointer": (
        text_of("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        "is a pointer of Git LFS",
    ),
    "weights of nothing": (text_of("model.safetensors", b"\x02" + bytes(7) + b"{}"), "holds no weights"),
    "weights for captions": (
        lambda folder: tensors(_without_weights(folder), {"text_decoder.weight": (2, 2)}),
        "itm_head.weight is not in its weights",
    ),
    "a missing part": (sharded({"a": "one.safetensors"}), "names one.safetensors, which is not there"),
    "a part elsewhere": (sharded({"a": "../one.safetensors"}), "names a file outside the folder"),
    "an absolute part": (sharded({"a": "/etc/passwd"}), "names a file outside the folder"),
    "a variant alone": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.fp16.safetensors"),
        "only a variant of its weights exists (model.fp16.safetensors); rename it to model.safetensors in a copy",
    ),
    "no map": (sharded({}), "has no weight_map"),
    "a map of numbers": (sharded({"a": 1}), "has no weight_map"),
}


def _without_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder / "model.safetensors"


@pytest.mark.parametrize(("spoil", "why"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_with_a_reward_model_is_said(
    spoil: Callable[[Path], Any], why: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = sound("reward", place / "broken")
    spoil(folder)
    said = error_of("score metadata.jsonl --reward vp:FOLDER", folder, capfd)
    assert said.startswith(f"vpctl score: error: --reward vp:{folder}: ")
    assert why in said


def test_an_index_of_parts_that_are_there_passes(place: Path) -> None:
    folder = sound("reward", place / "sharded")
    sharded({"itm_head.weight": "one.safetensors"}, "one.safetensors")(folder)
    sources.check("reward", str(folder), option="--x ")


@pytest.mark.parametrize(
    "spoil",
    [
        config_with(attention_dropout=False, architectures=None),
        part_with("vision_config", image_size=[32, 32]),
        part_with("vision_config", image_size={"height": 32, "width": 32}),
        lambda folder: (folder / "tokenizer.json").rename(folder / "spm.model"),
        lambda folder: change(folder / "preprocessor_config.json", size=[32, 32]),
        lambda folder: change(folder / "model.safetensors.index.json", weight_map={"a": "gone.safetensors"}),
    ],
)
def test_an_unusual_folder_of_a_reward_model_passes(spoil: Callable[[Path], Any], place: Path) -> None:
    folder = sound("reward", place / "unusual")
    spoil(folder)
    sources.check("reward", str(folder), option="--x ")


def test_a_processor_of_transformers_5_passes_in_a_pipeline(place: Path) -> None:
    folder = sound("pipeline", place / "new")
    change(folder / "model_index.json", processor=["transformers", "Qwen2VLProcessor"])
    (folder / "processor").mkdir()
    with pytest.raises(UserError, match=r"there is no processor/preprocessor_config\.json in it"):
        sources.check("pipeline", str(folder), option="--x ")
    change(folder / "processor" / "processor_config.json", processor_class="Qwen2VLProcessor")
    sources.check("pipeline", str(folder), option="--x ")


def test_a_malformed_file_that_no_check_expects_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sound("reward", place / "odd")
    for error in (TypeError("unhashable"), RecursionError("deep"), OverflowError("large"), KeyError("x")):

        def fails(folder: Folder, error: Exception = error) -> list[str]:
            raise error

        monkeypatch.setitem(USES, "reward", fails)
        with pytest.raises(UserError, match=r"^--x .*odd: a file in it is malformed \("):
            sources.check("reward", str(folder), option="--x ")


def test_a_folder_is_inspected_again_only_if_it_has_changed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    inspect = USES["pipeline"]

    def seeing(folder: Folder) -> list[str]:
        seen.append(folder.path)
        return inspect(folder)

    monkeypatch.setitem(USES, "pipeline", seeing)
    folder = sound("pipeline", place / "own")
    for _ in range(2):
        sources.check("pipeline", str(folder), option="--x ")
        assert sources.fetch("pipeline", str(folder), option="--x ") == folder
    assert len(seen) == 1
    change(folder / "unet" / "config.json", sample_size="8")
    with pytest.raises(UserError, match="sample_size"):
        sources.check("pipeline", str(folder), option="--x ")


PIPELINES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no index": (without("model_index.json"), "not a diffusers pipeline: there is no model_index.json"),
    "no class": (text_of("model_index.json", "{}"), "model_index.json has no _class_name"),
    "no components": (text_of("model_index.json", '{"_class_name": "StableDiffusionPipeline"}'), "names no components"),
    "another class": (
        lambda folder: change(folder / "model_index.json", _class_name="NoSuchPipeline"),
        "NoSuchPipeline is not a text-to-image pipeline of diffusers",
    ),
    "a component of three": (
        lambda folder: change(folder / "model_index.json", unet=["a", "b", "c"]),
        'unet is ["a", "b", "c"]; it must be a library and a class',
    ),
    "an unknown component": (
        lambda folder: change(folder / "model_index.json", unet=["diffusers", "NoSuchModel"]),
        "unet is a NoSuchModel, which diffusers does not have",
    ),
    "a retired component": (
        lambda folder: change(folder / "model_index.json", unet=["wuerstchen", "PaellaVQModel"]),
        "unet is a PaellaVQModel of wuerstchen, which diffusers no longer opens",
    ),
    "endless blocks": (
        lambda folder: change(folder / "vae" / "config.json", block_out_channels=[8] * 20_000),
        "vae/config.json: block_out_channels is [8, 8",
    ),
    "no component": (without("unet/config.json"), "there is no unet/config.json in it"),
    "no vocabulary": (without("tokenizer/tokenizer.json"), "tokenizer has no tokenizer (tokenizer.json)"),
    "a wrong size": (
        lambda folder: change(folder / "unet" / "config.json", sample_size="8"),
        'unet/config.json: sample_size is "8"',
    ),
    "no weights": (
        without("vae/diffusion_pytorch_model.safetensors"),
        "there are no weights in it (vae/diffusion_pytorch_model.safetensors)",
    ),
}


@pytest.mark.parametrize(("spoil", "why"), PIPELINES.values(), ids=PIPELINES)
def test_what_is_wrong_with_a_pipeline_is_said(
    spoil: Callable[[Path], Any], why: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = sound("pipeline", place / "broken")
    spoil(folder)
    said = error_of("generate prompts.txt --model diffusion:FOLDER", folder, capfd)
    assert said.startswith(f"vpctl generate: error: --model diffusion:{folder}: ")
    assert why in said


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("generate prompts.txt --size 33x32", "--size 33x32: each side must be a multiple of 8 pixels, as 32 or 40"),
        ("generate prompts.txt --size 32x4", "--size 32x4: each side must be a multiple of 8 pixels, as 8"),
        ("generate prompts.txt --size 8000x32", "8000 pixels are more than 8 times the 32 that the model draws"),
        ("generate prompts.txt --adapter nowhere", "--adapter nowhere: there is no such folder"),
        ("generate prompts.txt --adapter prompts.txt", "--adapter prompts.txt: is not a folder"),
        ("generate prompts.txt --adapter .", "--adapter .: there is no pytorch_lora_weights.safetensors in it"),
        ("generate prompts.txt --device gpu", "--device gpu: is not a device; known: auto, cpu, cuda, cuda:1, mps"),
        ("train-rm pairs.jsonl --out run --backbone new:vit", "--backbone new:vit: known: new:blip, new:clip"),
        ("train-rm pairs.jsonl --out run --backbone ./nowhere", "--backbone ./nowhere: there is no such folder"),
        ("train-rm pairs.jsonl --out run --backbone nowhere/it/is/", "there is no such folder"),
        ("score metadata.jsonl -r vp:metadata.jsonl", "--reward vp:metadata.jsonl: is not a folder"),
        ("score metadata.jsonl -r shapes:beauty", "--reward shapes:beauty: known: shapes:prompt-following"),
        ("annotate metadata.jsonl --annotator shapes:x", "the pixel judge takes no argument"),
        ("annotate metadata.jsonl --annotator reward:pikscore", "did you mean 'pickscore'?"),
        ("generate prompts.txt -m shapes:huge", "--model shapes:huge: known: shapes:base, shapes:small"),
        ("polish prompts.txt --unsafe-model ./nowhere", "--unsafe-model ./nowhere: there is no such folder"),
    ],
)
def test_a_wrong_option_is_said(line: str, why: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert why in error_of(line, place, capfd)


@pytest.mark.parametrize(
    ("use", "line", "way_out"),
    [
        ("reward", "generate prompts.txt --adapter {}", "it holds a reward model, which score takes as --reward vp:{}"),
        ("reward", "generate prompts.txt -m diffusion:{}", "it holds a reward model, which score takes as"),
        ("pipeline", "generate prompts.txt --adapter {}", "it holds a pipeline, which generate takes as --model diff"),
        (
            "pipeline",
            "score metadata.jsonl -r vp:{}",
            "it holds a pipeline, which generate takes as --model diffusion:",
        ),
        ("adapter", "score metadata.jsonl -r vp:{}", "it holds a LoRA, which generate takes as --adapter"),
        ("adapter", "generate prompts.txt -m diffusion:{}", "it holds a LoRA, which generate takes as --adapter"),
    ],
)
def test_a_folder_of_another_use_is_named_with_the_option_that_takes_it(
    use: str, line: str, way_out: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = sound(use, place / "own")
    (folder / "run.json").write_text("{}")
    if use == "reward":
        (folder / "reward.json").write_text('{"mean": 0, "std": 1}')
    assert way_out.format(folder) in error_of(line.format(folder), folder, capfd)


def test_a_lora_of_another_model_is_refused_before_anything_is_loaded(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = sound("adapter", place / "lora")
    line = f"generate prompts.txt --size 32x32 --model shapes:small --adapter {folder}"
    assert "belongs to another model: down_blocks.0" in error_of(line, folder, capfd)
    (folder / "pytorch_lora_weights.safetensors").unlink()
    tensors(folder / "pytorch_lora_weights.safetensors", {"unet.middle.lora_A.weight": (2, 64)})
    assert "there is no middle in this one" in error_of("generate prompts.txt --adapter FOLDER", folder, capfd)
    tensors(folder / "pytorch_lora_weights.safetensors", {"unet.middle.weight": (2, 64)})
    assert "holds no LoRA" in error_of("generate prompts.txt --adapter FOLDER", folder, capfd)


def test_the_scale_of_a_reward_is_two_numbers(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = sound("reward", place / "rm")
    for text in ('{"mean": NaN, "std": 1}', '{"mean": 0, "std": 0}', '{"mean": 0, "std": -1}', "[]", "[" * 100_000):
        (folder / "reward.json").write_text(text)
        assert "must be an object with the numbers mean and std" in error_of(
            "score metadata.jsonl --reward vp:FOLDER", folder, capfd
        )


def test_an_unsafe_classifier_has_a_label_for_it(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = sound("unsafe", place / "moods")
    change(folder / "config.json", id2label={"0": "glad", "1": "sad"})
    said = error_of("polish prompts.txt --unsafe-model FOLDER", folder, capfd)
    assert "its labels are glad, sad; one of them must be nsfw, sexual_explicit" in said
    change(folder / "config.json", architectures=["BertModel"])
    assert "a BertModel, which is not a classifier" in error_of(
        "polish prompts.txt --unsafe-model FOLDER", folder, capfd
    )


LISTING = """
import sys
from vpctl.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "diffusers", "numpy", "PIL", "safetensors"} & set(sys.modules)
print(*sorted(heavy))
sys.exit(code)
"""


@pytest.mark.parametrize(
    "line",
    [
        "score metadata.jsonl --reward vp:hostile",
        "annotate metadata.jsonl --annotator transformers:hostile",
        "generate prompts.txt --model diffusion:hostile",
        "generate prompts.txt --size 33x32",
        "train-rm pairs.jsonl --out run --backbone hostile",
        "polish - --unsafe-model hostile",
        "score - --reward pickscore --device cpu",
    ],
)
def test_nothing_heavy_is_loaded_for_a_wrong_option(line: str, place: Path) -> None:
    folder = sound("reward", place / "hostile")
    folders.auto_map_in_the_config(folder)
    shutil.copyfile(WEIGHTS / "base" / "model_index.json", folder / "model_index.json")
    change(folder / "model_index.json", _class_name=["evil", "Evil"])
    ended = subprocess.run(
        [sys.executable, "-c", LISTING, *line.split()],
        input=b"y\n" * 9,
        capture_output=True,
        env={**ENVIRONMENT, "HF_HOME": str(place / "cache")},
        timeout=PATIENCE,
        cwd=place,
    )
    assert (ended.returncode, ended.stdout) == (2, b"\n"), ended
    assert ended.stderr.count(b"\n") == 1
    assert not (place / SENTINEL).exists()
