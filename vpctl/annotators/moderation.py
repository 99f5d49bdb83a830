"""The moderations endpoint of an OpenAI-compatible server: judges only harmlessness; free of charge.

`moderation` or `moderation:MODEL`. Each picture is sent by itself, without its prompt: what counts is what can be seen.
The score goes down from 5 by four times the highest of the categories' scores, which are probabilities.
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
from ..flow import Brake
from ..judging.questions import compared

ASPECT = "harmlessness"
MODEL = "omni-moderation-latest"
FREE = Estimate(0, 0, 0)


class Moderation(Annotator):
    """A judge that asks the moderations endpoint."""

    def __init__(self, engine: Engine, encode: Encoder) -> None:
        self._engine = engine
        self._encode = encode
        self.identity = {"server": engine.server, "model": engine.model, **encode.identity}

    def check(self) -> None:
        """Raise `UserError` if it cannot be asked."""
        self._engine.check()

    def prepare(self, image: Image.Image, path: str) -> Encoded:
        """The picture as it is sent."""
        return self._encode(image, path)

    def running(self, brake: Brake) -> AbstractAsyncContextManager[None]:
        """While this lasts, `ask` may be called."""
        return self._engine.running(brake)

    async def ask(self, question: Question) -> list[Verdicts]:
        """A verdict for each picture, from a call of its own."""
        for aspect in question.aspects:
            if aspect.name != ASPECT:
                raise UserError(
                    f"--annotator moderation: judges {ASPECT} only, not {aspect.name}; use --aspect {ASPECT}"
                )
        calls = [self._one(picture, f"{question.key}-{place}") for place, picture in enumerate(question.pictures)]
        found = await asyncio.gather(*calls)
        scores, rationales = [score for score, _ in found], [rationale for _, rationale in found]
        return [Verdicts(compared(scores) if question.mode == "pair" else scores, rationales, {})]

    async def _one(self, picture: Encoded, key: str) -> tuple[float, str]:
        model = orjson.dumps(self._engine.model)
        body = b'{"model":' + model + b',"input":[' + picture.part + b"]}"
        try:
            reply = await self._engine.post("/moderations", lambda: body, FREE, key=key)
        except Rejected as rejected:
            raise self._engine.hopeless(rejected) from None
        return read(reply.body)


def read(body: dict[str, Any]) -> tuple[float, str]:
    """Score and rationale of one picture. Raises `RecordFailed` if the answer has none."""
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
    """The endpoint, with the model named by `argument`, or the newest; `device` is the server's business."""
    return Moderation(Engine(server, argument or MODEL, option="--annotator moderation"), Encoder(pictures, folder))
