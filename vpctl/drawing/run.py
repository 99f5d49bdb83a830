"""Draws what is planned, in full batches, and saves it. A failed picture is drawn once more, with another seed."""

import asyncio
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, cast

from .. import plugins, progress
from ..contracts import DrawnPicture, Settings
from ..errors import Inconclusive, RecordFailed, Refused, Stopped, Unusable, UserError, is_out_of_memory
from ..records import Image, Prompt, image_key
from .batches import Batches
from .parameters import parameters, revised_in
from .plan import Draw, Drawing, DrawingPlan, LoadedGenerator, planned
from .served import Calls

if TYPE_CHECKING:
    from PIL import Image as PIL

    Save = Callable[[PIL.Image, str, str], None]
    """Saves a picture in a file, with the text that says how it was drawn."""

Awaited = Callable[[], Image | None]
"""Waits until a picture is saved, and returns its record; None if a later run has to draw it."""
CALL = "an asynchronous generator takes (prompt, seed, settings) and returns one DrawnPicture"
"""How such a plug-in is called and what it returns, in one line for messages."""
LARGEST_WINDOW = 64
"""Maximum number of batches that are planned ahead, to fill them if models or guidance weights are mixed.

Four models with the weights of 3:12 are 76 kinds of pictures. A window of 16 batches would have three of each kind.
"""
STREAMED_WINDOW = 16
"""The same if a command waits for the records, or the prompts come slowly."""
BLACK = RecordFailed("it is black")
MOST_THREADS = 4
"""Maximum number of threads that encode and save pictures."""
SUSPICIOUS = 4
"""Prompts whose pictures a server rejected in a row, at the end of a run: it may reject all of them for now."""
DARKEST = 3
"""Largest value of a channel, of 255, in a picture that counts as black."""


class _Rejection(NamedTuple):
    """A picture that a server rejected, as it may reject all for now. It had `drawn` so many pictures then."""

    job: Drawing
    error: Inconclusive
    drawn: int


