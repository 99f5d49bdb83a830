"""Judging pictures: which questions there are, many under way at once, each judgement out as soon as it is there.

An annotator is a callable, or an object with a coroutine function ``ask``; `annotators/shapes.py` has the contract.
"""

import asyncio
import inspect
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import combinations, groupby
from random import Random
from typing import Any, NamedTuple, cast

from PIL import Image as PIL

from .. import plugins, progress
from ..errors import RecordFailed, Refused, Stopped, Unusable, UserError
from ..flow import Brake, Room, in_background
from ..plugins import Aspect, Verdicts
from ..records import Image, Judgement, digest
from .preferences import tied
from .questions import Kind, Mode, Question, compared

PREPARING = 4
"""Prompts whose pictures are being made ready, or wait for their calls' turn."""
PIXELS = 1 << 27
"""Of pictures that wait for their calls to end, as long as an annotator keeps them decoded: half a gigabyte."""
LOST, FAILED = "calls could not be made", "answers could not be used"
"""Kinds of warnings, as their count says them."""


@dataclass(frozen=True)
class Annotator:
    """The members of an annotator, read once by `asking`, with a default for each that it does not have.

    `ask` is awaited for one verdict on each aspect of a question. The others are those of `annotators/shapes.py`.
    """

    plugin: Any
    ask: Callable[[Question], Awaitable[object]]
    identity: Any
    template: Callable[[Kind], str]
    check: Callable[[], object]
    prepare: Callable[[PIL.Image, str], Any]
    pixels: Callable[[Any], float]
    running: Callable[[Brake], AbstractAsyncContextManager[Any]] | None
    preparing: int
    status: Callable[[float | None], str]
    summary: Callable[[], str]
    expected: Callable[[Kind, str, Sequence[tuple[int, int]]], dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """What is asked of every prompt's pictures.

    `passes` ask the same again with the pictures in another order; `together` asks for all aspects in one call;
    `break_ties` compares pictures with equal scores, two at a time.
    """

    aspects: tuple[Aspect, ...]
    mode: Mode = "list"
    passes: int = 1
    together: bool = False
    break_ties: bool = False
    seed: int = 0


class Call(NamedTuple):
    """A question to come: which of a prompt's pictures it shows, in the order it shows them, and what is left to fill.

    `judgements` have their pictures in the prompt's order, and no scores; there is one for each aspect. Those whose
    keys are `fresh` are still to be done.
    """

    kind: Kind
    shown: tuple[int, ...]
    judgements: list[Judgement]
    fresh: frozenset[str] = frozenset()


class Group(NamedTuple):
    """Neighbouring pictures of one prompt, and hashes of their files, or why there are none."""

    images: list[Image]
    contents: list[str] | RecordFailed


@dataclass
class Tally:
    """How far a run is: pictures read, calls considered and begun, and what became of them.

    `failed` judgements are recorded as that, `lost` ones are not, and are tried again by the next run.
    """

    pictures: int = 0
    considered: int = 0
    begun: int = 0
    refused: int = 0
    failed: int = 0
    lost: int = 0

    def told(self) -> str:
        """What became of the judgements that have no scores, in a few words."""
        kinds = {"refused": self.refused, "failed (--retry failed asks again)": self.failed}
        return ", ".join(f"{number} of them {kind}" for kind, number in kinds.items() if number)

    def expected(self, pictures: int | None, plan: Plan) -> int | None:
        """How many judgements there will have been, if so many pictures are read in all and nothing else is known."""
        if not pictures or not self.pictures:
            return None
        to_come = max(0, pictures - self.pictures) * self.considered / self.pictures
        return round((self.begun + to_come) * (len(plan.aspects) if plan.together else 1))


class Desk(NamedTuple):
    """What a run of judgements works with: the annotator, what it is called, and what of it could change its answers.

    `words` is what it makes of a kind of question before it sees the material. `claim` says whether a key is still to
    be done, `emit` takes judgements that are, and `ties` says which pictures of a judgement that is there have the same
    score.
    """

    annotator: Annotator
    name: str
    identity: Any
    words: Callable[[Kind], str]
    open_picture: Callable[[str], PIL.Image]
    claim: Callable[[str], bool]
    emit: Callable[..., None]
    ties: Callable[[str], list[tuple[str, str]]] = lambda _: []


def desk(annotate: Any, spec: str, **how: Any) -> Desk:
    """A desk for the annotator that `spec` named, which may be a mere callable."""
    annotator = asking(annotate, spec)
    return Desk(annotator, spec, annotator.identity, annotator.template, **how)


def rubrics(kind: Kind) -> str:
    """What an annotator that has no words of its own may make use of."""
    return digest([aspect[:3] for aspect in kind.aspects])


def planned(group: Group, plan: Plan, desk: Desk) -> Iterator[Call]:
    """The calls about one prompt's pictures."""
    everything = tuple(range(len(group.images)))
    if plan.mode == "list":
        shows: Iterable[tuple[int, ...]] = [everything]
    elif plan.mode == "point":
        shows = [(place,) for place in everything]
    else:
        shows = combinations(everything, 2)
    groups = [plan.aspects] if plan.together else [(aspect,) for aspect in plan.aspects]
    for shown in shows:
        for aspects in groups:
            for repeat in range(plan.passes):
                yield from calls(group, shown, aspects, plan, desk, plan.mode, repeat)


def calls(
    group: Group,
    shown: tuple[int, ...],
    aspects: tuple[Aspect, ...],
    plan: Plan,
    desk: Desk,
    mode: Mode,
    repeat: int,
) -> Iterator[Call]:
    """The call about these of the pictures in the order of its turn, or both orders for two that are compared."""
    images, contents = group
    if isinstance(contents, RecordFailed):
        raise contents
    orders = [shown, shown[::-1]] if mode == "pair" else [_order(images, shown, aspects, plan.seed, repeat)]
    kind = Kind(aspects, mode, len(shown))
    words = desk.words(kind)
    for order in orders:
        what = [desk.identity, words, repeat, images[0]["prompt"], [contents[place] for place in order]]
        judgements = [
            _unjudged(images, shown, order, aspect, desk.name, mode, repeat, words, what) for aspect in aspects
        ]
        yield Call(kind, order, judgements)


def _order(
    images: list[Image], shown: tuple[int, ...], aspects: tuple[Aspect, ...], seed: int, repeat: int
) -> tuple[int, ...]:
    """Shuffled by prompt, aspects, pictures and seed; each further pass begins one picture later."""
    order = sorted(shown, key=lambda place: images[place]["image_id"])
    names = [aspect.name for aspect in aspects]
    ids = [images[place]["image_id"] for place in order]
    Random(digest([images[0]["prompt_id"], *names, ids, seed, repeat // len(shown)])).shuffle(order)
    turn = repeat % len(shown)
    return tuple(order[turn:] + order[:turn])


def _unjudged(
    images: list[Image],
    shown: tuple[int, ...],
    order: tuple[int, ...],
    aspect: Aspect,
    annotator: str,
    mode: Mode,
    repeat: int,
    words: str,
    what: list[Any],
) -> Judgement:
    first = images[0]
    image_ids = [images[place]["image_id"] for place in shown]
    inherited: dict[str, object] = {key: first[key] for key in ("source_prompt", "split") if key in first}
    record = {
        "prompt_id": first["prompt_id"],
        "prompt": first["prompt"],
        **inherited,
        "aspect": aspect.name,
        "annotator": annotator,
        "image_ids": image_ids,
        "file_names": [images[place]["file_name"] for place in shown],
        "scores": [],
        "order": [shown.index(place) for place in order],
        **({"mode": mode} if mode != "list" else {}),
        **({"repeat": repeat + 1} if repeat else {}),
        **({"template": words} if "@" in words else {}),
        "key": digest([first["prompt_id"], aspect.name, annotator, sorted(image_ids), mode, *what]),
    }
    return cast(Judgement, record)


def filled(judgement: Judgement, verdicts: Verdicts) -> Judgement:
    """The judgement with its scores, rationales and ranking put back into the order of its pictures.

    Raises `RecordFailed` for what cannot be compared.
    """
    order = judgement["order"]
    _check(verdicts, len(order))
    done: Judgement = {
        **judgement,
        "scores": _put_back(verdicts.scores, order),
        "rationales": _put_back(verdicts.rationales, order),
    }
    if verdicts.ranking:
        done["ranking"] = [order[place] for place in verdicts.ranking]
    if verdicts.usage:
        done["usage"] = verdicts.usage
    return done


def _check(verdicts: Verdicts, pictures: int) -> None:
    """What is not a number cannot be compared, and JSON cannot say it."""
    for name, values in (("score", verdicts.scores), ("rationale", verdicts.rationales)):
        if len(values) != pictures:
            gave, asked = progress.plural(len(values), name), progress.plural(pictures, "picture")
            raise RecordFailed(f"the annotator gave {gave} for {asked}")
    for score in verdicts.scores:
        if not math.isfinite(score):
            raise RecordFailed(f"the annotator gave {score}, which is not a valid score")


def _put_back(shuffled: Sequence[Any], order: list[int]) -> list[Any]:
    back = [None] * len(order)
    for position, index in enumerate(order):
        back[index] = shuffled[position]
    return back


def outcome(call: Call, answer: Callable[[], list[Verdicts]]) -> list[Judgement]:
    """The judgements of a call that was answered: with scores, refused, or failed with the answer kept."""
    try:
        return [filled(one, verdicts) for one, verdicts in zip(call.judgements, answer(), strict=True)]
    except Refused as refusal:
        return [_without_scores(one, call, refusal.usage, refused=str(refusal)) for one in call.judgements]
    except Unusable as error:
        return [_without_scores(one, call, error.usage, failed=str(error), raw=error.raw) for one in call.judgements]


def _without_scores(judgement: Judgement, call: Call, usage: dict[str, float], **why: str) -> Judgement:
    share = {name: value / len(call.judgements) for name, value in usage.items()}
    said = {key: text for key, text in why.items() if text}
    return cast(Judgement, {**judgement, **({"usage": share} if share else {}), **said})


async def judge(groups: Iterator[Group], plan: Plan, desk: Desk, *, at_once: int, brake: Brake, tally: Tally) -> None:
    """Judge every group of pictures as planned, `at_once` calls at a time, and emit what is judged once it is there.

    What could not be judged is reported and counted. Where the input is not right, what came before is judged; where
    the annotator says that no further call could do better, nothing more is begun, and calls that are under way are let
    end. Then it is raised.
    """
    annotator = desk.annotator
    slots, preparing = asyncio.Semaphore(at_once), asyncio.Semaphore(annotator.preparing)
    room = Room(PIXELS)
    claims = ((group, list(claimed(group, plan, desk, tally))) for group in groups)
    to_do = ((group, wanted) for group, wanted in claims if wanted)
    fatal: list[Exception] = []

    def give_up(error: Exception) -> None:
        fatal.append(error)
        brake.pull(str(error))

    async def read() -> None:
        begin = annotator.running
        try:
            async for group, wanted in in_background(to_do):
                brake.check()
                if begin:  # not before there is something to ask: clients are slow to load
                    await running.enter_async_context(begin(brake))
                    begin = None
                await preparing.acquire()
                work.create_task(about(group, wanted))
        except UserError as error:
            fatal.append(error)
        except Stopped:
            pass

    async def about(group: Group, wanted: list[Call]) -> None:
        places = sorted({place for call in wanted for place in call.shown})
        names = [group.images[place]["file_name"] for place in places]

        def make_ready() -> list[Any]:
            return [annotator.prepare(desk.open_picture(name), name) for name in names]

        async with AsyncExitStack() as turn:
            turn.callback(preparing.release)
            try:
                made = await asyncio.to_thread(make_ready)
                size = sum(map(annotator.pixels, made))
            except RecordFailed as failure:
                lose(failure, wanted, tally)
                return
            except UserError as error:
                give_up(error)
                return
            pictures = dict(zip(places, made, strict=True))
            async with room.of(size):
                begun: list[asyncio.Task[None]] = []
                for call in wanted:
                    await slots.acquire()
                    begun.append(work.create_task(one(call, group, pictures, begun)))
                await turn.aclose()
                for task in begun:  # each may append comparisons, which hold the pictures too
                    await asyncio.wait([task])

    async def one(call: Call, group: Group, pictures: dict[int, Any], begun: list[asyncio.Task[None]]) -> None:
        try:
            brake.check()
            shown = [pictures[place] for place in call.shown]
            question = Question(group.images[0]["prompt"], shown, *call.kind[:2], key=call.judgements[0]["key"])
            done = await answered(call, question)
        except Stopped:
            return
        except UserError as error:
            give_up(error)
        except RecordFailed as failure:
            lose(failure, [call], tally)
        else:
            desk.emit(*done)
            for further in _fresh(_closer(done, group, call, plan, desk), desk, tally):
                begun.append(work.create_task(compared(further, group, pictures, begun)))
        finally:
            slots.release()

    async def compared(call: Call, group: Group, pictures: dict[int, Any], begun: list[asyncio.Task[None]]) -> None:
        await slots.acquire()
        await one(call, group, pictures, begun)

    async def answered(call: Call, question: Question) -> list[Judgement]:
        try:
            with plugins.blamed("annotator", desk.name):
                answer: list[Verdicts] | Exception = checked(await annotator.ask(question), call, desk.name)
        except (Refused, Unusable) as error:
            _check_error(error, desk.name)
            answer = error
        return recorded(call, answer, tally)

    async with AsyncExitStack() as running, asyncio.TaskGroup() as work:
        reader = work.create_task(read())
        brake.when_pulled(reader.cancel)
    if fatal:
        raise fatal[0]


def _pixels(prepared: object) -> int:
    return prepared.width * prepared.height if isinstance(prepared, PIL.Image) else 0


def checked(verdicts: object, call: Call, spec: str) -> list[Verdicts]:
    """The answer to a call, if it is one that can be recorded. Raises `UserError` if the plug-in broke its contract."""
    if not isinstance(verdicts, list) or len(verdicts) != len(call.judgements):
        raise plugins.misfit("annotator", spec, verdicts, "ask")
    return [_checked(one, len(call.shown), spec) for one in verdicts]


def _checked(one: object, pictures: int, spec: str) -> Verdicts:
    """The verdicts with plain numbers: NumPy's float64 is a float, and JSON cannot hold it."""
    if not isinstance(one, Verdicts):
        raise plugins.misfit("annotator", spec, one)
    numbers = isinstance(one.scores, list) and all(_is_score(score) for score in one.scores)
    texts = isinstance(one.rationales, list) and all(isinstance(text, str) for text in one.rationales)
    if not (numbers and texts and _is_usage(one.usage)):
        raise plugins.misfit("annotator", spec, one)
    plugins.check_texts("annotator", spec, *one.rationales, *one.usage)
    ranking = [*one.ranking]
    if ranking and not (all(isinstance(place, int) for place in ranking) and sorted(ranking) == [*range(pictures)]):
        contract = f"a ranking has every index into its {progress.plural(pictures, 'picture')} once"
        raise plugins.misfit("annotator", spec, ranking, "ask", contract)
    usage = {name: _plain(value) for name, value in one.usage.items()}
    return Verdicts([*map(_plain, one.scores)], one.rationales, usage, ranking)


def _is_score(value: object) -> bool:
    """Whether it is a number; one that is not finite fails its call alone."""
    return plugins.is_number(value) or isinstance(value, float)


def _is_usage(usage: object) -> bool:
    return isinstance(usage, dict) and all(isinstance(name, str) for name in usage) and _are_numbers(usage.values())


def _are_numbers(values: Iterable[object]) -> bool:
    return all(map(plugins.is_number, values))


def _plain(number: float) -> float:
    return float(number) if isinstance(number, float) else int(number)


def _check_error(error: Refused | Unusable, spec: str) -> None:
    """Raise `UserError` if an annotator raised what a record cannot hold."""
    if not _is_usage(error.usage):
        raise plugins.misfit("annotator", spec, error.usage, "ask", "the usage of an error has numbers by name")
    plugins.check_texts("annotator", spec, str(error), getattr(error, "raw", ""), *error.usage)


def recorded(call: Call, answer: list[Verdicts] | Exception, tally: Tally) -> list[Judgement]:
    """The judgements of a call that was answered so, or with an error; what came to nothing is counted and reported."""
    done = [one for one in outcome(call, lambda: _or_raise(answer)) if one["key"] in call.fresh]
    tally.refused += sum("refused" in judgement for judgement in done)
    failed = [judgement for judgement in done if "failed" in judgement]
    if failed:
        tally.failed += len(failed)
        _warn(FAILED, failed[0]["failed"], [call])
    return done


def _or_raise(verdicts: list[Verdicts] | Exception) -> list[Verdicts]:
    if isinstance(verdicts, Exception):
        raise verdicts
    return verdicts


def lose(failure: RecordFailed, calls: list[Call], tally: Tally) -> None:
    """Count and report calls without a recorded answer; the next run tries them again."""
    tally.lost += sum(len(call.fresh) for call in calls)
    _warn(LOST, str(failure), calls)


def _warn(kind: str, reason: str, calls: list[Call]) -> None:
    aspects = ", ".join(dict.fromkeys(aspect.name for call in calls for aspect in call.kind.aspects))
    progress.warn_each(kind, f"{calls[0].judgements[0]['prompt'][:60]!r}, {aspects}: {reason}")


def claimed(group: Group, plan: Plan, desk: Desk, tally: Tally) -> Iterator[Call]:
    """The calls about a prompt's pictures that are still to be made; from now on they are not."""
    tally.pictures += len(group.images)
    try:
        everything = list(planned(group, plan, desk))
    except RecordFailed as failure:
        tally.lost += 1
        progress.warn_each(LOST, f"{group.images[0]['prompt'][:60]!r}: {failure}")
        return
    for call in list(everything):
        for judgement in call.judgements:
            everything += _comparisons(judgement, desk.ties(judgement["key"]), group, call, plan, desk)
    yield from _fresh(everything, desk, tally)


def _fresh(some: Iterable[Call], desk: Desk, tally: Tally) -> Iterator[Call]:
    for call in some:
        tally.considered += 1
        fresh = frozenset(judgement["key"] for judgement in call.judgements if desk.claim(judgement["key"]))
        if fresh:
            tally.begun += 1
            yield call._replace(fresh=fresh)


def _closer(done: list[Judgement], group: Group, call: Call, plan: Plan, desk: Desk) -> list[Call]:
    """The comparisons that judgements with ties ask for, if that is planned."""
    if not plan.break_ties or call.kind.mode != "list":
        return []
    return [more for one in done for more in _comparisons(one, tied(one), group, call, plan, desk)]


def _comparisons(
    judgement: Judgement, pairs: list[tuple[str, str]], group: Group, call: Call, plan: Plan, desk: Desk
) -> list[Call]:
    aspects = tuple(aspect for aspect in call.kind.aspects if aspect.name == judgement["aspect"])
    places = {group.images[place]["image_id"]: place for place in call.shown}
    found: list[Call] = []
    for pair in pairs:
        first, second = sorted(places[image_id] for image_id in pair)
        found += calls(group, (first, second), aspects, plan, desk, "pair", 0)
    return found


def grouped(images: Iterator[Image], content: Callable[[str], str]) -> Iterator[Group]:
    """Neighbouring pictures of one prompt together, with the hashes that `content` gives of their files."""
    for _, neighbours in groupby(images, key=lambda image: image["prompt_id"]):
        together = list(neighbours)
        try:
            yield Group(together, [content(image["file_name"]) for image in together])
        except RecordFailed as failure:
            yield Group(together, failure)


def asking(annotate: Any, spec: str) -> Annotator:
    """The members of an annotator that `spec` named, which may be a mere callable.

    Raises `UserError` if a plug-in of the user's breaks the contract, now or as a member is called.
    """
    with plugins.blamed("annotator", spec):
        judge = None if hasattr(annotate, "ask") else _Callable(annotate)
        ask = judge.ask if judge else annotate.ask
    read = plugins.Members("annotator", spec, annotate)
    running = read.context("running", "running takes a Brake and returns an async context manager")
    preparing = read.value("preparing", PREPARING, _is_count, "preparing is a whole number from 1 up")
    return Annotator(
        plugin=annotate,
        ask=ask,
        identity=read.value("identity", None, _is_json, "identity is a value that JSON can hold")
        or plugins.fingerprints(spec),
        template=read.function("template", rubrics, plugins.is_text, "template takes a Kind and returns text"),
        check=read.function("check", lambda: None, _is_any, "check takes nothing"),
        prepare=read.function("prepare", lambda picture, _: picture, _is_any, "prepare takes (image, path)"),
        pixels=read.function("pixels", _pixels, _is_size, "pixels takes what prepare returned and returns a number"),
        running=judge.running if judge else running,
        preparing=judge.preparing if judge else preparing,
        status=read.function("status", lambda _: "", plugins.is_text, "status takes the share done and returns text"),
        summary=read.function("summary", lambda: "", plugins.is_text, "summary takes nothing and returns text"),
        expected=read.function(
            "expected", lambda *_: {}, _is_usage, "expected takes (kind, prompt, sizes) and returns numbers by name"
        ),
    )


def _is_any(_: object) -> bool:
    return True


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_size(value: object) -> bool:
    return plugins.is_number(value) and cast(float, value) >= 0


def _is_json(value: object) -> bool:
    return bool(digest([value]))


class _Callable:
    """An annotator of a callable ``(prompt, pictures, aspect) -> Verdicts``, which may be a coroutine function.

    One that is none is called in a thread, so that a slow one holds up nothing, and never twice at once. The thread
    dies with the process: no call can hold up its end.
    """

    preparing = 1
    """So that what it judges comes out in the order of the input, and every run of it is the same."""

    def __init__(self, annotate: Callable[..., Any]) -> None:
        self._annotate = annotate
        call = getattr(annotate, "__call__", annotate)  # noqa: B004 -- whether the call is a coroutine function
        self._waits = inspect.iscoroutinefunction(annotate) or inspect.iscoroutinefunction(call)
        self._turn = asyncio.Lock()
        self._brake: Brake | None = None

    @asynccontextmanager
    async def running(self, brake: Brake) -> AsyncIterator[None]:
        """Whoever waits for its turn gets `Stopped` once `brake` is pulled."""
        self._brake = brake
        yield

    async def ask(self, question: Question) -> list[Verdicts]:
        found = []
        for aspect in question.aspects:
            arguments = (question.prompt, list(question.pictures), aspect)
            if self._waits:
                verdicts = await self._annotate(*arguments)
            else:
                verdicts = await self._in_its_turn(*arguments)
                verdicts = await verdicts if inspect.isawaitable(verdicts) else verdicts
            if question.mode == "pair" and isinstance(verdicts, Verdicts):
                _check(verdicts, 2)
                verdicts = verdicts._replace(scores=compared(verdicts.scores))
            found.append(verdicts)
        return found

    async def _in_its_turn(self, *arguments: Any) -> Any:
        async with self._turn:
            if self._brake:
                self._brake.check()
            return await _in_a_thread(lambda: self._annotate(*arguments))


async def _in_a_thread(call: Callable[[], Any]) -> Any:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error:
            done.set_exception(error)
        else:
            done.set_result(result)

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended before us
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True).start()
    return await done
