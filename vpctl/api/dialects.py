"""How servers differ: the names of parameters, the format of answers, the address, the variable with the key.

All of them say that they speak OpenAI's protocol. The table `PROVIDERS` has what is known of a server by its address.
The rest is found out from its rejections: a `Dialect` is what a server accepts.
"""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from ..configs import API_KEY

SCHEMAS = ("json_schema", "json_object", "text")
"""Formats of an answer: of a strict schema, any JSON object, or without a format."""
NEW, OLD = "max_completion_tokens", "max_tokens"
"""Names of the limit on the length of an answer. OpenAI's reasoning models know only the new name. Some other servers
reject it, and Ollama and llama.cpp ignore it: then an answer has no limit."""


class Provider(NamedTuple):
    """A provider: the end of its servers' host names, the variable with its key, and the name of the limit."""

    host: str
    variable: str
    limit: str = OLD


PROVIDERS = (
    Provider("api.openai.com", API_KEY.name, NEW),
    Provider("openai.azure.com", "AZURE_OPENAI_API_KEY", NEW),
    Provider("services.ai.azure.com", "AZURE_OPENAI_API_KEY", NEW),
    Provider("generativelanguage.googleapis.com", "GEMINI_API_KEY"),
    Provider("openrouter.ai", "OPENROUTER_API_KEY"),
    Provider("api.x.ai", "XAI_API_KEY"),
    Provider("api.anthropic.com", "ANTHROPIC_API_KEY"),
    Provider("api.mistral.ai", "MISTRAL_API_KEY"),
    Provider("aliyuncs.com", "DASHSCOPE_API_KEY"),
    Provider("api.groq.com", "GROQ_API_KEY"),
    Provider("api.together.xyz", "TOGETHER_API_KEY"),
    Provider("api.fireworks.ai", "FIREWORKS_API_KEY"),
    Provider("api.deepseek.com", "DEEPSEEK_API_KEY"),
    Provider("router.huggingface.co", "HF_TOKEN"),
)
"""Providers of multimodal models, by their addresses."""
OTHER = Provider("", API_KEY.name)
"""Any other server."""


def provider(url: str) -> Provider:
    """The provider whose server has this URL; `OTHER` if it is unknown."""
    host = urlsplit(url).hostname or ""
    return next((one for one in PROVIDERS if host == one.host or host.endswith(f".{one.host}")), OTHER)


def is_local(url: str) -> bool:
    """Whether a server runs on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_private(url: str) -> bool:
    """Whether a server is on this machine or in a private network, by its address alone."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan", ".localhost"))


def right_address(parts: SplitResult) -> str:
    """The address to use in place of one that a provider has for another protocol; empty if there is none."""
    host = parts.hostname or ""
    if host.endswith(".openai.azure.com") and not parts.path.rstrip("/").endswith("/openai/v1"):
        return f"{parts.scheme}://{host}/openai/v1"
    if host == "generativelanguage.googleapis.com" and not parts.path.rstrip("/").endswith("/openai"):
        return f"{parts.scheme}://{host}/v1beta/openai"
    return ""


class Dialect(NamedTuple):
    """What a server accepts in a request.

    The format of the answer, the name of the limit on its length (empty for none), a temperature, a system message,
    probabilities of tokens, and several answers to one request.
    """

    schema: str = SCHEMAS[0]
    limit: str = NEW
    temperature: bool = True
    system: bool = True
    logprobs: bool = True
    several: bool = True

    @property
    def left_out(self) -> list[str]:
        """What the server does not accept."""
        parts = {
            "a temperature": self.temperature,
            "a limit on the length": self.limit,
            "a system message": self.system,
        }
        return [name for name, accepted in parts.items() if not accepted]


_OF_SCHEMAS = re.compile(r"response_format|json_schema|json_object|json schema|structured output|\bstrict\b|\bguided")
_OF_VALUE = re.compile(
    r"too (?:large|high|big|many|small|low)|at (?:most|least)|maximum|minimum|(?:less|greater) than|exceed|below|above"
    r"|range|between|invalid max_(?:completion_)?tokens value"
    r"|>=|<=|could not finish|limit was reached|higher max_"
)
"""The limit on an answer's length has a name that the server knows, and a value that it does not accept."""
CUT_OFF = "could not finish the message"
"""So OpenAI rejects a request whose answer was cut off while the model still reasoned."""
_OF_SEVERAL = re.compile(r"['\"`]n['\"`]|\bn (?:must|should|is|>|=|!)|candidate_?count|(?:multiple|several) candidates")
_OF_SYSTEM = re.compile(
    r"system (?:role|message|prompt|instruction)s? (?:is |are )?(?:not|un)|developer instruction is not"
    r"|(?:role|roles)\b[^.]{0,40}\bsystem\b|conversation roles must alternate"
)


_UNKNOWN = re.compile(
    r"unsupported|(?:not|n't) (?:be )?support|unknown|unrecogni[sz]ed|unexpected|extra (?:inputs|fields)|no such"
    r"|not (?:allowed|permitted|available|implemented|accept)|deprecated"
)


def is_lasting(about: str) -> bool:
    """Whether a rejection with the text `about`, in lower case, says that a server does not know what it names.

    Else the reason may be a value, or a record.
    """
    return _UNKNOWN.search(about) is not None


def first_dialect(url: str) -> Dialect:
    """The dialect in which a server is asked first."""
    return Dialect(limit=provider(url).limit)


def plainest(dialect: Dialect, *, limited: bool) -> Dialect:
    """The dialect that nearly every server accepts. If the cost is `limited`, it has a limit on the answer's length."""
    limit = OLD if limited else ""
    return Dialect(SCHEMAS[-1], limit, temperature=False, system=dialect.system, logprobs=False, several=False)


def fallback(dialect: Dialect, about: str, url: str) -> Dialect | None:
    """The dialect to try after a rejection with the text `about`, in lower case; None if that names none of it.

    `url` is that of the server: a limit has its usual name there first, then the other one, then it is left out.
    """
    if dialect.logprobs and "logprob" in about:
        return dialect._replace(logprobs=False)
    if dialect.several and _OF_SEVERAL.search(about):
        return dialect._replace(several=False)
    if dialect.temperature and "temperature" in about:
        return dialect._replace(temperature=False)
    if dialect.limit and (NEW in about or OLD in about) and not _OF_VALUE.search(about):
        limits = _limits(url)
        return dialect._replace(limit=limits[limits.index(dialect.limit) + 1])
    if dialect.schema != SCHEMAS[-1] and _OF_SCHEMAS.search(about):
        return dialect._replace(schema=SCHEMAS[SCHEMAS.index(dialect.schema) + 1])
    if dialect.system and _OF_SYSTEM.search(about):
        return dialect._replace(system=False)
    return None


def common(url: str, *dialects: Dialect) -> Dialect:
    """The dialect that leaves out everything that any of these leaves out. `url` is that of the server of all."""
    return Dialect(
        max((one.schema for one in dialects), key=SCHEMAS.index),
        max((one.limit for one in dialects), key=_limits(url).index),
        all(one.temperature for one in dialects),
        all(one.system for one in dialects),
        all(one.logprobs for one in dialects),
        all(one.several for one in dialects),
    )


def _limits(url: str) -> list[str]:
    """The names of the limit on the length of an answer in the order in which a server is tried; the last is none."""
    return [OLD, NEW, ""] if provider(url).limit == OLD else [NEW, OLD, ""]
