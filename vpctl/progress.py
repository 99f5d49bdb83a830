"""What vpctl says to people: on stderr, so that stdout stays data.

A progress bar is drawn only at a terminal, and in a pipe of several commands only by the last of them, since all share
one line; elsewhere a line is printed twice a minute.
"""

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

T = TypeVar("T")

QUIET_SECONDS = 30.0
"""How often a long stage reports where no bar can be drawn."""
REDRAW_SECONDS = 0.5
"""How often what stands behind a bar is looked up."""

_bar: Any = None
"""The bar that is on the terminal; a message goes in front of it."""
_command = "vpctl"
_quiet = False


def begin(command: str, *, quiet: bool) -> None:
    """Name the command all messages come from; `quiet` silences everything but warnings and errors."""
    global _command, _quiet
    _command, _quiet = command, quiet


def note(text: str) -> None:
    """Something worth knowing."""
    if not _quiet:
        _say(text)


def warn(text: str) -> None:
    """Something that is probably not what the user wants."""
    _say(f"warning: {text}")


def error(text: str) -> None:
    """Why the command ends here."""
    _say(f"error: {text}")


def _say(text: str) -> None:
    """One line: what a record says may hold anything, but not break lines or move a terminal's cursor."""
    harmless = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    _print(f"{_command}: {harmless}\n")


def _print(text: str) -> None:
    """Text on stderr; if that is closed or its reader gone, nobody wants it, and it is no reason to end."""
    if sys.stderr is None:
        return
    try:
        if _bar is not None:
            _bar.clear()
        sys.stderr.write(text)
        sys.stderr.flush()
        if _bar is not None:
            _bar.refresh()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _in_a_pipe() -> bool:
    """Whether another command reads what this one writes."""
    try:
        return stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        return False


class Counter:
    """Counts what has been done and shows it: call it for each. `total` is the count.

    `expected`, how many there will be, may be set as it becomes known; `status` says more, given the share done so far.
    """

    def __init__(self, unit: str, expected: int | None, status: Callable[[float | None], str] = lambda _: "") -> None:
        self.total = 0
        self.expected = expected
        self._unit, self._status = unit, status
        self._began = self._said = time.monotonic()
        self._bar = None
        if not _quiet and sys.stderr is not None and sys.stderr.isatty() and not _in_a_pipe():
            from tqdm import tqdm

            global _bar
            self._bar = _bar = tqdm(desc=_command, unit=f" {unit}", total=expected, dynamic_ncols=True, leave=False)

    def __call__(self, more: int = 1) -> None:
        """So many more are done."""
        self.total += more
        now = time.monotonic()
        if self._bar is not None:
            self._bar.total = self.expected
            if now - self._said >= REDRAW_SECONDS:
                self._said = now
                self._bar.set_postfix_str(self._status(self._share()), refresh=False)
            self._bar.update(more)
        elif now - self._said >= QUIET_SECONDS:
            self._said = now
            note(self._line(now - self._began))

    def _share(self) -> float | None:
        return self.total / self.expected if self.expected and self.total else None

    def _line(self, seconds: float) -> str:
        share = self._share()
        of_all = f" of {self.expected}" if self.expected else ""
        left = f", {_span(seconds / share - seconds)} left" if share else ""
        parts = [f"{self.total}{of_all} {self._unit} in {_span(seconds)}{left}", self._status(share)]
        return "; ".join(part for part in parts if part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar from the terminal."""
        if self._bar is not None:
            global _bar
            _bar = None
            self._bar.close()


def _span(seconds: float) -> str:
    """A length of time as one says it."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def track(items: Iterable[T], unit: str, *, total: int | None = None) -> Iterator[T]:
    """The items, counted and shown as they pass."""
    with Counter(unit, total) as count:
        for item in items:
            yield item
            count()


def finished(done: str, target: str, *, resumed: int = 0, failed: int = 0, more: str = "") -> None:
    """The last line of a stage: what it did and where, what was there before, what could not be done, and `more`.

    `target` is the file or folder as the user named it; ``-`` is standard output.
    """
    there = f"; {resumed} were there already" if resumed else ""
    lost = f"; {failed} failed, and the same command tries them again" if failed else ""
    note(f"{done} {written(target)}{there}{lost}{f'; {more}' if more else ''}")


def written(target: str) -> str:
    """That something was written, and to which file or folder; ``-`` is standard output."""
    return "written" if target == "-" else f"written to {target}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for a person; every column but the first is aligned to the right."""
    if _quiet:
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    console = Console(stderr=True, markup=False, emoji=False)
    with console.capture() as text:
        console.print(drawn)
    _print(text.get())
