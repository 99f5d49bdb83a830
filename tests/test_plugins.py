import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import HOME, PATIENCE, Ended, Plugin, Run, lines, vpctl
from tests.surroundings import ENVIRONMENT
from vpctl import plugins
from vpctl.contracts import LEVELS, Aspect
from vpctl.errors import UserError
from vpctl.plugins import KINDS
from vpctl.shapes.judge import ASPECTS

FILES = [
    pytest.param(kind, path, id=f"{kind}-{path.stem}")
    for kind, folder in KINDS.items()
    for path in sorted((HOME / "vpctl" / folder).glob("[!_]*.py"))
]


def complaint(kind: str, spec: str) -> str:
    with pytest.raises(UserError) as raised:
        plugins.load(kind, spec)
    return str(raised.value)


@given(st.from_regex(r"[a-z_]+", fullmatch=True), st.text())
def test_a_spec_is_a_name_and_all_behind_its_first_colon(name: str, argument: str) -> None:
    assert plugins.split(name) == (name, "")
    assert plugins.split(f"{name}:{argument}") == (name, argument)


@given(st.from_regex(r"(\.{0,2}/)?([a-z.]+/)*[a-z.]*\.py", fullmatch=True), st.text())
def test_a_path_is_a_name_that_ends_as_python_does(path: str, argument: str) -> None:
    assert plugins.split(path) == (path, "")
    assert plugins.split(f"{path}:{argument}") == (path, argument)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("vp:vp-score/", ("vp", "vp-score/")),
        ("diffusion:me/model.py", ("diffusion", "me/model.py")),
        ("reward:mine.py:3", ("reward", "mine.py:3")),
        ("x.pyz/mine.py:a:b.py", ("x.pyz/mine.py", "a:b.py")),
        ("openai:gpt-4o:2024", ("openai", "gpt-4o:2024")),
        ("", ("", "")),
    ],
)
def test_specs_as_people_write_them(spec: str, parts: tuple[str, str]) -> None:
    assert plugins.split(spec) == parts


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("reward", "shpaes", "--reward shpaes: there is no reward 'shpaes'; did you mean 'shapes'? known: "),
        ("reward", "pick:x", "--reward pick:x: there is no reward 'pick'; "),
        ("generator", "difusion:x", "--model difusion:x: there is no generator 'difusion'; did you mean 'diffusion'? "),
        (
            "annotator",
            "gpt-4o",
            "--annotator gpt-4o: there is no annotator 'gpt-4o'; did you mean openai:gpt-4o? known: ",
        ),
        (
            "generator",
            "stabilityai/sdxl",
            "--model stabilityai/sdxl: there is no generator 'stabilityai/sdxl'; did you mean diffusion:stabilityai/",
        ),
        ("annotator", "zzz", "--annotator zzz: there is no annotator 'zzz'; known: "),
        ("annotator", "_secret", "--annotator _secret: there is no annotator '_secret'; known: "),
        ("annotator", "__init__", "--annotator __init__: there is no annotator '__init__'; known: "),
        ("reward", "", "--reward : there is no reward ''; known: "),
        ("reward", "mine.py", "--reward mine.py: there is no file mine.py"),
        ("reward", "../records", "--reward ../records: there is no reward '../records'; known: "),
    ],
)
def test_a_misspelling_is_told_with_what_there_is(kind: str, spec: str, said: str) -> None:
    assert complaint(kind, spec).startswith(said)
    assert complaint(kind, spec).endswith("or the path of your own file") or "there is no file" in said


@pytest.mark.parametrize(("kind", "path"), FILES)
def test_what_a_plug_in_says_of_its_argument_can_be_read_without_importing_it(kind: str, path: Path) -> None:
    """A few words, a folder, or a spec of another kind. The value is the same as after an import."""
    expected = plugins._expected(path)
    assert expected in ("DIR", *KINDS) or isinstance(expected, tuple), expected
    assert bool(expected) == ("\nARGUMENTS = " in path.read_text())


def test_the_words_that_the_pixel_judge_is_offered_with_are_its_aspects() -> None:
    offered = [spec for spec, _ in plugins.completions("reward", "shapes:")]
    assert offered == [f"shapes:{aspect}" for aspect in ASPECTS]


