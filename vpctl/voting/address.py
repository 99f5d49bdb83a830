"""Where the page is served: the socket, the secret of its address, and the names under which it may be asked for."""

import hmac
import ipaddress
import os
import secrets
import socket
from contextlib import closing, suppress
from hashlib import sha256
from typing import NamedTuple

import orjson

from .. import progress
from ..errors import UserError, os_reason

LOOPBACK = "127.0.0.1"
_SECRET_BYTES = 32
_EVERYWHERE = ("0.0.0.0", "::")


class Listen(NamedTuple):
    """A host, and a port; port 0 is any free one."""

    host: str
    port: int


def listen_of(text: str) -> Listen:
    """The host and the port of ``--listen``: PORT, HOST or HOST:PORT. Raises `UserError` if it is none of them."""
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or (not colon and not text.isdecimal()):
        host, port = text, "0"
    if not (port.isdecimal() and len(port) <= 5 and int(port) < 1 << 16) or (colon and not host):
        raise UserError(f"--listen {text}: is no address; write PORT or HOST:PORT, such as 8080 or 0.0.0.0:8080")
    return Listen(host.removeprefix("[").removesuffix("]") or LOOPBACK, int(port))


class Doorway:
    """The socket of the page, and the secret from which everything is derived that nobody may guess.

    The secret and the port are kept in the file `kept`, which only the user can read. So the address stays the same
    when the command is started again, and a page that was left open continues. Without a file they are new.
    Raises `UserError` if the address cannot be used.
    """

    def __init__(self, listen: Listen, kept: str = "") -> None:
        self._secret, port = _remembered(kept)
        self.host = listen.host
        self.socket = _bound(listen._replace(port=listen.port or port), fallback=not listen.port)
        self.port: int = self.socket.getsockname()[1]
        if kept:
            _remember(kept, self._secret, self.port)

    def derived(self, *words: str) -> str:
        """A text for these words that nobody can guess. It is the same whenever the command is started again."""
        return hmac.new(self._secret, "\0".join(words).encode(errors="surrogatepass"), sha256).hexdigest()[:32]

    @property
    def token(self) -> str:
        """The secret part of the page's address."""
        return self.derived("address")

    @property
    def url(self) -> str:
        """The address of the page, for the people who vote."""
        host = _own_address() if self.host in _EVERYWHERE else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{self.token}"

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def knows(self, host: str) -> bool:
        """Whether a request may name this host: an address in numbers, or a name of this machine.

        Another site could let its own name point to this machine, and have a browser here ask for the page.
        """
        name = host.removeprefix("[").partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        own = socket.gethostname().lower()
        return name.lower() in ("localhost", self.host.lower(), own, f"{own}.local")


def _remembered(kept: str) -> tuple[bytes, int]:
    """The secret and the port in the file; a new secret and port 0 if there is none, or if others could read it."""
    new = secrets.token_bytes(_SECRET_BYTES), 0
    if not kept:
        return new
    with suppress(OSError, ValueError, KeyError, TypeError):
        with open(kept, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                return new
            found = orjson.loads(file.read(1 << 10))
        secret, port = bytes.fromhex(found["secret"]), found["port"]
        if len(secret) == _SECRET_BYTES and type(port) is int and 0 < port < 1 << 16:
            return secret, port
    return new


def _remember(kept: str, secret: bytes, port: int) -> None:
    """Write the secret and the port to a file that only the user can read."""
    with suppress(FileNotFoundError):
        os.unlink(kept)
    try:
        file = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        progress.warn(f"{kept}: {os_reason(error)}; after a restart, the page has another address")
        return
    with open(file, "wb") as opened:
        opened.write(orjson.dumps({"secret": secret.hex(), "port": port}))


def _bound(listen: Listen, *, fallback: bool) -> socket.socket:
    """A socket at this address. With `fallback`, at another port if this one is taken."""
    where = f"{listen.host}:{listen.port}" if listen.port else listen.host
    try:
        family = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise UserError(f"--listen {where}: {os_reason(error)}; name another address") from None
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((listen.host, listen.port))
        made.listen()  # only now can no other server take the port
    except OSError as error:
        made.close()
        if fallback and listen.port:
            return _bound(listen._replace(port=0), fallback=False)
        raise UserError(f"--listen {where}: {os_reason(error)}; name another address") from None
    return made


def _own_address() -> str:
    """The address of this machine in its network, by its route to the outside; nothing is sent."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return LOOPBACK
