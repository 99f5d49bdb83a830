"""What vpctl says to people: on stderr, so that stdout stays data.

A progress bar is drawn only at a terminal, and in a pipe of several commands only by the last of them, since all share
one line; elsewhere a line is printed twice a minute.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from .streams.places import goes_to_a_pipe

T = TypeVar("T")

SHOWN = 10
"""How many warnings of one kind are printed."""
QUIET_SECONDS = 30.0
"""How often a long stage reports where no bar can be drawn."""
REDRAW_SECONDS = 0.5
"""How often what stands behind a bar is looked up."""

_bar: Any = None
"""The bar that is on the terminal; a message goes in front of it."""
_command = "vpctl"
_quiet = False
_with_traceback = False
_warned: dict[str, int] = {}
"""How many warnings of each kind there were."""
_last_words: list[Callable[[], str]] = []
"""What is asked for one more warning when the command ends."""


def begin(command: str, *, quiet: bool, with_traceback: bool = False) -> None:
    """Name the command all messages come from; `quiet` silences everything but warnings and errors.

    `with_traceback` shows where an error comes from, too.
    """
    global _command, _quiet, _with_traceback
    _command, _quiet, _with_traceback = command, quiet, with_traceback
    _warned.clear()
    _last_words.clear()


def mute() -> None:
    """Say nothing more but warnings and errors."""
    global _quiet
    _quiet = True


def note(text: str) -> None:
    """Something worth knowing."""
    if not _quiet:
        _say(text)


def warn(text: str) -> None:
    """Something that is probably not what the user wants."""
    _say(f"warning: {text}")


def warn_each(kind: str, text: str) -> None:
    """A warning that thousands of records may cause: the first `SHOWN` of a kind are printed, the others counted.

    `kind` names the records in the plural, such as ``pictures cannot be opened``; `settle` prints the count.
    """
    _warned[kind] = _warned.get(kind, 0) + 1
    if _warned[kind] <= SHOWN:
        warn(text)


def at_end(say: Callable[[], str]) -> None:
    """Have `settle` print what `say` returns as one more warning; an empty text prints none."""
    _last_words.append(say)


def settle() -> None:
    """Print how many warnings of each kind were not shown, and the last words; once, however the command ends."""
    for kind, number in _warned.items():
        if number > SHOWN:
            warn(f"… and {number - SHOWN} more {kind}")
    for say in _last_words:
        if text := say():
            warn(text)
    _warned.clear()
    _last_words.clear()


def error(text: str, cause: BaseException | None = None) -> None:
    """Why the command ends here; with the traceback of `cause` in front if the user asked for it."""
    if cause and _with_traceback:
        import traceback

        lines = "".join(traceback.format_exception(cause)).splitlines()
        _print("".join(f"{harmless(line)}\n" for line in lines))
    _say(f"error: {text}")


def harmless(text: str) -> str:
    """The text on one line: what a record says may hold anything, but not break lines or move a terminal's cursor."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _say(text: str) -> None:
    _print(f"{_command}: {harmless(text)}\n")


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


class Counter:
    """Counts what has been done and shows it: call it for each. `total` is the count.

    `expected`, how many there will be, may be set as it becomes known; `status` says more, given the share done so far.
    The count begins at `done`, what an earlier run did; rate and time left are of this run's own work.
    """

    def __init__(
        self,
        unit: str,
        expected: int | None,
        status: Callable[[float | None], str] = lambda _: "",
        *,
        done: int = 0,
    ) -> None:
        self.total = self._done = done
        self.expected = expected
        self._unit, self._status = unit, status
        self._began = self._said = time.monotonic()
        self._bar = None
        if not _quiet and sys.stderr is not None and sys.stderr.isatty() and not goes_to_a_pipe():
            from tqdm import tqdm

            global _bar
            self._bar = _bar = tqdm(
                desc=_command, unit=f" {unit}", total=expected, initial=done, dynamic_ncols=True, leave=False
            )

    def __call__(self, more: int = 1) -> None:
        """So many more are done."""
        self.total += more
        now = time.monotonic()
        if self._bar is not None:
            self._bar.total = self.expected
            if now - self._said >= REDRAW_SECONDS:
                self._said = now
                self._bar.set_postfix_str(harmless(self._status(self._share())), refresh=False)
            self._bar.update(more)
        elif now - self._said >= QUIET_SECONDS:
            self._said = now
            note(self._line(now - self._began))

    def _share(self) -> float | None:
        return self.total / self.expected if self.expected and self.total else None

    def _line(self, seconds: float) -> str:
        share = self._share()
        of_all = f" of {self.expected}" if self.expected else ""
        own = self.total - self._done
        left = f", {_span(seconds / own * (self.expected - self.total))} left" if self.expected and own else ""
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
    settle()
    there = f"; {resumed} {'was' if resumed == 1 else 'were'} already there" if resumed else ""
    lost = f"; {failed} failed; run the same command again to retry them" if failed else ""
    note(f"{done} {written(target)}{there}{lost}{f'; {more}' if more else ''}")


def plural(number: int, noun: str) -> str:
    """A count with its noun, as in ``1 picture`` and ``2 pictures``; the noun's plural ends in an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def written(target: str) -> str:
    """That something was written, and to which file or folder; ``-`` is standard output."""
    return "written" if target == "-" else f"written to {target}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for a person; every column but the first is aligned to the right."""
    if _quiet:
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=harmless(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(harmless(column), justify="right" if index else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(harmless, row))
    console = Console(stderr=True, markup=False, emoji=False)
    with console.capture() as text:
        console.print(drawn)
    _print(text.get())
