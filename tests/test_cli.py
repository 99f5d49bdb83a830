import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.conftest import FAIR, HOME, Ended, Plugin, Run, bash, draw, lines, rest, told, vpctl, write_lines
from tests.surroundings import ENVIRONMENT
from vpctl import __version__, manual, progress
from vpctl.cli import COMMANDS, EVALUATIONS, NEW_OBJECTS, about, as_typed, described, load, main
from vpctl.records import Prompt, prompt_key
from vpctl.streams.writing import Out

JUDGEMENT = {
    "prompt_id": "p",
    "prompt": "x",
    "aspect": "fidelity",
    "annotator": "human",
    "image_ids": ["a", "b"],
    "file_names": ["a.png", "b.png"],
    "scores": [1, 2],
}
OTHER = {**JUDGEMENT, "annotator": "other", "scores": [2, 1]}
Call = Callable[[str], Ended]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """`call("merge none.jsonl")` runs the program in this process, which is faster than a new process."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def call(words: str) -> Ended:
        code = main(words.split())
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    with patch.dict(os.environ, ENVIRONMENT):
        yield call
    signal.signal(signal.SIGTERM, handler)
    progress.begin("vpctl", quiet=False)


def test_the_exits_are_those_the_manual_tells(run: Run, tmp_path: Path, plugin: Plugin) -> None:
    records = draw(tmp_path, prompts=2)
    write_lines(tmp_path / "judgements.jsonl", [JUDGEMENT])
    write_lines(tmp_path / "two.jsonl", [JUDGEMENT, OTHER])
    plugin("fair", FAIR)
    plugin("broken", "raise RuntimeError('boom')")
    found = {run("merge", "judgements.jsonl").code, run("score", "--help").code}
    assert found == {0}
    assert run("annotate", "metadata.jsonl", "--annotator", "./broken.py").code == 2, "the user's fault, not a bug"
    found.add(run("merge", "none.jsonl").code)
    os.unlink(tmp_path / records[0]["file_name"])
    found.add(run("annotate", "metadata.jsonl", "--annotator", "./fair.py").code)
    found.add(run("eval", "agreement", "two.jsonl", "--fail-under", "0.5").code)
    found.add(run("annotate", "metadata.jsonl", "--annotator", "./fair.py", "--max-time", "0").code)
    with Out(str(tmp_path / "held.jsonl"), Prompt, prompt_key):
        found.add(run("annotate", "metadata.jsonl", "--annotator", "./fair.py", "--out", "held.jsonl").code)
    assert found | {1, 130} == set(map(int, manual.EXITS))


@pytest.mark.parametrize(
    ("command", "broken"), [("annotate", "shapes.judge.judge"), ("score", "models.scoring.compute_scores")]
)
def test_a_bug_is_a_traceback_and_exit_1(tmp_path: Path, command: str, broken: str) -> None:
    """A bug is any unexpected exception in vpctl's own code, so the test puts one there."""
    draw(tmp_path, prompts=2)
    module, _, name = broken.rpartition(".")
    program = (
        f"import sys\nimport vpctl.{module} as module\nfrom vpctl.cli import main\n\n"
        f"def boom(*_, **__):\n    raise RuntimeError('boom')\n\nmodule.{name} = boom\nsys.exit(main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, command, "metadata.jsonl", "--out", "out.jsonl"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(HOME)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    said = ended.stderr[ended.stderr.index("Traceback") :]
    assert said.endswith("RuntimeError: boom\n")
    assert ", in boom\n" in said, "it says where"
    assert "Exception Group" not in said
    assert not (tmp_path / "out.jsonl").exists()


RAISES = "def {}(*_):\n    raise RuntimeError('boom\\x1b[2J')\nreturn {}"


@pytest.mark.parametrize(
    ("command", "kind", "contract"),
    [
        ("annotate metadata.jsonl", "annotator", "an annotator takes (prompt, images, aspect) and returns "),
        ("score metadata.jsonl", "reward", "a reward takes (images, prompts) and returns one number for each image"),
        ("generate prompts.txt", "model", "a generator takes (prompts, seeds, settings) and returns one PIL image "),
        ("polish prompts.txt", "polisher", "a polisher takes a list of prompts and returns one Polished for each"),
    ],
)
def test_a_plug_in_that_raises_is_one_line_and_its_traceback_can_be_had(
    run: Run, tmp_path: Path, plugin: Plugin, command: str, kind: str, contract: str
) -> None:
    draw(tmp_path, prompts=2)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    plugin("mine", RAISES.format("work", "work"))
    words = [*command.split(), f"--{kind}", "./mine.py"]
    ended = run(*words)
    assert (ended.code, ended.out) == (2, "")
    found = re.fullmatch(
        r"vpctl \w+: error: \./mine\.py:\d+, in work: RuntimeError: boom\\x1b\[2J; (.*); --traceback shows more\n",
        ended.err,
    )
    assert found, ended.err
    assert found[1].startswith(contract)
    more = run(*words, "--traceback")
    assert more.code == 2
    assert "Traceback (most recent call last):\n" in more.err
    assert more.err.endswith(ended.err)
    assert "\x1b" not in more.err


@pytest.mark.parametrize(
    ("command", "kind", "body"),
    [
        ("annotate metadata.jsonl", "annotator", "None"),
        ("annotate metadata.jsonl", "annotator", "'good'"),
        ("annotate metadata.jsonl", "annotator", "[1, 2]"),
        ("score metadata.jsonl", "reward", "None"),
        ("score metadata.jsonl", "reward", "'12'"),
        ("score metadata.jsonl", "reward", "[['a']] * len(given[0])"),
        ("generate prompts.txt", "model", "None"),
        ("generate prompts.txt", "model", "['a']"),
        ("polish prompts.txt", "polisher", "None"),
        ("polish prompts.txt", "polisher", "'a'"),
    ],
)
def test_a_plug_in_that_returns_anything_else_is_one_line(
    run: Run, tmp_path: Path, plugin: Plugin, command: str, kind: str, body: str
) -> None:
    draw(tmp_path, prompts=2)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    plugin("mine", f"return lambda *given: {body}")
    ended = run(*command.split(), f"--{kind}", "./mine.py")
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(rf"vpctl \w+: error: --{kind} \./mine\.py: it returned .*; an? \w+ takes .*\n", ended.err)


ABANDONED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""The program ends at an error without closing its input; the test collects the open file itself."""
JUDGE = """
from contextlib import asynccontextmanager
from vpctl.errors import Refused, Unusable
from vpctl.contracts import Annotator, Verdicts

class Judge(Annotator):
    async def ask(self, question):
        return [Verdicts([1.0] * len(question.pictures), ["x"] * len(question.pictures), {})]

    MEMBER

return Judge()
"""
VERDICTS = "async def ask(self, question): return [Verdicts({}, {}, {}, {})]"
POLISHER = """
from vpctl.errors import Unusable
from vpctl import contracts
from vpctl.contracts import Polished

class Polisher(contracts.Polisher):
    def __call__(self, prompts):
        return [RETURNED]

    MEMBER

return Polisher()
"""
DRAWING = """
from PIL import Image
from vpctl.contracts import Settings, Generator as Base

class Generator(Base):
    def __call__(self, prompts, seeds, settings):
        return [Image.new("RGB", (8, 8), "red") for _ in prompts]

    MEMBER

return Generator()
"""
RAISING = "property(lambda self: 1 / 0)"
MEMBERS = {
    "annotator": [
        f"identity = {RAISING}",
        "identity = object()",
        f"template = {RAISING}",
        "def template(self, kind): return None",
        "def template(self, kind): return '\\ud800'",
        "template = 'words'",
        "def check(self): 1 / 0",
        "max_side = -1",
        "max_side = 8.5",
        "preparing = 'x'",
        "preparing = 0",
        "needs_pixels = None",
        "needs_pixels = 'no'",
        "def prepare(self, image): return image",
        "def pixels(self, picture): return None",
        "def pixels(self, picture): return float('nan')",
        "def running(self, stop_signal): 1 / 0",
        "def running(self, stop_signal): return None",
        "running = asynccontextmanager(lambda self, stop_signal: 1 / 0)",
        "def summary(self): return 3",
        VERDICTS.format([1.0, 2.0], ["x", "\ud800"], {}, ()),
        VERDICTS.format([1.0, 2.0], ["x", "y"], {"cost": None}, ()),
        VERDICTS.format([1.0, 2.0], ["x", "y"], {"\ud800": 1}, ()),
        VERDICTS.format([1.0, 2.0], ["x", "y"], {}, (0, 2)),
        VERDICTS.format([1.0, 2.0], ["x", "y"], {}, (0.0, 1.0)),
        VERDICTS.format([10**400, 2.0], ["x", "y"], {}, ()),
        "async def ask(self, question): return [Verdicts([1.0, 2.0], ['x', 'y'], {}, (), {'server': 3})]",
        "async def ask(self, question): return [Verdicts([1.0, 2.0], ['x', 'y'], {}, (), None)]",
        "async def ask(self, question): error = Refused('x'); error.asked = {'server': 3}; raise error",
        "async def ask(self, question): error = Refused('x'); error.asked = None; raise error",
        "async def ask(self, question): raise Refused('\\ud800')",
        "async def ask(self, question): raise Unusable('x', '\\ud800')",
        "async def ask(self, question): raise Refused('x', {'cost': 'much'})",
    ],
    "polisher": [
        "at_once = 'x'",
        "at_once = -1",
        f"at_once = {RAISING}",
        "def check(self): 1 / 0",
        "def running(self, stop_signal): return 1",
        "template = 3",
        "def summary(self): return None",
    ],
    "model": [
        f"settings = {RAISING}",
        "settings = (1, 2)",
        "settings = Settings(width='wide')",
        "settings = Settings(negative_prompt='\\ud800')",
        f"fingerprint = {RAISING}",
        "fingerprint = 3",
        "fingerprint = '\\ud800'",
    ],
}


@pytest.mark.parametrize(
    ("kind", "member"), [(kind, member) for kind, members in MEMBERS.items() for member in members]
)
@ABANDONED
def test_a_member_of_a_plug_in_that_breaks_its_contract_is_one_line(
    call: Call, tmp_path: Path, plugin: Plugin, kind: str, member: str
) -> None:
    draw(tmp_path, prompts=2)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    body = {"annotator": JUDGE, "polisher": POLISHER, "model": DRAWING}[kind]
    if "running" in member or "template" in member:
        body = body.replace("contracts.Polisher", "contracts.AsyncPolisher").replace(
            "def __call__", "async def __call__"
        )
    path = plugin("mine", body.replace("RETURNED", "Polished('x')").replace("MEMBER", member))
    command = {
        "annotator": "annotate metadata.jsonl",
        "polisher": "polish prompts.txt",
        "model": "generate prompts.txt",
    }
    ended = call(f"{command[kind]} --{kind} ./mine.py")
    gc.collect()
    assert ended.code == 2
    said = ended.err.splitlines()
    assert len(said) == 1, ended.err
    assert path.name in said[0]


@pytest.mark.parametrize(
    "returned",
    ["Polished(None)", "Polished(3)", "Polished('x', None)", "Polished('\\ud800')", "Unusable('\\ud800')"],
)
@ABANDONED
def test_what_a_polisher_returns_is_text_that_a_record_can_hold(
    call: Call, tmp_path: Path, plugin: Plugin, returned: str
) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    plugin("mine", POLISHER.replace("RETURNED", returned).replace("MEMBER", ""))
    ended = call("polish prompts.txt --polisher ./mine.py --out out.jsonl")
    gc.collect()
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert ended.err.startswith("vpctl polish: error: --polisher ./mine.py: it returned ")
    assert not (tmp_path / "out.jsonl").exists()


def test_scores_of_numpy_are_recorded_as_numbers(call: Call, tmp_path: Path, plugin: Plugin) -> None:
    draw(tmp_path, prompts=1)
    scores = VERDICTS.format("[np.float64(2.5), True]", ["x", "y"], {}, ())
    plugin("mine", "import numpy as np\n" + JUDGE.replace("MEMBER", scores))
    ended = call("annotate metadata.jsonl --annotator ./mine.py --aspect fidelity --out out.jsonl")
    assert ended.code == 0, ended.err
    (judgement,) = lines((tmp_path / "out.jsonl").read_text())
    assert sorted(judgement["scores"]) == [1, 2.5]


def test_what_a_plug_in_prints_or_asks_does_not_touch_the_data(run: Run, tmp_path: Path, plugin: Plugin) -> None:
    draw(tmp_path, prompts=1)
    asking = "print('hello')\ntry:\n    input('yes? ')\nexcept EOFError:\n    print('none')"
    plugin("mine", f"{asking}\nreturn lambda images, prompts: [1] * len(prompts)")
    ended = bash("cat metadata.jsonl | vpctl score - --reward ./mine.py", tmp_path)
    assert ended.code == 0
    assert len(lines(ended.out)) == len(lines((tmp_path / "metadata.jsonl").read_text()))
    assert "hello" in ended.err
    assert "none" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("scroe x.jsonl", "vpctl: error: No such command 'scroe'. Did you mean 'score'? see --help"),
        ("xyz", "vpctl: error: No such command 'xyz'; see --help"),
        ("eval acuracy x", "vpctl eval: error: No such command 'acuracy'. Did you mean 'accuracy'? see --help"),
        ("score x.jsonl --rewrad clip", "vpctl score: error: No such option: --rewrad"),
        ("score", "vpctl score: error: Missing argument 'FILE'; see --help"),
        ("score a b", "vpctl score: error: Got unexpected extra argument"),
        ("train-rm x.jsonl", "vpctl train-rm: error: Missing option '--out' / '-o'; see --help"),
        (
            "score x --batch 0",
            "vpctl score: error: --batch 0: must be from 1 to 4096",
        ),
        ("score x --out", "vpctl score: error: Option '--out' requires an argument; see --help"),
        ("--verbose", "vpctl: error: No such option: --verbose"),
        (
            "merge x --weight fidelity",
            "vpctl merge: error: --weight fidelity: must be an aspect and its weight, such as aesthetic=0.5",
        ),
        ("merge x --weight a=-1", "vpctl merge: error: --weight a=-1: '-1' is not a number of at least 0"),
        ("merge x --split train:most", "vpctl merge: error: --split train:most: 'most' is not a number of at least 0"),
        (
            "merge x --split train",
            "vpctl merge: error: --split train: must be names and shares of the parts, such as train:0.9,test:0.1",
        ),
        (
            "merge x --scale 1-5",
            "vpctl merge: error: --scale 1-5: must be the lowest and highest score, such as 1:10 or human=1:10",
        ),
        ("merge x --scale 5:1", "vpctl merge: error: --scale 5:1: the first number must be smaller than the second"),
        (
            "generate x --guidance wide",
            "vpctl generate: error: --guidance wide: must be a number such as 7.5, or a range such as 3:12",
        ),
        (
            "generate x --guidance 9:3",
            "vpctl generate: error: --guidance 9:3: must be numbers from 0 to 1000, the smaller first",
        ),
        (
            "generate x --size 512",
            "vpctl generate: error: --size 512: must be width and height in pixels, such as 768x512",
        ),
        ("eval compare a b -r", "vpctl eval compare: error: Option '-r' requires an argument; see --help"),
    ],
)
def test_a_slip_on_the_command_line_is_one_line_on_stderr(call: Call, words: str, said: str) -> None:
    ended = call(words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(said)
    assert ended.err.count("\n") == 1


def test_when_memory_runs_out_the_options_that_need_less_are_named(call: Call) -> None:
    with patch("vpctl.commands.tune_dpo.announce_once", side_effect=MemoryError):
        ended = call("tune-dpo pairs.jsonl --out run")
    assert ended.err == (
        "vpctl tune-dpo: error: out of memory; lower --batch and raise --accumulate, or name --gradient-checkpointing, "
        "--dtype float16 or bfloat16, or with --full --optimizer adamw8bit\n"
    )


def test_without_a_word_there_is_help(call: Call) -> None:
    for words in ("", "eval"):
        ended = call(words)
        assert (ended.code, ended.err) == (2, "")
        assert "Usage: vpctl" in ended.out


@pytest.mark.parametrize("name", [*COMMANDS, *(f"eval {one}" for one in EVALUATIONS)])
def test_help_is_for_people_and_about_the_command(call: Call, name: str) -> None:
    ended = call(f"{name} --help")
    assert (ended.code, ended.err) == (0, "")
    assert f"Usage: vpctl {name} " in ended.out
    first = described(load(name) if name != "eval" else load("eval accuracy")).split("\n")[0]
    assert (about(name) if name == "eval" else first) in " ".join(ended.out.split())


def test_all_commands_are_listed_in_the_order_of_the_pipeline(call: Call) -> None:
    text = call("--help").out
    places = [text.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    for name in COMMANDS:
        assert about(name) in text
        if name != "eval":
            assert described(load(name)).startswith(about(name)), "the file and the command say the same of it"


def test_the_version_and_the_plug_ins_are_told_on_stdout(call: Call) -> None:
    assert call("--version") == Ended(0, f"vpctl {__version__}\n", "")
    ended = call("--plugins")
    assert (ended.code, ended.err) == (0, "")
    kinds = [line.split()[0] for line in ended.out.splitlines()]
    assert list(dict.fromkeys(kinds)) == ["polisher", "generator", "annotator", "reward", "format", "aspect"]
    assert "aspect     fidelity          " in ended.out


def test_a_command_is_known_as_it_is_called() -> None:
    assert load("train-rm").__name__ == "train_rm"
    assert load("eval compare").__name__ == "compare"


def test_an_example_can_be_copied_into_a_shell() -> None:
    assert as_typed("    vpctl a\n        --b\n        --c") == "    vpctl a \\\n        --b \\\n        --c"
    assert as_typed("vpctl a\nvpctl b") == "vpctl a\nvpctl b"

    def command() -> None:
        """First line.

        A paragraph
        of two lines.

        Examples:

            vpctl a
                --b
        """

    assert described(command).endswith("\n\nExamples:\n\n\b\n    vpctl a \\\n        --b")


def test_quiet_silences_notes_and_tables_but_no_warning_and_no_error(
    call: Call, tmp_path: Path, plugin: Plugin
) -> None:
    records = draw(tmp_path, prompts=1)
    write_lines(tmp_path / "judgements.jsonl", [JUDGEMENT, OTHER])
    loud, quiet = call("merge judgements.jsonl --out pairs.jsonl"), call("merge judgements.jsonl -q --out pairs.jsonl")
    assert "0 pairs written to pairs.jsonl" in loud.err
    assert "fidelity" in loud.err
    assert quiet == Ended(0, "", "")
    quiet = call("eval agreement judgements.jsonl -q --fail-under 0.5 --out reports.jsonl")
    assert quiet.code == 4
    assert (
        quiet.err
        == "vpctl eval agreement: warning: human, other, fidelity, agreement: the lower end of the interval, 0.000, "
        "is below the gate of 0.5\n"
    )
    assert "no --annotator given" in call("annotate metadata.jsonl --aspect fidelity --out shapes.jsonl").err
    os.unlink(tmp_path / records[0]["file_name"])
    plugin("fair", FAIR)
    quiet = call("annotate metadata.jsonl --annotator ./fair.py --aspect fidelity -q")
    where = f"{records[0]['prompt']!r}: {tmp_path}/{records[0]['file_name']}"
    missing = f"vpctl annotate: warning: {where}: there is no such picture\n"
    assert quiet == Ended(3, "", missing)
    assert call("merge none.jsonl --quiet").err == "vpctl merge: error: none.jsonl: no such file or directory\n"


STUCK = """
import asyncio, os, time
from vpctl.contracts import Verdicts

count = 0

def verdicts(images):
    return Verdicts([1.0] * len(images), ["x"] * len(images), {})

async def waiting(prompt, images, aspect):
    nonlocal count
    count += 1
    if count > 2:
        open("stuck", "w").close()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    return verdicts(images)

def working(prompt, images, aspect):
    nonlocal count
    count += 1
    if count > 2:
        open("stuck", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    return verdicts(images)

return working if argument else waiting
"""


@contextmanager
def stuck(tmp_path: Path, plugin: Plugin, argument: str) -> Iterator["subprocess.Popen[str]"]:
    """annotate, after two judgements and during the third, which ends as soon as the file `go` exists."""
    draw(tmp_path, prompts=3)
    plugin("fair", FAIR)
    plugin("stuck", STUCK)
    os.mkfifo(tmp_path / "stuck")
    spec = f"./stuck.py:{argument}" if argument else "./stuck.py"
    command = vpctl("annotate", "metadata.jsonl", "--annotator", spec, "--concurrency", "1", "--out", "out.jsonl")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=ENVIRONMENT) as running:
        (tmp_path / "stuck").read_bytes()
        yield running


WAITING = "vpctl annotate: interrupted: waiting for running work to finish; interrupt again to stop immediately\n"
INTERRUPTED = "vpctl annotate: interrupted; out.jsonl holds what is finished; run the same command again to continue\n"


def written(judgements: int) -> str:
    return f"vpctl annotate: {judgements} judgements written to out.jsonl\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("argument", ["", "working"], ids=["waiting", "working"])
def test_an_interrupt_keeps_what_is_finished_and_tells_the_way_on(
    run: Run, tmp_path: Path, plugin: Plugin, number: int, argument: str
) -> None:
    with stuck(tmp_path, plugin, argument) as running:
        running.send_signal(number)
        assert told(running, "waiting") == WAITING
        (tmp_path / "go").touch()
        assert rest(running) == written(3) + INTERRUPTED
        assert running.returncode == 130
    kept = lines((tmp_path / "out.jsonl").read_text())
    assert len(kept) == 3, "what is under way is waited for"
    os.unlink(tmp_path / "stuck")
    (tmp_path / "stuck").symlink_to(os.devnull)
    spec = f"./stuck.py:{argument}" if argument else "./stuck.py"
    again = run("annotate", "metadata.jsonl", "--annotator", spec, "--out", "out.jsonl")
    assert again.code == 0
    assert (
        again.err
        == f"vpctl annotate: {12 - len(kept)} judgements written to out.jsonl; {len(kept)} were already there\n"
    )
    found = lines((tmp_path / "out.jsonl").read_text())
    assert found[: len(kept)] == kept
    assert len({(one["prompt_id"], one["aspect"]) for one in found}) == len(found) == 12


def test_a_second_interrupt_is_no_louder_than_the_first(tmp_path: Path, plugin: Plugin) -> None:
    with stuck(tmp_path, plugin, "working") as running:
        running.send_signal(signal.SIGINT)
        assert told(running, "waiting") == WAITING
        running.send_signal(signal.SIGINT)
        assert rest(running) == written(2) + INTERRUPTED
        assert running.returncode == 130
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_command_in_the_background_of_a_script_can_be_ended(tmp_path: Path, plugin: Plugin) -> None:
    """Such a command ignores SIGINT, so only SIGTERM can end it."""
    draw(tmp_path, prompts=3)
    plugin("stuck", STUCK)
    os.mkfifo(tmp_path / "stuck")
    command = "vpctl annotate metadata.jsonl --annotator ./stuck.py --concurrency 1 --out out.jsonl 2> said"
    waits = "until grep -q waiting said; do sleep 0.01; done"
    ended = bash(
        f"{command} & cat stuck; kill -TERM $!; {waits}; touch go; wait $!; code=$?; cat said; exit $code", tmp_path
    )
    assert ended == Ended(130, WAITING + written(3) + INTERRUPTED, "")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_messages_begin_with_the_command_as_it_was_called(call: Call) -> None:
    for words, name in {
        "merge none.jsonl": "vpctl merge",
        "score none.jsonl": "vpctl score",
        "eval agreement none.jsonl": "vpctl eval agreement",
        "tune-dpo none.jsonl --out x": "vpctl tune-dpo",
    }.items():
        ended = call(f"{words} -q")
        assert ended == Ended(2, "", f"{name}: error: none.jsonl: no such file or directory\n")


STATE = "print(gc.get_threshold()[0], gc.get_freeze_count())"


@pytest.mark.parametrize(("before", "after"), [(700, NEW_OBJECTS), (0, 0), (10**6, 10**6)])
def test_garbage_is_looked_for_less_often_and_never_where_it_was_not(before: int, after: int) -> None:
    program = f"import gc; gc.set_threshold({before}); from vpctl import cli; cli.main(); {STATE}"
    command = [sys.executable, "-X", "utf8", "-c", program, "--version"]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=HOME, capture_output=True, text=True, check=True)
    threshold, frozen = map(int, done.stdout.split()[-2:])
    assert threshold == after
    assert frozen > 10_000, "what is there at the end is not looked at once more"