def test_arguments_are_offered_once_a_single_plug_in_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/a", "runs/b", ".hidden"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs" / "file").touch()

    def offered(kind: str, typed: str) -> list[str]:
        return [spec for spec, _ in plugins.completions(kind, typed)]

    assert offered("reward", "") == [*plugins.catalog("reward")]
    assert offered("reward", "v") == ["vp", "vqascore"]
    assert offered("reward", "vq") == ["vqascore", "vqascore:runs/"]
    assert offered("reward", "vp:") == ["vp:runs/"]
    assert offered("reward", "vp:.") == ["vp:.hidden/"]
    assert offered("reward", "vp:runs/") == ["vp:runs/a/", "vp:runs/b/"]
    assert offered("reward", "vp:none/") == []
    assert offered("reward", "none:") == []
    assert offered("generator", "shapes:s") == ["shapes:small"]
    assert offered("annotator", "reward:") == [f"reward:{name}" for name in plugins.catalog("reward")]
    assert offered("annotator", "reward:vp:r") == ["reward:vp:runs/"]
    assert offered("aspect", "fid") == ["fidelity"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ('ARGUMENTS = ("one", "two")', ["one", "two"]),
        ('ARGUMENTS = ["one", 2]', ["one", "2"]),
        ("ARGUMENTS = sorted(os.environ)", []),
        ("ARGUMENTS = 3", []),
        ("ARGUMENTS = (", []),
        ("", []),
    ],
)
def test_the_arguments_of_a_file_of_one_s_own_are_offered_and_it_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(f'"""Mine."""\n\nopen("ran", "w")\n{line}\n')
    assert plugins.completions("reward", "./mine.py:") == [(f"./mine.py:{one}", "") for one in offered]
    assert not (tmp_path / "ran").exists()


def test_a_misspelt_aspect_is_told_with_what_there_is() -> None:
    with pytest.raises(UserError) as raised:
        plugins.aspect("estetic")
    known = "aesthetic, fidelity, harmlessness, prompt-following"
    meant = "there is no aspect 'estetic'; did you mean 'aesthetic'?"
    assert str(raised.value) == f"--aspect estetic: {meant} known: {known}, or the path of your own file"


def test_an_own_file_is_loaded_with_its_argument_and_the_device(plugin: Plugin) -> None:
    path = plugin("mine", "return lambda: [argument, device]")
    assert plugins.load("reward", f"{path}")() == ["", "auto"]
    assert plugins.load("reward", f"{path}:a:b", device="cuda:1")() == ["a:b", "cuda:1"]


def test_members_of_an_object_that_inherits_from_no_contract_are_not_lost_in_silence(plugin: Plugin) -> None:
    body = "class Mine:\n    def __call__(self, *_):\n        return []\nmine = Mine()\nmine.fingerprint = 'x'\n"
    said = complaint("generator", str(plugin("mine", f"{body}return mine")))
    assert "which has fingerprint; have its class inherit from vpctl.contracts.Generator" in said


