"""What each person still has to vote on, and what they have voted; every vote is on disk before it counts."""

import time
from bisect import insort
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..contracts import Aspect, Mode
from ..judging.plan import Group
from ..records import Image, Judgement, judgement_key
from ..streams.places import is_stream
from ..streams.writing import Out
from .ballots import Ballot, Cast, ballots_of, cast_of, judgement_of, said_of
from .people import PERSON

AHEAD = 2
"""Number of ballots whose pictures a page loads before they are voted on."""
PAUSE = 120.0
"""Seconds between two votes from which on the person was away. The remaining time does not count them."""
ENOUGH = 3
"""Number of votes from which the remaining time is estimated, from the last `RECENT` ones."""
RECENT = 20


class Poll(NamedTuple):
    """What people are asked: the aspects, how pictures are shown, the passes, and the seed of the orders."""

    aspects: tuple[Aspect, ...]
    mode: Mode
    passes: int = 1
    seed: int = 0


class VoteLedger(Out):
    """The output of annotate for votes of people: it remembers what each person has voted.

    Votes that have a key of `again`, such as ``refused``, are asked for again; with `refresh`, all are.
    """

    def __init__(self, target: str, *, again: Container[str] = (), refresh: bool = False) -> None:
        self._again, self._refresh = again, refresh
        self.cast: dict[str, tuple[int, Cast]] = {}
        """By the key of the judgement: the number of the last vote, which grows in the file, and the vote."""
        self._votes = 0
        super().__init__(target, Judgement, self._noted)

    def _noted(self, judgement: Judgement) -> str:
        key = judgement_key(judgement)
        self.cast.pop(key, None)
        if self._refresh or any(name in self._again for name in judgement):
            return ""
        if judgement["annotator"].startswith(f"{PERSON}:") and "failed" not in judgement:
            scores = dict(zip(judgement["image_ids"], judgement["scores"], strict=False))
            self._note(key, Cast(scores, judgement.get("refused", "")))
        return key

    def _note(self, key: str, vote: Cast) -> None:
        self._votes += 1
        self.cast[key] = self._votes, vote

    def add(self, judgement: Judgement, vote: Cast) -> None:
        """Write a vote to the disk. Raises `UserError` if this fails: the vote is then not counted."""
        self.write(judgement)
        if not is_stream(self.target):
            self.sync()
        self._note(judgement["key"], vote)

    def last(self, key: str) -> int:
        """The number of the last vote with this key; 0 if there is none."""
        return self.cast[key][0] if key in self.cast else 0


