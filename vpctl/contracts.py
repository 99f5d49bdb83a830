"""The contracts of plug-ins: what each kind is given, what it returns, and the types that pass between them.

A plug-in is a Python file, named on the command line as PATH.py or PATH.py:ARGUMENT. The first line of its docstring
is its help. Its function load(argument, *, device) gets the ARGUMENT, which may be empty, and the name of a device,
such as auto or cuda:1. It returns the plug-in: a function, or an object of a class that inherits from the contract.
Each section below begins with the signature of the function. A class must define the abstract method, which is
__call__ or ask; every other attribute and method has the default that is given here.

The load function of a polisher may have one more parameter: server. The load function of an annotator may have three
more: server, pictures and folder. server and pictures hold the server options and the picture options of the command,
as the types ServerConfig and PictureConfig of vpctl.configs. folder is the folder of the records file.

Raise UserError of vpctl.errors if the user can correct the problem: the command ends with its message in one line.
Raise RecordFailed of vpctl.errors, with the reason, if one record cannot be done: the command counts it and goes on,
and the next run tries it again.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .errors import RecordFailed, Unusable, UserError
from .records import digest

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from .flow import Brake

Mode = Literal["list", "point", "pair"]
"""All pictures in one call; one picture per call; two pictures per call, and the answer prefers one of them."""
MOST = len(ascii_uppercase)
"""Pictures in one question."""
LEVELS = ("1", "2", "3", "4", "5")


class Settings(NamedTuple):
    """How a picture is drawn; None leaves a setting to the generator."""

    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None


class Polished(NamedTuple):
    """A prompt made clean. `unsafe` says why it asks for something harmful, and is empty when it does not.

    `rejected` says why the polished text cannot be trusted to show the same, and is empty when it can.
    """

    prompt: str
    unsafe: str = ""
    rejected: str = ""


class Verdicts(NamedTuple):
    """One annotator's scores of several pictures, higher is better, a rationale each, and what the call used.

    `ranking` has the places of the pictures, the best first, where the annotator was asked for one.
    """

    scores: list[float]
    rationales: list[str]
    usage: dict[str, float]
    ranking: Sequence[int] = ()


class Aspect(NamedTuple):
    """One thing pictures are judged on. `name` stands in records; `rubric` is Markdown for the judge.

    `levels` are what a judge may answer, the worst first, as ``3 Fair``; the score is the place, from 1 to 5.
    """

    name: str
    title: str
    rubric: str
    levels: tuple[str, ...] = LEVELS


class Kind(NamedTuple):
    """What all questions of a kind share. `pictures` is the number of pictures in a question."""

    aspects: tuple[Aspect, ...]
    mode: Mode
    pictures: int

    @property
    def letters(self) -> str:
        """The pictures' names. Raises `Unusable` if there are more than there are letters."""
        if self.pictures > MOST:
            raise Unusable(f"{self.pictures} pictures are too many for one question; the maximum is {MOST}")
        return ascii_uppercase[: self.pictures]


class Question(NamedTuple):
    """What one call asks. `pictures` stand in the order they are shown in; several aspects are asked for at once.

    `key` is the call's identity, for servers that keep one call from being answered twice.
    """

    prompt: str
    pictures: Sequence[Any]
    aspects: tuple[Aspect, ...]
    mode: Mode = "list"
    key: str = ""

    @property
    def kind(self) -> Kind:
        """The question without its material."""
        return Kind(self.aspects, self.mode, len(self.pictures))


class Polisher(Protocol):
    """Cleans prompts, for ``polish --polisher``. As a function: ``polish(prompts) -> list[Polished]``.

    Examples:

        '''Shouts.'''

        from vpctl.contracts import Polished


        def load(argument, *, device):
            return lambda prompts: [
                Polished(prompt.upper()) for prompt in prompts
            ]
    """

    at_once: int = 1
    """How many prompts are handed over together."""

    @abstractmethod
    def __call__(self, prompts: list[str]) -> list[Polished | RecordFailed]:
        """One `Polished` for each prompt, in their order, or a `RecordFailed` in the place of one that failed.

        An empty text says that the prompt had no content.
        """

    def check(self) -> None:
        """Called before the first prompt. Raise `UserError` if the plug-in cannot work, for example without a key."""
        return

    def summary(self) -> str:
        """A short text for the last line, such as tokens and cost; empty for none."""
        return ""


