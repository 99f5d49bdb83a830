"""A multimodal model behind any OpenAI-compatible server: openai:MODEL, with OPENAI_BASE_URL and OPENAI_API_KEY."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from PIL import Image

from ..api.budget import Estimate
from ..api.chat import Model, Request, text_part
from ..api.pictures import Encoded, Encoder
from ..configs import PictureConfig, ServerConfig
from ..contracts import Kind, OfflineAnnotator, Question, Verdicts
from ..errors import Unusable
from ..flow import Brake
from ..judging import questions

WORDS = 60.0
"""Tokens that a rationale and its level usually take."""


class ServedJudge(OfflineAnnotator):
    """A model that is asked in the words of `questions`; what it is asked can also be had without asking it."""

    def __init__(self, model: Model, encode: Encoder) -> None:
        self.model = model
        self._encode = encode
        self.identity = {**model.identity, **encode.identity}

    def check(self) -> None:
        """Raise `UserError` if it cannot be asked."""
        self.model.engine.check()

    def prepare(self, image: Image.Image, path: str) -> Encoded:
        """The picture as it is sent."""
        return self._encode(image, path)

    def running(self, brake: Brake) -> AbstractAsyncContextManager[None]:
        """While this lasts, `ask` may be called."""
        return self.model.engine.running(brake)

    def template(self, kind: Kind) -> str:
        """Identity of the words."""
        return questions.template(kind)

    def status(self, share: float | None = None) -> str:
        """How the run stands, in a few words."""
        return self.model.engine.status(share)

    def summary(self) -> str:
        """What the run took, in a few words."""
        return self.model.engine.summary()

    def request(self, question: Question) -> Request:
        """What the server is asked; the question's pictures are `Encoded`."""
        kind = question.kind
        before, after = questions.before(question), questions.after(kind)
        parts = [text_part(before)]
        for letter, picture in zip(kind.letters, question.pictures, strict=True):
            parts += [text_part(questions.label(letter)), picture.part]
        sizes = [(picture.width, picture.height) for picture in question.pictures]
        estimate = self.estimate(kind, question.prompt, sizes)
        return Request(questions.system(kind), [*parts, text_part(after)], questions.schema(kind), estimate)

    def estimate(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> Estimate:
        """How many tokens a question will take, of pictures of these sizes in pixels."""
        sizes = [self._encode.size(size) for size in sizes]
        return self.model.estimate(
            _fixed(kind) + len(prompt.encode()), sizes, self._encode.detail, kind.pictures * len(kind.aspects) * WORDS
        )

    def expected(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Tokens, and dollars if the price is known, that a question will take as far as one knows by now."""
        return self.model.engine.expected(self.estimate(kind, prompt, sizes))

    async def ask(self, question: Question) -> list[Verdicts]:
        """A verdict on each aspect; what the call used is shared among them."""
        read = partial(questions.verdicts, question.kind)
        answer = await self.model.ask(self.request(question), read, key=question.key)
        return shared(answer.value, answer.usage)

    async def mend(self, question: Question, first: Unusable) -> list[Verdicts]:
        """The verdicts, asked for once more after an answer that came another way and could not be used."""
        read = partial(questions.verdicts, question.kind)
        answer = await self.model.mend(self.request(question), first, read, key=question.key)
        return shared(answer.value, answer.usage)

    def read(self, kind: Kind, body: dict[str, Any], usage: Mapping[str, float]) -> list[Verdicts]:
        """The verdicts in an answer that came another way, as from a batch. Raises `Refused` and `Unusable`."""
        return shared(self.model.read(body, partial(questions.verdicts, kind), dict(usage)), usage)


def shared(verdicts: list[Verdicts], usage: Mapping[str, float]) -> list[Verdicts]:
    """The verdicts of one call, each with its part of what the call used."""
    part = {name: value / len(verdicts) for name, value in usage.items()}
    return [verdict._replace(usage=part) for verdict in verdicts]


def _fixed(kind: Kind) -> int:
    blank = Question("", [None] * kind.pictures, kind.aspects, kind.mode)
    return len(f"{questions.system(kind)}{questions.before(blank)}{questions.schema(kind)}".encode())


def load(
    argument: str,
    *,
    device: str = "auto",
    server: ServerConfig = ServerConfig(),  # noqa: B008 -- it is frozen
    pictures: PictureConfig = PictureConfig(),  # noqa: B008
    folder: str = "",
) -> ServedJudge:
    """A judge that asks the model named by `argument`; `device` is the server's business."""
    return ServedJudge(Model(server, argument, option="--annotator openai"), Encoder(pictures, folder))
