"""The manual pages and shell completions, made from the commands' own signatures, docstrings and record types.

`python -m vpctl.manual` writes `man/` and `completions/`. A test fails if the files in the repository are out of date.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from . import __version__, contracts, plugins
from .cli import COMMANDS, EVALUATIONS, about, as_typed, load, with_common_options
from .configs import VARIABLES
from .flow import StopSignal
from .options import Argument, Option, in_groups
from .records import RECORDS, in_words, schema

HOME = Path(__file__).parent.parent

ABOUT = """vpctl aligns text-to-image models with preferences judged by multimodal language models. It implements the
VisionPrefer method, and each command is one stage of that method. Commands read and write records as JSON Lines.
So you can connect commands with pipes, store the records between them in files, and replace any command with another
program.

If you name no model, annotator or reward, the command uses the shapes world: a small world of coloured shapes inside
the package. Its models run on two CPU cores. Its pixel judge measures pixels, and is both an annotator and a reward.
Every stage of the method works in the shapes world."""

GLOSSARY = {
    "annotator": "The plug-in that judges pictures, as --annotator names it: a model on a server, a local model, a "
    "reward model or your own file. A person can be an annotator, too, such as human:anna.",
    "aspect": "One quality that pictures are judged on, such as fidelity.",
    "pixel judge": "The annotator and reward of the shapes world. It measures pixels.",
    "call": "One question to an annotator, or to the language model of polish, with its answer. If an answer is "
    "unusable, the same question is asked again in a second call.",
    "request": "One HTTP request to a server. Normally a call is one request. After a temporary error, such as a busy "
    "server, the request is sent again. moderation sends one request per picture.",
    "judgement": "A record: the scores that an annotator gave to pictures of one prompt on one aspect. A refused or "
    "failed judgement has no scores.",
    "pair": "A record: two pictures of one prompt, the preferred and the rejected one.",
    "reward": "A function that scores a picture for a prompt: a reward model, or your own file. --reward names it.",
    "advantage": "The reward of a picture minus the mean reward of the pictures of the same prompt, divided by the "
    "standard deviation of these differences over all pictures of a round.",
    "repeatable": "An option that can be given several times, such as --reward clip --reward pickscore.",
    "run": "One execution of a command. If its output is a file or a folder, a run that did not end can be resumed: "
    "the same command does the rest. merge and eval start over instead.",
    "LoRA": "Low-rank adaptation: a small set of weights that is added to those of a model. The tune commands train a "
    "LoRA and leave the model itself unchanged. --adapter names its folder.",
    "DPO": "Direct preference optimization: training on pairs, without a reward.",
    "KTO": "Kahneman-Tversky optimization: training on single pictures that are liked or disliked, without a reward.",
    "PPO": "Proximal policy optimization: reinforcement learning in small, clipped steps towards a higher reward.",
    "gate": "A limit that --fail-under or --fail-over sets, or that --previous takes from an earlier run. The command "
    "fails if a measured number does not keep it.",
}

PIPELINE = """vpctl polish prompts.txt --out prompts.jsonl

vpctl generate prompts.jsonl -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
    --out images/metadata.jsonl

vpctl annotate images/metadata.jsonl --annotator openai:gpt-4o --out judgements.jsonl

vpctl merge judgements.jsonl --split train:0.8,validation:0.1,test:0.1 --out pairs.jsonl

vpctl train-rm pairs.jsonl --backbone Salesforce/blip-itm-large-coco --out vp-score/

vpctl tune-dpo pairs.jsonl -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
    --out dpo-lora/"""

FILES = """An input FILE is JSON Lines: one record on each line. polish, generate, tune-ppo and tune-dpo --algorithm
d3po also read plain text, with one prompt per line. The name - is standard input. FORMAT:PATH is a data set in another
format; see DATA SETS. File names in records are relative to
the folder of the records file; on a pipe they are relative to the working directory. A picture is opened only if it is
below the folder of the records file, below the working directory, below a --root, or in a folder that generate wrote.

