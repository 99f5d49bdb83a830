import inspect
import re
import shlex
import subprocess
from itertools import chain
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.conftest import HOME, bash
from tests.surroundings import ENVIRONMENT
from vpctl import cli, manual, plugins
from vpctl.configs import VARIABLES
from vpctl.options import GROUPS
from vpctl.records import RECORDS, schema

PAGES = sorted((HOME / "man").iterdir())
MACROS = {".TH", ".SH", ".SS", ".PP", ".TP", ".RS", ".RE", ".nf", ".fi", ".br", ".sp"}
"""Of man(7); those our pages are made of."""


def test_what_is_in_the_repository_is_what_would_be_written() -> None:
    files = [path for folder in ("man", "completions") for path in (HOME / folder).iterdir()]
    there = {str(path.relative_to(HOME)): path.read_text() for path in files}
    assert there == manual.pages(), "run: python -m vpctl.manual"


def test_writing_the_manual_writes_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual, "HOME", tmp_path)
    manual.main()
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.*")}
    assert written == manual.pages()


def options(name: str) -> list[Any]:
    """The options and arguments of a command, or of one of eval's, as the parser has them."""
    words = name.split()
    command: Any = typer.main.get_command(cli.build(set(words)))
    for word in words:
        command = command.commands[word]
    return [one for one in command.params if one.name != "help"]


def page_of(name: str) -> str:
    """The page of a command, the escapes of its hyphens and fonts taken away."""
    text = (HOME / "man" / f"vpctl-{name.split()[0]}.1").read_text()
    if " " in name:
        text = re.split(r"^\.SH ", text.partition(f".SH {name.split()[1].upper()}\n")[2], flags=re.MULTILINE)[0]
    return re.sub(r"\\f[BIR]|\\&", "", text.replace(r"\-", "-"))


