"""An image model behind any server with OpenAI's Images API: openai:MODEL, with OPENAI_BASE_URL and OPENAI_API_KEY.

Each picture is a request of its own, so `n` is never sent: pictures differ by their seeds, and one that fails costs the
others nothing. What a server does not accept is found out with the first picture, which is drawn alone, and left out.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ..api.budget import BYTES_PER_TOKEN, Estimate
from ..api.dialects import provider
from ..api.engine import Engine, Rejected, Reply, Suspicion, read_extra
from ..configs import ServerConfig
from ..contracts import AsyncGenerator, DrawnPicture, Settings
from ..errors import RecordFailed, Unusable, UserError
from ..flow import StopSignal
from ..records import digest

if TYPE_CHECKING:
    from PIL import Image

OPTION = "--model openai"
SIDE = 1024
"""Width and height in pixels of the usual picture."""
TOKENS = {"low": 272.0, "medium": 1056.0, "high": 4160.0}
"""Tokens of such a picture by its quality, as OpenAI documents them for gpt-image-1. Others have as many per pixel."""
LARGEST = 1.5
"""The largest picture that a model draws if it may choose, in times of the usual one."""
RESERVED_KEYS = frozenset(["model", "prompt", "n", "size", "seed", "response_format", "stream", "partial_images"])
"""Keys of a request that vpctl sets, or whose answers it cannot read."""
OF_OPENAI = ("api.openai.com", "openai.azure.com", "services.ai.azure.com")
"""Hosts of the models of OpenAI."""
MOST_REVISED = 32_000
"""Characters. No prompt is longer."""
_GPT_IMAGE = re.compile(r"(?:gpt|chatgpt)-image\b")
_OF_FORMAT = re.compile(r"response[_ ]format|b64_json")
_OF_SEED = re.compile(
    r"^seed\b|[\"'`.]seed[\"'`:]|\bseed (?:must|should|is|was|value|parameter)"
    r"|(?:parameter|field|argument|name):? seed\b"
)


class PictureDialect(NamedTuple):
    """What a server accepts in a request for a picture: the format of the answer, and a seed."""

    format: bool = True
    seed: bool = True

    @property
    def without(self) -> str:
        """What the server does not accept, for records."""
        return "" if self.seed else "a seed"


PLAINEST = PictureDialect(format=False, seed=False)
"""The dialect that every server accepts."""


def first_dialect(model: str, url: str) -> PictureDialect:
    """The dialect in which a server is asked first. OpenAI has no seed, and its present models have one format."""
    name = model.rpartition("/")[2]
    is_gpt = _GPT_IMAGE.match(name) is not None
    of_openai = is_gpt or name.startswith("dall-e") or provider(url).host in OF_OPENAI
    return PictureDialect(format=not is_gpt, seed=not of_openai)


def fallback(dialect: PictureDialect, about: str) -> PictureDialect | None:
    """The dialect to try after a rejection with the text `about`, in lower case; None if that names none of it."""
    if dialect.format and _OF_FORMAT.search(about):
        return dialect._replace(format=False)
    if dialect.seed and _OF_SEED.search(about):
        return dialect._replace(seed=False)
    return None


class ImageModel(AsyncGenerator):
    """A model on a server that draws. Raises `UserError` if the configuration is not valid."""

    side = SIDE

    def __init__(self, config: ServerConfig, model: str) -> None:
        self.model = model
        self._extra = read_extra(config.extra, such_as='{"quality": "low"}')
        if taken := sorted(RESERVED_KEYS & self._extra.keys()):
            raise UserError(
                f"--extra: {', '.join(taken)} cannot be set with --extra; there are --size, --images and --seed"
            )
        self.engine = Engine(config, model, option=OPTION, cheaper="ask for smaller or simpler pictures")
        self.engine.careful = True  # pictures that all cannot be used would cost much
        self.fingerprint = digest({"server": self.engine.known_as, "model": model, "extra": self._extra})
        self._dialect = first_dialect(model, self.engine.server)
        self._unfit = Suspicion()

    def check(self) -> None:
        """Raise `UserError` if the API key is missing or malformed."""
        self.engine.check()

    def summary(self) -> str:
        """A short text about the whole run: requests, tokens and cost."""
        return self.engine.summary()

    @asynccontextmanager
    async def running(self, stop_signal: StopSignal) -> AsyncIterator[None]:
        """A context in which pictures can be asked for. Raises `UserError` at its end if all requests were rejected."""
        engine = self.engine
        async with engine.running(stop_signal):
            yield
        if engine.wrong and not engine.right and not engine.refused and not stop_signal.stopped:
            raise UserError(engine.wrong)

    def expected(self, prompt: str, settings: Settings) -> dict[str, float]:
        """The expected tokens of a picture, and dollars if the price is known."""
        return self.engine.expected(self._estimate(prompt, settings))

    def _estimate(self, prompt: str, settings: Settings) -> Estimate:
        area = (settings.width or SIDE) * (settings.height or SIDE) / SIDE**2
        tokens = TOKENS.get(str(self._extra.get("quality")), TOKENS["high"])
        longest = area if settings.width else LARGEST
        return Estimate(len(prompt.encode()) / BYTES_PER_TOKEN, tokens * area, tokens * longest)

    async def __call__(self, prompt: str, seed: int, settings: Settings) -> DrawnPicture:
        """The picture of a prompt. Raises every error of the contract.

        Raises `UserError` if no answer has a picture that can be used: each of them has been paid for. For that, a call
        keeps its place in flight until the picture is there.
        """
        with ExitStack() as place:
            reply = await self._post(prompt, seed, settings, place)
            found = _first(reply.body)
            try:
                picture = await self._picture(found)
            except Unusable as error:
                if self._unfit.again("unusable", ""):
                    self.engine.pace.stop()  # before the place is free
                    why = f"no picture can be used: {error}"
                    raise UserError(f"{self.engine.name}: {why}; name another model") from None
                raise
            self._unfit.clear()
            self.engine.pace.trust()
        revised = found.get("revised_prompt")
        revised = self.engine.redacted(revised)[:MOST_REVISED] if isinstance(revised, str) else ""
        revised = "".join(filter(str.isprintable, revised))
        return DrawnPicture(picture, reply.usage, reply.asked, "" if revised == " ".join(prompt.split()) else revised)

    async def _post(self, prompt: str, seed: int, settings: Settings, place: ExitStack) -> Reply:
        """The answer to a request, in a dialect that the server accepts. The call is in flight until `place` closes."""
        estimate = self._estimate(prompt, settings)
        key = digest([self.fingerprint, prompt, seed, *settings])
        while True:
            used = self._dialect

            def body() -> bytes:
                nonlocal used
                used = self._dialect
                return self._body(used, prompt, seed, settings)

            try:
                # The other form of a request is another request: it has another key.
                reply = await self.engine.post(
                    "/images/generations", body, estimate, key=digest([key, *used]), subject=prompt, place=place
                )
                without = {"without": used.without} if used.without else {}
                return reply._replace(asked={**self.engine.asked(reply.body), **without})
            except Rejected as rejected:
                if used == self._dialect:
                    self._dialect = self._instead(used, rejected, prompt)

    def _instead(self, used: PictureDialect, rejected: Rejected, prompt: str) -> PictureDialect:
        """The dialect to try after a request was rejected as invalid. Raises the error for it if there is none."""
        if found := fallback(used, rejected.about):
            return found
        if not self.engine.right and used != PLAINEST:
            return PLAINEST
        if not self.engine.right:
            self._dialect = first_dialect(self.model, self.engine.server)
        raise self.engine.hopeless(rejected, prompt) from None

    def _body(self, dialect: PictureDialect, prompt: str, seed: int, settings: Settings) -> bytes:
        asked: dict[str, Any] = {"model": self.model, "prompt": prompt}
        if settings.width:
            asked["size"] = f"{settings.width}x{settings.height}"
        if dialect.format:
            asked["response_format"] = "b64_json"
        if dialect.seed:
            asked["seed"] = seed
        return orjson.dumps({**asked, **self._extra})

    async def _picture(self, found: Mapping[str, Any]) -> "Image.Image":
        """The picture in an answer, or in the file that it names. Raises `Unusable` if it cannot be used."""
        from ..images.pictures import decoded

        text, url = (str(found.get(name) or "") for name in ("b64_json", "url"))
        if not text and not url:
            raise Unusable("the answer has no picture")
        inside = text or (url if url.startswith("data:") else "")
        content = _bytes_of(inside) if inside else await self.engine.fetch(url)
        try:
            return await asyncio.to_thread(decoded, content, "the picture of the answer")
        except RecordFailed as error:
            raise Unusable(str(error)) from None


def _first(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an answer says of its first picture; empty if it has none."""
    data = body.get("data")
    found = data[0] if isinstance(data, list) and data else None
    return found if isinstance(found, dict) else {}