An existing output FILE of polish, generate, annotate or score is resumed: finished records are skipped. If a killed run
left an incomplete last line, that line is removed. The file is locked during a run. merge and eval need their whole
input before they can write, so they write their output FILE in one piece at the end.

polish writes dropped prompts to a second file: beside prompts.jsonl it is prompts.dropped.jsonl.

annotate writes more files beside its output judgements.jsonl. The file .judgements.jsonl.contents holds hashes of the
picture files; you can delete it at any time. The folder .judgements.jsonl.batches lists the pending batches. With
--batch-file requests.jsonl, the file .requests.jsonl.stubs says which judgement each request belongs to. Do not delete
the folder or the stubs file while you wait for answers: you would lose answers that you have paid for.

The output DIR of train-rm, tune-ppo and tune-dpo holds the files of the training. The options are in run.json. The
metrics are in metrics.jsonl and in files for TensorBoard. The folder also holds a checkpoint, from which the same
command resumes the run. train-rm removes it at the end. The others keep it: with a larger --epochs or --max-steps, a
finished run goes on.

Records go to standard output or to a file. Messages go to standard error."""

DATA_SETS = """Wherever a command reads a FILE, it can also be FORMAT:PATH, such as imagefolder:my-pictures/ or
csv:prompts.csv. MYFORMAT.py:PATH is a format of your own. A file whose name is FORMAT:PATH wins.

csv, parquet and imagefolder find the columns by their names: prompt, text or caption for the prompt; file_name,
image or path, and others, for the picture. Settings behind the PATH name them: csv:a.csv?prompt=title&file=where.
Write quotation marks around this in a shell. Other columns become keys of the records. A pair needs the columns
chosen and rejected, or chosen_file_name and rejected_file_name; without a column margin its margin is 1.

merge --to csv:FILE writes text: the values of keys that vpctl does not know come back as text, the number 7 as "7".
merge --to parquet:FILE keeps their types; a column of whole numbers and others holds numbers such as 2.0, and a column
that no type of Parquet fits holds JSON. In both, a key with an empty text comes back as if it were not there.

What people said in public data sets becomes judgements by an annotator such as human:pickapic. Their aspect is
`preference`, and their scores are from 1 to 5, the default --scale of merge. richhf has the aspects prompt-following,
aesthetic, fidelity and overall, each picture in a judgement of its own; pictures with the same prompt become pairs.
Its TFRecord files have no prompts: for train/a.png, write the caption that Pick-a-Pic has to train/a.txt.

Pictures inside Parquet files are written to files once: for a.parquet into the folder a.pictures beside it. Parquet
and TFRecord need more packages: pip install 'vpctl[formats]'.

