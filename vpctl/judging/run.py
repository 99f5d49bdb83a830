"""Runs the judging: many questions at the same time, and each judgement is written as soon as it is complete."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from PIL import Image as PIL

from .. import plugins, progress
from ..contracts import Annotator, Kind, Question
from ..errors import Inconclusive, LimitReached, RecordFailed, Refused, Stopped, Unusable, UserError
from ..flow import StopSignal, WeightedSemaphore, in_background
from ..images.pictures import Pictures
from ..records import Judgement
from .answers import ASK, check_error, scored_judgements, unscored_judgements, validated
from .functions import FunctionAnnotator, as_annotator
from .plan import Call, Group, Plan, comparisons, plan_calls
from .preferences import tied_pairs

MAX_PIXELS_IN_MEMORY = 1 << 27
"""Maximum number of pixels in memory, of decoded pictures whose calls have not ended: about half a gigabyte."""
LOST, FAILED = "calls could not be made", "answers could not be used"
"""Kinds of warnings. The summary of a run prints a number in front of each."""


@dataclass
class Tally:
    """Numbers of a run: pictures read, calls considered and begun, and judgements without scores.

    `input_pictures` is the number of pictures in the whole input; None if it is unknown. Only `expected` needs it.

    Judgements that are `refused` or `failed` are recorded as that. Those that are `lost` are not recorded, and the next
    run tries them again. Calls that are `repeated` ask a deterministic annotator again what an earlier pass asks it.
    """

    input_pictures: int | None = None
    pictures: int = 0
    considered: int = 0
    begun: int = 0
    refused: int = 0
    failed: int = 0
    lost: int = 0
    repeated: int = 0

    def summary(self) -> str:
        """A short text about the judgements that have no scores, and about the calls that were left out."""
        kinds = {
            "refused (--retry refused asks again)": self.refused,
            "failed (--retry failed asks again)": self.failed,
        }
        text = ", ".join(f"{number} of them {kind}" for kind, number in kinds.items() if number)
        if not self.repeated:
            return text
        left_out = f"{progress.plural(self.repeated, 'call')} left out that would repeat an earlier pass"
        return f"{text}; {left_out}" if text else left_out

    def expected(self, plan: Plan) -> int | None:
        """The estimated number of judgements of the whole run; None if it cannot be estimated."""
        if not self.input_pictures or not self.pictures:
            return None
        to_come = max(0, self.input_pictures - self.pictures) * self.considered / self.pictures
        return round((self.begun + to_come) * (len(plan.aspects) if plan.all_aspects else 1))


class Ledger(Protocol):
    """Knows which judgements are done or taken, and takes new ones."""

    def claim(self, key: str) -> bool:
        """Whether the judgement with this key is still to be done. The key is then marked as taken."""

    def write(self, *judgements: Judgement) -> None:
        """Add finished judgements."""

    def ties(self, key: str) -> list[tuple[str, str]]:
        """The pairs of image ids with the same score in the judgement with this key, if it is there."""


class JudgingContext(NamedTuple):
    """What a run works with: the annotator with its name and identity, a function that opens pictures, and the ledger.

    - identity: a JSON value of everything about the annotator that could change its answers
    - template: returns the name and hash of the instructions for a kind of question
    - open_picture: opens the file of a picture
    - at_hand: opens a picture whose file is in memory and whose sides are at most so many pixels; else returns None
    - ledger: holds the judgements
    """

    annotator: Annotator
    name: str
    identity: Any
    template: Callable[[Kind], str]
    open_picture: Callable[[str], PIL.Image]
    ledger: Ledger
    at_hand: Callable[[str, int], PIL.Image | None] = lambda *_: None


def judging_context(made: Any, spec: str, pictures: Pictures, ledger: Ledger) -> JudgingContext:
    """A context for the annotator that `plugins.load` returned for `spec`."""
    annotator = as_annotator(made)
    identity = identity_of(annotator, spec)
    return JudgingContext(annotator, spec, identity, annotator.template, pictures.open, ledger, pictures.at_hand)


def identity_of(annotator: Annotator, spec: str) -> Any:
    """A JSON value of everything about the annotator `spec` that could change its answers."""
    return annotator.identity or plugins.fingerprints(spec)


async def judge(
    groups: Iterator[Group],
    plan: Plan,
    context: JudgingContext,
    *,
    at_once: int,
    stop_signal: StopSignal,
    tally: Tally,
    counter: progress.Counter,
) -> None:
    """Judge all groups as planned, `at_once` calls at a time, and write each judgement when it is complete.

    `counter` counts the judgements and gets their expected number. Calls that fail are reported and counted. If the
    input is invalid, everything before the fault is judged and the error is raised at the end. If the annotator raises
    `UserError`, no further call can succeed: nothing new is started, running calls finish, and the error is raised at
    the end.
    """
    run = _Run(plan, context, at_once, stop_signal, tally, counter)
    async with run.stack, run.tasks:
        reader = run.tasks.create_task(run.read(groups))
        stop_signal.on_stop(reader.cancel)
    run.settle_at_end()
    if run.fatal:
        raise run.fatal


class _Run:
    """The running tasks: for each group, its pictures are prepared, then its calls are made."""

    def __init__(
        self,
        plan: Plan,
        context: JudgingContext,
        at_once: int,
        stop_signal: StopSignal,
        tally: Tally,
        counter: progress.Counter,
    ) -> None:
        self._plan, self._context, self._stop_signal = plan, context, stop_signal
        self._tally, self._counter = tally, counter
        self._calls = asyncio.Semaphore(at_once)
        self._preparing = asyncio.Semaphore(context.annotator.preparing)
        self._pixels = WeightedSemaphore(MAX_PIXELS_IN_MEMORY)
        self.stack = AsyncExitStack()
        """While this context is open, the annotator can be asked."""
        self.tasks = asyncio.TaskGroup()
        self.fatal: Exception | None = None
        self._unclear: list[tuple[Call, Inconclusive]] = []
        """Calls that failed in a way that all may fail in. They are recorded when another call is answered."""
        self._answered = False

    def _give_up(self, error: Exception) -> None:
        self.fatal = self.fatal or error
        self._stop_signal.stop(str(error))

    async def read(self, groups: Iterator[Group]) -> None:
        """Start a task for each group that has calls left to make, as soon as there is capacity for it."""
        claims = ((group, list(claim_calls(group, self._plan, self._context, self._tally))) for group in groups)
        begun = False
        try:
            async for group, wanted in in_background((group, wanted) for group, wanted in claims if wanted):
                self._stop_signal.check()
                if not begun:  # opened only when there is something to ask: clients are slow to load
                    await self.stack.enter_async_context(self._context.annotator.running(self._stop_signal))
                    begun = True
                await self._preparing.acquire()
                self.tasks.create_task(self._judge_group(group, wanted))
        except UserError as error:
            self.fatal = self.fatal or error
        except Stopped:
            pass

    async def _judge_group(self, group: Group, wanted: list[Call]) -> None:
        """Prepare the pictures of a group, then start its calls: all at once, or first one for each order of pictures.

        Calls that wait for that one do not keep other groups from being prepared.
        """
        async with AsyncExitStack() as turn:
            turn.callback(self._preparing.release)
            try:
                pictures = await self._prepare(group, wanted)
                size = sum(map(self._context.annotator.pixels, pictures.values()))
            except RecordFailed as failure:
                count_lost(failure, wanted, self._tally)
                return
            except UserError as error:
                self._give_up(error)
                return
            async with self._pixels.holding(size):
                begun: list[asyncio.Task[None]] = []
                first: dict[tuple[int, ...], asyncio.Task[None]] = {}
                later: list[Call] = []
                alone = self._context.annotator.first_alone()
                for call in wanted:
                    if alone and call.shown in first:
                        later.append(call)
                        continue
                    await self._calls.acquire()
                    first[call.shown] = self.tasks.create_task(self._make_call(call, group, pictures, begun))
                    begun.append(first[call.shown])
                await turn.aclose()
                for call in later:
                    await asyncio.wait([first[call.shown]])
                    await self._calls.acquire()
                    begun.append(self.tasks.create_task(self._make_call(call, group, pictures, begun)))
                while left := [task for task in begun if not task.done()]:
                    await asyncio.wait(left)  # meanwhile a call may append comparisons, which need the pictures too

    async def _prepare(self, group: Group, wanted: list[Call]) -> dict[int, Any]:
        """The prepared pictures that the calls show, by their place in the group."""
        annotator, context = self._context.annotator, self._context
        places = sorted({place for call in wanted for place in call.shown})
        names = {place: group.images[place]["file_name"] for place in places}
        ready: dict[int, PIL.Image] = {}
        if not annotator.needs_pixels:
            found = {place: context.at_hand(name, annotator.max_side) for place, name in names.items()}
            ready = {place: picture for place, picture in found.items() if picture}

        def make_ready() -> dict[int, Any]:
            return {
                place: annotator.prepare(ready.get(place) or context.open_picture(name), name)
                for place, name in names.items()
            }

        return make_ready() if len(ready) == len(names) else await asyncio.to_thread(make_ready)

    async def _make_call(
        self, call: Call, group: Group, pictures: dict[int, Any], begun: list[asyncio.Task[None]]
    ) -> None:
        """Make one call, write its judgements, and start the comparisons that break their ties."""
        try:
            self._stop_signal.check()
            shown = [pictures[place] for place in call.shown]
            question = Question(group.images[0]["prompt"], shown, *call.kind[:2], key=call.judgements[0]["key"])
            done = await answered(self._context.annotator, self._context.name, call, question)
        except Stopped:
            return
        except UserError as error:
            self._give_up(error)
        except Inconclusive as one:
            self._unclear.append((call, one))
        except RecordFailed as failure:
            count_lost(failure, [call], self._tally)
        else:
            self._settle()
            done = self._record(call, done)
            for further in _fresh(
                _tie_breaks(done, group, call, self._plan, self._context), self._context, self._tally
            ):
                begun.append(self.tasks.create_task(self._compared(further, group, pictures, begun)))
        finally:
            self._calls.release()

    def _record(self, call: Call, done: list[Judgement]) -> list[Judgement]:
        """Write the judgements of a call that were still to be done, and return them."""
        fresh = count_fresh(done, call, self._tally)
        self._context.ledger.write(*fresh)
        self._counter.expected = self._tally.expected(self._plan)
        self._counter(len(fresh))
        return fresh

    def _settle(self) -> None:
        """Record the calls that failed as only some do, because another call was answered."""
        self._answered = True
        unclear, self._unclear = self._unclear, []
        for call, one in unclear:
            self._record(call, unscored_judgements(call, one))

    def settle_at_end(self) -> None:
        """At the end of the run: record them if other calls were answered. Else they may fail as all do.

        Then only what was paid for is recorded; the next run makes the other calls again.
        """
        unclear, self._unclear = self._unclear, []
        for call, one in unclear:
            alone = not self.fatal or isinstance(self.fatal, LimitReached)  # what is fatal is not its fault
            if alone and (one.usage or self._answered):
                self._record(call, unscored_judgements(call, one))
            elif alone or self._answered:
                count_lost(one, [call], self._tally)
            else:
                self._tally.lost += len(call.pending_keys)  # the error that ends the run tells why

    async def _compared(
        self, call: Call, group: Group, pictures: dict[int, Any], begun: list[asyncio.Task[None]]
    ) -> None:
        await self._calls.acquire()
        await self._make_call(call, group, pictures, begun)


async def answered(annotator: Annotator, name: str, call: Call, question: Question) -> list[Judgement]:
    """The judgements of a call that is made now. A refusal and an unusable answer are judgements without scores.

    Raises `RecordFailed` if the call failed, `Inconclusive` if perhaps all calls do, and `UserError` if all do.
    """
    try:
        contract = "" if isinstance(annotator, FunctionAnnotator) else ASK
        with plugins.blamed("annotator", name, contract):
            verdicts = validated(await annotator.ask(question), call, name)
        return scored_judgements(call, verdicts)
    except Inconclusive:
        raise
    except (Refused, Unusable) as error:
        check_error(error, name)
        return unscored_judgements(call, error)


def count_fresh(judgements: list[Judgement], call: Call, tally: Tally) -> list[Judgement]:
    """The judgements of a call that were still to be done. Counts and reports their refusals and failures."""
    done = [one for one in judgements if one["key"] in call.pending_keys]
    tally.refused += sum("refused" in judgement for judgement in done)
    failed = [judgement for judgement in done if "failed" in judgement]
    if failed:
        tally.failed += len(failed)
        warn_of(FAILED, failed[0]["failed"], [call])
    return done


def count_lost(failure: RecordFailed, calls: list[Call], tally: Tally) -> None:
    """Count and report calls that have no answer to record. The next run tries them again."""
    tally.lost += sum(len(call.pending_keys) for call in calls)
    warn_of(LOST, str(failure), calls)


def warn_of(kind: str, reason: str, calls: list[Call]) -> None:
    """Report, as one of a `kind` of warnings, why some calls gave no scores."""
    aspects = ", ".join(dict.fromkeys(aspect.name for call in calls for aspect in call.kind.aspects))
    progress.warn_each(kind, f"{calls[0].judgements[0]['prompt'][:60]!r}, {aspects}: {reason}", reason)


def claim_calls(group: Group, plan: Plan, context: JudgingContext, tally: Tally) -> Iterator[Call]:
    """The calls about a prompt's pictures that are still to be made. Claims their keys, so each call is made once.

    If the picture files could not be hashed, the prompt is counted as lost and there are no calls.
    """
    tally.pictures += len(group.images)
    try:
        everything = list(plan_calls(group, plan, context))
    except RecordFailed as failure:
        tally.lost += 1
        progress.warn_each(LOST, f"{group.images[0]['prompt'][:60]!r}: {failure}")
        return
    if context.annotator.deterministic():
        asked: dict[tuple[Kind, tuple[int, ...]], Call] = {}
        for call in everything:
            asked.setdefault((call.kind, call.shown), call)
        tally.repeated += len(everything) - len(asked)
        everything = [*asked.values()]
    for call in list(everything):
        for judgement in call.judgements:
            everything += comparisons(judgement, context.ledger.ties(judgement["key"]), group, call, context)
    yield from _fresh(everything, context, tally)


def _fresh(some: Iterable[Call], context: JudgingContext, tally: Tally) -> Iterator[Call]:
    for call in some:
        tally.considered += 1
        fresh = frozenset(judgement["key"] for judgement in call.judgements if context.ledger.claim(judgement["key"]))
        if fresh:
            tally.begun += 1
            yield call._replace(pending_keys=fresh)


def _tie_breaks(done: list[Judgement], group: Group, call: Call, plan: Plan, context: JudgingContext) -> list[Call]:
    """The comparisons that break the ties of these judgements, if the plan asks for them."""
    if not plan.break_ties or call.kind.mode != "list":
        return []
    return [more for one in done for more in comparisons(one, tied_pairs(one), group, call, context)]
