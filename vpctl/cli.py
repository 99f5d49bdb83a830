"""The vpctl program: its nine commands in pipeline order, and the single place that turns errors into exit codes."""

import contextlib
import functools
import gc
import importlib
import inspect
import io
import locale
import os
import re
import signal
import stat
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]
from typer.core import TyperArgument, TyperCommand, TyperOption

from . import __version__, plugins, progress, sources
from .errors import (
    CommandEnded,
    Exhausted,
    LimitReached,
    OutputClosed,
    OutputLocked,
    SomeFailed,
    UserError,
    is_out_of_memory,
    os_reason,
)
from .options import FileColumn, PromptColumn, Quiet, Traceback, for_typer, in_groups, option, with_parameters
from .streams.places import reserved_stdout

COMMANDS = ("polish", "generate", "annotate", "merge", "train-rm", "score", "tune-ppo", "tune-dpo", "eval")
"""All commands in pipeline order. Each one is the file or folder of its name in `commands/`."""
EVALUATIONS = ("accuracy", "compare", "agreement", "judgements", "images", "claims", "report")
"""The subcommands of eval. Each one is the file of its name in `commands/eval/`."""
INTERRUPTED = 130
NEW_OBJECTS = 20_000
"""Number of new objects after which Python looks for cycles of garbage. An answered call leaves a few hundred."""
RENAMED = {
    "annotate --batch": "--batch-api",
    "annotate --report": "vpctl eval judgements FILE",
}
"""New names of renamed options, by command and old name."""
_USES_LESS = "lower --batch, use smaller pictures, or use a smaller model"
_SMALLER = "or name --gradient-checkpointing, --dtype float16 or bfloat16, or with --full --optimizer adamw8bit"
_LESS_MEMORY = {
    "tune-ppo": f"lower --batch, {_SMALLER}",
    "tune-dpo": f"lower --batch and raise --accumulate, {_SMALLER}",
}
"""What needs less memory, for commands that have more options for this."""


def load(name: str) -> Callable[..., None]:
    """Import and return the function of a command. Subcommands of eval are named like ``eval compare``."""
    first, _, second = name.replace("-", "_").partition(" ")
    module = importlib.import_module(f"vpctl.commands.{first}{second and f'.{second}'}")
    command: Callable[..., None] = getattr(module, second or first)
    return command


def about(name: str) -> str:
    """The one-line description of a command: the first line of its file. The file is not imported."""
    place = Path(__file__).parent / "commands" / name.replace("-", "_")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    with file.open(encoding="utf-8") as lines:
        return lines.readline().strip().strip('"')


def with_common_options(name: str) -> Callable[..., None]:
    """Return the function of a command, with the options that all commands share.

    The result announces the command name to `progress` before it runs. Records are read and written through file
    descriptors. Python's stdout and stdin are replaced while the command runs: what a library or a plug-in prints goes
    to stderr, and a library that asks for input gets none. Neither can damage the data.
    """
    command = load(name)
    signature = inspect.signature(command, eval_str=True)
    shared = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for option, kind, default in (
            ("prompt_column", PromptColumn, ""),
            ("file_column", FileColumn, ""),
            ("quiet", Quiet, False),
            ("traceback", Traceback, False),
        )
    ]

    @functools.wraps(command)
    def wrapped(*args: Any, prompt_column: str, file_column: str, quiet: bool, traceback: bool, **kwargs: Any) -> None:
        progress.begin(f"vpctl {name}", quiet=quiet, with_traceback=traceback)
        sources.begin(prompt=prompt_column, file=file_column)
        with reserved_stdout(), contextlib.redirect_stdout(sys.stderr), _empty_stdin():
            try:
                command(*args, **kwargs)
            except KeyboardInterrupt as interrupt:  # Typer would keep only its exit code
                _ignore_interrupts()
                progress.flush_warnings()
                progress.note(str(interrupt) or "interrupted")
                raise
            finally:
                progress.flush_warnings()
        if sources.some_left_out():
            raise SomeFailed

    return with_parameters(wrapped, [*signature.parameters.values(), *shared])