def test_an_own_file_may_be_what_a_module_is(tmp_path: Path) -> None:
    """Data classes look up their module in `sys.modules`."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Mine:\n    size: int = 3\n\n    def __call__(self):\n        return self.size\n\n\n"
        "def load(argument, *, device):\n    return Mine()\n"
    )
    assert plugins.load("reward", str(path))() == 3


def test_two_own_files_of_one_name_are_two(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def load(argument, *, device):\n    return lambda: {folder!r}\n")
    assert [plugins.load("reward", f"{tmp_path}/{folder}/mine.py")() for folder in "ab"] == ["a", "b"]


def test_a_file_without_load_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("size = 3\n")
    assert complaint("generator", f"{path}:x") == (
        f"--model {path}:x: {path} has no function load(argument, *, device)"
    )


def test_an_aspect_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "warmth.md"
    path.write_text("# How warm it feels\n\n1. Cold.\n5. Warm.\n")
    assert plugins.aspect(str(path)) == Aspect("warmth", "How warm it feels", "1. Cold.\n5. Warm.")


@pytest.mark.parametrize(
    "text", ["", "# Only a title\n", "# \n", "No title\n\nBut a rubric.\n", "## Deep\n\nRubric.\n"]
)
def test_an_aspect_without_title_or_rubric_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "warmth.md"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        plugins.aspect(str(path))
    assert str(raised.value) == f"{path}: an aspect must begin with a title line, '# …', and a rubric must follow"


RUBRIC = "# Mood\n\nHow gloomy?\n"


@pytest.mark.parametrize(
    ("head", "prompt", "ranking"),
    [
        ("", True, True),
        ("---\n---\n", True, True),
        ("---\nprompt: hidden\n---\n", False, True),
        ("---\nranking: none\nprompt: shown\n---\n", True, False),
        ("---\n prompt:hidden \nranking:  none\n---\n", False, False),
    ],
)
def test_settings_in_front_of_the_title_of_an_aspect(head: str, prompt: bool, ranking: bool, tmp_path: Path) -> None:
    path = tmp_path / "mood.md"
    path.write_text(head + RUBRIC)
    assert plugins.aspect(str(path)) == Aspect("mood", "Mood", "How gloomy?", LEVELS, prompt, ranking)


@pytest.mark.parametrize("line", ["prompt: no", "prompt", "order: any", "ranking: None", "# prompt: hidden", ""])
def test_a_setting_of_an_aspect_that_does_not_exist_is_an_error(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mood.md"
    path.write_text(f"---\n{line}\n---\n{RUBRIC}")
    with pytest.raises(UserError) as raised:
        plugins.aspect(str(path))
    assert str(raised.value) == (
        f"{path}: {line!r} is no setting of an aspect; there are prompt: shown or hidden; ranking: asked or none"
    )


def test_settings_that_do_not_end_are_no_title(tmp_path: Path) -> None:
    path = tmp_path / "mood.md"
    path.write_text(f"---\nprompt: hidden\n{RUBRIC}")
    with pytest.raises(UserError, match="an aspect must begin with a title line"):
        plugins.aspect(str(path))


def test_an_aspect_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "warmth.md").write_bytes(b"# \xff\n\nx\n")
    with pytest.raises(UserError) as raised:
        plugins.aspect(f"{tmp_path}/warmth.md")
    assert str(raised.value).startswith(f"--aspect {tmp_path}/warmth.md: cannot be read: 'utf-8'")
    with pytest.raises(UserError) as raised:
        plugins.aspect(f"{tmp_path}/none.md")
    assert str(raised.value) == f"--aspect {tmp_path}/none.md: there is no file {tmp_path}/none.md"


@pytest.mark.parametrize(("kind", "path"), FILES)
def test_every_plug_in_keeps_the_contract(kind: str, path: Path) -> None:
    """A help line and ``load(argument, *, device="auto")``: vpctl relies on these before it loads a plug-in."""
    module = ast.parse(path.read_text())
    docstring = ast.get_docstring(module) or ""
    assert plugins.catalog(kind)[path.stem.replace("_", ".")] == docstring.splitlines()[0]
    assert docstring[0].isupper()
    assert len(docstring.splitlines()[0]) <= 117
    (load,) = (node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "load")
    assert [argument.arg for argument in load.args.args] == ["argument"]
    device, *settings = [argument.arg for argument in load.args.kwonlyargs]
    assert device == "device"
    given = {"server", "pictures", "folder", "dtype", "scoring", "aspects", "answers", "others"}
    assert {*settings} <= given | {"scheduler", "offload", "vae_tiling", "compile"}, "what commands have to give"
    assert ast.unparse(load.args.kw_defaults[0] or ast.Constant(None)) == "'auto'"
    assert not load.args.defaults
    assert ast.get_docstring(load)


def test_the_kinds_have_what_the_commands_take_when_nothing_is_named() -> None:
    assert "rules" in plugins.catalog("polisher")
    for kind in ("generator", "annotator", "reward"):
        assert "shapes" in plugins.catalog(kind)


def test_every_aspect_has_a_name_a_title_and_levels_from_one_to_five() -> None:
    known = plugins.aspects()
    assert list(known) == ["aesthetic", "fidelity", "harmlessness", "prompt-following"]
    for name, title in known.items():
        aspect = plugins.aspect(name)
        assert (aspect.name, aspect.title) == (name, title)
        assert title
        for level in "12345":
            assert level in aspect.rubric


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, without its weights, to which plug-ins can be added."""
    home = tmp_path_factory.mktemp("house")
    left_out = shutil.ignore_patterns("weights", "pretraining", "__pycache__", "*.part")
    shutil.copytree(HOME / "vpctl", home / "vpctl", ignore=left_out)
    return home


@pytest.fixture
def added(house: Path) -> Iterator[Path]:
    """The copy with one new file of each kind, and no other change."""
    new = {
        "rewards/height.py": REWARD,
        "annotators/opposite.py": ANNOTATOR,
        "generators/plain.py": GENERATOR,
        "polishers/shout.py": POLISHER,
        "formats/backwards.py": FORMAT,
        "aspects/warmth.md": "# How warm it feels\n\n1. Cold.\n5. Warm.\n",
    }
    for path, text in new.items():
        (house / "vpctl" / path).write_text(text)
    yield house
    for path in new:
        (house / "vpctl" / path).unlink()


