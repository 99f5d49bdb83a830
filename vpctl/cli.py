"""The vpctl program: its nine commands in the order of the pipeline, and the one place where errors become exits."""

import functools
import inspect
import os
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from . import __version__, progress
from .commands import annotate, generate, merge, polish, score, train_rm, tune_dpo, tune_ppo
from .commands import eval as evaluate
from .errors import OutputClosed, UserError
from .options import Quiet, option

COMMANDS: dict[str, Callable[..., None]] = {
    "polish": polish.polish,
    "generate": generate.generate,
    "annotate": annotate.annotate,
    "merge": merge.merge,
    "train-rm": train_rm.train_rm,
    "score": score.score,
    "tune-ppo": tune_ppo.tune_ppo,
    "tune-dpo": tune_dpo.tune_dpo,
}
EVALUATIONS: dict[str, Callable[..., None]] = {
    "accuracy": evaluate.accuracy,
    "compare": evaluate.compare,
    "agreement": evaluate.agreement,
}
INTERRUPTED = 130


def common(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that all share, announcing itself under its name before it runs."""
    signature = inspect.signature(command, eval_str=True)
    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)

    @functools.wraps(command)
    def wrapped(*args: Any, quiet: bool, **kwargs: Any) -> None:
        progress.begin(f"vpctl {name}", quiet=quiet)
        command(*args, **kwargs)

    parameters = [*signature.parameters.values(), quiet]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vpctl {__version__}")
        raise typer.Exit


def _vpctl(
    version: Annotated[
        bool, option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Align text-to-image models with preferences judged by multimodal language models.

    Every command reads and writes JSON Lines, so they connect with pipes and resume from files. Without a model,
    annotator or reward of yours they use the built-in shapes world, in which everything runs on a laptop.
    """


def build() -> typer.Typer:
    """The Typer application."""
    app = typer.Typer(callback=_vpctl, no_args_is_help=True, pretty_exceptions_enable=False)
    for name, command in COMMANDS.items():
        app.command(name)(common(name, command))
    evaluations = typer.Typer(help=evaluate.__doc__, no_args_is_help=True)
    for name, command in EVALUATIONS.items():
        evaluations.command(name)(common(f"eval {name}", command))
    app.add_typer(evaluations, name="eval")
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run vpctl and return its exit code; see EXIT STATUS in vpctl(1)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _share_the_machine()
    progress.begin(" ".join(["vpctl", *(word for word in arguments[:1] if word in COMMANDS)]), quiet=False)
    try:
        code = build()(args=arguments, prog_name="vpctl", standalone_mode=False)
    except OutputClosed:
        code = 0
    except UserError as error:
        progress.error(str(error))
        code = error.exit_code
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        progress.error(f"{usage()} See --help." if usage() else "see --help")
        code = UserError.exit_code
    if code == INTERRUPTED:
        progress.note("interrupted; what is finished is kept, and the same command goes on from there")
    return code or 0


def _share_the_machine() -> None:
    """Keep the commands of one pipe from fighting over the cores.

    Read by OpenMP when torch is loaded. A thread that waits gives its core away instead of spinning on it, and a
    command at either end of a pipe leaves half of the cores to its neighbour. What the user has set stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    in_a_pipe = any(stat.S_ISFIFO(os.fstat(stream).st_mode) for stream in (0, 1))
    if in_a_pipe:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 2)))