class Easel:
    """Draws windows of pictures and saves them below a folder.

    `batches` has the sizes of the batches, and learns from them. A black picture is a failure, unless `keep_black`, or
    unless the prompt has the word "black". `streamed` is whether the records are waited for. `calls` makes those of
    generators on servers; None if there are none.
    """

    def __init__(
        self,
        folder: str,
        batches: Batches,
        save: "Save",
        *,
        keep_black: bool = False,
        streamed: bool = False,
        calls: Calls | None = None,
    ) -> None:
        self._folder, self._batches, self._save, self._keep_black = folder, batches, save, keep_black
        self._window, self._streamed = STREAMED_WINDOW if streamed else LARGEST_WINDOW, streamed
        self._calls = calls
        self.postponed = 0
        """Number of pictures that have failed for now: a later run draws them."""
        self._drawn: Counter[str] = Counter()
        """By model: the number of pictures that its server has drawn."""
        self._unclear: defaultdict[str, deque[_Rejection]] = defaultdict(deque)
        """By model: what its server rejected and has drawn no picture since that it was asked for later."""
        self._rejected: deque[Image] = deque()
        self._writer = ThreadPoolExecutor(max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2)))

    def __enter__(self) -> "Easel":
        if self._calls:
            self._calls.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._calls:
                self._calls.__exit__(kind, error, trace)
        finally:
            self._writer.shutdown()

    def is_full(self, window: list[Drawing]) -> bool:
        """Whether at least half of the window's batches are full, or the window has its maximum length."""
        if not window:
            return False
        groups = [(len(jobs), self._size(jobs[0])) for jobs in _grouped(window)]
        rounds = sum(-(-count // size) for count, size in groups)
        full = sum(count // size for count, size in groups)
        size = max(size for _, size in groups)
        return len(window) >= size and (2 * full >= rounds or len(window) >= self._window * size)

    def _size(self, job: Drawing) -> int:
        """Maximum number of pictures in a batch with this one. For a server, it is the number of calls in progress."""
        calls = self._calls if job.model.served and not self._streamed else None
        return calls.at_once if calls else self._batches.size(job)

    @property
    def stopped(self) -> bool:
        """Whether the calls have stopped: a limit is reached, or no more of them can succeed."""
        return self._calls is not None and self._calls.stopped

    @property
    def interrupted(self) -> bool:
        """Whether an interrupt has stopped the calls."""
        return self._calls is not None and self._calls.interrupted

    def stop(self) -> None:
        """Begin no new call."""
        if self._calls:
            self._calls.stop("interrupted")

    def draw(self, window: list[Drawing]) -> list[Awaited]:
        """Draw the pictures that are not there yet, and return all records, in order, each to be waited for.

        A record of a picture that failed twice has the reason in `failed`, and no file. Pictures are saved by threads,
        and drawn by servers, while the next ones are drawn.
        """
        found: dict[str, Awaited] = {}
        here: list[Drawing] = []
        for job in window:
            if self._calls and job.model.served:
                found[job.record["image_id"]] = self._calls.submit(self._called(job))
            else:
                here.append(job)
        for record, saving in self._draw_here(here):
            found[record["image_id"]] = partial(_when_saved, record, saving)
        return [found[job.record["image_id"]] for job in window]

    def rejected(self) -> Iterator[Image]:
        """The records of pictures that a server rejected while it draws others. Each is given once."""
        while self._rejected:
            yield self._rejected.popleft()

    def _settle(self, model: str) -> None:
        """A server has drawn a picture: record as failures what it rejected before it was asked for one of these.

        Of the pictures that came since a rejection, the first ones may have been in progress then.
        """
        self._drawn[model] += 1
        most = self._calls.at_once if self._calls else 1
        while (unclear := self._unclear[model]) and self._drawn[model] - unclear[0].drawn >= most:
            self._record(unclear.popleft())

    def settle_at_end(self) -> None:
        """When all calls have ended: record what a server rejected before its last picture, and few prompts after it.

        The next run asks for all others again: a rejection costs nothing. It does so for all if no call can succeed any
        more, because these rejections may be the reason.
        """
        if self._calls and self._calls.failed:
            return
        for model, unclear in self._unclear.items():
            last = [one for one in unclear if one.drawn == self._drawn[model]]
            few = len({one.job.record["prompt"] for one in last}) < SUSPICIOUS and self._drawn[model]
            for one in unclear:
                if one.drawn < self._drawn[model] or (few and not self.stopped):
                    self._record(one)
                else:
                    self._postpone(one.job, one.error)

    def _record(self, one: "_Rejection") -> None:
        self._rejected.append(self._failed(one.job.record, f"refused: {one.error}"))

    def _postpone(self, job: Drawing, error: RecordFailed) -> None:
        """Report a picture that the next run has to draw."""
        progress.warn_each("pictures failed for now", f"{job.record['image_id']}: {error}", str(error))
        self.postponed += 1

    async def _called(self, job: Drawing) -> Image | None:
        """Have a server draw a picture that is not there yet, and save it.

        It is drawn once more if the first one cannot be used. The record is None if the call has failed, or if it was
        rejected as all calls may be; see `rejected`.
        """
        saving = asyncio.get_running_loop().run_in_executor
        for attempt in (job, job.again):
            if self._exists(attempt):
                return await saving(self._writer, self._as_saved, attempt)
        found = RecordFailed("")
        for attempt in (job, job.again):
            try:
                drawn = await _drawn_by_call(attempt)
                self._settle(job.model.name)
                return await saving(self._writer, self._finished, attempt, drawn)
            except Refused as error:
                return self._failed(job.record, f"refused: {error}")
            except Inconclusive as error:
                self._unclear[job.model.name].append(_Rejection(job, error, self._drawn[job.model.name]))
                return None
            except Unusable as error:
                found = error
            except RecordFailed as error:
                self._postpone(job, error)
                return None
        return self._failed(job.record, f"drawn twice: {found}")

    def _finished(self, job: Drawing, drawn: DrawnPicture) -> Image:
        """Save what a server has drawn, and return its record. Raises `Unusable` if the picture is a failure."""
        picture = self._judged(job.record["prompt"], drawn.picture)
        if isinstance(picture, RecordFailed):
            raise Unusable(str(picture))
        width, height = picture.size
        asked = (job.settings.width or width, job.settings.height or height)
        if asked != picture.size:
            text = f"--size {asked[0]}x{asked[1]}: {job.model.name} has drawn {width}x{height}"
            progress.warn_each("pictures of another size", text, text)
        record: Image = {**job.record, "width": width, "height": height}
        if drawn.revised_prompt:
            record["revised_prompt"] = drawn.revised_prompt
        if drawn.usage:
            record["usage"] = dict(drawn.usage)
        if drawn.asked:
            record["asked"] = dict(drawn.asked)
        path = self._path(record)
        self._save(picture, path, parameters(job._replace(record=record), picture.size))
        return {**record, "file_name": path}

    def _as_saved(self, job: Drawing) -> Image:
        """The record of a server's picture that an earlier run has saved, as far as the file tells it."""
        from ..images.pictures import saved_parameters

        path = self._path(job.record)
        (width, height), text = saved_parameters(path)
        record: Image = {**job.record, "file_name": path, "width": width, "height": height}
        if revised := revised_in(text):
            record["revised_prompt"] = revised
        return record

    def _failed(self, record: Image, reason: str) -> Image:
        return {**record, "file_name": self._path(record), "failed": reason}

    def _draw_here(self, window: list[Drawing]) -> "list[tuple[Image, Future[None] | None]]":
        """Draw pictures with models on this machine. Each record comes with the end of saving."""
        drawings = {job.record["image_id"]: job for job in window}
        saving: dict[str, Future[None]] = {}
        second = [job.again for job in window if not self._exists(job) and self._exists(job.again)]
        drawings |= {job.record["image_id"]: job for job in second}
        failed = self._attempt([job for job in drawings.values() if not self._exists(job)], saving)
        if failed:
            second = [drawings[image_id].again for image_id in failed]
            drawings |= {job.record["image_id"]: job for job in second}
            failed = self._attempt(second, saving)
        records = []
        for job in window:
            image_id = job.record["image_id"]
            record = (job if image_id in failed else drawings[image_id]).record
            found: Image = {**record, "file_name": self._path(record)}
            if image_id in failed:
                found = self._failed(record, f"drawn twice: {failed[image_id]}")
            records.append((found, saving.get(image_id)))
        return records

    def _attempt(self, jobs: list[Drawing], saving: dict[str, Future[None]]) -> dict[str, RecordFailed]:
        """Draw the pictures once, and begin to save them. Returns the failures, by `image_id`."""
        failures = {}
        for group in _grouped(jobs):
            for job, picture in self._pictures(group):
                found = self._judged(job.record["prompt"], picture)
                if isinstance(found, RecordFailed):
                    failures[job.record["image_id"]] = found
                else:
                    path, text = self._path(job.record), parameters(job, found.size)
                    saving[job.record["image_id"]] = self._writer.submit(self._save, found, path, text)
        return failures

    def _pictures(self, jobs: list[Drawing]) -> "Iterator[tuple[Drawing, PIL.Image | RecordFailed]]":
        """The pictures of one model and setting, in batches that the memory suffices for."""
        while jobs:
            if self.interrupted:
                raise Stopped
            batch = jobs[: self._batches.size(jobs[0])]
            try:
                pictures = _drawn_by(batch[0].model, [job.record for job in batch], batch[0].settings)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                pictures = None
            if pictures is None:  # outside the handler: as long as the error is there, so is the memory of its frames
                self._batches.too_large(batch[0], len(batch))
                continue
            self._batches.fitted(batch[0], len(batch))
            yield from zip(batch, pictures, strict=True)
            jobs = jobs[len(batch) :]

    def _judged(self, prompt: str, picture: "PIL.Image | RecordFailed") -> "PIL.Image | RecordFailed":
        """The picture, or why it is a failure."""
        if isinstance(picture, RecordFailed) or self._keep_black or not is_black(picture):
            return picture
        if not re.search(r"\bblack\b", prompt, re.IGNORECASE):
            return BLACK
        progress.warn_each("black pictures", f"a picture is black, and so kept for its prompt: {prompt[:60]!r}")
        return picture

    def _path(self, record: Image) -> str:
        return os.path.join(self._folder, record["file_name"])

    def _exists(self, job: Drawing) -> bool:
        return os.path.exists(self._path(job.record))


def drawn(
    prompts: Iterable[Prompt], plan: DrawingPlan, easel: Easel, *, claim: Callable[[str], bool], at_once: bool = False
) -> Iterator[Image]:
    """Draw pictures, save them, and yield their records, in the order of the prompts.

    Pictures that `claim` refuses are done already and left out. A batch can have pictures of several prompts, but only
    of one model and setting. A record of a picture that could not be drawn has the reason in `failed`. If a server has
    rejected it, the record comes later, when that draws another picture, or at the end.

    A record is yielded while the next pictures are drawn, or with `at_once` before the next prompt is read: the next
    one in a pipe may be far away. If the calls of servers stop, no more is drawn, and what runs is waited for.
    """
    window: list[Drawing] = []
    awaited: deque[Awaited] = deque()
    with easel:
        try:
            for prompt in prompts:
                window += [job for job in planned(prompt, plan) if claim(image_key(job.record))]
                if easel.is_full(window):
                    awaited += easel.draw(window)
                    yield from _saved(awaited, left=len(window))
                    yield from easel.rejected()
                    window = []
                if at_once:
                    yield from _saved(awaited)
                if easel.stopped:
                    break
            if not easel.stopped:
                awaited += easel.draw(window)
            yield from _saved(awaited)
            easel.settle_at_end()
            yield from easel.rejected()
        except (Exception, KeyboardInterrupt) as error:
            easel.stop()
            # The second interrupt waits for nothing.
            while awaited and (not easel.interrupted or isinstance(error, Stopped)):
                with suppress(UserError):  # the first one is raised
                    yield from _saved(awaited)
            raise


def _saved(awaited: deque[Awaited], *, left: int = 0) -> Iterator[Image]:
    """Take the records from a queue, each as soon as its picture is saved, until so many are `left`.

    Raises `UserError` if a picture cannot be saved. An interrupt leaves the record that is waited for.
    """
    while len(awaited) > left:
        try:
            record = awaited[0]()
        except Exception:
            awaited.popleft()
            raise
        awaited.popleft()
        if record:
            yield record


def _when_saved(record: Image, saving: "Future[None] | None") -> Image:
    if saving:
        saving.result()
    return record


def _grouped(window: list[Drawing]) -> list[list[Drawing]]:
    """The pictures by model and settings. The groups of one model follow each other."""
    groups: dict[str, dict[Settings, list[Drawing]]] = {}
    for job in window:
        groups.setdefault(job.model.name, {}).setdefault(job.settings, []).append(job)
    return [jobs for of_model in groups.values() for jobs in of_model.values()]


def is_black(picture: "PIL.Image") -> bool:
    """Whether all pixels are the same, and black: what a safety filter, or a cast of NaN to bytes, leaves behind.

    A model that is asked for darkness does not draw the same value in each pixel, unless it saturates.
    """
    from ..images.pictures import as_rgb

    ranges = cast(tuple[tuple[int, int], ...], as_rgb(picture).getextrema())
    return all(low == high <= DARKEST for low, high in ranges)


async def _drawn_by_call(job: Drawing) -> DrawnPicture:
    """What a server draws. Raises `UserError` if a plug-in returns anything else."""
    from PIL import Image as PIL

    name, generator = job.model.name, job.model.served
    assert generator
    with plugins.blamed("generator", name, CALL):
        drawn = await generator(job.record["prompt"], job.record["seed"], job.settings)
        if (
            not isinstance(drawn, DrawnPicture)
            or not isinstance(drawn.picture, PIL.Image)
            or not all(drawn.picture.size)
        ):
            raise plugins.contract_error("generator", name, drawn, contract=CALL)
    return drawn


def _drawn_by(model: LoadedGenerator, records: list[Image], settings: Settings) -> "list[PIL.Image | RecordFailed]":
    """One picture per record. Raises `UserError` if a plug-in returns anything else."""
    from PIL import Image as PIL

    draw = cast(Draw, model.draw)
    with plugins.blamed("generator", model.name):
        drawn = draw([one["prompt"] for one in records], [one["seed"] for one in records], settings)
        if not isinstance(drawn, list) or not all(
            isinstance(one, RecordFailed) or (isinstance(one, PIL.Image) and all(one.size)) for one in drawn
        ):
            raise plugins.contract_error("generator", model.name, drawn)
    if len(drawn) != len(records):
        pictures = progress.plural(len(drawn), "picture")
        raise UserError(f"--model {model.name}: drew {pictures} for {progress.plural(len(records), 'prompt')}")
    return drawn