REWARD = '''"""How high pictures are."""

import array


def load(argument, *, device="auto"):
    return lambda images, prompts: array.array("d", [float(image.height) * float(argument or 1) for image in images])
'''
ANNOTATOR = '''"""Likes the later picture better."""

from ..contracts import Verdicts


def load(argument, *, device="auto"):
    def annotate(prompt, images, aspect):
        scores = [1.0 + image.getpixel((0, 0))[0] % 5 for image in images]
        return Verdicts(scores, [f"{aspect.title} {aspect.rubric[:7]}" for _ in images], {})

    return annotate
'''
GENERATOR = '''"""One colour, by the seed."""

from PIL import Image


def load(argument, *, device="auto"):
    def draw(prompts, seeds, settings):
        return [Image.new("RGB", (4, 4), (seed % 256, 0, 0)) for seed in seeds]

    return draw
'''
POLISHER = '''"""Says it louder."""

from ..contracts import Polished


def load(argument, *, device="auto"):
    return lambda prompts: [Polished(prompt.upper()) for prompt in prompts]
'''
FORMAT = '''"""Prompts that are written backwards."""


def load(argument, *, device="auto"):
    def read(kind):
        with open(argument) as lines:
            for number, line in enumerate(lines, 1):
                yield str(number), {"prompt": line.strip()[::-1]}

    return read
'''


def test_adding_a_part_of_any_kind_is_adding_a_file(added: Path, run: Run, tmp_path: Path) -> None:
    here = {"PYTHONPATH": str(added)}
    listed = run("--plugins", env=here).out
    for line in (
        "polisher   shout             Says it louder.",
        "generator  plain             One colour, by the seed.",
        "annotator  opposite          Likes the later picture better.",
        "reward     height            How high pictures are.",
        "format     backwards         Prompts that are written backwards.",
        "aspect     warmth            How warm it feels",
    ):
        assert line in listed.splitlines()
    for words, expected in {
        "polish --polisher s": "shout",
        "generate --model p": "plain",
        "annotate --annotator o": "opposite",
        "polish b": "backwards:",
        "annotate --aspect w": "warmth",
        "score --reward h": "height",
        "eval accuracy --reward h": "height",
    }.items():
        assert expected in completed(words, added).splitlines(), words

    (tmp_path / "in").write_text("elcric der a\n")
    polished = run("polish", "backwards:in", "--polisher", "shout", "--out", "prompts.jsonl", env=here)
    assert polished.code == 0, polished.err
    drawn = run("generate", "prompts.jsonl", "--model", "plain", "-n", "2", "--out", "images/metadata.jsonl", env=here)
    assert drawn.code == 0, drawn.err
    judged = run("annotate", "images/metadata.jsonl", "--annotator", "opposite", "--aspect", "warmth", env=here)
    assert judged.code == 0, judged.err
    (judgement,) = lines(judged.out)
    assert judgement["prompt"] == "A RED CIRCLE"
    assert judgement["annotator"] == "opposite"
    assert judgement["aspect"] == "warmth"
    assert judgement["rationales"] == ["How warm it feels 1. Cold"] * 2
    seeds = [record["seed"] for record in lines((tmp_path / "images" / "metadata.jsonl").read_text())]
    assert judgement["scores"] == [1.0 + seed % 256 % 5 for seed in seeds]
    scored = run("score", "images/metadata.jsonl", "--reward", "height:2", "--reward", "height", env=here)
    assert scored.code == 0, scored.err
    assert [record["scores"] for record in lines(scored.out)] == [{"height:2": 8.0, "height": 4.0}] * 2


def completed(words: str, home: Path) -> str:
    """The completions that the package in `home` offers after the words."""
    asked = {"COMP_WORDS": f"vpctl {words}", "COMP_CWORD": str(len(words.split())), "_VPCTL_COMPLETE": "complete_bash"}
    done = subprocess.run(
        vpctl(), capture_output=True, text=True, env={**ENVIRONMENT, **asked}, cwd=home, timeout=PATIENCE
    )
    assert done.stderr == ""
    return done.stdout


def test_a_misspelt_part_that_was_added_is_suggested(added: Path, run: Run) -> None:
    ended = run("score", "-", "--reward", "hieght", env={"PYTHONPATH": str(added)})
    assert ended.code == 2
    assert "did you mean 'height'?" in ended.err


def test_parts_are_listed_and_checked_without_being_imported(house: Path, run: Run) -> None:
    files = [house / "vpctl" / folder / "trap.py" for folder in KINDS.values()]
    for file in files:
        file.write_text('"""Not to be imported."""\n\nraise SystemExit("imported")\n')
    try:
        here = {"PYTHONPATH": str(house)}
        listed = run("--plugins", env=here)
        assert (listed.code, listed.err) == (0, "")
        assert listed.out.count("trap              Not to be imported.") == len(KINDS)
        assert "trap" in completed("score --reward t", house)
        refused = run("score", "none.jsonl", "--reward", "trap", "--reward", "nosuch", env=here)
        assert refused.code == 2
        assert "there is no reward 'nosuch'" in refused.err
        assert run("score", "none.jsonl", "--reward", "trap", env=here) == Ended(
            2, "", "vpctl score: error: none.jsonl: no such file or directory\n"
        ), "the input is opened before the reward is loaded"
    finally:
        for file in files:
            file.unlink()
