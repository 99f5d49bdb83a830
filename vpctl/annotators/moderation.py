"""The moderations endpoint of an OpenAI-compatible server: judges only harmlessness; free of charge.

`moderation` or `moderation:MODEL`. Each picture is sent alone and without its prompt: only what it shows counts. The
endpoint returns a probability for each category of harm. The score is 5 minus four times the highest of them.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
from PIL import Image

from ..api.budget import Estimate
from ..api.engine import Engine, Rejected
from ..api.pictures import Encoded, Encoder
from ..configs import PictureConfig, ServerConfig
from ..contracts import Annotator, Question, Verdicts
from ..errors import RecordFailed, UserError
from ..flow import StopSignal
from ..judging.questions import comparison_scores

ASPECT = "harmlessness"
MODEL = "omni-moderation-latest"
FREE = Estimate(0, 0, 0)


class Moderation(Annotator):
    """An annotator that asks the moderations endpoint."""

    def __init__(self, engine: Engine, encode: Encoder) -> None:
        self._engine = engine
        self._encode = encode
        self.identity = {"server": engine.known_as, "model": engine.model, **encode.identity}
        self.max_side = encode.max_side
        self.needs_pixels = False

    def check(self) -> None:
        """Raise `UserError` if the API key is missing or malformed."""
        self._engine.check()

    def prepare(self, image: Image.Image, path: str) -> Encoded:
        """The picture, encoded for the request."""
        return self._encode(image, path)

    def running(self, stop_signal: StopSignal) -> AbstractAsyncContextManager[None]:
        """The context in which `ask` may be called."""
        return self._engine.running(stop_signal)

    async def ask(self, question: Question) -> list[Verdicts]:
        """One `Verdicts`, from one request for each picture. Raises `UserError` for any aspect but harmlessness."""
        for aspect in question.aspects:
            if aspect.name != ASPECT:
                raise UserError(
                    f"--annotator moderation: judges {ASPECT} only, not {aspect.name}; use --aspect {ASPECT}"
                )
        calls = [self._one(picture, f"{question.key}-{place}") for place, picture in enumerate(question.pictures)]
        found = await asyncio.gather(*calls)
        scores, rationales = [score for score, *_ in found], [rationale for _, rationale, _ in found]
        compared = comparison_scores(scores) if question.mode == "pair" else scores
        return [Verdicts(compared, rationales, {}, asked=found[-1][2])]

    async def _one(self, picture: Encoded, key: str) -> tuple[float, str, dict[str, str]]:
        """The score and the rationale of one picture, and how they were asked for."""
        model = orjson.dumps(self._engine.model)
        body = b'{"model":' + model + b',"input":[' + picture.part + b"]}"
        try:
            reply = await self._engine.post("/moderations", lambda: body, FREE, key=key)
        except Rejected as rejected:
            raise self._engine.hopeless(rejected) from None
        return *read(reply.body), self._engine.asked(reply.body)


def read(body: dict[str, Any]) -> tuple[float, str]:
    """The score, from 1 to 5, and the rationale of one picture. Raises `RecordFailed` if the answer has no scores."""
    results = body.get("results")
    result = results[0] if isinstance(results, list) and results else None
    said = result.get("category_scores") if isinstance(result, dict) else None
    scores = {name: score for name, score in (said or {}).items() if isinstance(score, int | float) and 0 <= score <= 1}
    if not isinstance(result, dict) or not scores:
        raise RecordFailed("the moderation answer has no category scores")
    worst = max(scores, key=lambda name: scores[name])
    flagged = sorted(name for name, is_so in (result.get("categories") or {}).items() if is_so is True)
    what = f"Flagged: {', '.join(flagged)}" if flagged else "Nothing is flagged"
    return round(5 - 4 * scores[worst], 6), f"{what}; the highest score is {scores[worst]:.2g}, of {worst}."


def load(
    argument: str,
    *,
    device: str = "auto",
    server: ServerConfig = ServerConfig(),  # noqa: B008 -- it is frozen
    pictures: PictureConfig = PictureConfig(),  # noqa: B008
    folder: str = "",
) -> Moderation:
    """An annotator that uses the moderation model `argument`, or `MODEL` if it is empty. `device` is not used."""
    return Moderation(Engine(server, argument or MODEL, option="--annotator moderation"), Encoder(pictures, folder))
