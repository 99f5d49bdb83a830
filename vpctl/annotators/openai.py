"""A multimodal model behind any OpenAI-compatible server: openai:MODEL, with OPENAI_BASE_URL and OPENAI_API_KEY."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from PIL import Image

from ..api.budget import Estimate
from ..api.chat import ChatModel, Request, text_part
from ..api.pictures import Encoded, Encoder
from ..configs import PictureConfig, ServerConfig
from ..contracts import Kind, OfflineAnnotator, Question, Verdicts
from ..errors import Unusable
from ..flow import StopSignal
from ..judging import questions

TOKENS_PER_RATIONALE = 60.0
"""Typical number of tokens of a rationale and its level."""
TRIAL = 32
"""Number of answers after which a server that never reported cached tokens is taken for one that keeps no prefixes."""


class ServedJudge(OfflineAnnotator):
    """A model on a server, asked with the texts of `questions`. It also makes and reads requests for batches."""

    def __init__(self, model: ChatModel, encode: Encoder) -> None:
        self.model = model
        self._encode = encode
        self.identity = {**model.identity, **encode.identity}

    def check(self) -> None:
        """Raise `UserError` if the API key is missing or malformed."""
        self.model.engine.check()

    def prepare(self, image: Image.Image, path: str) -> Encoded:
        """The picture, encoded for the request."""
        return self._encode(image, path)

    def running(self, stop_signal: StopSignal) -> AbstractAsyncContextManager[None]:
        """The context in which `ask` may be called."""
        return self.model.engine.running(stop_signal)

    def first_alone(self) -> bool:
        """Whether the server keeps what it has read of the pictures, as far as its answers have shown."""
        budget = self.model.engine.budget
        return budget.calls < TRIAL or budget.usage["cached_tokens"] > 0

    def template(self, kind: Kind) -> str:
        """Name and hash of the instructions for the model."""
        return questions.template(kind)

    def status(self, share: float | None = None) -> str:
        """A short text about the progress: cost or tokens so far, and calls in flight."""
        return self.model.engine.status(share)

    def summary(self) -> str:
        """A short text about the whole run: requests, tokens and cost."""
        return self.model.engine.summary()

    def request(self, question: Question) -> Request:
        """The request for a question, whose pictures are `Encoded`.

        The requests about the same pictures in the same order begin with the same bytes, whatever their aspect is.
        """
        kind = question.kind
        parts = [text_part(questions.text_before())]
        for letter, picture in zip(kind.letters, question.pictures, strict=True):
            parts += [text_part(questions.picture_label(letter)), picture.part]
        sizes = [(picture.width, picture.height) for picture in question.pictures]
        estimate = self.estimate(kind, question.prompt, sizes)
        parts.append(text_part(questions.text_after(question)))
        return Request(questions.system_prompt(kind), parts, questions.answer_schema(kind), estimate)

    def estimate(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> Estimate:
        """The estimated number of tokens of a question. `sizes` are widths and heights of its pictures in pixels."""
        sizes = [self._encode.size(size) for size in sizes]
        shown = any(aspect.with_prompt for aspect in kind.aspects)
        return self.model.estimate(
            _fixed(kind) + (len(prompt.encode()) if shown else 0),
            sizes,
            self._encode.detail,
            kind.pictures * len(kind.aspects) * TOKENS_PER_RATIONALE,
        )

    def expected(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """The expected tokens of a question, and dollars if the price is known, corrected by the answers so far."""
        return self.model.engine.expected(self.estimate(kind, prompt, sizes))

    async def ask(self, question: Question) -> list[Verdicts]:
        """One `Verdicts` for each aspect. The usage of the call is divided among them.

        Raises `Refused` and `Unusable`, as `ChatModel.ask` does.
        """
        read = partial(questions.parse_verdicts, question.kind)
        answer = await self.model.ask(self.request(question), read, key=question.key)
        return split_usage(answer.value, answer.usage)

    async def mend(self, question: Question, first: Unusable) -> list[Verdicts]:
        """The verdicts of a second try, after the unusable answer `first` that came from a batch.

        Raises `Refused` and `Unusable`.
        """
        read = partial(questions.parse_verdicts, question.kind)
        answer = await self.model.mend(self.request(question), first, read, key=question.key)
        return split_usage(answer.value, answer.usage)

    def read(self, kind: Kind, body: dict[str, Any], usage: Mapping[str, float]) -> list[Verdicts]:
        """The verdicts in an answer that came from a batch. Raises `Refused` and `Unusable`."""
        return split_usage(self.model.read(body, partial(questions.parse_verdicts, kind), dict(usage)), usage)


def split_usage(verdicts: list[Verdicts], usage: Mapping[str, float]) -> list[Verdicts]:
    """The verdicts of one call, each with an equal share of the usage of the call."""
    part = {name: value / len(verdicts) for name, value in usage.items()}
    return [verdict._replace(usage=part) for verdict in verdicts]


def _fixed(kind: Kind) -> int:
    blank = Question("", [None] * kind.pictures, kind.aspects, kind.mode)
    return len(f"{questions.system_prompt(kind)}{questions.text_after(blank)}{questions.answer_schema(kind)}".encode())


def load(
    argument: str,
    *,
    device: str = "auto",
    server: ServerConfig = ServerConfig(),  # noqa: B008 -- it is frozen
    pictures: PictureConfig = PictureConfig(),  # noqa: B008
    folder: str = "",
) -> ServedJudge:
    """An annotator that asks the model `argument`. `device` is not used."""
    return ServedJudge(ChatModel(server, argument, option="--annotator openai"), Encoder(pictures, folder))
