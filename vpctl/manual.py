"""The manual pages and shell completions, made from the commands' own signatures, docstrings and record types.

`python -m vpctl.manual` writes `man/` and `completions/`; a test fails when they are not what it would write.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from . import __version__, contracts, plugins
from .cli import COMMANDS, EVALUATIONS, about, as_typed, common, load
from .options import Argument, Option, in_groups
from .records import RECORDS, in_words, schema

HOME = Path(__file__).parent.parent

ABOUT = """vpctl aligns text-to-image models with preferences judged by multimodal language models. It implements the
VisionPrefer method, and each command is one stage of that method. Every command reads records and writes records, in
JSON Lines. So commands connect with pipes and resume from files, and you can replace any of them with another program.

If you name no model, annotator or reward, the command uses the shapes world: a small world of coloured shapes inside
the package. Its models run on two CPU cores, and its judge measures pixels. Every stage of the method works in it."""

PIPELINE = """vpctl polish prompts.txt --out prompts.jsonl

vpctl generate prompts.jsonl -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
    --out images/metadata.jsonl

vpctl annotate images/metadata.jsonl --annotator openai:gpt-4o --out judgements.jsonl

vpctl merge judgements.jsonl --split train:0.9,test:0.1 --out pairs.jsonl

vpctl train-rm pairs.jsonl --backbone Salesforce/blip-itm-large-coco --out vp-score/

vpctl tune-dpo pairs.jsonl -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
    --out dpo-lora/"""

FILES = """An input FILE is JSON Lines: one record on each line. polish, generate and tune-ppo also read plain text,
with one prompt per line. The name - is standard input. File names in records are relative to the folder of the records
file; on a pipe they are relative to the working directory. Pictures are opened only below this folder, below the
working directory, below every --root, and in folders that generate wrote.

An existing output FILE of polish, generate, annotate or score is resumed: finished records are skipped. If a killed run
left an incomplete last line, that line is removed. The file is locked during a run. merge and eval need their whole
input before they can write, so they write their output FILE in one piece at the end.

polish writes dropped prompts to a second file: beside prompts.jsonl it is prompts.dropped.jsonl.

annotate keeps its own files beside its output judgements.jsonl. The file .judgements.jsonl.contents holds hashes of the
picture files; you can delete it at any time. The folder .judgements.jsonl.batches lists the pending batches. With
--batch-file requests.jsonl, the file .requests.jsonl.stubs says which judgement each request is for. Do not delete
this folder or the stubs file: answers that you have paid for would be lost.

The output DIR of train-rm, tune-ppo and tune-dpo holds the run. The options are in run.json. The metrics are in
metrics.jsonl and in files for TensorBoard. Until the run has ended, the folder also holds a checkpoint, and the same
command resumes from it.