COMMANDS = [name for name in cli.COMMANDS if name != "eval"] + [f"eval {name}" for name in cli.EVALUATIONS]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_in_its_page_with_its_help(name: str) -> None:
    entries = dict(re.findall(r"^\.TP\n(.*)\n(.*)$", page_of(name), flags=re.MULTILINE))
    for one in options(name):
        if one.param_type_name == "argument":
            assert one.help in entries[one.metavar]
            continue
        (term,) = (term for term in entries if one.opts[0] in re.split(r"[, ]+", term))
        assert set(one.opts) <= set(re.split(r"[, ]+", term))
        assert entries[term].startswith(one.help.replace("`", ""))
        default = "standard output" if one.default == "-" else one.default
        shown = one.show_default if isinstance(one.show_default, str) else default
        if isinstance(shown, bool) or shown in ("", None):
            assert "Default:" not in entries[term]
        else:
            assert entries[term].endswith(f" Default: {shown}.")
    assert len(entries) >= len(options(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_a_page_is_a_line_the_parser_takes(name: str) -> None:
    """The options in it exist, with the values they can have."""
    examples = re.findall(r"^\.nf\n\.RS 4\n(.*?)\n\.RE", page_of(name), flags=re.MULTILINE | re.DOTALL)
    assert examples
    own = 0
    for example in examples:
        text = example.replace("\\e\n", " ")
        assert "\n" not in text, f"a line that goes on ends in a backslash: {example}"
        for command in text.split("|"):
            words = re.split(r"\s+", re.sub(r">\s*\S+", "", command).strip())
            if words[0] != "vpctl":
                continue
            deep = 2 if words[1] == "eval" else 1
            called = " ".join(words[1 : 1 + deep])
            parser: Any = typer.main.get_command(cli.build(set(words[1 : 1 + deep])))
            for word in words[1 : 1 + deep]:
                parser = parser.commands[word]
            parser.make_context(called, words[1 + deep :])
            own += called == name
    assert own, f"no example of {name} shows it"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_the_environment_variables_that_its_command_reads(name: str) -> None:
    page = (HOME / "man" / f"vpctl-{name.split()[0]}.1").read_text()
    section = page.partition(".SH ENVIRONMENT\n")[2].partition("\n.SH ")[0]
    named = {one.replace(r"\-", "-") for one in re.findall(r"^\.TP\n\\fB(.*)\\fR$", section, flags=re.MULTILINE)}
    taken = {one.name for one in options(name)}
    of_page = {one.name for other in COMMANDS if other.split()[0] == name.split()[0] for one in options(other)}
    assert ("base_url" in of_page) == ({"OPENAI_API_KEY", "OPENAI_BASE_URL"} <= named)
    assert "device" not in taken or {"HF_HOME", "HF_TOKEN"} <= named
    assert ("NO_COLOR" in named) == (name == "merge" or name.startswith("eval "))


def test_every_variable_that_the_code_reads_is_in_the_manual() -> None:
    """The names that stand in the code; the three of threads and shells, which are no business of the user's, apart."""
    code = "".join(path.read_text() for path in (HOME / "vpctl").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\.setdefault\(|\[)\"([A-Z_]+)\"", code))
    own = {"PYTHONIOENCODING", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    assert read - own <= {name for one in VARIABLES for name in one.name.split()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_usage_of_the_help_is_the_synopsis_of_the_page(name: str) -> None:
    text = CliRunner().invoke(cli.build({*name.split()}), [*name.split(), "--help"], prog_name="vpctl").output
    (usage,) = re.findall(r"^Usage: (.*)$", text, flags=re.MULTILINE)
    assert re.sub(r"\\f[BIR]", "", manual.synopsis(name)).replace(r"\-", "-") == usage


def test_every_key_of_every_record_is_in_the_page_of_records() -> None:
    page = re.sub(r"\\f[BIR]|\\&", "", (HOME / "man" / "vpctl-records.5").read_text().replace(r"\-", "-"))
    for kind in RECORDS:
        section = page.partition(f".SH {kind.__name__.upper()}\n")[2].partition("\n.SH ")[0]
        entries = dict(re.findall(r"^\.TP\n(.*)\n(.*)$", section, flags=re.MULTILINE))
        assert list(entries) == list(schema(kind))
        for key, (required, _, meaning) in schema(kind).items():
            assert ("optional)" in entries[key]) is not required
            assert entries[key].endswith(meaning.replace("`", ""))


def test_the_page_of_plugins_has_every_contract_and_type_as_it_is_written() -> None:
    page = (HOME / "man" / "vpctl-plugins.7").read_text()
    for contract in chain.from_iterable(plugins.CONTRACTS.values()):
        assert f"\n.SH {contract.__name__}\n" in page
    signatures = re.sub(r" -> .*", "", "\n".join(re.findall(r"^\.TP\n(.*)$", page, flags=re.MULTILINE)))
    described = {*re.findall(r"^\\fB([A-Z]\w+)", page, flags=re.MULTILINE)}
    assert {"StopSignal", "Kind", "Question"} <= {*re.findall(r": ([A-Z]\w+)[,)]", signatures)} - {"Any"} <= described


def test_the_program_s_page_names_every_command_and_every_page() -> None:
    page = (HOME / "man" / "vpctl.1").read_text().replace(r"\-", "-")
    for name in cli.COMMANDS:
        assert f"\\fBvpctl-{name}(1)\\fR\n{cli.about(name)}" in page
    see_also = page.partition(".SH SEE ALSO\n")[2]
    named = {f"{name}.{number}" for name, number in re.findall(r"\\fB([a-z-]+)\\fR\((\d)\)", see_also)}
    assert named | {"vpctl.1"} == {path.name for path in PAGES}


def shown(text: str) -> list[str]:
    """The examples in a help, each as it can be copied out of it."""
    body = text.partition("Examples:\n\n")[2].partition("\nArguments:")[0]
    return [dedent(block) for block in body.strip("\n").split("\n\n")]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["80", "120"])
def test_an_example_can_be_copied_out_of_the_help(name: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = CliRunner().invoke(cli.build({*name.split()}), [*name.split(), "--help"]).output
    assert max(map(len, text.splitlines())) <= 80
    written = inspect.cleandoc((inspect.getdoc(cli.load(name)) or "").partition("Examples:\n")[2]).split("\n\n")
    examples = shown(text)
    assert [shlex.split(example.replace("\\\n", "")) for example in examples] == [*map(shlex.split, written)]
    for example in examples:
        assert subprocess.run(["sh", "-n", "-c", example], capture_output=True).returncode == 0
        assert all(line.endswith(" \\") for line in example.split("\n")[:-1])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_text_of_every_option_has_room_at_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = CliRunner().invoke(cli.build({*name.split()}), [*name.split(), "--help"]).output
    told = re.split(r"^[A-Z][a-z]+ options:\n", text, flags=re.MULTILINE)[1:]
    further = [line for part in told for line in part.splitlines() if line and not line.startswith("  -")]
    assert min((78 - (len(line) - len(line.lstrip())) for line in further), default=78) >= 44


@pytest.mark.parametrize("name", COMMANDS)
def test_options_stand_in_groups_in_the_help_and_in_the_page(name: str) -> None:
    """In both the same headings in the same order, with the same options."""
    text = CliRunner().invoke(cli.build({*name.split()}), [*name.split(), "--help"]).output
    told = re.split(r"^([A-Z][a-z]+ options):\n", text, flags=re.MULTILINE)[1:]
    in_help = {
        heading: set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", part, flags=re.MULTILINE))
        for heading, part in zip(told[::2], told[1::2], strict=True)
    }
    parts = re.split(r"^\.SS ([A-Z][a-z]+ options)\n", page_of(name), flags=re.MULTILINE)[1:]
    in_page = {
        heading: set(
            re.findall(r"^(--[a-z-]+)", re.split(r"^\.S[HS] ", part, flags=re.MULTILINE)[0], flags=re.MULTILINE)
        )
        for heading, part in zip(parts[::2], parts[1::2], strict=True)
    }
    assert in_help.pop("General options") - in_page.pop("General options") == {"--help"}
    assert in_help == in_page
    assert list(in_help) == [f"{group} options" for group in GROUPS if f"{group} options" in in_help]
    assert {max(one.opts, key=len) for one in options(name) if one.param_type_name == "option"} - {
        *chain.from_iterable(in_help.values())
    } <= {"--seed", "--quiet", "--traceback"}, "an option without a group"


def faults(page: str) -> list[str]:
    """What man(1) would stumble over, as ``line: why``."""
    found, open_blocks = [], []
    for number, line in enumerate(page.splitlines(), 1):
        macro = line.split(" ")[0]
        if line.startswith("'"):
            found.append(f"{number}: an apostrophe begins the line, which makes it a request")
        elif line.startswith(".") and macro not in MACROS:
            found.append(f"{number}: {macro} is no macro of ours")
        elif not line:
            found.append(f"{number}: an empty line")
        if unknown := re.search(r"\\(?!f[BIR]|[-e&])", line):
            found.append(f"{number}: the escape {line[unknown.start() : unknown.start() + 2]}")
        if re.findall(r"\\f([BIR])", line)[-1:] not in ([], ["R"]):
            found.append(f"{number}: a font goes on into the next line")
        if macro in (".RS", ".nf"):
            open_blocks.append(macro)
        elif macro in (".RE", ".fi") and (not open_blocks or open_blocks.pop() != {".RE": ".RS", ".fi": ".nf"}[macro]):
            found.append(f"{number}: {macro} closes nothing")
        if line.startswith(".TP") and number + 2 > len(page.splitlines()):
            found.append(f"{number}: .TP without a term and a text")
    found += [f"{len(page.splitlines())}: {block} is not closed" for block in open_blocks]
    if not page.startswith(".TH ") or not page.endswith("\n") or ".SH NAME\n" not in page:
        found.append("1: a page has a title, a section NAME and an end of its last line")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_a_page_has_nothing_that_man_stumbles_over(page: Path) -> None:
    assert faults(page.read_text()) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (".PQ", ".PQ is no macro of ours"),
        ("'quoted", "an apostrophe begins the line, which makes it a request"),
        ("", "an empty line"),
        (r"C:\new", r"the escape \n"),
        (r"\fBbold", "a font goes on into the next line"),
        (".RE", ".RE closes nothing"),
        (".fi", ".fi closes nothing"),
        (".RS", ".RS is not closed"),
    ],
)
def test_what_man_stumbles_over_is_seen(line: str, why: str) -> None:
    page = ".TH X 1\n.SH NAME\nx \\- y\n"
    assert faults(page) == []
    assert f"4: {why}" in faults(f"{page}{line}\n")


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        ("a-b --out", r"a\-b \-\-out"),
        (".hidden", r"\&.hidden"),
        ("'quoted'", r"\&'quoted'"),
        (r"a\b", r"a\eb"),
        ("see `margin`.", r"see \fBmargin\fR."),
        ("`-` is", r"\fB\-\fR is"),
    ],
)
def test_text_is_written_so_that_roff_reads_it_as_text(text: str, roff: str) -> None:
    assert manual._escaped(text) == roff


