"""What comes of a request, in words of our own.

The client that carries it takes half a second to be imported, and is imported only when there is something to send.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Response(NamedTuple):
    """An answer that is no error."""

    headers: Mapping[str, str]
    content: bytes


class BadStatus(Exception):
    """The server answered with an error: its HTTP status, and what it says of it, as far as it says it as OpenAI does.

    `body` is the error's JSON object, and `text` what to show of it.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: object, text: str) -> None:
        super().__init__(text)
        said = body if isinstance(body, dict) else {}
        self.status, self.headers, self.body = status, headers, said
        self.code, self.param = str(said.get("code") or ""), str(said.get("param") or "")
        self.text = str(said.get("message") or text)


class NoAnswer(Exception):
    """The server was not reached, or was lost before it had answered whole; the text says how.

    `reached` says that it may have got the request, and may have done what it is paid for.
    """

    def __init__(self, text: str, *, reached: bool) -> None:
        super().__init__(text)
        self.reached = reached
