"""A fuzzer: random records, damaged files, options, and lying servers, until a command breaks one of the rules.

`python -m tests.hostile.fuzz --minutes 60 --seed 1` runs it. For each cause, the ``--findings`` folder gets a folder
with the files, the messages of the command, and `cmd`, which runs it again. If a server lied, `told` has the lies and
the answers; only the same seed tells these lies again. The test suite runs a few inputs of each family.

The rules are those of the table: a documented exit code, no traceback, one line of error with exit code 2 and none
otherwise, no other output with it, no control character on standard error, only JSON Lines on standard output, no
partial file left, at most `CPU_SECONDS` of CPU time and `MEMORY` bytes.
"""

import argparse
import json
import math
import re
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from tests.hostile.damage import NUMBERS, TEXTS, VALUES, damages
from tests.hostile.fork import Forks
from tests.hostile.liar import Liar, Lie, Memory
from tests.hostile.makers import MAKERS
from tests.hostile.table import RECORDS, Bench, broken_rules, left_behind
from vpctl import manual
from vpctl.options import Option

CPU_SECONDS = 20
ROUND = 100
"""Number of inputs that Hypothesis makes from one seed. The next round uses the next seed."""
FAMILIES = ("bytes", "options", "records", "served")
KEPT = 3
"""Number of inputs that are kept for one cause."""


class Input(NamedTuple):
    """A command line, standard input, the files that the run has in addition to those of `furnish`, and the server."""

    family: str
    words: tuple[str, ...]
    files: dict[str, bytes]
    stdin: bytes = b""
    lies: tuple[Lie, ...] = ()
    memory: Memory | None = None


# Records --------------------------------------------------------------------------------------------------------------

READERS: dict[str, list[str]] = {
    "PROMPT": ["polish {}", "polish - < {}", "generate {} -m ./plain.py -n 1", "polish {} --keep-original"],
    "IMAGE": [
        "score {} -r ./red.py",
        "score - -r ./red.py < {}",
        "annotate {} --annotator ./fair.py --aspect fidelity",
        "annotate {} --annotator ./fair.py --aspect fidelity --mode pair",
        "eval compare {} scored.jsonl",
        "eval compare scored.jsonl {} --html page.html",
        "score images.jsonl -r ./red.py --out {}",
    ],
    "JUDGEMENT": [
        "merge {}",
        "merge {} judgements.jsonl --split train:0.5,test:0.5",
        "eval agreement {} people.jsonl",
        "eval judgements {} people.jsonl",
        "annotate images.jsonl --annotator ./fair.py --aspect fidelity --out {}",
    ],
    "PAIR": ["eval accuracy {} -r ./red.py", "eval accuracy {} -r ./red.py --split train"],
    "REPORT": ["eval compare scored.jsonl better.jsonl --html page.html --report {}"],
}


@st.composite
def records(draw: st.DrawFn) -> Input:
    """Valid records of one type with a few changes, for a command that reads them."""
    kind = draw(st.sampled_from(sorted(READERS)))
    known = [key for one in RECORDS.values() for key in orjson.loads("{" + one + "}")]
    optional = ["scores", "split", "source_prompt", "order", "ranking", "mode", "key", "usage", "refused", "aspects"]
    keys = st.one_of(st.sampled_from(sorted({*known, *optional})), TEXTS)
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        record: dict[str, Any] = orjson.loads("{" + RECORDS[kind] + "}")
        if kind == "IMAGE" and draw(st.booleans()):
            record["scores"] = {"shapes": draw(NUMBERS)}
        for _ in range(draw(st.integers(0, 3))):
            key = draw(keys)
            if draw(st.booleans()):
                record.pop(key, None)
            else:
                record[key] = draw(VALUES)
        text = json.dumps(record, ensure_ascii=draw(st.booleans()))
        lines.append(text.encode("utf-8", "surrogatepass"))
    end = draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"", b",\n"]))
    content = draw(st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b"\n"])) + end.join(lines) + end
    command = draw(st.sampled_from(READERS[kind]))
    name = draw(st.sampled_from(["in.jsonl", "in.jsonl", "in.jsonl", "in.json", "in.txt", "in"]))
    if command.endswith("< {}"):
        return Input("records", _words(command[:-5]), {}, content)
    return Input("records", _words(command.replace("{}", name)), {name: content})