def _bytes_of(text: str) -> bytes:
    """The content of a base64 text, which may be a data URL. Raises `Unusable` if it is broken."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Unusable("the base64 of the picture is broken") from None


def check(
    argument: str,
    *,
    adapter: str = "",
    guidance: str = "",
    steps: int | None = None,
    negative: str | None = None,
) -> None:
    """Raise `UserError` if no model is named, or for a setting that the Images API does not have."""
    if not argument:
        raise UserError(f"{OPTION}: name the model, as in {OPTION}:gpt-image-2")
    if adapter:
        raise UserError(f"--adapter: a LoRA belongs to weights on this machine, and openai:{argument} is on a server")
    given = {
        f"--guidance {guidance}": (guidance, "guidance_scale"),
        f"--steps {steps}": (steps, "num_inference_steps"),
        "--negative": (negative, "negative_prompt"),
    }
    for option, (value, key) in given.items():
        if value not in (None, ""):
            raise UserError(
                f"{option}: the Images API of openai:{argument} has no such setting; leave it out, or if your server "
                f"has it, name it with --extra, such as '{{\"{key}\": ...}}'"
            )


def load(argument: str, *, device: str = "auto", server: ServerConfig | None = None) -> ImageModel:
    """A generator that asks the model `argument`. `device` is not used."""
    check(argument)
    return ImageModel(server or ServerConfig(), argument)
