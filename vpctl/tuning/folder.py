"""Reads the folder of a run without torch: whether a run may use it, and whether the run in it has ended."""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from .. import progress
from ..errors import OutputLocked, UserError, os_reason
from ..models import launcher
from ..streams.places import is_stream

RUN_FILE, METRICS, CHECKPOINT, LOCK, ENDED = "run.json", "metrics.jsonl", "checkpoint.pt", ".lock", ".ended"
CACHE = "cache"
"""Folder of what frozen parts of the model have computed. It is deleted when the run has ended."""
RESULTS = "results.part"
"""Where results are written before they move into the run's folder."""
_OPTIONS_OF = {
    "train-rm": {"pairs", "backbone"},
    "tune-dpo": {"pairs", "model"},
    "tune-ppo": {"prompts", "model"},
}
"""Options of each command that no other command has together. Folders of all versions have them, and no name."""
_TOTAL_OF = {"tune-dpo": "max_steps", "tune-ppo": "epochs"}
"""The option that sets the number of steps, for commands whose single steps do not depend on this number. An ended run
of these commands keeps its checkpoint, so that it can go on when the number is raised."""
PARTS = {f"{name}.part" for name in (RUN_FILE, METRICS, CHECKPOINT, ENDED)} | {RESULTS}
"""Incomplete files that a killed run may leave."""


def check(out: str, options: Mapping[str, Any]) -> None:
    """Raise `UserError` if a run with these options cannot use the folder `out`. Nothing is created or changed.

    `options` holds the options that are known before a model is loaded. `ended` and `Run` compare all of them.
    """
    with _inspecting(out) as there:
        if there is not None:
            refuse_others(Path(out), there, plain(options), all_known=False)
            has_ended(Path(out))


def ended(out: str, options: Mapping[str, Any]) -> bool:
    """Whether the folder `out` holds a run with exactly these options that has ended. If so, prints a note.

    Raises `UserError` like `check`.
    """
    with _inspecting(out) as there:
        done = there is not None and refuse_others(Path(out), there, plain(options)) and has_ended(Path(out))
    if done:
        note_ended(out)
    return done


def note_ended(out: str) -> None:
    """Print a note that the run has ended."""
    progress.note(f"{out} already holds the finished run; nothing to do")


def without_secrets(argv: Sequence[str]) -> list[str]:
    """A command line without the values of --header, which may be keys, and without user and password in --base-url."""

    def shown(option: str, value: str) -> str:
        if option == "--header":
            return f"{value.partition('=')[0]}=[hidden]"
        return re.sub(r"//.*@", "//", value.partition("?")[0], flags=re.DOTALL)

    words: list[str] = []
    for place, word in enumerate(argv):
        option, equals, value = word.partition("=")
        before = argv[max(0, place - 1)]
        if before in _WITH_SECRETS:
            word = shown(before, word)
        elif equals and option in _WITH_SECRETS:
            word = f"{option}={shown(option, value)}"
        words.append(word)
    return words