def _words(command: str) -> tuple[str, ...]:
    return tuple(shlex.split(command))


# Bytes ----------------------------------------------------------------------------------------------------------------

SCORE = "score in.jsonl -r ./red.py"
DRAW = "generate prompts.txt -m shapes:small -n 1 --steps 1 --adapter lora"
PLAY = "generate prompts.txt -m ./plain.py"
PLAIN = "a red circle\nthe small\tblue square\r\n\nein größerer Kreis, 8k, by greg rutkowski\n".encode()
DRY = "annotate images.jsonl --annotator openai:gpt-4o --aspect fidelity --dry-run"
TUNE = "tune-dpo pairs.jsonl -m shapes:small --max-steps 1 --batch 1 --accumulate 1 --preview-every 0 --out run"
PRICES = b'["gpt-4o"]\ninput = 2.5\noutput = 10.0\ncached = 1.25\n'
ASPECT = b"# Mine\n\nA rubric of mine.\n\n1. Bad: x\n2. Poor: x\n3. Fair: x\n4. Good: x\n5. Best: x\n"
METRICS = b'{"step":1,"loss":0.69,"implicit_accuracy":0.5}\n{"step":2,"loss":0.68,"implicit_accuracy":0.6}\n'


def samples(place: Path) -> list[tuple[str, str, dict[str, bytes]]]:
    """Commands, each with the name of the file to damage and with the content of all its files."""
    found: list[tuple[str, str, dict[str, bytes]]] = []
    record = b'{"prompt":"a red circle","prompt_id":"p","image_id":"i","file_name":"%s","model":"m","seed":1}\n'
    picture = Image.effect_noise((24, 24), 60).convert("RGB")
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        target = BytesIO()
        picture.save(target, form)
        found.append((SCORE, "x.img", {"in.jsonl": record % b"x.img", "x.img": target.getvalue()}))
    for kind, commands in READERS.items():
        content = b"{" + RECORDS[kind].encode() + b"}\n"
        found += [
            (command.replace("{}", "in.jsonl"), "in.jsonl", {"in.jsonl": content})
            for command in commands
            if "<" not in command
        ]
    found += [(command, "prompts.txt", {"prompts.txt": PLAIN}) for command in ("polish prompts.txt", f"{PLAY} -n 1")]
    found.append((f"{DRY} --prices p.toml", "p.toml", {"p.toml": PRICES}))
    found.append(("annotate images.jsonl --annotator ./fair.py --aspect ./mine.md", "mine.md", {"mine.md": ASPECT}))
    page = "eval compare scored.jsonl better.jsonl --html page.html --run run"
    found.append((page, "run/metrics.jsonl", {"run/metrics.jsonl": METRICS}))
    for folder, maker, command in (
        ("rm", "backbone", "score images.jsonl -r vp:rm"),
        ("pipe", "pipeline", "generate prompts.txt -m diffusion:pipe -n 1 --steps 1"),
    ):
        if not (place / folder).exists():
            MAKERS[maker](place / folder)
        files = {f"{folder}/{name}": content for name, content in _files(place / folder).items()}
        found += [(command, name, files) for name, content in files.items() for _ in range(1 + name.endswith(".json"))]
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@st.composite
def broken(draw: st.DrawFn, found: list[tuple[str, str, dict[str, bytes]]]) -> Input:
    """A valid file with bytes flipped, cut, doubled or inserted, or with a changed value in its JSON."""
    command, name, files = draw(st.sampled_from(found))
    content = files[name]
    for _ in range(draw(st.integers(1, 4))):
        content = draw(damages())(content)
    return Input("bytes", _words(command), {**files, name: content})


# Servers --------------------------------------------------------------------------------------------------------------

