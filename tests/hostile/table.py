"""The table of hostile, broken and clumsy inputs: the ``[[case]]`` entries of all ``.toml`` files here.

Each case runs in its own folder, which has the files of `furnish`: pictures, and a valid file of every record type.

run      the words of the command line after ``vpctl``; it runs in a fork of a process with all imports done
shell    instead of `run`: a line for bash, for cases that depend on the shell or on a new process
in       the content of the file in.jsonl; `files` has the content of other files by name, `stdin` of standard input
env      environment variables; an empty one is not set
tty      true if standard error is a terminal
code     the expected exit code
line     the expected line on standard error: the error, or if there is none the first warning, or the last line;
         FOLDER is the folder of the case, and … stands for text of libraries and operating systems
text     true if standard output is text for people, such as help, and not JSON Lines
left     files that must exist afterwards
gone     files that must not exist afterwards

Content is text, in which <JUDGEMENT> stands for the keys of a valid record, <JUDGEMENT -aspect> for those without one
key, and <5000*x> for 5000 times x; or it is a table: {text, encoding}, {hex}, {picture, …}, {cut, bytes}, {link},
{make}.

`python -m tests.hostile.table WORDS` runs the cases with these words in their names, and shows every difference from
the expected result. With ``--write`` it writes the `line` of cases that end with their `code` and break no rule, and
both `code` and `line` of cases that have neither. Read the diff before you trust it.
"""

import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from tests.conftest import HOME, as_anyone, draw
from tests.hostile.fork import NO_HUB, Ended, Forks
from tests.hostile.makers import MAKERS, release
from tests.surroundings import ENVIRONMENT

HERE = Path(__file__).parent
PLUGINS = HERE.parent / "cases" / "plugins"
RAN = "RAN"
"""The file that hostile code creates when it runs."""
CODES = {0, 2, 3, 4, 5, 75, 130}
SECONDS = 150

_IMAGE = '"prompt":"a red circle","prompt_id":"p1","image_id":"i1","file_name":"a.png","model":"m","seed":1'
RECORDS = {
    "PROMPT": '"prompt":"a red circle"',
    "IMAGE": _IMAGE,
    "OTHER": _IMAGE.replace("i1", "i2").replace("a.png", "b.png").replace('"seed":1', '"seed":2'),
    "JUDGEMENT": '"prompt_id":"p1","prompt":"a red circle","aspect":"fidelity","annotator":"me",'
    '"image_ids":["i1","i2"],"file_names":["a.png","b.png"],"scores":[5,1]',
    "PAIR": '"prompt_id":"p1","prompt":"a red circle","chosen_file_name":"a.png","rejected_file_name":"b.png",'
    '"margin":1.0',
    "RATING": '"prompt":"a red circle","file_name":"a.png","label":true',
    "REPORT": '"name":"shapes","metric":"accuracy","value":0.5,"low":0.4,"high":0.6,"n":9',
}
"""The keys and values of a valid record of every type, and of a second picture."""
RUNS = {
    "train-rm": "train-rm pairs.jsonl --backbone new:clip --freeze 0 --epochs 1 --out run",
    "tune-dpo": "tune-dpo pairs.jsonl -m shapes:small --max-steps 1 --batch 1 --accumulate 1 --preview-every 0 "
    "--out run",
    "tune-ppo": "tune-ppo prompts.txt -m shapes:small -r shapes --epochs 1 --prompts-per-epoch 1 --images 2 "
    "--updates 1 --steps 2 --preview-every 0 --out run",
}
"""The commands that make the folders of ended runs, as fast as possible."""
_KNOWN = {"name", "run", "shell", "in", "files", "stdin", "env", "tty", "code", "line", "text", "left", "gone"}


@dataclass(frozen=True)
class Case:
    """An input of the table, and its expected result."""

    theme: str
    name: str
    run: str = ""
    shell: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)
    stdin: Any = None
    env: Mapping[str, str] = field(default_factory=dict)
    tty: bool = False
    code: int | None = None
    line: str = ""
    text: bool = False
    left: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def table() -> list[Case]:
    """All cases, in the order of the files."""
    return [case for file in sorted(HERE.glob("*.toml")) for case in _of(file)]


