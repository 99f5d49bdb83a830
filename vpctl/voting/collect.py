"""Collects the votes of people: serves the page until everybody has voted."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from PIL import Image as PIL

from .. import flow, progress
from ..errors import LimitReached, RecordFailed, UserError
from ..flow import StopSignal
from ..judging.plan import Group
from .address import Doorway
from .ballots import unsuited
from .room import Room, VoteLedger
from .server import VoteServer
from .shown import ShownPictures


def collect(
    groups: Iterator[Group],
    room: Room,
    ledger: VoteLedger,
    doorway: Doorway,
    open_picture: Callable[[str], PIL.Image],
    max_time: float | None,
) -> int:
    """Have people vote on the groups, and return the number of prompts that were left out.

    An interrupt is the usual end if anyone may come; it only counts as one if somebody has something left.
    """
    lost = 0

    def sound() -> Iterator[Group]:
        nonlocal lost
        for group in groups:
            if reason := unsuited(group, room.poll.mode):
                progress.warn_each("prompts left out", f"{group.images[0]['prompt'][:60]!r} {reason}; it is left out")
            elif reason := _fault(group, room, open_picture):
                lost += 1
                progress.warn_each("prompts left out", f"{group.images[0]['prompt'][:60]!r}: {reason}")
            else:
                yield group

    with progress.Counter("votes", None) as counter:

        def voted() -> None:
            counter.expected = sum(len(voter.left) for voter in room.voters.values()) + counter.total + 1
            counter()

        def announce() -> None:
            end = "stop with Ctrl-C" if room.open_to_all else "the command ends when all votes are in"
            progress.note(f"vote at {doorway.url} ({end})")

        def work(stop_signal: StopSignal) -> Coroutine[Any, Any, None]:
            server = VoteServer(room, doorway, ShownPictures(open_picture), announce=announce, voted=voted)
            return server.run(sound(), stop_signal)

        def tell() -> None:
            counter.close()
            more = room.summary()
            done = progress.plural(counter.total, "vote")
            progress.finished(done, ledger.target, resumed=ledger.resumed, failed=lost, more=more)

        try:
            flow.run(work, max_time=max_time)
        except (KeyboardInterrupt, LimitReached):
            tell()
            if not room.nothing_left():
                raise
        except UserError:
            tell()
            raise
        else:
            tell()
    return lost


def _fault(group: Group, room: Room, open_picture: Callable[[str], PIL.Image]) -> str:
    """Why the pictures of a prompt cannot be shown; empty if they can. They are opened only if somebody needs them."""
    if isinstance(group.contents, RecordFailed):
        return str(group.contents)
    try:
        for image in group.images if room.wanted(group) else ():
            open_picture(image["file_name"])
    except RecordFailed as failure:
        return str(failure)
    return ""
