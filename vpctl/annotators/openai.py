"""A multimodal model behind any OpenAI-compatible server: openai:MODEL, with OPENAI_BASE_URL and OPENAI_API_KEY."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from .. import progress
from ..api.budget import Estimate
from ..api.chat import Answer, ChatModel, Request, choices_of, read_choice, sum_of, text_part
from ..api.pictures import Encoded, Encoder
from ..configs import PictureConfig, ScoringConfig, ServerConfig
from ..contracts import Kind, OfflineAnnotator, Question, Verdicts
from ..errors import RecordFailed, Refused, Stopped, Unusable, UserError
from ..flow import StopSignal
from ..judging import questions
from ..judging.expected import DIGITS, with_expected_levels
from ..judging.preferences import agrees
from ..records import digest

TOKENS_PER_RATIONALE = 60.0
"""Typical number of tokens of a rationale and its level."""
WITH_CACHE_KEYS = frozenset(["api.openai.com", "api.mistral.ai"])
"""Hosts that are known to take a key of the cache. Without it, many calls in a minute are spread over machines that do
not share what they have read. Other servers may reject a parameter that they do not know."""
TRIAL = 32
"""Number of answers after which a server that never reported cached tokens is taken for one that keeps no prefixes."""


class ServedJudge(OfflineAnnotator):
    """A model on a server, asked with the texts of `questions`. It also makes and reads requests for batches."""

    def __init__(self, model: ChatModel, encode: Encoder, scoring: ScoringConfig, *, temperature: float) -> None:
        self.model = model
        self._encode, self._scoring, self._temperature = encode, scoring, temperature
        chosen = {name: value for name, value in asdict(scoring).items() if value != getattr(ScoringConfig(), name)}
        self.identity = {**model.identity, **encode.identity, **chosen}
        self.max_side = encode.max_side
        self.needs_pixels = False
        self._without_probabilities = 0
        self._with_cache_key = urlsplit(model.engine.server).hostname in WITH_CACHE_KEYS

    def check(self) -> None:
        """Raise `UserError` if the API key is missing or malformed."""
        self.model.engine.check()

    def prepare(self, image: Image.Image, path: str) -> Encoded:
        """The picture, encoded for the request."""
        return self._encode(image, path)

    def running(self, stop_signal: StopSignal) -> AbstractAsyncContextManager[None]:
        """The context in which `ask` may be called."""
        return self.model.running(stop_signal)

    def deterministic(self) -> bool:
        """Whether the model writes its most probable answer."""
        return self._temperature == 0

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
        """A short text about the whole run: requests, tokens and cost, and answers without probabilities."""
        text = self.model.engine.summary()
        if not self._without_probabilities:
            return text
        answers = progress.plural(self._without_probabilities, "answer")
        return f"{text}; {answers} without probabilities of levels: their levels are recorded"

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
        return Request(
            questions.system_prompt(kind),
            parts,
            questions.answer_schema(kind),
            estimate,
            question.prompt,
            logprobs=self._scoring.logprobs and kind.mode != "pair",
            samples=self._scoring.samples,
            cache_key=digest(["pictures of", question.prompt]) if self._with_cache_key else "",
        )

    def estimate(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> Estimate:
        """The estimated number of tokens of a question. `sizes` are widths and heights of its pictures in pixels."""
        sizes = [self._encode.size(size) for size in sizes]
        shown = any(aspect.with_prompt for aspect in kind.aspects)
        one = self.model.estimate(
            _fixed(kind) + (len(prompt.encode()) if shown else 0),
            sizes,
            self._encode.detail,
            kind.pictures * len(kind.aspects) * TOKENS_PER_RATIONALE,
        )
        return one._replace(answer=one.answer * self._scoring.samples, longest=one.longest * self._scoring.samples)

    def expected(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """The expected tokens of a question, and dollars if the price is known, corrected by the answers so far."""
        return self.model.engine.expected(self.estimate(kind, prompt, sizes))

    def allowance(self, kind: Kind, prompt: str, sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
        """What a question may use beyond `expected`, for reasoning and repairs."""
        return self.model.allowance(self.estimate(kind, prompt, sizes))

    def assumptions(self) -> str:
        """What `allowance` assumes, and why no cost is known if none is."""
        return self.model.assumptions()

    async def ask(self, question: Question) -> list[Verdicts]:
        """One `Verdicts` for each aspect, the mean over all samples. The usage of the call is divided among them.

        A server that gives one answer at a time is asked again for the other samples. Raises `Refused` and `Unusable`,
        as `ChatModel.ask` does, if no sample can be used.
        """
        kind, request, wanted = question.kind, self.request(question), self._scoring.samples
        with self._telling():
            answer = await self.model.ask(request, partial(questions.parse_verdicts, kind), key=question.key)
        found, usage, given = self._samples(kind, answer), answer.usage, len(choices_of(answer.body))
        while given < wanted:
            left = wanted - given
            share, estimate = left / wanted, request.estimate
            estimate = estimate._replace(answer=estimate.answer * share, longest=estimate.longest * share)
            rest = request._replace(samples=left, estimate=estimate)
            key = f"{question.key}-{given}" if question.key else ""
            try:
                answer = await self.model.ask(rest, partial(questions.parse_verdicts, kind), key=key)
            except (Refused, Unusable) as error:
                usage, given = sum_of(usage, error.usage), given + 1
                continue
            except (RecordFailed, Stopped):  # the samples so far are paid for: their mean counts
                break
            found += self._samples(kind, answer)
            usage, given = sum_of(usage, answer.usage), given + len(choices_of(answer.body))
        return self._told(kind, found, usage, answer.asked)

    async def mend(self, question: Question, first: Unusable) -> list[Verdicts]:
        """The verdicts of a second try, after the unusable answer `first` that came from a batch.

        Raises `Refused` and `Unusable`.
        """
        read = partial(questions.parse_verdicts, question.kind)
        with self._telling():
            answer = await self.model.mend(self.request(question), first, read, key=question.key)
        return self._told(question.kind, self._samples(question.kind, answer), answer.usage, answer.asked)

    def read(self, kind: Kind, body: dict[str, Any], usage: Mapping[str, float]) -> list[Verdicts]:
        """The verdicts in an answer that came from a batch. Raises `Refused` and `Unusable`."""
        used = dict(usage)
        answer = Answer(self.model.read(body, partial(questions.parse_verdicts, kind), used), used, body)
        return split_usage(mean_of(kind, self._samples(kind, answer)), usage)

    def _told(
        self, kind: Kind, samples: list[list[Verdicts]], usage: Mapping[str, float], asked: Mapping[str, str]
    ) -> list[Verdicts]:
        """The mean of the samples, each `Verdicts` with its share of the usage, and with how it was asked for."""
        return [one._replace(asked=asked) for one in split_usage(mean_of(kind, samples), usage)]

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """A context whose refusals and unusable answers tell how they were asked for."""
        try:
            yield
        except (Refused, Unusable) as error:
            error.asked = error.asked or self.model.asked()
            raise

    def _samples(self, kind: Kind, answer: Answer[list[Verdicts]]) -> list[list[Verdicts]]:
        """The verdicts of all samples in an answer that can be used."""
        choices, with_logprobs = choices_of(answer.body), self._scoring.logprobs and kind.mode != "pair"
        if len(choices) == 1 and not with_logprobs:
            return [answer.value]
        found = []
        for choice in choices:
            with suppress(Refused, Unusable):
                verdicts = read_choice(choice, partial(questions.parse_verdicts, kind), {})
                if with_logprobs:
                    expected = with_expected_levels(kind, verdicts, choice)
                    self._without_probabilities += expected is None
                    verdicts = expected or verdicts
                found.append(verdicts)
        return found


def mean_of(kind: Kind, samples: list[list[Verdicts]]) -> list[Verdicts]:
    """The mean of at least one sample: one `Verdicts` for each aspect.

    The reasons are those of the sample that is nearest to the mean, and so is the ranking if it agrees with the mean
    scores. In a comparison, the picture that more samples prefer is preferred.
    """
    if len(samples) == 1:
        return samples[0]
    found = []
    for verdicts in zip(*samples, strict=True):
        columns = zip(*(one.scores for one in verdicts), strict=True)
        means = [round(sum(column) / len(verdicts), DIGITS) for column in columns]
        nearest = min(verdicts, key=lambda one: sum(abs(x - y) for x, y in zip(one.scores, means, strict=True)))
        ranking = nearest.ranking if agrees(nearest.ranking, means) else ()
        scores = questions.comparison_scores(means) if kind.mode == "pair" else means
        found.append(Verdicts(scores, nearest.rationales, {}, ranking))
    return found


def split_usage(verdicts: list[Verdicts], usage: Mapping[str, float]) -> list[Verdicts]:
    """The verdicts of one call, each with an equal share of the usage of the call."""
    part = {name: value / len(verdicts) for name, value in usage.items()}
    return [verdict._replace(usage=part) for verdict in verdicts]


@lru_cache(64)
def _fixed(kind: Kind) -> int:
    blank = Question("", [None] * kind.pictures, kind.aspects, kind.mode)
    return len(f"{questions.system_prompt(kind)}{questions.text_after(blank)}{questions.answer_schema(kind)}".encode())


def load(
    argument: str,
    *,
    device: str = "auto",
    server: ServerConfig = ServerConfig(),  # noqa: B008 -- it is frozen
    pictures: PictureConfig = PictureConfig(),  # noqa: B008
    scoring: ScoringConfig = ScoringConfig(),  # noqa: B008
    folder: str = "",
) -> ServedJudge:
    """An annotator that asks the model `argument`. `device` is not used.

    Raises `UserError` if all samples would be the same.
    """
    if scoring.samples > 1 and server.temperature == 0:
        raise UserError(
            f"--samples {scoring.samples}: all samples are the same at --temperature 0; set it, such as to 0.7"
        )
    model = ChatModel(server, argument, option="--annotator openai")
    return ServedJudge(model, Encoder(pictures, folder), scoring, temperature=server.temperature)