def _of(file: Path) -> Iterator[Case]:
    for entry in tomllib.loads(file.read_text("utf-8")).get("case", []):
        assert entry.keys() <= _KNOWN, f"{file.name}: {entry.get('name')}: unknown keys {entry.keys() - _KNOWN}"
        files = dict(entry.pop("files", {}))
        if "in" in entry:
            files["in.jsonl"] = entry.pop("in")
        for name in ("left", "gone"):
            entry[name] = tuple(entry.get(name, ()))
        yield Case(theme=file.stem, files=files, **entry)


def expanded(text: str) -> str:
    """The text with its records and repetitions written out."""
    text = re.sub(r"<(\d+)\*(.*?)>", lambda found: int(found[1]) * found[2], text, flags=re.DOTALL)
    return re.sub(rf"<({'|'.join(RECORDS)})((?: -\w+)*)>", _keys, text)


def _keys(found: re.Match[str]) -> str:
    record = orjson.loads("{" + RECORDS[found[1]] + "}")
    for key in found[2].split():
        del record[key.removeprefix("-")]
    return orjson.dumps(record).decode()[1:-1]


def furnish(folder: Path) -> None:
    """Write the files that every case has: pictures, a valid file of every record type, a plug-in of every kind."""
    draw(folder, prompts=1, each=3)
    for number, name in enumerate("abc"):
        (folder / f"0-{number}.png").rename(folder / f"{name}.png")
    (folder / "metadata.jsonl").unlink()
    scored = '{<IMAGE>,"scores":{"shapes":3.5}}\n{<OTHER>,"scores":{"shapes":2.5}}\n'
    for name, text in {
        "prompts.txt": "a red circle\n",
        "prompts.jsonl": "{<PROMPT>}\n",
        "images.jsonl": "{<IMAGE>}\n{<OTHER>}\n",
        "judgements.jsonl": "{<JUDGEMENT>}\n",
        "people.jsonl": '{<JUDGEMENT>,"annotator":"you"}\n',
        "pairs.jsonl": "{<PAIR>}\n",
        "scored.jsonl": scored,
        "better.jsonl": scored.replace("3.5", "4.5"),
        "reports.jsonl": "{<REPORT>}\n",
    }.items():
        (folder / name).write_text(expanded(text))
    for plugin in PLUGINS.glob("*.py"):
        shutil.copy(plugin, folder)


