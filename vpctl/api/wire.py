"""The possible outcomes of a request.

They do not use the client's types: importing the client takes half a second, so it is imported only to send something.
"""

from collections.abc import Mapping
from typing import NamedTuple

from .faults import ServerError


class Response(NamedTuple):
    """An answer that is not an error."""

    headers: Mapping[str, str]
    content: bytes


class BadStatus(Exception):
    """The server answered with an `error`. The text is its message.

    `charged` is true if it may have charged for the request.
    """

    def __init__(self, error: ServerError, *, charged: bool = False) -> None:
        super().__init__(error.message)
        self.error, self.charged = error, charged


class Unreadable(Exception):
    """The server's answer is JSON, but not what the protocol says. The text has the reason."""


class NoAnswer(Exception):
    """The server was not reached, or the connection ended before the answer was complete. The text has the reason.

    `reached` is true if the server may have received the request, and so may have charged for it. `final` is true if
    every other try would end like this one.
    """

    def __init__(self, text: str, *, reached: bool, final: bool = False) -> None:
        super().__init__(text)
        self.reached, self.final = reached, final