Records go to standard output or to a file. Messages go to standard error."""

PLUGINS = """Polishers, generators, annotators and rewards are plug-ins. A SPEC names a plug-in: NAME, NAME:ARGUMENT, or
PATH.py[:ARGUMENT] for your own file. Your file must define a function load(argument, *, device). An aspect is named by
its NAME or by the path of your own Markdown file, which has a title line and then the rubric. vpctl --plugins lists
all plug-ins. vpctl-plugins(7) describes how to write one."""

EXITS = {
    "0": "Success. An output pipe that its reader closes, as head does, also counts as success.",
    "1": "A bug in vpctl. Please report the traceback.",
    "2": "The options or the input are wrong. The message says where the error is and how to fix it.",
    "3": "Finished, but some records failed. Run the same command again to retry the records that were not written.",
    "4": "The gate of --fail-under was not met.",
    "5": "Stopped at a budget or a time limit. Run the same command again to resume.",
    "75": "Another run has locked the output. Run the command again later.",
    "130": "Interrupted by SIGINT or SIGTERM. Run the same command again to resume.",
}
ONLY = {
    "3": ("polish", "annotate", "score", "eval"),
    "4": ("eval",),
    "5": ("polish", "annotate"),
}
"""Exit codes that only some commands have."""
ENVIRONMENT = {
    "OPENAI_API_KEY": "API key for `openai` and `moderation`. It is not an option, and it is never written to a file.",
    "OPENAI_BASE_URL": "URL of an OpenAI-compatible server, such as http://localhost:8000/v1. --base-url overrides it.",
    "HF_HOME": "Folder in which Hugging Face stores models that are named by hub id.",
    "OMP_NUM_THREADS": "Number of CPU threads. If it is not set, a command uses all cores, or half of them in a pipe.",
    "NO_COLOR": "If set, tables have no colours.",
}


def pages() -> dict[str, str]:
    """Every generated file: its path below the repository, and its text."""
    made = {f"man/vpctl-{name}.1": command_page(name) for name in COMMANDS if name != "eval"}
    made["man/vpctl-eval.1"] = evaluation_page()
    made["man/vpctl.1"] = program_page()
    made["man/vpctl-records.5"] = records_page()
    made["man/vpctl-plugins.7"] = plugins_page()
    made |= {f"completions/vpctl.{shell}": text for shell, text in COMPLETIONS.items()}
    return dict(sorted(made.items()))


def program_page() -> str:
    """vpctl(1)."""
    others = [rf"\fBvpctl-{name}\fR(1)" for name in COMMANDS]
    return _page(
        _head("vpctl", 1, "align text-to-image models with judged preferences"),
        _section("SYNOPSIS", r"\fBvpctl\fR \fICOMMAND\fR [\fIOPTIONS\fR] [\fIFILE\fR]"),
        _section("DESCRIPTION", *_paragraphs(ABOUT)),
        _section("COMMANDS", *_items({f"vpctl-{name}(1)": about(name) for name in COMMANDS})),
        _section("FILES", *_paragraphs(FILES)),
        _section("PLUG-INS", *_paragraphs(PLUGINS)),
        _section("EXIT STATUS", *_items(EXITS)),
        _section("ENVIRONMENT", *_items(ENVIRONMENT)),
        _section("EXAMPLES", *_examples(PIPELINE)),
        _section("SEE ALSO", ", ".join([*others, r"\fBvpctl-records\fR(5)", r"\fBvpctl-plugins\fR(7)"])),
    )


def command_page(name: str) -> str:
    """The page of one command."""
    return _page(
        _head(f"vpctl-{name}", 1, _as_phrase(about(name))),
        _section("SYNOPSIS", synopsis(name)),
        _body(name, "SH"),
        _section("EXIT STATUS", *_items(_exits(name))),
        _section("SEE ALSO", r"\fBvpctl\fR(1), \fBvpctl-records\fR(5), \fBvpctl-plugins\fR(7)"),
    )


def evaluation_page() -> str:
    """vpctl-eval(1), which has commands of its own."""
    lines: list[str] = []
    for one in EVALUATIONS:
        lines += [f".SH {one.upper()}", _escaped(_docstring(f"eval {one}")[0]), *_body(f"eval {one}", "SS")]
    synopses = [line for one in EVALUATIONS for line in (".br", synopsis(f"eval {one}"))]
    return _page(
        _head("vpctl-eval", 1, _as_phrase(about("eval"))),
        _section("SYNOPSIS", *synopses[1:]),
        lines,
        _section("EXIT STATUS", *_items(_exits("eval"))),
        _section("SEE ALSO", r"\fBvpctl\fR(1), \fBvpctl-score\fR(1), \fBvpctl-records\fR(5)"),
    )


def _exits(name: str) -> dict[str, str]:
    """The exit codes that a command can have."""
    return {code: text for code, text in EXITS.items() if name in ONLY.get(code, (name,))}


def _page(*parts: list[str]) -> str:
    return "\n".join([*(line for part in parts for line in part), ""])


def _as_phrase(sentence: str) -> str:
    return f"{sentence[0].lower()}{sentence[1:]}".rstrip(".")


def records_page() -> str:
    """vpctl-records(5), from the record types."""
    lines: list[str] = []
    for kind in RECORDS:
        keys = {
            key: f"({in_words(expected)}{'' if required else ', optional'}) {meaning}"
            for key, (required, expected, meaning) in schema(kind).items()
        }
        lines += _section(kind.__name__.upper(), _escaped((kind.__doc__ or "").strip()), *_items(keys))
    return _page(
        _head("vpctl-records", 5, "the JSON Lines that vpctl's commands read and write"),
        _section("DESCRIPTION", *_paragraphs(RECORDS_ABOUT)),
        lines,
        _section("SEE ALSO", r"\fBvpctl\fR(1)"),
    )


def plugins_page() -> str:
    """vpctl-plugins(7), from the contracts."""
    lines: list[str] = []
    for kind, fulfilled in plugins.CONTRACTS.items():
        for contract in fulfilled:
            description, _, example = (inspect.getdoc(contract) or "").partition("\n\nExamples:\n")
            members = {
                _signature(name, member): inspect.getdoc(member) or ""
                for name, member in vars(contract).items()
                if inspect.isfunction(member) and (name == "__call__" or not name.startswith("_"))
            }
            lines += _section(contract.__name__.upper(), *_paragraphs(_plain(description)))
            lines += _items({**_attributes(contract), **members}, _plain)
            if example:
                lines += [".PP", f"A complete {kind}:", *_examples(inspect.cleandoc(example), as_written=True)]
    types = {_fields(one): inspect.getdoc(one) or "" for one in PASSED}
    return _page(
        _head("vpctl-plugins", 7, "the contracts of vpctl's plug-ins"),
        _section("DESCRIPTION", *_paragraphs(inspect.getdoc(contracts) or "")),
        lines,
        _section("TYPES", "These are in vpctl.contracts.", *_items(types, _plain)),
        _section("SEE ALSO", r"\fBvpctl\fR(1), \fBvpctl-records\fR(5)"),
    )


PASSED: tuple[type, ...] = (
    contracts.Polished,
    contracts.Settings,
    contracts.Verdicts,
    contracts.Aspect,
    contracts.Question,
    contracts.Kind,
)
"""What passes between plug-ins and commands."""


def _signature(name: str, function: Any) -> str:
    """A method as it is defined, without the module names of its types."""
    written = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", str(inspect.signature(function))).replace("'", "")
    written = re.sub(r"\(self(?:, )?", "(", written)
    is_async = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{is_async}{name}{written}"


def _attributes(contract: type) -> dict[str, str]:
    """Attributes of a contract with their defaults, and the text that stands below each in the source."""
    body = ast.parse(inspect.getsource(contract)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for attribute, text in pairwise(body.body):
        if isinstance(attribute, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(attribute)] = str(text.value.value)
    for name, member in vars(contract).items():
        if isinstance(member, property):
            found[name] = inspect.getdoc(member) or ""
    return found


def _fields(kind: Any) -> str:
    """A named tuple as it is called."""
    fields = [f"{one}={kind._field_defaults[one]!r}" if one in kind._field_defaults else one for one in kind._fields]
    return f"{kind.__name__}({', '.join(fields)})"


def _plain(docstring: str) -> str:
    """A docstring's text in one paragraph; what stands in double backticks stands in single ones."""
    return " ".join(docstring.replace("``", "`").split())


