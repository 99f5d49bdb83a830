"""The possible outcomes of a request.

They do not use the client's types: importing the client takes half a second, so it is imported only to send something.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Response(NamedTuple):
    """An answer that is not an error."""

    headers: Mapping[str, str]
    content: bytes


class BadStatus(Exception):
    """The server answered with an error status.

    `body` is the error's JSON object, with its `code` and `param`; they are empty if it is not in OpenAI's format.
    `text` is the message to show.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: object, text: str) -> None:
        super().__init__(text)
        said = body if isinstance(body, dict) else {}
        self.status, self.headers, self.body = status, headers, said
        self.code, self.param = str(said.get("code") or ""), str(said.get("param") or "")
        self.text = str(said.get("message") or text)


class Unreadable(Exception):
    """The server's answer is JSON, but not what the protocol says. The text has the reason."""


class NoAnswer(Exception):
    """The server was not reached, or the connection ended before the answer was complete. The text has the reason.

    `reached` is true if the server may have received the request, and so may have charged for it.
    """

    def __init__(self, text: str, *, reached: bool) -> None:
        super().__init__(text)
        self.reached = reached