ASK = "annotate images.jsonl --annotator openai:judge --aspect fidelity --timeout 1 --max-time 1s"
SERVED = [
    ASK,
    f"{ASK} --mode pair",
    f"{ASK} --mode point --passes 2",
    f"{ASK} --dry-run --sample 2",
    "polish prompts.txt --polisher openai:judge --timeout 1 --max-time 1s",
]
"""Commands that ask a server."""
STATUSES = [0] * 12 + [200, 201, 204, 302, 400, 401, 403, 404, 409, 413, 422, 429, 500]
OFFLINE = {
    "batch-api": f"{ASK} --batch-api --out out.jsonl",
    "batch-file": f"{ASK} --batch-file requests.jsonl --out out.jsonl",
}
"""Commands that ask and collect the answers in a later run."""


class State(NamedTuple):
    """A point between two runs: the command of the next run, all files that the earlier ones wrote, and the server."""

    command: str
    files: dict[str, bytes]
    memory: Memory | None


def states(bench: Bench, forks: Forks, liar: Liar) -> list[State]:
    """What the runs of `OFFLINE` leave, before and after the answers are there."""
    found = []
    for way, command in OFFLINE.items():
        with liar.lying(()):
            home = bench.fresh()
            there = _files(home)
            ended = forks([*_words(command)], home, env=_asking(liar), afresh=bench.fresh)
            assert ended.code == 0, ended.err.decode()
            written = {name: content for name, content in _files(home).items() if name not in there}
            if way == "batch-api":
                found.append(State(command, written, liar.memory()))
                liar.finish_all()
                found.append(State(command, written, liar.memory()))
            else:
                found.append(State(command, written, None))
                results = b"".join(map(liar.result, written["requests.jsonl"].splitlines()))
                found.append(State(command, {**written, "requests.out.jsonl": results}, None))
    return found


def _asking(liar: Liar) -> dict[str, str]:
    return {"OPENAI_BASE_URL": liar.url, "OPENAI_API_KEY": "none"}


@st.composite
def served(draw: st.DrawFn, found: list[State]) -> Input:
    """A command that asks a server which lies, or one whose files of an earlier run are damaged, or both."""
    lies = [*draw(st.lists(_lies(), max_size=2))]
    if draw(st.booleans()):
        return Input("served", _words(draw(st.sampled_from(SERVED))), {}, lies=(draw(_lies()), *lies))
    state = draw(st.sampled_from(found))
    files = dict(state.files)
    for _ in range(draw(st.integers(0 if lies else 1, 2))):
        name = draw(st.sampled_from(sorted(files)))
        files[name] = draw(damages())(files[name])
    return Input("served", _words(state.command), files, lies=tuple(lies), memory=state.memory)


def _lies() -> st.SearchStrategy[Lie]:
    return st.builds(
        Lie,
        reply=st.one_of(st.none(), st.integers(0, 5)),
        inside=st.booleans(),
        status=st.sampled_from(STATUSES),
        damages=st.lists(damages(), max_size=3).map(tuple),
    )


# Options --------------------------------------------------------------------------------------------------------------

