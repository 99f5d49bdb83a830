"""The one place that opens models. No other module does, and it runs no code even of a folder not inspected."""

import ast
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from pytest_httpserver import HTTPServer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoModelForSequenceClassification, BlipForImageTextRetrieval

from tests.conftest import HOME, PATIENCE
from tests.hostile import folders
from tests.hostile.folders import CODE, SENTINEL, WEIGHTS, change, sound
from tests.surroundings import ENVIRONMENT
from vpctl.errors import UserError
from vpctl.models import hub
from vpctl.models.reward import open_model
from vpctl.rewards import vp

OPENS = {
    "from_pretrained",
    "load_config",
    "load_lora_weights",
    "from_single_file",
    "get_cached_module_file",
    "pipeline",
}
"""Functions of the libraries that open a model's folder. `hub.pipeline` is our own."""
PLACE = "vpctl/models/hub.py"


def careless(path: str, source: str) -> Iterator[str]:
    """The lines of a module that open a model outside the one place, run code of a folder, or unpickle."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [one.name for one in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            if {"pickle", "cloudpickle", "dill", "joblib"} & {name.partition(".")[0] for name in modules}:
                yield f"{path}:{node.lineno}: imports pickle"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and not _is(node.value, False):
            yield f"{path}:{node.value.lineno}: trust_remote_code"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        given = {one.arg: one.value for one in node.keywords}
        called, of = node.func.attr, ast.unparse(node.func.value)
        if called in OPENS - {"pipeline"} or (called == "pipeline" and of == "transformers"):
            if path != PLACE:
                yield f"{path}:{node.lineno}: {called}"
            elif called != "load_config" and not _is(given.get("trust_remote_code"), False):
                yield f"{path}:{node.lineno}: {called} without trust_remote_code=False"
            elif not _is(given.get("local_files_only"), True):
                yield f"{path}:{node.lineno}: {called} without local_files_only=True"
        if called == "load" and of == "torch" and not _is(given.get("weights_only"), True):
            yield f"{path}:{node.lineno}: torch.load without weights_only=True"


def _is(value: ast.expr | None, constant: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is constant


def test_models_are_opened_in_one_place_and_run_no_code() -> None:
    files = {str(path.relative_to(HOME)): path.read_text() for path in sorted((HOME / "vpctl").rglob("*.py"))}
    assert "from_pretrained" in files[PLACE]
    assert [where for path, source in files.items() for where in careless(path, source)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vpctl/rewards/vp.py", "AutoConfig.from_pretrained(x, trust_remote_code=False, local_files_only=True)"),
        ("vpctl/rewards/vp.py", "pipe.load_lora_weights(x)"),
        (PLACE, "AutoConfig.from_pretrained(x, local_files_only=True)"),
        (PLACE, "AutoConfig.from_pretrained(x, trust_remote_code=True, local_files_only=True)"),
        (PLACE, "AutoConfig.from_pretrained(x, trust_remote_code=False)"),
        (PLACE, "f(trust_remote_code=wanted)"),
        ("vpctl/tuning/run.py", "torch.load(x)"),
        ("vpctl/tuning/run.py", "torch.load(x, weights_only=False)"),
        ("vpctl/tuning/run.py", "import pickle"),
        ("vpctl/tuning/run.py", "from pickle import loads"),
        ("vpctl/tuning/run.py", "transformers.pipeline('x')"),
    ],
)
def test_a_careless_call_is_seen(path: str, source: str) -> None:
    assert [*careless(path, source)]


OPEN: dict[str, list[Callable[[Path], Any]]] = {
    "reward": [
        lambda folder: hub.config(folder, where="x"),
        lambda folder: hub.tokenizer(folder, where="x"),
        lambda folder: hub.image_processor(folder, where="x"),
        lambda folder: hub.processor(folder, where="x"),
        lambda folder: hub.model(BlipForImageTextRetrieval, folder, dtype=torch.float32, where="x"),
        lambda folder: hub.model(AutoModelForSequenceClassification, folder, dtype=torch.float32, where="x"),
        lambda folder: hub.model(AutoModelForImageTextToText, folder, dtype=torch.float32, where="x"),
    ],
    "pipeline": [lambda folder: hub.pipeline(folder, dtype=torch.float32, where="x")],
    "adapter": [
        lambda folder: hub.add_lora(
            hub.pipeline(WEIGHTS / "small", dtype=torch.float32, where="x"), str(folder), where="x"
        )
    ],
}
ELSEWHERE = {"adapter_to_another_model"}
"""Folders that only the inspection refuses."""
NEVER = {
    "module_beside_the_index",
    "component_of_the_standard_library",
    "pipeline_in_the_pipeline",
    "component_in_the_inner_pipeline",
    "pickle_in_the_inner_pipeline",
    "second_pipeline_in_the_readme",
}
"""Folders that diffusers would open, or would import code for and then reject. `hub.pipeline` refuses them first."""


@pytest.mark.parametrize(
    ("use", "spoil"),
    [
        pytest.param(use, spoil, id=f"{use} {spoil.__name__}")
        for use in OPEN
        for spoil in CODE[use]
        if spoil.__name__ not in ELSEWHERE
    ],
)
def test_no_code_runs_even_if_nobody_inspects_the_folder(
    use: str,
    spoil: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    folder = sound(use, tmp_path / "hostile")
    spoil(folder)
    for opens in OPEN[use]:
        said = said_by(opens, folder)
        assert not said or (said.startswith("x: ") and "\n" not in said)
        assert spoil.__name__ not in NEVER or "which vpctl does not open" in said or "single-folder pipeline" in said, (
            said
        )
    assert not (tmp_path / SENTINEL).exists()
    assert sys.stdin.read() == "y\n" * 20, "nothing was asked"
    assert capfd.readouterr() == ("", "")


def said_by(opens: Callable[[Path], Any], folder: Path) -> str:
    """The error when a folder is opened; empty if there is none."""
    try:
        opens(folder)
    except UserError as error:
        return str(error)
    return ""


def complaint(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        open_model(str(folder), option="--reward vp:")
    text = str(raised.value)
    assert text.startswith(f"--reward vp:{folder}: ")
    assert "\n" not in text
    return text.removeprefix(f"--reward vp:{folder}: ")


def test_weights_of_another_size_are_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = sound("reward", tmp_path / "other")
    change(folder / "config.json", image_text_hidden_size=32)
    assert complaint(folder) == "cannot be loaded: its weights do not have the sizes that its config.json says"
    assert capfd.readouterr() == ("", "")


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    folder = sound("reward", tmp_path / "less")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    del weights["itm_head.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert complaint(folder) == "its weights are incomplete: 'itm_head.bias' is missing"


def test_a_pipeline_does_not_make_weights_up(tmp_path: Path) -> None:
    folder = sound("pipeline", tmp_path / "less")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    lost = weights.pop("conv_out.bias")
    file.unlink()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"^--model x: unet: .*conv_out.bias"):
        hub.pipeline(folder, dtype=torch.float32, where="--model x")
    file.unlink()
    save_file({**weights, "conv_out.bias": lost}, file, {"format": "pt"})
    pipe = hub.pipeline(folder, dtype=torch.float32, where="--model x")
    assert isinstance(pipe.unet, UNet2DConditionModel)


@pytest.mark.skipif(bool(find_spec("onnxruntime")), reason="onnxruntime is installed")
def test_a_component_that_needs_another_library_names_it(tmp_path: Path) -> None:
    folder = sound("pipeline", tmp_path / "onnx")
    change(folder / "model_index.json", unet=["diffusers", "OnnxRuntimeModel"])
    assert "OnnxRuntimeModel requires the onnxruntime library" in said_by(OPEN["pipeline"][0], folder)


def test_a_pipeline_does_not_make_up_the_weights_of_a_module_of_diffusers(tmp_path: Path) -> None:
    """The component's class is in a module of diffusers' pipelines, as in Kolors."""
    folder = sound("pipeline", tmp_path / "own")
    change(folder / "model_index.json", image_encoder=["stable_diffusion", "CLIPImageProjection"])
    part = folder / "image_encoder"
    part.mkdir()
    change(part / "config.json", _class_name="CLIPImageProjection", hidden_size=4)
    save_file({"other": torch.ones(4, 4)}, part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"^x: image_encoder: .*project.weight' is missing"):
        hub.pipeline(folder, dtype=torch.float32, where="x")
    save_file({"project.weight": torch.ones(4, 4)}, part / "diffusion_pytorch_model.safetensors")
    pipe = hub.pipeline(folder, dtype=torch.float32, where="x")
    assert pipe.image_encoder.project.weight.sum() == 16


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = sound("reward", tmp_path / "other")
    tokenizer = hub.tokenizer(folder, where="x")
    tokenizer.add_tokens([f"word{number}" for number in range(5)])
    tokenizer.save_pretrained(folder)
    assert complaint(folder) == "its tokenizer has 840 tokens and the model 835: it belongs to another model"


def test_no_tokenizer_is_made_up(tmp_path: Path) -> None:
    """transformers would create a tokenizer that knows no word, and every prompt would get the same score."""
    folder = sound("reward", tmp_path / "mute")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"it has no tokenizer \(tokenizer.json\); copy the whole model folder"):
        vp.load(str(folder), device="cpu")


def on_a_hub(place: Path, name: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``vpctl score`` with the reward model of a hub id."""
    return subprocess.run(
        [sys.executable, "-m", "vpctl", "score", "-", "--reward", f"vp:{name}"],
        input=b"y\n",
        capture_output=True,
        cwd=place,
        env={**ENVIRONMENT, "HF_HOME": str(place / "cache"), "NO_PROXY": "*", **env},
        timeout=PATIENCE,
    )