RECORDS_ABOUT = """A record is one JSON object on one line, in UTF-8. Commands add keys to the records that they read.
Unknown keys pass through unchanged. Only one value ever changes: polish writes the new text into `prompt` and keeps the
old text as `source_prompt`.

Every key that ends in file_name or file_names holds file names. They are relative to the folder of the records file.
Hugging Face's imagefolder loader follows the same rule, so it can load generate's output folder as a dataset.

Ids are hashes of content. They do not depend on order, sharding, batch size or resuming. A record of your own picture
needs `prompt` and `file_name`; annotate and score compute the missing ids."""


def synopsis(name: str) -> str:
    """How the command is called, in roff."""
    words, needed = [], []
    for parameter, info, _ in parameters(name):
        if isinstance(info, Argument):
            words.append(rf"\fI{_escaped(info.metavar)}\fR")
        elif parameter.default is inspect.Parameter.empty:
            needed.append(rf"\fB{_escaped(flags(parameter, info)[0])}\fR \fI{info.metavar}\fR")
    return " ".join([rf"\fBvpctl {_escaped(name)}\fR", *words, *needed, r"[\fIOPTIONS\fR]"])


def parameters(name: str) -> Iterator[tuple[inspect.Parameter, Option | Argument, Any]]:
    """Every parameter of a command with its declaration and its type."""
    for parameter in inspect.signature(common(name), eval_str=True).parameters.values():
        kind, info = get_args(parameter.annotation)
        yield parameter, info, kind


