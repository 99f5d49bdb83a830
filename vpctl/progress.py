"""Messages of vpctl to people. They go to stderr, because stdout is for data.

A progress bar is drawn only on a terminal. If several commands are connected by pipes, only the last one draws a bar,
because they share one line. In all other cases a line is printed every 30 seconds.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from .streams import places
from .streams.places import stdout_is_pipe

T = TypeVar("T")

MAX_SHOWN = 10
"""Number of warnings of one kind that are printed."""
REPORT_SECONDS = 30.0
"""Interval of progress lines where no bar can be drawn."""
REDRAW_SECONDS = 0.5
"""Interval at which the status text behind a bar is updated."""

_bar: Any = None
"""The bar on the terminal, if there is one. Messages are printed above it."""
_command = "vpctl"
_quiet = False
_with_traceback = False


@dataclass
class _Warnings:
    """The warnings of one kind: how many were printed, how many not, and how often each cause occurred."""

    shown: int = 0
    more: int = 0
    causes: dict[str, int] = field(default_factory=dict)


_warned: dict[str, _Warnings] = {}
"""The warnings of each kind so far."""
_end_warnings: list[Callable[[], str]] = []
"""Functions that `flush_warnings` calls. Each may return one more warning."""


def begin(command: str, *, quiet: bool, with_traceback: bool = False) -> None:
    """Set the command name that starts every message, and forget all warnings of an earlier command.

    `quiet` hides everything except warnings and errors. `with_traceback` makes `error` print the traceback of its
    cause.
    """
    global _command, _quiet, _with_traceback
    _command, _quiet, _with_traceback = command, quiet, with_traceback
    _warned.clear()
    _end_warnings.clear()


def mute() -> None:
    """From now on, print only warnings and errors."""
    global _quiet
    _quiet = True


def note(text: str) -> None:
    """Print a message, unless `quiet` is set."""
    if not _quiet:
        _say(text)


def warn(text: str) -> None:
    """Print a warning about something that the user probably does not want."""
    _say(f"warning: {text}")


def warn_each(kind: str, text: str, cause: str = "", *, most: int = MAX_SHOWN) -> None:
    """Print a warning that thousands of records may cause, at most `most` times for each kind.

    `kind` names the records in the plural, such as ``pictures cannot be opened``. Of the warnings with the same `cause`
    only the first is printed. After `most` warnings no new one is printed. `flush_warnings` prints how many more
    there were.
    """
    found = _warned.setdefault(kind, _Warnings())
    if cause and cause in found.causes:
        found.causes[cause] += 1
    elif found.shown < most:
        found.shown += 1
        found.causes.update({cause: 1} if cause else {})
        warn(text)
    else:
        found.more += 1


def warn_at_end(say: Callable[[], str]) -> None:
    """Register a function whose text `flush_warnings` prints as one more warning. An empty text prints nothing."""
    _end_warnings.append(say)


def flush_warnings() -> None:
    """Print how many warnings of each kind were not shown, then the warnings of `warn_at_end`.

    A second call prints nothing.
    """
    for kind, found in _warned.items():
        for cause, number in found.causes.items():
            if number > 1:
                warn(f"{number} × {cause}")
        if found.more:
            warn(f"… and {found.more} more {kind}")
    for say in _end_warnings:
        if text := say():
            warn(text)
    _warned.clear()
    _end_warnings.clear()


def error(text: str, cause: BaseException | None = None) -> None:
    """Print why the command ends, after the traceback of `cause` if the user asked for tracebacks."""
    if cause and _with_traceback:
        import traceback

        lines = "".join(traceback.format_exception(cause)).splitlines()
        _print("".join(f"{escaped(line)}\n" for line in lines))
    _say(f"error: {text}")


def line(text: str) -> None:
    """Print a line that another program reads, without the name of the command, even if `quiet` is set."""
    _print(f"{escaped(text)}\n")


def escaped(text: str) -> str:
    """The text on one line, with unprintable characters escaped.

    Text from a record may hold anything. It must not break lines or move the cursor of a terminal.
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _say(text: str) -> None:
    _print(f"{_command}: {escaped(text)}\n")


def _print(text: str) -> None:
    """Write text to stderr. If stderr is closed or its reader has gone, the text is lost and the command continues."""
    if sys.stderr is None:
        return
    try:
        with _above_bar():
            sys.stderr.write(text)
            sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextmanager
def _above_bar() -> Iterator[None]:
    """A context in which something else is written to the terminal: the bar is gone, and drawn again below it."""
    bar = _bar
    if bar is not None:
        bar.clear()
    yield
    if bar is not None:
        bar.refresh()