class Voter:
    """One person: the ballots that are left, in this person's order, and those that are done, in the order of votes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.annotator = f"{PERSON}:{name}"
        self.left: list[tuple[tuple[int, str, str, str], Ballot]] = []
        self.done: list[tuple[int, Ballot]] = []
        self.votes = 0
        """The number of votes of this run, votes that were changed included."""
        self.finished = False
        """Whether this person has left the last page."""
        self._paces: list[float] = []
        self._voted = time.monotonic()

    @property
    def total(self) -> int:
        """The number of all ballots so far."""
        return len(self.left) + len(self.done)

    def begin(self) -> None:
        """The person is here now, and looks at a ballot."""
        self._voted = time.monotonic()

    def pace(self) -> None:
        """Note the time that the last vote took."""
        now = time.monotonic()
        if now - self._voted < PAUSE:
            self._paces.append(now - self._voted)
        self._voted, self.votes = now, self.votes + 1

    def seconds_left(self) -> float | None:
        """The estimated time for all that is left; None if there are too few votes to tell."""
        from statistics import median  # slow to load, and only people need it

        return None if len(self._paces) < ENOUGH else median(self._paces[-RECENT:]) * len(self.left)


class Room:
    """The people, and the ballots that each of them votes on.

    With `names`, only these people vote. Without, anyone who gives a name does, and `voters` has who came so far.
    """

    def __init__(self, poll: Poll, ledger: VoteLedger, names: Sequence[str] = ()) -> None:
        self.poll, self._ledger, self.names = poll, ledger, tuple(names)
        """The people who vote, if only these do."""
        self._ballots: dict[str, Ballot] = {}
        self.voters: dict[str, Voter] = {}
        self.complete = False
        """Whether all pictures were read, so that no ballots follow."""
        for name in names:
            self.voter(name)

    @property
    def open_to_all(self) -> bool:
        """Whether anyone may vote who gives a name."""
        return not self.names

    def admits(self, name: str) -> bool:
        """Whether the person with this name may vote."""
        return not self.names or name in self.names

    def voter(self, name: str) -> Voter:
        """The person with this name, who gets all ballots at the first time."""
        if name not in self.voters:
            self.voters[name] = Voter(name)
            for ballot in self._ballots.values():
                self._give(ballot, self.voters[name])
        return self.voters[name]

    def add(self, group: Group) -> None:
        """Add the ballots about the pictures of a prompt for everybody."""
        for ballot in ballots_of(group, self.poll.aspects, self.poll.mode, self.poll.passes):
            if self._ballots.setdefault(ballot.name(), ballot) is ballot:
                for voter in self.voters.values():
                    self._give(ballot, voter)

    def _give(self, ballot: Ballot, voter: Voter) -> None:
        number = self._ledger.last(ballot.key(voter.annotator))
        if number:
            insort(voter.done, (number, ballot), key=lambda one: one[0])
        else:
            insort(voter.left, (ballot.turn(voter.name, self.poll.seed), ballot), key=lambda one: one[0])

    def wanted(self, group: Group) -> bool:
        """Whether anybody has still to vote on the pictures of a prompt."""
        ballots = [*ballots_of(group, self.poll.aspects, self.poll.mode, self.poll.passes)]
        voters = [f"{PERSON}:{name}" for name in self.names]
        return bool(ballots) and not (
            voters and all(self._ledger.last(ballot.key(one)) for ballot in ballots for one in voters)
        )

    def nothing_left(self) -> bool:
        """Whether all people have voted on everything. False if nobody has come."""
        return self.complete and bool(self.voters) and not any(voter.left for voter in self.voters.values())

    def shown(self, ballot: Ballot, voter: Voter) -> tuple[Image, ...]:
        """The pictures of a ballot in the order in which a person sees them."""
        return ballot.shown(voter.name, self.poll.seed)

    def current(self, voter: Voter) -> Ballot | None:
        """The ballot that a person votes on next; None if there is none at present."""
        return voter.left[0][1] if voter.left else None

    def ahead(self, voter: Voter) -> list[Ballot]:
        """The ballots that come after the current one."""
        return [ballot for _, ballot in voter.left[1 : 1 + AHEAD]]

    def before(self, voter: Voter, name: str) -> Ballot | None:
        """The ballot that this person voted on before the one of this name, or last; None if there is none."""
        known = self._ballots.get(name)
        done = [ballot for _, ballot in voter.done]
        places = [place for place, ballot in enumerate(done) if ballot is known]
        earlier = done[: places[0]] if places else done
        return earlier[-1] if earlier else None

    def revision(self, ballot: Ballot, voter: Voter) -> int:
        """A number that changes whenever this person votes on this ballot; 0 before the first vote."""
        return self._ledger.last(ballot.key(voter.annotator))

    def said(self, ballot: Ballot, voter: Voter) -> Any:
        """What this person has voted, as the page sent it; None before the first vote."""
        _, vote = self._ledger.cast.get(ballot.key(voter.annotator), (0, None))
        return None if vote is None else said_of(vote, ballot, self.shown(ballot, voter))

    def vote(self, voter: Voter, name: str, revision: int, said: Any) -> bool:
        """Count a vote, once it is on disk. Whether it counts: not if this person has voted in another window since.

        Raises `KeyError` if there is no such ballot, which may not have been read yet, `VoteError` for a vote that is
        malformed, and `UserError` if it cannot be written.
        """
        ballot = self._ballots[name]
        if revision != self.revision(ballot, voter):
            return False
        shown = self.shown(ballot, voter)
        vote = cast_of(said, ballot, shown)
        time_of_vote = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        judgement = judgement_of(vote, ballot, voter.annotator, shown, time_of_vote)
        self._ledger.add(judgement, vote)
        voter.left = [one for one in voter.left if one[1] is not ballot]
        voter.done = [one for one in voter.done if one[1] is not ballot]
        voter.done.append((self.revision(ballot, voter), ballot))
        voter.pace()
        return True

    def summary(self) -> str:
        """How far everybody has come, in words."""
        return ", ".join(f"{one.name} {len(one.done)} of {one.total}" for one in self.voters.values())