def _ignore_interrupts() -> None:
    """Ignore further interrupts while the last messages are printed. A launcher and the terminal may each send one."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _empty_stdin() -> Iterator[None]:
    asked = sys.stdin
    sys.stdin = io.StringIO()  # not a file, which could get the descriptor of a closed standard input
    try:
        yield
    finally:
        sys.stdin = asked


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vpctl {__version__}")
        raise typer.Exit


def _show_plugins(wanted: bool) -> None:
    if wanted:
        kinds = {**{kind: plugins.catalog(kind) for kind in plugins.KINDS}, "aspect": plugins.aspects()}
        for kind, known in kinds.items():
            for name, about in known.items():
                typer.echo(f"{kind:<10} {name:<17} {about}")
        raise typer.Exit


def _help_if_alone(context: typer.Context) -> None:
    """Print the help and exit if no subcommand is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(UserError.exit_code)


@for_typer
def _vpctl(
    context: typer.Context,
    version: Annotated[
        bool, option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
    plugins: Annotated[
        bool,
        option("--plugins", is_eager=True, callback=_show_plugins, help="List all plug-ins and exit."),
    ] = False,
) -> None:
    """Align text-to-image models with preferences judged by multimodal language models.

    Every command reads and writes JSON Lines, so commands connect with pipes and resume from files. If you name no
    model, annotator or reward, the command uses the built-in shapes world, which runs on a laptop.
    """
    del version, plugins  # Their callbacks have already printed the answer.
    _help_if_alone(context)


class _Command(TyperCommand):
    """A command whose help lists its options in groups. Typer does this only with Rich, inside boxes."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage as in the man pages: ``FILE --out DIR [OPTIONS]``. Typer puts braces around FILE."""
        parameters = self.get_params(ctx)
        arguments = [str(one.metavar) for one in parameters if isinstance(one, TyperArgument)]
        required = [one for one in parameters if isinstance(one, TyperOption) and one.required]
        return [*arguments, *(f"{max(one.opts, key=len)} {one.metavar}" for one in required), "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and then each group of options under its heading."""
        parameters = [
            (parameter, record) for parameter in self.get_params(ctx) if (record := parameter.get_help_record(ctx))
        ]
        arguments = [record for parameter, record in parameters if isinstance(parameter, TyperArgument)]
        groups = in_groups(
            (parameter.rich_help_panel, record)
            for parameter, record in parameters
            if isinstance(parameter, TyperOption)
        )
        for heading, records in {"Arguments": arguments, **groups}.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def described(command: Callable[..., None]) -> str:
    """The docstring of a command, prepared for Typer.

    Typer refills paragraphs, but leaves a block unchanged if it begins with a backspace character.
    """
    blocks = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(f"\b\n{as_typed(block)}" if block.startswith(" ") else block for block in blocks)


def as_typed(example: str) -> str:
    """A shell example with a backslash at the end of each line that is continued on a more indented line."""
    further = " " * (len(example) - len(example.lstrip(" ")) + 4)
    return example.replace(f"\n{further}", f" \\\n{further}")


def build(words: Collection[str]) -> typer.Typer:
    """Build the Typer application for a command line that contains these words.

    Only commands among the words are imported and have options. All others have a name and a line of help, which is all
    that the help of vpctl shows.
    """
    completion_init()
    # Rich would put boxes around the help and wrap the examples, which then cannot be copied into a shell.
    # The scripts of Typer's --install-completion do not complete text after a colon; those in completions/ do.
    app = typer.Typer(
        callback=_vpctl,
        invoke_without_command=True,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for name in COMMANDS:
        if name not in words:
            app.command(name, help=about(name))(lambda: None)
        elif name == "eval":
            evaluations = typer.Typer(
                help=about(name), callback=_help_if_alone, invoke_without_command=True, rich_markup_mode=None
            )
            for one in EVALUATIONS:
                command = for_typer(with_common_options(f"eval {one}"))
                evaluations.command(one, cls=_Command, help=described(command))(command)
            app.add_typer(evaluations, name=name)
        else:
            command = for_typer(with_common_options(name))
            app.command(name, cls=_Command, help=described(command))(command)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run vpctl and return its exit code; see EXIT STATUS in vpctl(1)."""
    if argv is None:
        _in_utf_8()
        _scan_for_garbage_less_often()
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _as_interrupt)
    _limit_threads()
    _escape_unencodable()
    progress.begin(" ".join(["vpctl", *_named(arguments)]), quiet=False)
    try:
        _check_names(arguments)
        code = build(_words(arguments))(args=arguments, prog_name="vpctl", standalone_mode=False)
    except OutputClosed:
        code = 0
    except KeyboardInterrupt:
        progress.note("interrupted")
        code = INTERRUPTED
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        code = 0
    except CommandEnded as end:
        code = end.exit_code
    except (OutputLocked, LimitReached) as end:  # with -q, a cron job must not send mail about these
        (progress.error if isinstance(end, Exhausted) else progress.note)(str(end))
        code = end.exit_code
    except UserError as error:
        progress.error(str(error), error)
        code = error.exit_code
    except OSError as error:
        if not _while_printing(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout again when it ends.
        progress.error(f"stdout: {os_reason(error)}")
        code = UserError.exit_code
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if is_out_of_memory(error):
            progress.error(f"out of memory; {_LESS_MEMORY.get(arguments[0], _USES_LESS)}", error)
        elif usage is None:
            raise
        elif new := RENAMED.get(f"{arguments[0]} {(old := getattr(error, 'option_name', ''))}"):
            progress.error(f"{old}: is now {new}")
        elif text := usage().rstrip("."):
            progress.error(f"{text} see --help" if text.endswith("?") else f"{text}; see --help")
        code = UserError.exit_code
    if argv is None:
        gc.freeze()  # Python looks for garbage once more when it ends, which takes up to 0.1 s
    return code or 0


def _named(arguments: Sequence[str]) -> list[str]:
    """The command at the beginning of a command line, with the subcommand of eval."""
    words = [word for word in arguments if word != "--"]
    if words[:1] == ["eval"] and len(words) > 1 and words[1] in EVALUATIONS:
        return words[:2]
    return [word for word in words[:1] if word in COMMANDS]


def _in_utf_8() -> None:
    """Restart Python in UTF-8 mode if the locale has another encoding. Output to the terminal keeps its encoding.

    Records store file names in UTF-8, and a name must mean the same file in every locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or sys.flags.utf8_mode:
        return
    os.environ.setdefault("PYTHONIOENCODING", f"{locale.getpreferredencoding(False)}:backslashreplace")
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _check_names(arguments: Sequence[str]) -> None:
    """Raise `UserError` for an argument or a working directory that is not UTF-8: records cannot hold it.

    Also raised if the working directory no longer exists.
    """
    try:
        here = os.getcwd()
    except OSError:
        raise UserError("the working directory no longer exists; cd to another one") from None
    for name, what in ((here, "the working directory's name"), *((argument, "an argument") for argument in arguments)):
        if not name.isascii() and re.search("[\ud800-\udfff]", name):
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            raise UserError(f"{shown}: {what} is not UTF-8; rename the file or folder, e.g. with convmv")


def _escape_unencodable() -> None:
    """Print help and messages in any locale, with escapes for missing characters. Print each warning on one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: progress.warn(str(message))


def _while_printing(error: OSError) -> bool:
    """Whether the error came from printing help, a version or a list: typer and rich write nothing else."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].partition(".")[0] in ("typer", "rich")


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    """Handle a signal like an interrupt, with the current SIGINT handler.

    While asyncio runs, its handler makes sure that calls end in order.
    """
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signum, frame)


def _words(arguments: list[str]) -> set[str]:
    """All words of the command line, or of the line that a shell wants to complete."""
    completing = (os.environ.get(name, "") for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"))
    return {*arguments, *re.split(r"\s+", " ".join(completing))}


def _scan_for_garbage_less_often() -> None:
    """Raise the number of new objects after which Python looks for cycles of garbage, which is 700 by default.

    Most new objects stay in use: those of modules that are imported, and of calls in flight. Scanning them takes 5 % of
    the start of a command.
    """
    before, *others = gc.get_threshold()
    if 0 < before < NEW_OBJECTS:  # 0 means never
        gc.set_threshold(NEW_OBJECTS, *others)


def _limit_threads() -> None:
    """Keep commands that run side by side from competing for the cores. Variables set by the user are kept.

    OpenMP reads the variables when torch is loaded. Two processes with two spinning threads each on two cores are up to
    60 times slower than they need to be (`benchmarks/threads.py`). Therefore a waiting thread soon gives up its core,
    and a command at an end of a pipe leaves half of the cores to its neighbour.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KMP_BLOCKTIME", "1")
    if any(_is_pipe(stream) for stream in (0, 1)):
        # macOS has no sched_getaffinity.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // 2)))


def _is_pipe(stream: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(stream).st_mode)
    except OSError:
        return False