BASES = {
    "polish": "polish prompts.txt",
    "generate": "generate prompts.txt -m ./plain.py -n 1",
    "annotate": "annotate images.jsonl --annotator ./fair.py --aspect fidelity",
    "merge": "merge judgements.jsonl",
    "score": "score images.jsonl -r ./red.py",
    "train-rm": "train-rm none.jsonl --backbone new:clip --freeze 0 --out run",
    "tune-dpo": "tune-dpo none.jsonl -m shapes:small --out run",
    "tune-ppo": "tune-ppo none.txt -m shapes:small -r shapes --out run",
    "eval accuracy": "eval accuracy pairs.jsonl -r ./red.py",
    "eval compare": "eval compare scored.jsonl better.jsonl",
    "eval agreement": "eval agreement judgements.jsonl people.jsonl",
    "eval judgements": "eval judgements judgements.jsonl people.jsonl",
}
"""Valid command lines. Those that train name no existing data, because options are checked before files are read."""
PLACES = st.sampled_from(
    [
        "",
        ".",
        "-",
        "x.jsonl",
        "a.png",
        "images.jsonl",
        "no/such/x",
        "a.png/x",
        "/dev/full",
        "/dev/null",
        "/dev/stdout",
        "\x1b[2J",
        "x" * 300,
    ]
)
WORDS = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "-1",
            "1",
            "2",
            "3.5",
            "nan",
            "inf",
            "-inf",
            "1e400",
            "1e-400",
            "9" * 19,
            "9" * 30,
            "0x10",
            "١",
            "1_0",
            " 1 ",
            "true",
            "x",
        ]
    ),
    st.sampled_from(
        [
            "1:2",
            "2:1",
            "a=1",
            "a=nan",
            "=1",
            "fidelity=1",
            "fidelity",
            "me=1:5",
            "train:1",
            "train:0.5,test:0.5",
            "8x8",
            "0x8",
            "cpu",
            "cuda",
        ]
    ),
    st.sampled_from(
        [
            "shapes",
            "shapes:aesthetic",
            "vp:",
            "clip:",
            "./red.py",
            "./none.py",
            "a.png",
            "{}",
            "[]",
            "{",
            "1h30m",
            "1h1h",
        ]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)


def options_of(command: str) -> list[tuple[str, bool]]:
    """The options of a command, and whether each is a flag without a value."""
    found = []
    for parameter, declared, kind in manual.parameters(command):
        if isinstance(declared, Option):
            found += [(name, kind is bool) for name in manual.flags(parameter, declared)]
    found.remove(("--traceback", True))  # whoever asks for a traceback gets one
    return found


@st.composite
def commands(draw: st.DrawFn, known: dict[str, list[tuple[str, bool]]]) -> Input:
    """A valid command with options that are mostly invalid."""
    command = draw(st.sampled_from(sorted(BASES)))
    words = list(_words(BASES[command]))
    for _ in range(draw(st.integers(1, 4))):
        name, flag = draw(st.sampled_from(known[command]))
        if draw(st.integers(0, 19)) == 0:
            name = draw(st.sampled_from([name[:-1], name + "x", name.upper(), "--", "--nothing", "-Z"]))
        words.append(name)
        if not flag:
            places = name in (
                "--out",
                "-o",
                "--html",
                "--folder",
                "--batch-file",
                "--root",
                "--run",
                "--report",
                "--prices",
            )
            words.append(draw(PLACES if places else WORDS))
    return Input("options", tuple(word.replace("\0", "") for word in words), {})


# Running --------------------------------------------------------------------------------------------------------------