def flags(parameter: inspect.Parameter, info: Option) -> list[str]:
    """The names of an option, the long one first."""
    names = info.names or (f"--{parameter.name.replace('_', '-')}",)
    return sorted(names, key=len, reverse=True)


def _docstring(name: str) -> tuple[str, str]:
    """A command's first line, and the rest."""
    first, _, rest = (inspect.getdoc(load(name)) or "").partition("\n\n")
    return first, rest


def _body(name: str, level: str) -> list[str]:
    """Description, options and examples of a command; `level` is the roff macro of a heading."""
    description, _, examples = _docstring(name)[1].partition("Examples:\n")
    arguments, options = {}, []
    for parameter, info, kind in parameters(name):
        if isinstance(info, Argument):
            arguments[info.metavar] = info.help
        else:
            entry = (_written(parameter, info, kind), f"{info.help}{_default(parameter, info)}")
            options.append((info.group, entry))
    groups = [
        line for heading, group in in_groups(options).items() for line in (f".SS {heading}", *_items(dict(group)))
    ]
    return [
        *([".SH DESCRIPTION"] if level == "SH" else [".PP"]),
        *_paragraphs(description),
        f".{level} OPTIONS",
        *_items(arguments),
        *groups,
        f".{level} EXAMPLES",
        *_examples(inspect.cleandoc(examples)),
    ]


def _written(parameter: inspect.Parameter, info: Option, kind: Any) -> str:
    names = ", ".join(flags(parameter, info))
    return names if kind is bool else f"{names} {info.metavar}"


def _default(parameter: inspect.Parameter, info: Option) -> str:
    """The default of an option as a sentence."""
    if info.show_default:
        return f" Default: {info.show_default}."
    if parameter.default is False or parameter.default in (inspect.Parameter.empty, None, ""):
        return ""
    return f" Default: {'standard output' if parameter.default == '-' else parameter.default}."


def _head(name: str, section: int, about: str) -> list[str]:
    title = f'.TH {_escaped(name.upper())} {section} "" "vpctl {__version__}" "vpctl manual"'
    return [title, ".SH NAME", rf"{_escaped(name)} \- {_escaped(about)}"]


def _section(title: str, *lines: str) -> list[str]:
    return [f".SH {title}", *lines] if any(lines) else []


def _items(terms: Mapping[str, str], text_of: Callable[[str], str] = str) -> list[str]:
    items = [(rf"\fB{_escaped(term)}\fR", _escaped(text_of(text))) for term, text in terms.items()]
    return [line for term, text in items for line in (".TP", term, text)]


def _paragraphs(text: str) -> list[str]:
    blocks = [_escaped(" ".join(block.split())) for block in text.strip().split("\n\n")]
    return [line for block in blocks if block for line in (".PP", block)][1:]