webdataset reads tar shards: a folder, a file, a pattern such as DIR/*.tar, or DIR/shard-{000000..000009}.tar. Files
whose names are equal up to the first dot are a sample: one picture, with its prompt in a .txt, a .caption, or a .json
with prompt or caption. Other keys of the .json become keys of the record. Pictures are written to files once: for
a.tar into the folder a.pictures beside it. Nothing is downloaded, and files of other kinds are not opened. merge --to
webdataset:DIR writes a sample for each record: its pictures, and the record as .json. A picture is in each sample that
names it. This needs the package webdataset: pip install 'vpctl[webdataset]'.

merge --to dataset:DIR writes a folder that is ready to be published: data/ has a row for each prompt, with its pictures
and judgements, pairs/ has a row for each pair, and README.md is a data card. dataset:DIR reads it. Its pictures are
written once to DIR/pictures. Folders of the machine, keys, and addresses of servers that are not a known public
provider's are left out of the data set. What a column cannot hold, such as keys that vpctl does not know, is in the
column `more`, as JSON.

A row that is malformed is left out. The first five are reported with their places. The exit code is then 3."""

PLUGINS = """Polishers, generators, annotators, rewards and formats are plug-ins. A SPEC names a plug-in: NAME,
NAME:ARGUMENT, or PATH.py[:ARGUMENT] for your own file. Your file must define a function load(argument, *, device).
An aspect is named by its NAME, or by the path of your own Markdown file: a title line, then the rubric. vpctl
--plugins lists all plug-ins. vpctl-plugins(7) describes how to write one."""

EXITS = {
    "0": "Success. It is also a success if the reader of the output stops early, as head does.",
    "1": "A bug in vpctl. Please report the traceback.",
    "2": "The options or the input are wrong. The message says where the error is and how to fix it.",
    "3": "The command finished, but some records failed; the messages name them. Run the same command again to retry "
    "the records that were not written. annotate retries failures that it recorded only with --retry failed. polish "
    "does not retry prompts that it dropped as failed, nor generate pictures that failed twice.",
    "4": "A gate was not met: --fail-under, --fail-over or --previous.",
    "5": "A limit of --max-cost, --max-requests or --max-time was reached, or the account on the server has no credit "
    "or no quota left. With --out, the same command resumes the run.",
    "75": "Another run has locked the output. Run the command again later.",
    "130": "Interrupted by SIGINT or SIGTERM. With --out, the same command resumes the run; merge and eval start over "
    "instead.",
}
ONLY = {
    "3": ("polish", "generate", "annotate", "score", "eval"),
    "4": ("eval",),
    "5": ("polish", "annotate", "tune-ppo", "tune-dpo"),
}
"""Exit codes that only some commands have."""


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
        _section("SYNOPSIS", r"\fBvpctl\fR \fICOMMAND\fR [\fIFILE\fR] [\fIOPTIONS\fR]"),
        _section("DESCRIPTION", *_paragraphs(ABOUT)),
        _section("COMMANDS", *_items({f"vpctl-{name}(1)": about(name) for name in COMMANDS})),
        _section("FILES", *_paragraphs(FILES)),
        _section("DATA SETS", *_paragraphs(DATA_SETS), *_items(plugins.catalog("format"))),
        _section("PLUG-INS", *_paragraphs(PLUGINS)),
        _section("EXIT STATUS", *_items(EXITS)),
        _section("ENVIRONMENT", *_items({one.name: one.meaning for one in VARIABLES})),
        _section("GLOSSARY", *_items(GLOSSARY)),
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
        _section("ENVIRONMENT", *_items(environment(name))),
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
        _section("ENVIRONMENT", *_items(environment(*(f"eval {one}" for one in EVALUATIONS)))),
        _section("SEE ALSO", r"\fBvpctl\fR(1), \fBvpctl-score\fR(1), \fBvpctl-records\fR(5)"),
    )


def environment(*names: str) -> dict[str, str]:
    """The environment variables that these commands read, and their meanings."""
    taken = {parameter.name for name in names for parameter, _, _ in parameters(name)}
    return {one.name: one.meaning for one in VARIABLES if taken.intersection(one.parameters)}


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
            lines += _section(contract.__name__, *_paragraphs(description.replace("``", "`")))
            lines += _items({**_attributes(contract), **members}, _plain)
            examples = [part for part in example.split("\n\nAs a class:\n") if part]
            for form, code in zip(("", " that is a class"), examples, strict=False):
                lines += [".PP", f"A complete {kind}{form}:", *_examples(inspect.cleandoc(code), as_written=True)]
    types = {_fields(one): inspect.getdoc(one) or "" for one in PASSED}
    types["StopSignal"] = inspect.getdoc(StopSignal) or ""
    return _page(
        _head("vpctl-plugins", 7, "the contracts of vpctl's plug-ins"),
        _section("DESCRIPTION", *_paragraphs(inspect.getdoc(contracts) or "")),
        lines,
        _section("TYPES", "StopSignal is in vpctl.flow. The others are in vpctl.contracts.", *_items(types, _plain)),
        _section("SEE ALSO", r"\fBvpctl\fR(1), \fBvpctl-records\fR(5)"),
    )


PASSED: tuple[type, ...] = (
    contracts.Polished,
    contracts.Settings,
    contracts.DrawnPicture,
    contracts.Verdicts,
    contracts.Aspect,
    contracts.Question,
    contracts.Kind,
)
"""The types that plug-ins and commands pass to each other."""


def _signature(name: str, function: Any) -> str:
    """The signature of a method, without the module names of its types."""
    written = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", str(inspect.signature(function))).replace("'", "")
    written = re.sub(r"\(self(?:, )?", "(", written)
    is_async = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{is_async}{name}{written}"


def _attributes(contract: type) -> dict[str, str]:
    """Attributes of a contract with their defaults, and the text below each attribute in the source."""
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
    """The signature of a named tuple."""
    defaults = {one: {**given} if isinstance(given, Mapping) else given for one, given in kind._field_defaults.items()}
    fields = [f"{one}={defaults[one]!r}" if one in defaults else one for one in kind._fields]
    return f"{kind.__name__}({', '.join(fields)})"


def _plain(docstring: str) -> str:
    """The text of a docstring as one paragraph, with single backticks."""
    return " ".join(docstring.replace("``", "`").split())


RECORDS_ABOUT = """A record is one JSON object on one line, in UTF-8. polish, generate and score copy the records that
they read, including keys that vpctl does not know, and add keys of their own.

polish replaces the text in `prompt` and keeps the old text as `source_prompt`. If you polish or score a file again, the
keys that the command itself writes get new values. All commands rewrite file names where needed, because file names are
relative. All other values stay as they are.

A key that ends in file_name or file_names holds file names. They are relative to the folder of the records file; on a
pipe they are relative to the working directory. Hugging Face's imagefolder loader follows the same rule, so it can load
generate's output folder as a dataset.

Ids are hashes of content. They do not depend on order, sharding, batch size or resuming. If a record of a picture has
no ids, annotate and score compute them. So a record of your own picture needs only `prompt` and `file_name`."""


def synopsis(name: str) -> str:
    """The usage of a command, in roff."""
    words, needed = [], []
    for parameter, info, _ in parameters(name):
        if isinstance(info, Argument):
            words.append(rf"\fI{_escaped(info.metavar)}\fR")
        elif parameter.default is inspect.Parameter.empty:
            needed.append(rf"\fB{_escaped(flags(parameter, info)[0])}\fR \fI{info.metavar}\fR")
    return " ".join([rf"\fBvpctl {_escaped(name)}\fR", *words, *needed, r"[\fIOPTIONS\fR]"])


def parameters(name: str) -> Iterator[tuple[inspect.Parameter, Option | Argument, Any]]:
    """Every parameter of a command with its declaration and its type."""
    for parameter in inspect.signature(with_common_options(name), eval_str=True).parameters.values():
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
    """Paragraphs that man fills. Indented ones, such as the lines of a file, are kept as they are."""
    lines: list[str] = []
    for block in filter(None, text.strip().split("\n\n")):
        if block.startswith("    "):
            lines += [".PP", ".RS 4", ".nf", *map(_escaped, inspect.cleandoc(block).split("\n")), ".fi", ".RE"]
        else:
            lines += [".PP", _escaped(" ".join(block.split()))]
    return lines[1:]


def _examples(text: str, *, as_written: bool = False) -> list[str]:
    """Commands, each in a block that man does not fill. With `as_written`, the whole text is one block."""
    if as_written:
        return [".PP", ".nf", ".RS 4", *(_escaped(line) or ".sp" for line in text.split("\n")), ".RE", ".fi"]
    blocks = [map(_escaped, as_typed(block).split("\n")) for block in text.split("\n\n") if block.strip()]
    return [line for block in blocks for line in (".PP", ".nf", ".RS 4", *block, ".RE", ".fi")]


def _escaped(text: str) -> str:
    r"""Text for roff. Text in backticks is bold, and a hyphen does not become a dash."""
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