def completed(typed: str, cwd: Path) -> list[str]:
    """What bash offers for a command line that ends in `typed`, broken into words as bash breaks it."""
    last = re.split(r"[\s:=]", typed)[-1]
    script = (
        f"source {HOME}/completions/vpctl.bash; complete -p vpctl >/dev/null || exit 9; compopt() {{ :; }}; "
        f"COMP_LINE={shlex.quote(typed)}; COMP_POINT=${{#COMP_LINE}}; _vpctl_completion vpctl {shlex.quote(last)}; "
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    ended = bash(script, cwd)
    assert (ended.code, ended.err) == (0, "")
    return ended.out.splitlines()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("vpctl sc", ["score"]),
        ("vpctl tu", ["tune-ppo", "tune-dpo"]),
        ("vpctl score --rew", ["--reward"]),
        ("vpctl score --reward ", [*plugins.catalog("reward")]),
        ("vpctl score in.jsonl -r shapes:a", ["aesthetic"]),
        ("vpctl score -r vp:r", ["runner/", "runs/"]),
        ("vpctl score --reward=vp:runs/", ["runs/demo/"]),
        ("vpctl score -r vp:m", [r"my\ folder/"]),
        ("vpctl annotate --aspect f", ["fidelity"]),
        ("vpctl annotate --mode ", ["list", "point", "pair"]),
        ("vpctl annotate --mode=p", ["point", "pair"]),
        ("vpctl annotate --retry r", ["refused"]),
        ("vpctl annotate --detail l", ["low"]),
        ("vpctl annotate --device c", ["cpu", "cuda"]),
        ("vpctl annotate --annotator reward:shapes:f", ["fidelity"]),
        ("vpctl generate -m shapes:", ["base", "small"]),
        ("vpctl generate -m d", ["diffusion", *(f"diffusion:{one}/" for one in (r"my\ folder", "runner", "runs"))]),
        ("vpctl eval a", ["accuracy", "agreement"]),
        ("vpctl score imagef", ["imagefolder:"]),
        ("vpctl score imagefolder:runs/", ["runs/demo/"]),
        ("vpctl score ru", [""]),
        ("vpctl eval compare --fail-u", ["--fail-under"]),
    ],
)
def test_bash_completes(tmp_path: Path, typed: str, offered: list[str]) -> None:
    for folder in ("runs/demo", "runner", "my folder", ".hidden"):
        (tmp_path / folder).mkdir(parents=True)
    assert completed(typed, tmp_path) == offered


def test_bash_reads_the_script_without_a_word() -> None:
    ended = subprocess.run(
        ["bash", "-n", str(HOME / "completions" / "vpctl.bash")], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