_WITH_SECRETS = ("--header", "--base-url")


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they are when they are read back from ``run.json``."""
    there: dict[str, Any] = orjson.loads(orjson.dumps(options))
    return there


@contextmanager
def _inspecting(out: str) -> Iterator[dict[str, Any] | None]:
    """The options of the run in `out`, None if there is no run. Within the context no other run can write there."""
    if is_stream(out):
        raise UserError(f"--out {out}: is not a folder; --out names the folder of the run")
    folder, lock = Path(out), None
    try:
        exists = folder.exists()
        if not exists:
            _check_new(folder)
        elif not folder.is_dir():
            raise file_error(folder)
        elif (folder / LOCK).is_file() and not launcher.rank():  # one of several processes locks
            lock = locked(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--out {error.filename or out}: {os_reason(error)}") from None
    try:
        yield begun(folder) if exists else None
    finally:
        if lock is not None:
            os.close(lock)


def _check_new(folder: Path) -> None:
    parent = next(one for one in folder.absolute().parents if one.exists())
    if not parent.is_dir():
        raise UserError(f"--out {folder}: {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder}: {parent} is not writable")


def file_error(folder: Path) -> UserError:
    """The error of an --out that is a file."""
    return UserError(f"--out {folder}: is a file, not a folder; name another one")


def locked(folder: Path, flags: int) -> int:
    """Lock a run's folder and return the lock's file descriptor. Raises `OutputLocked` if another run holds it."""
    lock = os.open(folder / LOCK, flags, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise OutputLocked(f"--out {folder}: another run is writing it") from None
        raise UserError(f"{folder / LOCK}: cannot be locked: {os_reason(error)}") from None
    return lock


def begun(folder: Path) -> dict[str, Any] | None:
    """The options of the run in a folder; None if there is no run. Raises `UserError` if it holds other files."""
    file = folder / RUN_FILE
    try:
        if not file.exists():
            if foreign := sorted(set(os.listdir(folder)) - PARTS - {LOCK}):
                raise UserError(f"--out {folder}: is not the folder of a run: it holds {foreign[0]}; name a new folder")
            return None
        there = orjson.loads(file.read_bytes())["options"]
    except OSError as error:
        raise UserError(f"{error.filename or file}: {os_reason(error)}") from None
    except (ValueError, LookupError, TypeError):
        there = None
    if not isinstance(there, dict):
        raise UserError(
            f"{file}: is damaged: it does not hold the options of a run; restore it, or name another folder with --out"
        )
    return there


def refuse_others(
    folder: Path, there: Mapping[str, Any], options: Mapping[str, Any], *, all_known: bool = True
) -> bool:
    """Whether a run has exactly these options.

    Raises `UserError` if the options differ and the run has a checkpoint or results. A run without them, such as one
    that failed at once, may be replaced by a run with other options, and a run that `can_go_on` by one with more steps.
    Unless `all_known`, only the keys of `options` are compared.
    """
    keys = {**options, **there} if all_known else options
    changed = [key for key in keys if there.get(key) != options.get(key)]
    if changed == [total_of(options)] and can_go_on(folder, there, options):
        return False
    if changed and ((folder / CHECKPOINT).exists() or (folder / ENDED).exists()):
        total, theirs, ours = total_of(options), _command(there), _command(options)
        key = next((one for one in changed if one != total), total)
        different = (
            f"holds a run of {theirs}, not of {ours}"
            if theirs and ours and theirs != ours
            else f"holds a run with {key} {there.get(key)!r}, not {options.get(key)!r}"
        )
        if key == total and there.get(key, 0) < options.get(key, 0):
            different += ", and no checkpoint from which it could go on"
        raise UserError(f"--out {folder}: {different}; name another folder, or remove this one")
    return not changed


def total_of(options: Mapping[str, Any]) -> str:
    """The option with the number of steps, if the steps do not depend on it; otherwise empty."""
    return _TOTAL_OF.get(_command(options), "")


def can_go_on(folder: Path, there: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether `options` name more steps than the run has `there`, and it has a checkpoint to do them from."""
    before, now = (one.get(total_of(options)) for one in (there, options))
    return isinstance(before, int) and isinstance(now, int) and before < now and (folder / CHECKPOINT).is_file()


def _command(options: Mapping[str, Any]) -> str:
    """The command that a run with these options belongs to; empty if they show none."""
    return next((command for command, keys in _OPTIONS_OF.items() if keys <= options.keys()), "")


def has_ended(folder: Path) -> bool:
    """Whether the run has ended. Raises `UserError` if it has ended but its results are missing or damaged."""
    file = folder / ENDED
    if not file.exists():
        return False
    try:
        content = file.read_bytes()
        if not content and any(folder.glob("*.safetensors")):  # as earlier versions of vpctl left it
            return True
        gone = [name for name in orjson.loads(content) if not (folder / name).is_file()]
    except (OSError, ValueError, TypeError):
        gone = [ENDED]
    if gone:
        raise UserError(
            f"{folder / gone[0]}: is damaged or missing, but the run has ended; restore it, "
            f"or remove {file} to {'write the results' if (folder / CHECKPOINT).exists() else 'train'} again"
        )
    return True