class AsyncPolisher(Protocol):
    """Cleans prompts by asking a server; several calls are under way at once. Otherwise as Polisher."""

    at_once: int = 1
    """How many prompts go in one call."""
    template: str = ""
    """Name and hash of the instructions for the model. Prompts polished with the same ones are not asked again."""

    @abstractmethod
    async def __call__(self, prompts: list[str]) -> list[Polished | RecordFailed]:
        """One `Polished` for each prompt, in their order, or a `RecordFailed` in the place of one that failed."""

    def running(self, brake: "Brake") -> AbstractAsyncContextManager[Any]:
        """The context in which it can be called. Once `brake.pulled` is true, begin no new request."""
        return nullcontext()

    def check(self) -> None:
        """Called before the first prompt. Raise `UserError` if the plug-in cannot work, for example without a key."""
        return

    def summary(self) -> str:
        """A short text for the last line, such as tokens and cost; empty for none."""
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
    """The generator's own defaults. It uses them for every setting that is None."""
    fingerprint: str = ""
    """A text that changes when the weights change. If it is empty, the hash of the plug-in's file is used."""

    @abstractmethod
    def __call__(self, prompts: list[str], seeds: list[int], settings: Settings) -> "list[Image.Image]":
        """One picture per prompt. Each seed has its own random generator: the batch does not change a picture."""

    def adapt(self, folder: str) -> None:
        """Draw with the LoRA in `folder` from now on. Raises `UserError` if it cannot."""
        raise UserError("--adapter: this generator does not support adapters")


class TunableGenerator(Generator, Protocol):
    """A generator that the tune commands can train."""

    @property
    @abstractmethod
    def pipeline(self) -> Any:
        """The diffusers pipeline on its device. Its weights are loaded at the first use."""


class Annotator(Protocol):
    """Judges pictures, for ``annotate --annotator``. As a function: ``judge(prompt, images, aspect) -> Verdicts``.

    The function may be a coroutine function: then many calls are under way at once. An annotator may raise two more
    errors of vpctl.errors: Refused, where it will not judge, and Unusable, where an answer cannot be used. Both are
    recorded, and asked for again only with --retry.

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
    """

    identity: Any = None
    """A JSON value that changes whenever the answers could change. None uses the hash of the plug-in's file."""
    preparing: int = 4
    """Maximum number of prompts whose pictures are prepared at the same time."""

    @abstractmethod
    async def ask(self, question: Question) -> list[Verdicts]:
        """One `Verdicts` for each of the question's aspects, with scores in the order of the question's pictures."""

    def running(self, brake: "Brake") -> AbstractAsyncContextManager[Any]:
        """The context in which it can be asked. Once `brake.pulled` is true, begin no new request."""
        return nullcontext()

    def check(self) -> None:
        """Called before the first question. Raise `UserError` if the plug-in cannot work, for example without a key."""
        return

    def prepare(self, image: "Image.Image", path: str) -> Any:
        """A picture in the form that `Question.pictures` has. It is called once per picture, in a thread."""
        return image

    def pixels(self, prepared: Any) -> float:
        """Memory that a prepared picture uses, as a number of pixels. It is free when all calls about it have ended."""
        from PIL import Image

        return prepared.width * prepared.height if isinstance(prepared, Image.Image) else 0

    def template(self, kind: Kind) -> str:
        """Name and hash of the instructions for the model. If they change, pictures are judged again."""
        return digest([aspect[:3] for aspect in kind.aspects])

    def status(self, share: float | None) -> str:
        """A short text for the progress line. `share` is the finished part of the run, from 0 to 1, or None."""
        return ""

    def summary(self) -> str:
        """A short text for the last line, such as tokens and cost; empty for none."""
        return ""

    def expected(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Estimated usage of one question, with the keys of a record's `usage`. `sizes` are widths and heights."""
        return {}


class OfflineAnnotator(Annotator, Protocol):
    """An annotator that can also be asked by batch; so far only those of the package can be."""

    model: Any
    """The `vpctl.api.chat.Model` that is asked."""

    @abstractmethod
    def request(self, question: Question) -> Any:
        """What the server is asked, a `vpctl.api.chat.Request`."""

    @abstractmethod
    def read(self, kind: Kind, body: dict[str, Any], usage: Mapping[str, float]) -> list[Verdicts]:
        """The verdicts in an answer of the server. Raises `Refused` and `Unusable`."""

    @abstractmethod
    async def mend(self, question: Question, first: Unusable) -> list[Verdicts]:
        """The verdicts, asked for once more after the unusable answer `first`. Raises `Refused` and `Unusable`."""


class Reward(Protocol):
    """Scores pictures, for every ``--reward``. As a function: ``score(images, prompts)``, a number for each image.

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
    def __call__(self, images: "list[Image.Image] | Tensor", prompts: list[str]) -> "Sequence[float] | Tensor":
        """Scores (B,), higher is better, of B pictures: RGB, or a tensor (B, 3, H, W) in [0, 1].

        The score of a picture must not depend on the rest of its batch.
        """
