"""Questions to any OpenAI-compatible server, answered as JSON of a given schema.

The server is OPENAI_BASE_URL, or OpenAI's own; the key is OPENAI_API_KEY. Neither is ever an option or an output.
"""

import base64
import io
import json
import os
from typing import Any, NamedTuple

import openai
from openai.types.chat import ChatCompletion
from PIL import Image

from .errors import RecordFailed, Refused, UserError

RETRIES = 6
"""Of a call that met a rate limit, a time-out or a server's fault, each after twice the wait or as the server says."""

Part = Any


class Answer(NamedTuple):
    """What came back: the object, checked by nobody but the server, and the tokens it took."""

    content: dict[str, Any]
    usage: dict[str, float]


class Server:
    """A model on a server. Raises `UserError` at once if there is no key."""

    def __init__(self, model: str, *, option: str) -> None:
        if not model:
            raise UserError(f"{option} openai: name the model, as in openai:gpt-4o")
        if not os.environ.get("OPENAI_API_KEY"):
            raise UserError("OPENAI_API_KEY is not set; export your key (for a server without keys, any text)")
        self._model = model
        self._client = openai.AsyncOpenAI(max_retries=RETRIES)
        self._temperature: float | openai.Omit = 0.0

    async def ask(self, system: str, parts: list[Part], schema: dict[str, Any]) -> Answer:
        """One call. Raises `Refused`, `RecordFailed`, or `UserError` where no further call could do better."""
        try:
            completion = await self._complete(system, parts, schema)
        except json.JSONDecodeError:
            completion = None
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(f"openai:{self._model}: the server says {error.status_code}: {_said(error)}") from None
        except openai.BadRequestError as error:
            if error.code in ("content_policy_violation", "content_filter", "moderation_blocked"):
                raise Refused(error.code) from None
            raise RecordFailed(f"the server says 400: {_said(error)}") from None
        except openai.APIError as error:
            if error.code == "insufficient_quota":
                raise UserError(f"openai:{self._model}: the account has no quota left: {_said(error)}") from None
            raise RecordFailed(_said(error)) from None
        if not isinstance(completion, ChatCompletion):
            raise UserError(
                f"openai:{self._model}: {self._client.base_url} does not answer as an OpenAI server does; "
                "check OPENAI_BASE_URL, which usually ends in /v1"
            )
        if not completion.choices or not completion.choices[0].message:
            raise RecordFailed("the server answered with no choice")
        choice = completion.choices[0]
        if choice.message.refusal:
            raise Refused(choice.message.refusal)
        if choice.finish_reason == "content_filter":
            raise Refused(choice.finish_reason)
        return Answer(_object(choice.message.content), _usage(completion.usage))

    async def _complete(self, system: str, parts: list[Part], schema: dict[str, Any]) -> ChatCompletion:
        """The call itself, without a temperature from the first time that the model refuses one."""
        try:
            return await self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": parts}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "strict": True, "schema": schema},
                },
                temperature=self._temperature,
            )
        except openai.BadRequestError as error:
            if error.param != "temperature" or self._temperature is openai.omit:
                raise
        self._temperature = openai.omit
        return await self._complete(system, parts, schema)


def _said(error: openai.APIError) -> str:
    return " ".join(error.message.split())[:300]


def _object(text: str | None) -> dict[str, Any]:
    try:
        content = json.loads(text or "")
    except json.JSONDecodeError:
        raise RecordFailed(f"the answer is not JSON: {(text or '')[:80]!r}") from None
    if not isinstance(content, dict):
        raise RecordFailed(f"the answer is no JSON object: {str(content)[:80]!r}")
    # Half of a surrogate pair, as a model that was cut short may say it, can be put into no file.
    whole: dict[str, Any] = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    return whole


def _usage(usage: Any) -> dict[str, float]:
    used = {name: getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")}
    return {name: value for name, value in used.items() if isinstance(value, int | float)}


def text_part(text: str) -> Part:
    """A piece of text in a question."""
    return {"type": "text", "text": text}


def picture_part(picture: Image.Image) -> Part:
    """A picture in a question, inline as PNG."""
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"},
    }