places.above_bar = _above_bar


class Counter:
    """Counts finished items and shows the progress. Call it after each item. `total` is the count.

    `expected` is the expected total, and may be set later. `status` returns more text for the display; its argument is
    the share done, or None if that is unknown. The count starts at `done`, the items of an earlier run. The rate and
    the remaining time refer to this run only.
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
        if not _quiet and sys.stderr is not None and sys.stderr.isatty() and not stdout_is_pipe():
            from tqdm import tqdm

            global _bar
            self._bar = _bar = tqdm(
                desc=_command, unit=f" {unit}", total=expected, initial=done, dynamic_ncols=True, leave=False
            )

    def __call__(self, more: int = 1) -> None:
        """Count `more` finished items and update the display."""
        self.total += more
        now = time.monotonic()
        if self._bar is not None:
            self._bar.total = self.expected
            if now - self._said >= REDRAW_SECONDS:
                self._said = now
                self._bar.set_postfix_str(escaped(self._status(self._share())), refresh=False)
            self._bar.update(more)
        elif now - self._said >= REPORT_SECONDS:
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
        """Remove the bar from the terminal."""
        if self._bar is not None:
            global _bar
            _bar = None
            self._bar.close()


def _span(seconds: float) -> str:
    """A duration as text, such as ``90 s``, ``5 min`` or ``2.0 h``."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def track(items: Iterable[T], unit: str, *, total: int | None = None) -> Iterator[T]:
    """Yield the items, and count and show them."""
    with Counter(unit, total) as count:
        for item in items:
            yield item
            count()


def finished(
    done: str,
    target: str,
    *,
    resumed: int = 0,
    failed: int = 0,
    more: str = "",
    retry: str = "run the same command again to retry them",
) -> None:
    """Print the last line of a stage: what it did, where, how many records existed before, how many failed, and `more`.

    `target` is the file or folder as the user named it; ``-`` is standard output. `retry` says what to do about failed
    records.
    """
    flush_warnings()
    there = f"; {resumed} {'was' if resumed == 1 else 'were'} already there" if resumed else ""
    lost = f"; {failed} failed; {retry}" if failed else ""
    note(f"{done} {written(target)}{there}{lost}{f'; {more}' if more else ''}")


def plural(number: int, noun: str) -> str:
    """A count with its noun, such as ``1 picture`` and ``2 pictures``, ``2 batches``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('ch') else 's'}"


def size(count: float) -> str:
    """A number of bytes with its unit, such as ``80 GB`` and ``1.25 MB``."""
    unit, name = next((one for one in ((1e9, "GB"), (1e6, "MB")) if count >= one[0]), (1e3, "kB"))
    return f"{count / unit:.3g} {name}"


def written(target: str) -> str:
    """Text that says where something was written; ``-`` is standard output."""
    return "written" if target == "-" else f"written to {target}"


_NUMBERS = re.compile(r"[\d.+-]+%?(?:(?: to |–)[\d.+-]+)?")
"""A number, or an interval."""


NARROWEST_NAME = 6
"""Characters. Names are broken into lines of this length rather than numbers cut off."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table for people, unless `quiet` is set. All columns except the first are right-aligned."""
    if _quiet:
        return
    from rich.console import Console
    from rich.table import Table

    cells = [*rows]
    console = Console(stderr=True, markup=False, emoji=False)
    widest = [max(map(len, column), default=0) for column in zip(columns, *cells, strict=True)]
    is_narrow = sum(widest) + 3 * len(widest) + 1 > console.width
    drawn = Table(title=escaped(title), title_justify="left", title_style="bold")
    taken = 0
    for index, column in enumerate(columns):
        # A number is never broken: names give way, and the words of a heading stand on lines of their own.
        numbers = [len(row[index]) for row in cells if _NUMBERS.fullmatch(row[index])]
        least = max(numbers, default=None)
        heading = escaped(column)
        if is_narrow and least and len(column) > least:
            heading = re.sub(r" (?!%)", "\n", heading)
        drawn.add_column(heading, justify="right" if index else "left", overflow="fold", min_width=least)
        if index:
            lines = [*heading.split("\n"), *(row[index] for row in cells)]
            taken += max(map(len, lines))
    # Of its own accord, rich also narrows columns of numbers, and cuts off what does not fit.
    room = console.width - taken - 3 * len(columns) - 1
    if is_narrow and room >= NARROWEST_NAME:
        drawn.columns[0].max_width = room
    for row in cells:
        drawn.add_row(*map(escaped, row))
    with console.capture() as text:
        console.print(drawn)
    _print(text.get())
