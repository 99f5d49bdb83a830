"""A fuzzer: random records, damaged files, and options, until a command breaks one of the rules.

`python -m tests.hostile.fuzz --minutes 60 --seed 1` runs it. For each cause, the ``--findings`` folder gets a folder
with the files, the messages of the command, and `cmd`, which runs it again. The test suite runs the first inputs of a
seed.

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

from tests.hostile.fork import Forks
from tests.hostile.makers import MAKERS
from tests.hostile.table import RECORDS, Bench, broken_rules, left_behind
from vpctl import manual
from vpctl.options import Option

CPU_SECONDS = 20
ROUND = 100
"""Number of inputs that Hypothesis makes from one seed. The next round uses the next seed."""
KEPT = 3
"""Number of inputs that are kept for one cause."""


class Input(NamedTuple):
    """A command line, standard input, and the files that the run has in addition to those of `furnish`."""

    family: str
    words: tuple[str, ...]
    files: dict[str, bytes]
    stdin: bytes = b""


# Wrong values ---------------------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "\0", "\x1b[2J", "\u202e", "\ud800", "../..", "/etc/hostname", "a.png", "nan", "-", "%s", "{{7*7}}"]
    ),
)
NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**64), 10**40, 1e308, -0.0, math.nan, math.inf]),
    st.integers(),
    st.floats(),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)

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
DRY = "annotate images.jsonl --annotator openai:gpt-4o --aspect fidelity --dry-run"
TUNE = "tune-dpo pairs.jsonl -m shapes:small --max-steps 1 --batch 1 --accumulate 1 --preview-every 0 --out run"
PRICES = b'["gpt-4o"]\ninput = 2.5\noutput = 10.0\ncached_input = 1.25\n'
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
        files = _files(place / folder, folder)
        found += [(command, name, files) for name, content in files.items() for _ in range(1 + name.endswith(".json"))]
    return found


def _files(folder: Path, name: str) -> dict[str, bytes]:
    return {
        f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@st.composite
def broken(draw: st.DrawFn, found: list[tuple[str, str, dict[str, bytes]]]) -> Input:
    """A valid file with bytes flipped, cut, doubled or inserted, or with a changed value in its JSON."""
    command, name, files = draw(st.sampled_from(found))
    content = files[name]
    for _ in range(draw(st.integers(1, 4))):
        content = draw(_damage(content))
    return Input("bytes", _words(command), {**files, name: content})


@st.composite
def _damage(draw: st.DrawFn, content: bytes) -> bytes:
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    if draw(st.booleans()):  # the beginning of a file determines how the rest is read
        at = min(at, draw(st.integers(0, 200)))
    length = draw(st.integers(1, 64))
    how = draw(st.sampled_from(["flip", "flip", "byte", "cut", "take", "double", "put", "zero", "value", "value"]))
    if how == "flip" and content:
        return content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
    if how == "byte" and content:
        return content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
    if how == "cut":
        return content[:at]
    if how == "take":
        return content[:at] + content[at + length :]
    if how == "double":
        return content[: at + length] + content[at : at + length] + content[at + length :]
    if how == "put":
        return content[:at] + draw(st.binary(max_size=16)) + content[at:]
    if how == "zero":
        return content[:at] + bytes(length) + content[at + length :]
    places = [*re.finditer(rb'(?<=[:\[,])\s*("[^"]{0,40}"|-?[\d.]+|true|false|null)', content[:20000])]
    if not places:
        return content
    place = draw(st.sampled_from(places))
    value = json.dumps(draw(VALUES)).encode("utf-8", "surrogatepass")
    return content[: place.start()] + value + content[place.end() :]


# Options --------------------------------------------------------------------------------------------------------------

BASES = {
    "polish": "polish prompts.txt",
    "generate": "generate prompts.txt -m ./plain.py -n 1",
    "annotate": "annotate images.jsonl --annotator ./fair.py --aspect fidelity",
    "merge": "merge judgements.jsonl",
    "score": "score images.jsonl -r ./red.py",
    "train-rm": "train-rm none.jsonl --backbone new:clip --out run",
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

    def __init__(self, place: Path, forks: Forks, findings: Path | None) -> None:
        self.place, self.findings = place, findings
        self._forks, self._bench = forks, Bench(place, forks)
        self.inputs: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self._samples = samples(place)
        self._known = {command: options_of(command) for command in BASES}

    def inputs_of(self, families: str) -> st.SearchStrategy[Input]:
        """The inputs of a round."""
        every = {"records": records(), "bytes": broken(self._samples), "options": commands(self._known)}
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
        ended = self._forks(
            [*example.words],
            home,
            stdin=stdin,
            env={"OPENAI_API_KEY": "none"},
            seconds=20 * CPU_SECONDS,
            cpu_seconds=CPU_SECONDS,
            afresh=furnished,
        )
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
    """The causes found by a few inputs of a seed. The test suite runs this."""
    hunt = Hunt(place, forks, None)
    hunt.round(number, size)
    yield from hunt.causes


def main() -> None:
    """Hunt for the requested time, and print the findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next has the next (default 1)")
    parser.add_argument("--families", default="", help="records, bytes, options; all if not said")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="a folder for what is found")
    asked = parser.parse_args()
    began = time.monotonic()
    until = began + 60 * asked.minutes
    number = asked.seed
    with tempfile.TemporaryDirectory() as place, Forks() as forks:
        hunt = Hunt(Path(place), forks, asked.findings)
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