def make(path: Path, content: Any) -> None:
    """Write a file of the table. The top of this module describes `content`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match content:
        case str():
            path.write_bytes(expanded(content).encode())
        case {"text": text, "encoding": encoding}:
            path.write_bytes(expanded(text).encode(encoding, "surrogatepass" if encoding == "utf-8" else "strict"))
        case {"hex": text}:
            path.write_bytes(bytes.fromhex(text))
        case {"picture": form}:
            path.write_bytes(picture(form, **_but("picture", content)))
        case {"cut": name, "bytes": count}:
            path.write_bytes((path.parent / name).read_bytes()[:count])
        case {"link": target}:
            path.unlink(missing_ok=True)
            path.symlink_to(target)
        case {"make": what}:
            MAKERS[what](path, **_but("make", content))
        case _:
            raise ValueError(f"{path.name}: no content: {content}")


def _but(key: str, content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


def picture(form: str, mode: str = "RGB", size: Sequence[int] = (8, 8), **more: Any) -> bytes:
    """The bytes of a plain picture in a format of Pillow."""
    target = BytesIO()
    Image.new(mode, (size[0], size[1])).save(target, form, **more)
    return target.getvalue()


class Bench:
    """Runs cases, each in a copy of one furnished folder below `place`."""

    def __init__(self, place: Path, forks: Forks) -> None:
        self._place, self._forks = place, forks
        self._model = place / "model"
        furnish(self._model)

    def __call__(self, case: Case) -> tuple[Ended, Path]:
        """Run the case. Return its result and its folder, which the next case will use."""
        for content in case.files.values():
            if isinstance(content, dict) and content.get("make") == "run":
                self._train(content["of"])
        stdin = self._place / "stdin" if case.stdin is not None else None

        def furnished() -> Path:
            home = self.fresh()
            for name, content in case.files.items():
                if isinstance(content, dict) and content.get("make") == "run":
                    shutil.copytree(self._place / content["of"], home / name)
                else:
                    make(home / name, content)
            if stdin:
                make(stdin, case.stdin)
            return home

        home = furnished()
        env = {name: value or None for name, value in case.env.items()}
        if case.shell:
            return self._by_shell(case, home, stdin, env), home
        words = shlex.split(expanded(case.run))
        if case.tty:
            with _terminal() as (name, said):
                terminal = {"TERM": "xterm-256color", "NO_COLOR": None, **env}
                ended = self._forks(words, home, stdin=stdin, env=terminal, err=name, seconds=SECONDS, afresh=furnished)
            return ended._replace(err=bytes(said).replace(b"\r\n", b"\n")), home
        return self._forks(words, home, stdin=stdin, env=env, seconds=SECONDS, afresh=furnished), home

    def fresh(self) -> Path:
        """Return the furnished folder for the next run."""
        release()
        home = self._place / "case"
        if home.exists():
            shutil.rmtree(home)
        shutil.copytree(self._model, home)
        return home

    def _train(self, command: str) -> None:
        """Make the folder of an ended run, named after its command, if it does not exist yet."""
        if not (self._place / command).exists():
            home = self.fresh()
            ended = self._forks(shlex.split(RUNS[command]), home)
            assert ended.code == 0, ended.err.decode()
            (home / "run").rename(self._place / command)

    def _by_shell(self, case: Case, home: Path, stdin: Path | None, env: Mapping[str, str | None]) -> Ended:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        wanted = {**ENVIRONMENT, **NO_HUB, "PATH": path, "PYTHONPATH": str(HOME), **env}
        with open(stdin or os.devnull, "rb") as source:
            process = subprocess.Popen(
                ["bash", "-c", expanded(case.shell)],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=home,
                env={name: value for name, value in wanted.items() if value is not None},
                start_new_session=True,
                preexec_fn=as_anyone,
            )
        try:
            out, err = process.communicate(timeout=2 * SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        return Ended(process.returncode, out, err)


@contextmanager
def _terminal() -> Iterator[tuple[str, bytearray]]:
    """Yield the name of a terminal, and everything written to it, which is complete when the context ends."""
    ours, theirs = pty.openpty()
    said = bytearray()

    def listen() -> None:
        with suppress(OSError):  # EIO: the other end was closed
            while some := os.read(ours, 1 << 16):
                said.extend(some)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield os.ttyname(theirs), said
    finally:
        os.close(theirs)
        listener.join()
        os.close(ours)


def the_line(err: str) -> str:
    """The line of vpctl that says how it ended: the error, otherwise the first warning, otherwise the last line."""
    said = _said(err)
    marked = [line for mark in (": error: ", ": warning: ") for line in said if mark in line]
    return (marked or said[-1:] or [""])[0]


def _said(err: str) -> list[str]:
    """The lines of vpctl itself, not those of a table, a page of help or a library."""
    return [line for line in err.splitlines() if line.startswith("vpctl")]


def found(case: Case, ended: Ended, home: Path) -> tuple[int, str]:
    """Exit code and line, as written in the table."""
    err = ended.err.decode("utf-8", "backslashreplace")
    line = the_line(err).replace(str(home), "FOLDER").replace(str(home.parent), "FOLDER/..")
    return ended.code, line


OWN_SEQUENCES = re.compile(r"\x1b\[[0-9;]*[mAK]|\r")
"""Sequences that tqdm and rich write to a terminal: colours, one line up, clear the rest of a line, return to its
start."""
TABLE = re.compile(r"^.*\n┏[^┘]*┘\n", re.MULTILINE)
"""A table with its title, as printed by eval and merge."""
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]")
"""Characters that move the cursor, change colours, break a line or reverse its direction."""


def wrongs(case: Case, ended: Ended, home: Path) -> list[str]:
    """The rules for every run that this run breaks, whatever the table says."""
    err = ended.err.decode("utf-8", "backslashreplace")
    if case.tty or "FORCE_COLOR" in case.env:
        err = OWN_SEQUENCES.sub("", err)
    unheard = case.text or "2>" in case.shell  # help has no such line, and redirected messages are not seen
    return [*broken_rules(ended.code, ended.out, err, text=unheard), *left_behind(home, case.files)]


def broken_rules(code: int, out: bytes, err: str, *, text: bool = False) -> Iterator[str]:
    """The rules for every command that this exit code and output break."""
    if code not in CODES:
        yield f"exit {code}"
    if "Traceback" in err:
        yield "a traceback: " + err.strip().splitlines()[-1]
    if ran := CONTROL.search(err):
        yield f"control character {ran[0]!r} on stderr"
    errors = sum(bool(re.match(r"vpctl[\w -]*: error: ", line)) for line in err.splitlines())
    if errors != (code == 2) and not text:
        yield f"exit {code} with {errors} lines of error"
    others = [line for line in TABLE.sub("", err).splitlines() if line not in _said(err)]
    if code == 2 and others and not text:
        yield f"{len(others)} lines beside vpctl's own: {others[0][:80]}"
    if not text:
        yield from _no_records(out)


def _no_records(out: bytes) -> Iterator[str]:
    for line in out.splitlines():
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            yield f"no record on stdout: {line[:80]!r}"
            return


def left_behind(home: Path, there: Container[str] = ()) -> Iterator[str]:
    """Files that a run must never leave: the mark of foreign code, and partial files that were not `there` before."""
    for path in home.rglob("*"):
        if path.name == RAN:
            yield f"foreign code ran: {path}"
        elif path.name.endswith(".part") and str(path.relative_to(home)) not in there:
            yield f"left {path.relative_to(home)}"


def matches(line: str, wanted: str) -> bool:
    """Whether a line is the wanted one, in which … stands for any text."""
    return bool(re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), line))


def differences(case: Case, ended: Ended, home: Path) -> list[str]:
    """Every difference between the result of the run and the expected one."""
    code, line = found(case, ended, home)
    wrong = wrongs(case, ended, home)
    if code != case.code:
        wrong.append(f"exit {code}, not {case.code}")
    if not matches(line, case.line):
        wrong.append(f"said    {line}\n    not     {case.line}")
    wrong += [f"{name} is not there" for name in case.left if not os.path.lexists(home / name)]
    wrong += [f"{name} is there" for name in case.gone if os.path.lexists(home / name)]
    return wrong


def written(text: str, outcomes: Mapping[str, tuple[int, str]]) -> str:
    """The text of a file of cases, with the exit code and line of the named cases replaced by those found."""
    head, *blocks = re.split(r"^(?=\[\[case\]\]$)", text, flags=re.MULTILINE)
    done = [head]
    for block in blocks:
        name = tomllib.loads(block)["case"][0]["name"]
        if name in outcomes:
            code, line = outcomes[name]
            line = re.sub(r"(.)\1{50,}|\.\.\.x[0-9a-fA-F]{8,}", "…", line)  # long names, and addresses
            there = tomllib.loads(block)["case"][0]
            if there.get("code") == code and matches(line, there.get("line", "")):
                line = there["line"]  # with its …
            kept = "\n".join(one for one in block.rstrip("\n").split("\n") if not re.match(r"(code|line) = ", one))
            block = f"{kept}\ncode = {code}\nline = {_quoted(line)}\n\n"
        done.append(block)
    return "".join(done).rstrip("\n") + "\n"


def _quoted(line: str) -> str:
    plain = "'" not in line and line.isprintable()
    return f"'{line}'" if plain and ('"' in line or "\\" in line) else orjson.dumps(line).decode()


def main(words: list[str]) -> None:
    """Run the cases that the words select, and print every difference."""
    write = "--write" in words
    wanted = [word for word in words if word != "--write"]
    cases = [case for case in table() if not wanted or any(word in f"{case.theme}: {case.name}" for word in wanted)]
    failures = 0
    with tempfile.TemporaryDirectory() as place, Forks() as forks:
        bench = Bench(Path(place), forks)
        for case in cases:
            began = time.monotonic()
            ended, home = bench(case)
            wrong = differences(case, ended, home)
            if write and case.code in (None, ended.code) and not wrongs(case, ended, home):
                file = HERE / f"{case.theme}.toml"
                file.write_text(written(file.read_text("utf-8"), {case.name: found(case, ended, home)}), "utf-8")
            if os.environ.get("TIMES"):
                print(f"{time.monotonic() - began:.2f} {case.theme}: {case.name}", file=sys.stderr)
            failures += bool(wrong)
            if wrong:
                print(f"{case.theme}: {case.name}\n    {case.run or case.shell}", *wrong, sep="\n    ", flush=True)
    print(f"{len(cases)} cases, {failures} with differences")


if __name__ == "__main__":
    main(sys.argv[1:])