def _examples(text: str, *, as_written: bool = False) -> list[str]:
    """Commands, each in a block that is not filled; or one block `as_written`."""
    if as_written:
        return [".PP", ".nf", ".RS 4", *(_escaped(line) or ".sp" for line in text.split("\n")), ".RE", ".fi"]
    blocks = [map(_escaped, as_typed(block).split("\n")) for block in text.split("\n\n") if block.strip()]
    return [line for block in blocks for line in (".PP", ".nf", ".RS 4", *block, ".RE", ".fi")]


def _escaped(text: str) -> str:
    r"""Text as roff reads it: what stands in backticks is bold, a hyphen is a hyphen and not a dash."""
    safe = text.replace("\\", r"\e").replace("-", r"\-")
    safe = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", safe)
    return rf"\&{safe}" if safe.startswith((".", "'")) else safe


COMPLETIONS = {
    "bash": """# Completion of vpctl for bash; it asks vpctl itself, so that plug-ins of your own are known.
_vpctl_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" reply
    # Bash breaks words at : and =, and replaces $2, what is behind the last one. The values from vpctl are whole words.
    local before="${line%"$2"}"
    before="${before##*[[:space:]]}"
    [[ $before == --*=* ]] && before="${before#*=}"
    COMPREPLY=()
    while IFS=$'\\t' read -r reply _; do
        reply="${reply#"$before"}"
        [[ $2$before != *[\\"\\']* && $reply == *[^[:alnum:]_./:,=+@%-]* ]] && printf -v reply %q "$reply"
        [[ $reply ]] && COMPREPLY+=("$reply")
    done < <(env COLUMNS=999 _TYPER_COMPLETE_ARGS="$line" _TYPER_COMPLETE_FISH_ACTION=get-args \\
        _VPCTL_COMPLETE=complete_fish "$1")
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[:/] ]]; then
        compopt -o nospace
    fi
}
complete -o default -o bashdefault -o nosort -F _vpctl_completion vpctl
""",
    "zsh": """#compdef vpctl
# Completion of vpctl for zsh; it asks vpctl itself, so that plug-ins of your own are known.
_vpctl_completion() {
    local line value about
    local -a whole open
    for line in "${(@f)$(env COLUMNS=999 _TYPER_COMPLETE_ARGS="${words[1,CURRENT-1]} $PREFIX" \\
            _TYPER_COMPLETE_FISH_ACTION=get-args _VPCTL_COMPLETE=complete_fish $words[1])}"; do
        value="${line%%$'\\t'*}" about="${line#$value}"
        [[ -n $value ]] || continue
        value="${value//:/\\\\:}${about:+:${about#$'\\t'}}"
        if [[ ${line%%$'\\t'*} == *[:/] ]]; then open+=("$value"); else whole+=("$value"); fi
    done
    if (( $#whole + $#open == 0 )); then
        _files
        return
    fi
    [[ $PREFIX == --*=* ]] && compset -P '*='
    (( $#whole )) && _describe -V value whole
    (( $#open )) && _describe -V value open -S ''
}
if [ "$funcstack[1]" = "_vpctl" ]; then
    _vpctl_completion "$@"
else
    compdef _vpctl_completion vpctl
fi
""",
    "fish": """# Completion of vpctl for fish; it asks vpctl itself, so that plug-ins of your own are known.
function __vpctl_values
    set -l option (string match --regex -- '^--[^=]*=' (commandline -ct)); or set option ''
    set -l values (env COLUMNS=999 _VPCTL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \\
        _TYPER_COMPLETE_ARGS=(commandline -cp | string collect) vpctl | string match --regex '.+')
    if test (count $values) -gt 0
        printf '%s\\n' $option$values
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command vpctl --no-files --keep-order --arguments "(__vpctl_values)"
""",
}


def main() -> None:
    """Write every generated file."""
    for path, text in pages().items():
        (HOME / path).parent.mkdir(exist_ok=True)
        (HOME / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