def test_a_hub_that_cannot_be_reached_is_said_to_be_so(tmp_path: Path) -> None:
    for env, why in (
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, b"onnection"),
        ({"HF_HUB_OFFLINE": "1"}, b"offline mode is enabled"),
    ):
        ended = on_a_hub(tmp_path, "some/model", **env)
        assert ended.returncode == 2
        assert ended.stderr.startswith(
            b"vpctl score: error: --reward vp:some/model: there is no such folder, and the hub cannot be reached ("
        )
        assert why in ended.stderr
        assert ended.stderr.endswith(b"name a local folder, or run again when online\n")
        assert (ended.stdout, ended.stderr.count(b"\n")) == (b"", 1)


def test_a_model_that_the_hub_does_not_have_is_said_to_be_so(tmp_path: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/api/models/some/model").respond_with_json(
        {"error": "Repository not found"}, status=404, headers={"X-Error-Code": "RepoNotFound"}
    )
    ended = on_a_hub(tmp_path, "some/model", HF_ENDPOINT=httpserver.url_for("").rstrip("/"))
    assert ended.returncode == 2
    assert b"has no model of this name that you may read; if it is private, set HF_TOKEN\n" in ended.stderr
    assert ended.stderr.count(b"\n") == 1


def serve(httpserver: HTTPServer, folder: Path) -> str:
    """Serve a hub with one model, and return its address."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    revision = "a" * 40
    about = {"id": "some/model", "sha": revision, "siblings": [{"rfilename": name} for name in names]}
    for end in ("", "/revision/main", f"/revision/{revision}"):
        httpserver.expect_request(f"/api/models/some/model{end}").respond_with_json(about)
    tree = [
        {"type": "file", "oid": name.encode().hex(), "size": (folder / name).stat().st_size, "path": name}
        for name in names
    ]
    for branch in ("main", revision):
        httpserver.expect_request(f"/api/models/some/model/tree/{branch}").respond_with_json(tree)
    for name in names:
        headers = {"X-Repo-Commit": revision, "ETag": f'"{name.encode().hex()}"'}
        httpserver.expect_request(f"/some/model/resolve/{revision}/{name}").respond_with_data(
            (folder / name).read_bytes(), headers=headers
        )
    return httpserver.url_for("").rstrip("/")


def test_a_hub_model_is_inspected_before_its_weights_are_fetched(tmp_path: Path, httpserver: HTTPServer) -> None:
    folder = sound("reward", tmp_path / "remote")
    folders.auto_map_in_the_config(folder)
    ended = on_a_hub(tmp_path, "some/model", HF_ENDPOINT=serve(httpserver, folder))
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"--reward vp:some/model: config.json: asks to run its own code (auto_map)" in ended.stderr
    assert ended.stderr.count(b"\n") == 1
    asked = {request.path.rpartition("/")[2] for request, _ in httpserver.log}
    assert "config.json" in asked
    assert not asked & {"model.safetensors", "evil.py"}
    assert not (tmp_path / SENTINEL).exists()


def test_a_hub_model_is_fetched_and_found_again_when_the_hub_is_away(tmp_path: Path, httpserver: HTTPServer) -> None:
    folder = sound("reward", tmp_path / "remote")
    change(folder / "reward.json", mean=2.0, std=3.0)
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    change(folder / "model.safetensors.index.json", weight_map={"itm_head.weight": "part.safetensors"})
    address = serve(httpserver, folder)
    for env in ({"HF_ENDPOINT": address}, {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "1"}):
        ended = subprocess.run(
            [sys.executable, "-c", FETCHES, str(folder)],
            capture_output=True,
            cwd=tmp_path,
            env={**ENVIRONMENT, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "*", "PYTHONPATH": str(HOME), **env},
            timeout=PATIENCE,
        )
        assert ended.returncode == 0, ended.stderr.decode()


FETCHES = """
import sys
from pathlib import Path
from vpctl.models import sources
remote, local = sources.fetch("reward", "some/model", option="--reward vp:"), Path(sys.argv[1])
for name in ("config.json", "tokenizer.json", "preprocessor_config.json", "part.safetensors"):
    assert (remote / name).read_bytes() == (local / name).read_bytes(), name
from vpctl.rewards import vp
assert vp.scale("some/model") == (2, 3), "the scale is that of the model on the hub"
"""
