"""The contracts of plug-ins: what each kind is given, what it returns, and the types that pass between them.

A plug-in is a Python file, named on the command line as PATH.py or PATH.py:ARGUMENT. The first line of its docstring
is its help. Its function load(argument, *, device) gets the ARGUMENT, which may be empty, and the name of a device,
such as auto or cuda:1. It returns the plug-in: a function, or an object of a class that inherits from the contract.
If a function is enough, the section below shows how it is called. A class must define the abstract method, which is
__call__ or ask; every other attribute and method has a default.

The load function of a polisher may have one more parameter: server. The load function of an annotator may have four
more: server, pictures, scoring and folder. The first three hold options of the command, as the types ServerConfig,
PictureConfig and ScoringConfig of vpctl.configs. Their fields are named after the options. ServerConfig has base_url,
concurrency, rpm, tpm, max_cost, max_requests, max_time (in seconds), timeout, temperature, max_tokens, extra and
prices. PictureConfig has max_side, detail and image_url. ScoringConfig has logprobs and samples; both are refused if
load has no parameter scoring. An option that is not given has its default; a limit without a default is None, and a
text without a default is empty. folder is the folder of the records file.

A format gets no option of a command: the ARGUMENT of its load function is the PATH of the data set, in FORMAT:PATH.

The load function of a generator may have six more parameters: dtype, scheduler, offload, vae_tiling, compile and
server. The first five are the options of generate of these names, as texts that are empty, and flags that are False, if
they are not given. server is the ServerConfig. An option that load does not have is refused.

The load function of a reward may have one more parameter: dtype, the precision that the user named with --dtype, which
is float32, bfloat16 or float16. It is empty if the option is not given.

Raise UserError(text) of vpctl.errors if the user can correct the problem: the command ends and prints the text in one
line. Raise RecordFailed(text) of vpctl.errors if a single record cannot be processed; the text is the reason. The
command counts the record, continues, and the next run tries the record again.

An aspect is a Markdown file, not Python. Its name in records is the name of the file without .md. Its first line is
the title, as in `# Fidelity`. The rest is the rubric. The lines of the rubric from `1. Name: description` to
`5. Name: description` name the five levels, the worst first. Without such lines the levels are the numbers 1 to 5.
Two settings may stand in front of the title, between two lines `---`. `prompt: hidden` does not show the prompt to a
language model, for an aspect of the picture alone. `ranking: none` does not ask it to rank the pictures.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from string import ascii_uppercase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .errors import RecordFailed, Unusable, UserError
from .records import digest

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from .flow import StopSignal

Mode = Literal["list", "point", "pair"]
"""All pictures in one call; one picture per call; two pictures per call, and the answer prefers one of them."""
MOST = len(ascii_uppercase)
"""Maximum number of pictures in one question."""
LEVELS = ("1", "2", "3", "4", "5")


class Settings(NamedTuple):
    """How a picture is drawn. If a setting is None, the generator uses its own."""

    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None


class Polished(NamedTuple):
    """A polished prompt. `unsafe` is the reason why the prompt is harmful; it is empty for a harmless prompt.

    `rejected` is the reason why a model's rewrite was rejected; `prompt` is then the text to use instead.
    """

    prompt: str
    unsafe: str = ""
    rejected: str = ""


class DrawnPicture(NamedTuple):
    """A picture that a server has drawn.

    `usage` has numbers by name, such as `completion_tokens` and `cost`; it may be empty. `asked` has texts by name that
    say how the server was asked. `revised_prompt` is the prompt that it has drawn, if it has changed it.
    """

    picture: "Image.Image"
    usage: Mapping[str, float] = MappingProxyType({})
    asked: Mapping[str, str] = MappingProxyType({})
    revised_prompt: str = ""


class Verdicts(NamedTuple):
    """An annotator's answer on one aspect: a score and a rationale for each picture. A higher score is better.

    `usage` has numbers by name, such as `prompt_tokens` and `cost`; it may be empty. `ranking` is optional: the indices
    of the pictures, the best picture first. So is `asked`: texts by name that say how a model was asked.
    """

    scores: list[float]
    rationales: list[str]
    usage: dict[str, float]
    ranking: Sequence[int] = ()
    asked: Mapping[str, str] = MappingProxyType({})


class Aspect(NamedTuple):
    """A quality that pictures are judged on. Records hold `name`; a language model is shown `title` and `rubric`.

    `name` is the name of the aspect's file without .md. `levels` are the five allowed answers, the worst first, such as
    ``3 Fair``, or only numbers if the rubric does not name them. The score is the number of the level, 1 to 5.
    `with_prompt` is false if a language model must judge without the prompt, and `with_ranking` if it must not rank the
    pictures.
    """

    name: str
    title: str
    rubric: str
    levels: tuple[str, ...] = LEVELS
    with_prompt: bool = True
    with_ranking: bool = True


class Kind(NamedTuple):
    """A question without its prompt and pictures. `pictures` is the number of pictures."""

    aspects: tuple[Aspect, ...]
    mode: Mode
    pictures: int

    @property
    def letters(self) -> str:
        """The names of the pictures: A, B, C. Raises `Unusable` if there are more than 26 pictures."""
        if self.pictures > MOST:
            raise Unusable(f"{self.pictures} pictures are too many for one call; the maximum is {MOST}")
        return ascii_uppercase[: self.pictures]


class Question(NamedTuple):
    """The question of one call to an annotator. `pictures` are in the order in which they are shown.

    `mode` says what is shown. ``list`` shows all pictures of a prompt. ``point`` shows one picture. ``pair`` shows two
    pictures, and the annotator compares them. `aspects` has one aspect, or several with --all-aspects. `key` identifies
    the call, for servers that accept an idempotency key.
    """

    prompt: str
    pictures: Sequence[Any]
    aspects: tuple[Aspect, ...]
    mode: Mode = "list"
    key: str = ""

    @property
    def kind(self) -> Kind:
        """The question without its prompt and pictures."""
        return Kind(self.aspects, self.mode, len(self.pictures))


class Polisher(Protocol):
    """Cleans prompts, for ``polish --polisher``. As a function: ``polish(prompts) -> list[Polished]``.

    A function gets one prompt in each call. A class can set `at_once` to get more.

    Examples:

        '''Shouts.'''

        from vpctl.contracts import Polished


        def load(argument, *, device):
            return lambda prompts: [
                Polished(prompt.upper()) for prompt in prompts
            ]
    """

    at_once: int = 1
    """Maximum number of prompts in one call."""

    @abstractmethod
    def __call__(self, prompts: list[str]) -> list[Polished | RecordFailed]:
        """Return one `Polished` for each prompt, in the same order. If a prompt failed, return a `RecordFailed` for it.

        An empty text means that the prompt has no content.
        """

    def check(self) -> None:
        """Called before the first prompt. Raise `UserError` if the plug-in cannot work, for example without a key."""
        return

    def summary(self) -> str:
        """Return a short text for the last message, such as tokens and cost. An empty text adds nothing."""
        return ""


class AsyncPolisher(Protocol):
    """Cleans prompts like a Polisher, but asynchronously: several calls run at the same time. Use it for a server.

    As a coroutine function: ``async polish(prompts) -> list[Polished]``, with one prompt in each call.

    Examples:

        '''Sends prompts to a server; the ARGUMENT is its URL.'''

        from contextlib import asynccontextmanager

        import aiohttp

        from vpctl.contracts import AsyncPolisher, Polished
        from vpctl.errors import RecordFailed, UserError


        class Remote(AsyncPolisher):
            at_once = 8

            def __init__(self, url):
                self.url = url

            def check(self):
                if not self.url:
                    raise UserError("--polisher remote.py: add :URL")

            @asynccontextmanager
            async def running(self, stop_signal):
                self.stop_signal = stop_signal
                async with aiohttp.ClientSession() as self.client:
                    yield

            async def __call__(self, prompts):
                self.stop_signal.check()
                try:
                    async with self.client.post(
                        self.url, json=prompts, raise_for_status=True
                    ) as answer:
                        texts = await answer.json()
                except aiohttp.ClientError as error:
                    return [RecordFailed(str(error))] * len(prompts)
                return [Polished(text) for text in texts]


        def load(argument, *, device):
            return Remote(argument)
    """

    at_once: int = 1
    """Maximum number of prompts in one call."""
    template: str = ""
    """Name and hash of the instructions for the model. Set it if your instructions may change. polish writes it to each
    record; a prompt that has the same `template` is not polished again."""

    @abstractmethod
    async def __call__(self, prompts: list[str]) -> list[Polished | RecordFailed]:
        """Return one `Polished` for each prompt, in the same order. If a prompt failed, return a `RecordFailed` for it.

        An empty text means that the prompt has no content.
        """

    def running(self, stop_signal: "StopSignal") -> AbstractAsyncContextManager[Any]:
        """Return a context manager, for example one that opens a client. All calls are made inside this context.

        Once `stop_signal.stopped` is true, begin no new request.
        """
        return nullcontext()

    def check(self) -> None:
        """Called before the first prompt. Raise `UserError` if the plug-in cannot work, for example without a key."""
        return

    def summary(self) -> str:
        """Return a short text for the last message, such as tokens and cost. An empty text adds nothing."""
        return ""


class Generator(Protocol):
    """Draws pictures, for ``generate --model``. As a function: ``draw(prompts, seeds, settings) -> list[Image]``.

    Examples:

        '''One colour, by the seed.'''

        from PIL import Image


        def load(argument, *, device):
            def draw(prompts, seeds, settings):
                size = settings.width or 64, settings.height or 64
                return [
                    Image.new("RGB", size, (seed % 256, 0, 0))
                    for seed in seeds
                ]

            return draw
    """

    settings: Settings = Settings()
    """The generator's own defaults. vpctl puts them in place of every setting that the user did not give, before it
    calls the generator. A setting that is None here, too, is None in the call."""
    fingerprint: str = ""
    """A text that changes when the weights change. If it is empty, the SPEC and the hash of your file are used."""
    sampler: str = ""
    """The name of the sampler, for the text in the files of pictures. An empty name is left out."""
    side: int = 0
    """Width and height in pixels of the pictures if the settings do not say it, for --dry-run. 0 stands for 512."""

    @abstractmethod
    def __call__(
        self, prompts: list[str], seeds: list[int], settings: Settings
    ) -> "Sequence[Image.Image | RecordFailed]":
        """Return a list of one picture per prompt, in the same order. If one failed, return a `RecordFailed` for it.

        Use a separate random generator for each seed. Then a picture does not depend on the rest of its batch. A failed
        picture, and a black one, is drawn once more, with another seed. If memory runs out, raise the error of torch,
        or a MemoryError: the call is repeated with fewer prompts.
        """

    def adapt(self, folder: str, weight: float = 1.0) -> None:
        """Add the LoRA in `folder` to all that have been added. Raise `UserError` if that is impossible.

        The weight is only given if it is not 1.
        """
        raise UserError("--adapter: this generator does not support adapters")


class AsyncGenerator(Protocol):
    """Draws pictures like a Generator, but asynchronously: several calls run at the same time. Use it for a server.

    As a coroutine function: ``async draw(prompt, seed, settings) -> DrawnPicture``, with one picture in each call.

    Examples:

        '''Asks a server that draws; the ARGUMENT is its URL.'''

        from contextlib import asynccontextmanager
        from io import BytesIO

        import aiohttp
        from PIL import Image

        from vpctl.contracts import AsyncGenerator, DrawnPicture
        from vpctl.errors import RecordFailed, Unusable, UserError


        class Remote(AsyncGenerator):
            def __init__(self, url):
                self.url = url

            def check(self):
                if not self.url:
                    raise UserError("--model remote.py: add :URL")

            @asynccontextmanager
            async def running(self, stop_signal):
                self.stop_signal = stop_signal
                async with aiohttp.ClientSession() as self.client:
                    yield

            async def __call__(self, prompt, seed, settings):
                self.stop_signal.check()
                asked = {"prompt": prompt, "seed": seed}
                try:
                    async with self.client.post(
                        self.url, json=asked, raise_for_status=True
                    ) as answer:
                        content = await answer.read()
                except aiohttp.ClientError as error:
                    raise RecordFailed(str(error))
                try:
                    return DrawnPicture(Image.open(BytesIO(content)).convert("RGB"))
                except OSError as error:
                    raise Unusable(str(error))


        def load(argument, *, device):
            return Remote(argument)
    """

    settings: Settings = Settings()
    """The generator's own defaults. vpctl puts them in place of every setting that the user did not give, before it
    calls the generator. A setting that is None here, too, is None in the call."""
    fingerprint: str = ""
    """A text that changes when the pictures could change. If it is empty, the SPEC and the hash of your file count."""
    sampler: str = ""
    """The name of the sampler, for the text in the files of pictures. An empty name is left out."""
    side: int = 0
    """Width and height in pixels of the pictures if the settings do not say it, for --dry-run. 0 stands for 512."""

    @abstractmethod
    async def __call__(self, prompt: str, seed: int, settings: Settings) -> DrawnPicture:
        """Return the picture of a prompt.

        Raise an error of vpctl.errors if there is none. With RecordFailed, nothing is recorded: the next run asks
        again. With Refused, the picture is recorded as failed, and it is not asked for again. With Unusable, it is
        asked for once more, with another seed, and then recorded as failed. The same becomes of a black picture.
        """

    def running(self, stop_signal: "StopSignal") -> AbstractAsyncContextManager[Any]:
        """Return a context manager, for example one that opens a client. All calls are made inside this context.

        Once `stop_signal.stopped` is true, begin no new request.
        """
        return nullcontext()

    def check(self) -> None:
        """Called before the first prompt. Raise `UserError` if the plug-in cannot work, for example without a key."""
        return

    def summary(self) -> str:
        """Return a short text for the last message, such as tokens and cost. An empty text adds nothing."""
        return ""

    def expected(self, prompt: str, settings: Settings) -> dict[str, float]:
        """Return the expected usage of a picture, for --dry-run: numbers by name, with `cost` in dollars if known."""
        return {}

    def adapt(self, folder: str, weight: float = 1.0) -> None:
        """Add the LoRA in `folder` to all that have been added. Raise `UserError` if that is impossible.

        The weight is only given if it is not 1.
        """
        raise UserError("--adapter: this generator does not support adapters")


class TunableGenerator(Generator, Protocol):
    """A generator that tune-ppo and tune-dpo can train.

    Its ``load`` may have a parameter `dtype`: ``float32``, ``float16`` or ``bfloat16``, the precision in which a
    training needs the weights, or an empty text if any will do.
    """

    @property
    @abstractmethod
    def pipeline(self) -> Any:
        """The diffusers pipeline on its device. Its weights are loaded at the first use."""


class Annotator(Protocol):
    """Judges pictures, for ``annotate --annotator``. As a function: ``judge(prompt, images, aspect) -> Verdicts``.

    Images are Pillow images of mode RGB, upright, and white where the file is transparent. If the function is a
    coroutine function, many calls run at the same time. An annotator may raise two more errors of vpctl.errors:
    Refused(text) if it refuses to judge, and Unusable(text) if the answer of its model is unusable. The text is the
    reason. Both are recorded in the judgement, and only --retry tries them again.

    In mode ``pair`` only the order of the two scores counts: the picture with the higher score is preferred, and equal
    scores are a tie. vpctl replaces the scores of a function by 5 for the preferred picture and 1 for the other, or by
    3 for both in a tie. The scores of a class are recorded as they are: let it return 5, 1 and 3, too.

    Examples:

        '''Likes bright pictures.'''

        from vpctl.contracts import Verdicts


        def load(argument, *, device):
            def judge(prompt, images, aspect):
                means = [sum(image.convert("L").resize((8, 8)).tobytes()) / 64
                         for image in images]
                scores = [1 + 4 * mean / 255 for mean in means]
                reasons = [f"mean brightness {mean:.0f}" for mean in means]
                return Verdicts(scores, reasons, {})

            return judge

    As a class:

        '''Likes pictures with many pixels; the ARGUMENT says how many.'''

        from vpctl.contracts import Annotator, Verdicts


        class Pixels(Annotator):
            def __init__(self, enough):
                self.enough = enough

            def prepare(self, image, path):
                return image.width * image.height

            async def ask(self, question):
                scores = [1 + 4 * min(pixels / self.enough, 1)
                          for pixels in question.pictures]
                reasons = [f"{pixels} pixels" for pixels in question.pictures]
                if question.mode == "pair":
                    first, second = scores
                    difference = (first > second) - (first < second)
                    scores = [3 + 2 * difference, 3 - 2 * difference]
                return [Verdicts(scores, reasons, {})
                        for aspect in question.aspects]


        def load(argument, *, device):
            return Pixels(int(argument or 1_000_000))
    """

    identity: Any = None
    """A JSON value that changes whenever the answers could change. None uses the SPEC and the hash of your file. Set it
    if the answers depend on more, such as the version of a model on a server; then include all that they depend on."""
    max_side: int = 0
    """The longest side in pixels that `prepare` keeps. Larger pictures are shrunk to it; 0 keeps all. If it changes,
    only the pictures that it shrinks are judged again."""
    needs_pixels: bool = True
    """Whether `prepare` or `ask` looks at pixels. If False, `prepare` may get pictures that are not decoded. It then
    runs in the event loop, so it must be fast."""
    preparing: int = 4
    """Maximum number of prompts whose pictures are prepared at the same time."""

    @abstractmethod
    async def ask(self, question: Question) -> list[Verdicts]:
        """Return one `Verdicts` for each aspect of the question, with scores in the order of its pictures."""

    def running(self, stop_signal: "StopSignal") -> AbstractAsyncContextManager[Any]:
        """Return a context manager, for example one that opens a client. All calls are made inside this context.

        Once `stop_signal.stopped` is true, begin no new request.
        """
        return nullcontext()

    def check(self) -> None:
        """Called before the first question. Raise `UserError` if the plug-in cannot work, for example without a key."""
        return

    def prepare(self, image: "Image.Image", path: str) -> Any:
        """Return what `Question.pictures` holds for this picture. Called once per picture, in a thread.

        See `needs_pixels`.
        """
        return image

    def pixels(self, prepared: Any) -> float:
        """Return the memory that a prepared picture uses, as a number of pixels.

        vpctl limits the sum over all pictures with calls in progress.
        """
        from PIL import Image

        return prepared.width * prepared.height if isinstance(prepared, Image.Image) else 0

    def deterministic(self) -> bool:
        """Return whether the same question always gets the same answer. A pass that repeats questions is then refused.

        In --mode list, it is refused only for prompts whose pictures have no other order left.
        """
        return False

    def first_alone(self) -> bool:
        """Return whether the first call about some pictures must be answered before the others about them begin.

        Return true for a server that keeps what it has read: it then reads the pictures once for all aspects.
        """
        return False

    def template(self, kind: Kind) -> str:
        """Return the name and hash of the instructions for the model. If they change, pictures are judged again.

        Define it if you word the instructions yourself. Return NAME@HASH: a text with an @ is written to the record.
        """
        return digest([aspect[:3] for aspect in kind.aspects])

    def status(self, share: float | None) -> str:
        """Return a short text for the progress line. `share` is the finished part of the run, from 0 to 1, or None."""
        return ""

    def summary(self) -> str:
        """Return a short text for the last message, such as tokens and cost. An empty text adds nothing."""
        return ""

    def expected(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Estimate the usage of one call, with the keys of a record's `usage`. `sizes` are widths and heights."""
        return {}

    def allowance(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Estimate what one call may use beyond `expected`, with the same keys, for example to ask a second time."""
        return {}

    def assumptions(self) -> str:
        """Return a short text for --dry-run: what `allowance` assumes. An empty text adds nothing."""
        return ""


class OfflineAnnotator(Annotator, Protocol):
    """An annotator that supports --batch-api and --batch-file. Only annotators of the package can be one."""

    model: Any
    """The `vpctl.api.chat.ChatModel` that answers."""

    @abstractmethod
    def request(self, question: Question) -> Any:
        """Return the request for a question, a `vpctl.api.chat.Request`."""

    @abstractmethod
    def read(self, kind: Kind, body: dict[str, Any], usage: Mapping[str, float]) -> list[Verdicts]:
        """Return the verdicts in a server's answer. Raises `Refused` and `Unusable`."""

    @abstractmethod
    async def mend(self, question: Question, first: Unusable) -> list[Verdicts]:
        """Ask once more after the unusable answer `first`, and return the verdicts. Raises `Refused` and `Unusable`."""


WITHOUT_GRADIENT = "has no gradient, which this algorithm needs; take a model as the reward, such as vp:DIR"
"""What is said of a `Reward` that is not differentiable."""


class Reward(Protocol):
    """Scores pictures, for every ``--reward``. As a function: ``score(images, prompts)`` returns a number per image.

    Examples:

        '''How red pictures are, from 0 to 1.'''


        def load(argument, *, device):
            def score(images, prompts):
                means = [image.resize((1, 1)).getpixel((0, 0))
                         for image in images]
                return [red / 255 for red, green, blue in means]

            return score
    """

    differentiable: bool = False
    """Whether gradients flow back to a tensor of images."""

    @abstractmethod
    def __call__(
        self, images: "list[Image.Image] | list[Any] | Tensor", prompts: list[str]
    ) -> "Sequence[float] | Tensor":
        """Return B scores for B pictures; a higher score is better.

        The pictures are RGB images, or what `prepare` returned for them, or a tensor (B, 3, H, W) in [0, 1]. The score
        of a picture must not depend on the rest of its batch.
        """

    def prepare(self, image: "Image.Image") -> Any:
        """Return what the call gets for this picture, such as its pixels in the size that a model takes.

        vpctl calls it in a thread, while the pictures before this one are scored. The picture itself is returned here.
        """
        return image

    def is_truncated(self, prompt: str) -> bool:
        """Return whether only the beginning of this prompt is read."""
        return False

    def provenance(self) -> dict[str, Any]:
        """Return what determines the scores, in values that JSON can hold, for --provenance."""
        return {}


RecordKind = Literal["prompt", "image", "judgement", "pair", "rating"]
"""The record types that commands read, as vpctl-records(5) describes them."""
RECORD_KINDS: tuple[RecordKind, ...] = ("prompt", "image", "judgement", "pair", "rating")


DataRow = tuple[str, dict[str, Any] | RecordFailed]
"""The place and the record of a row of a data set. A malformed row has a RecordFailed in place of the record."""


class Format(Protocol):
    """A data set in a format of its own, for every FILE as FORMAT:PATH. As a function: ``read(kind)`` yields rows.

    `kind` names the records that the command reads: ``prompt``, ``image``, ``judgement``, ``pair`` or ``rating``. A row
    has two parts: its place in the file, such as ``row 17``, and its record, a dict with the keys of vpctl-records(5).
    For a malformed row, yield a RecordFailed in place of the record. vpctl checks every record. It reports rows that
    are malformed, leaves them out, and ends with exit code 3.

    If PATH is a folder, a place begins with the name of a file in it, such as ``a/metadata.csv:17``. File names in
    records are relative to this folder, or to the folder of the file. Read lazily: a data set may be larger than the
    memory.

    Examples:

        '''Prompts from the subtitles of a film.'''


        def load(argument, *, device):
            def read(kind):
                with open(argument) as lines:
                    for number, line in enumerate(lines, 1):
                        if line[:1].isalpha():
                            yield f"line {number}", {"prompt": line.strip()}

            return read
    """

    gives: tuple[RecordKind, ...] = RECORD_KINDS
    """The kinds of records that the data set has. If a command reads another kind, it ends with an error."""

    takes: tuple[RecordKind, ...] = ()
    """The kinds of records that `write` takes, the usual one first. Empty if the format can only be read."""

    copies_pictures: bool = False
    """Whether `write` opens the pictures of the records. vpctl checks before that they may be read."""

    publishes: bool = False
    """Whether `publish` writes all that merge knows, in place of `write`, which takes records of one kind."""

    @abstractmethod
    def __call__(self, kind: RecordKind) -> Iterable[DataRow]:
        """Yield the place and the record of each row, in the order of the data set."""

    def count(self) -> int | None:
        """Return the number of rows, for the progress bar, or None if only reading the data set would tell it."""
        return None

    def write(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write a data set to the PATH, completely or not at all, and return its number of rows.

        File names in the records are absolute paths.
        """
        raise UserError("this format can only be read")

    def publish(self, prompts: Iterable[Mapping[str, Any]], summary: Any) -> int:
        """Write a data set of whole prompts to the PATH, completely or not at all, and return their number.

        Each has `prompt_id`, `prompt`, perhaps `source_prompt` and `split`, and lists of records: `pictures`,
        `judgements` and `pairs`. `summary` is what merge counted, a Summary of vpctl.judging.joining. File names in the
        records are absolute paths, and vpctl has checked that the pictures may be read.
        """
        raise UserError("this format holds records of one kind")