class Hunt:
    """Runs inputs and keeps those that break a rule, grouped by cause."""

    def __init__(self, place: Path, forks: Forks, liar: Liar, findings: Path | None) -> None:
        self.place, self.findings = place, findings
        self._forks, self._bench, self._liar = forks, Bench(place, forks), liar
        self.inputs: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.lied = 0
        """Number of inputs with a lie that the command was told."""
        self._samples = samples(place)
        self._known = {command: options_of(command) for command in BASES}
        self._states = states(self._bench, forks, liar)

    def inputs_of(self, families: str) -> st.SearchStrategy[Input]:
        """The inputs of a round."""
        of_each = [broken(self._samples), commands(self._known), records(), served(self._states)]
        every = dict(zip(FAMILIES, of_each, strict=True))
        return st.one_of(*(one for name, one in every.items() if not families or name in families))

    def round(self, number: int, size: int, families: str = "", until: float = math.inf) -> None:
        """Run the inputs that Hypothesis makes from this seed."""

        @seed(number)
        @settings(
            max_examples=size, database=None, deadline=None, derandomize=False, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(self.inputs_of(families))
        def one(example: Input) -> None:
            if time.monotonic() < until:
                self.run(example)

        one()

    def run(self, example: Input) -> list[str]:
        """Run the input. Return the rules it breaks."""
        self.inputs[example.family] += 1
        stdin = self.place / "stdin"
        stdin.write_bytes(example.stdin)

        def furnished() -> Path:
            home = self._bench.fresh()
            for name, content in example.files.items():
                path = home / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return home

        home = furnished()
        with self._liar.lying(example.lies, example.memory):
            ended = self._forks(
                [*example.words],
                home,
                stdin=stdin,
                env=_asking(self._liar),
                seconds=20 * CPU_SECONDS,
                cpu_seconds=CPU_SECONDS,
                afresh=furnished,
            )
        self.lied += bool(example.lies and self._liar.told)
        err = ended.err.decode("utf-8", "backslashreplace")
        wrong = [*broken_rules(ended.code, ended.out, err)]
        wrong += left_behind(home) if ended.code >= 0 else []
        if wrong:
            self._keep(example, wrong, err)
        return wrong

    def _keep(self, example: Input, wrong: list[str], err: str) -> None:
        cause = _cause(example, wrong, err)
        self.causes[cause] += 1
        if self.findings is None or self.causes[cause] > KEPT:
            return
        name = re.sub(r"[^\w.-]+", "-", cause)[:100].strip("-")
        folder = self.findings / f"{name}.{self.causes[cause]}"
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in {**example.files, "stdin": example.stdin}.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        (folder / "cmd").write_text(f"vpctl {shlex.join(example.words)} < stdin\n", "utf-8", "surrogatepass")
        if self._liar.told:
            told = [f"{path} {status}\n{body.decode('utf-8', 'replace')}\n" for path, status, body in self._liar.told]
            (folder / "told").write_text("\n".join([*map(repr, example.lies), *told]), "utf-8", "backslashreplace")
        (folder / "said").write_text("\n".join(wrong) + f"\n\n{err}", "utf-8", "backslashreplace")


def _cause(example: Input, wrong: list[str], err: str) -> str:
    """The same text for all inputs with one fault: the last vpctl function in the traceback, or the broken rule."""
    frames = re.findall(r'File "[^"]*/vpctl/([\w/]+\.py)", line \d+, in (\w+)', err)
    raised = next((rule for rule in wrong if rule.startswith("a traceback")), "")
    if raised and frames:
        return f"{'.'.join(frames[-1])} {re.split('[:(]', raised.removeprefix('a traceback: '))[0]}"
    command = " ".join(example.words[: 1 + (example.words[0] == "eval")])
    return f"{command} {re.sub(r'[0-9a-f]{6,}|[0-9]+', 'N', wrong[0])[:60]}"


def hunted(place: Path, forks: Forks, *, number: int, size: int) -> Iterator[str]:
    """The causes found by a few inputs of each family. The test suite runs this."""
    with Liar() as liar:
        hunt = Hunt(place, forks, liar, None)
        for family in FAMILIES:
            hunt.round(number, size // len(FAMILIES), family)
        assert hunt.inputs.keys() == {*FAMILIES}
        assert hunt.lied, "the server was asked, and lied"
        yield from hunt.causes


def main() -> None:
    """Hunt for the requested time, and print the findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next has the next (default 1)")
    parser.add_argument("--families", default="", help=f"{', '.join(FAMILIES)}; all if not said")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="a folder for what is found")
    asked = parser.parse_args()
    began = time.monotonic()
    until = began + 60 * asked.minutes
    number = asked.seed
    with tempfile.TemporaryDirectory() as place, Forks() as forks, Liar() as liar:
        hunt = Hunt(Path(place), forks, liar, asked.findings)
        while time.monotonic() < until:
            before = dict(hunt.causes)
            hunt.round(number, ROUND, asked.families, until)
            number += 1
            for cause in hunt.causes.keys() - before.keys():
                print(f"found: {cause}", flush=True)
    inputs = ", ".join(f"{count} {family}" for family, count in sorted(hunt.inputs.items()))
    minutes = (time.monotonic() - began) / 60
    print(f"{sum(hunt.inputs.values())} inputs ({inputs}) in {minutes:.1f} min, seeds {asked.seed} to {number - 1}")
    for cause, count in hunt.causes.most_common():
        print(f"{count:6} {cause}")
    if hunt.causes:
        sys.exit(f"{len(hunt.causes)} causes; see {asked.findings}/")
    print("nothing was found")


if __name__ == "__main__":
    main()
