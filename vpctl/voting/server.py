"""The server of the page on which people vote.

It answers only who came by the secret address that the command prints, and has a cookie since. The page is fixed text
that knows nothing: pictures and ballots have names that say nothing of their files, and the models are not sent at all.
"""

import asyncio
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from ..errors import OutputClosed, RecordFailed, UserError
from ..flow import StopSignal, in_background
from ..judging.plan import Group
from .address import Doorway
from .ballots import Ballot, VoteError
from .people import person_name
from .room import Room, Voter
from .shown import CONTENT_TYPE, ShownPictures

MAX_REQUEST = 1 << 14
"""Maximum size of a request in bytes. A vote has some hundred."""
LINGER = 60.0
"""Seconds for which the page stays after the last vote, so that it can still be changed."""
GOODBYE = 1.0
"""Seconds for which running answers may last when the server ends."""
COOKIE_SECONDS = 30 * 86_400
"""Time for which a browser keeps the cookie: a phone forgets cookies without one whenever it closes the browser."""
STATIC = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js", "/icon.svg": "icon.svg"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Server": "vpctl",
}
_LOCKED_OUT = "Open the address that vpctl has printed: this one does not work without it.\n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class VoteServer:
    """Serves the page for the people of a `room`.

    `announce` is called when there is something to vote on, and `voted` after each vote that was written.
    """

    def __init__(
        self,
        room: Room,
        doorway: Doorway,
        pictures: ShownPictures,
        *,
        announce: Callable[[], object],
        voted: Callable[[], object],
    ) -> None:
        self._room, self._doorway, self._pictures = room, doorway, pictures
        self._announce, self._voted = announce, voted
        self._paths: dict[str, str] = {}
        self._cookie = f"vpctl-{doorway.derived('cookie')[:8]}"
        self._static = {path: files(__package__).joinpath(name).read_bytes() for path, name in STATIC.items()}
        self._over = asyncio.Event()
        self._ending: asyncio.TimerHandle | None = None
        self._fatal: Exception | None = None

    async def run(self, groups: Iterator[Group], stop_signal: StopSignal) -> None:
        """Serve the page until everybody has voted on everything, or until the stop signal.

        The page is there at once; `groups` are read meanwhile. If only some people vote and they have voted on
        everything, the server ends by itself. Raises what `groups` raise, and `UserError` if a vote cannot be written.
        """
        stop_signal.on_stop(self._over.set)
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=GOODBYE)
        await runner.setup()
        reader = asyncio.create_task(self._read(groups))
        try:
            await web.SockSite(runner, self._doorway.socket).start()
            await self._over.wait()
        finally:
            reader.cancel()
            if self._ending:
                self._ending.cancel()
            await runner.cleanup()
        if self._fatal:
            raise self._fatal

    async def _read(self, groups: Iterator[Group]) -> None:
        try:
            announced = False
            async for group in in_background(groups):
                self._room.add(group)
                if not announced and self._room.wanted(group):
                    self._announce()
                    announced = True
            self._room.complete = True
            self._check_end()
        except Exception as error:  # whatever it is, nobody can vote on what could not be read
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._fatal = self._fatal or error
        self._over.set()

    def _check_end(self) -> None:
        """End after a while if everybody has voted on everything, and at once if nobody has a vote to change."""
        if self._ending:
            self._ending.cancel()
            self._ending = None
        if self._room.open_to_all or not self._room.nothing_left():
            return
        waiting = any(voter.votes and not voter.finished for voter in self._room.voters.values())
        self._ending = asyncio.get_running_loop().call_later(LINGER if waiting else 0, self._over.set)

    def application(self) -> web.Application:
        """The application, with all its routes."""
        made = web.Application(middlewares=[self._guard], client_max_size=MAX_REQUEST)
        made.on_response_prepare.append(_with_headers)
        made.router.add_get("/state", self._state)
        made.router.add_get("/picture/{name}", self._picture)
        made.router.add_post("/name", self._name)
        made.router.add_post("/vote", self._vote)
        made.router.add_post("/finish", self._finish)
        for path in STATIC:
            made.router.add_get(path, self._page)
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer only requests to this machine, from the page itself, by who has the cookie."""
        if not self._doorway.knows(request.host):
            return _refused("This address is not known here.\n")
        if request.method == "GET" and _same(request.path.removeprefix("/"), self._doorway.token):
            return self._welcome(request)
        if self._person(request) is None:
            return _refused(_LOCKED_OUT)
        if request.method != "GET":
            origin = request.headers.get("Origin", "")
            if urlsplit(origin).netloc != request.host or request.content_type != "application/json":
                return _refused("Only the page itself may send votes.\n")
        return await handler(request)

    def _welcome(self, request: web.Request) -> web.StreamResponse:
        """Give who has the secret address a cookie in its place, which a known person keeps."""
        name = self._person(request) or ""
        if not name and len(self._room.names) == 1:
            name = self._room.names[0]
        response = web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
        return self._signed(response, name)

    def _signed(self, response: web.Response, name: str) -> web.Response:
        """The response with a cookie that says who this is. Its signature keeps others from making one."""
        value = urlsafe_b64encode(name.encode()).decode().rstrip("=")
        signature = self._doorway.derived("person", value)
        response.set_cookie(self._cookie, f"{value}.{signature}", max_age=COOKIE_SECONDS, httponly=True, samesite="Lax")
        return response

    def _person(self, request: web.Request) -> str | None:
        """The name in the cookie; empty if the person has given none yet, and None if there is no valid cookie."""
        value, _, signature = request.cookies.get(self._cookie, "").partition(".")
        if not _same(signature, self._doorway.derived("person", value)):
            return None
        name = urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode()
        return name if name and self._room.admits(name) else ""

    async def _page(self, request: web.Request) -> web.StreamResponse:
        kind = _TYPES[STATIC[request.path].rpartition(".")[2]]
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=self._static[request.path], content_type=kind, charset="utf-8", headers=headers)

    async def _state(self, request: web.Request) -> web.StreamResponse:
        """What the page shows now; with ``before``, the ballot that was voted on before this one."""
        voter = self._voter(request)
        if voter is None:
            return _json(self._asking_for_a_name())
        earlier = None
        if "before" in request.query:
            earlier = self._room.before(voter, request.query["before"])
        return _json(self._view(voter, earlier))

    async def _name(self, request: web.Request) -> web.StreamResponse:
        """Note who votes here. An empty name lets somebody else vote."""
        said = await _body(request)
        name = said.get("name")
        if not isinstance(name, str):
            return _wrong("there is no name")
        if not name.strip():
            return self._signed(_json(self._asking_for_a_name()), "")
        try:
            name = person_name(name)
        except ValueError as error:
            return _wrong(str(error))
        if not self._room.admits(name):
            return _wrong(f"{name} is not among those who vote here")
        voter = self._room.voter(name)
        voter.begin()
        return self._signed(_json(self._view(voter)), name)

    async def _vote(self, request: web.Request) -> web.StreamResponse:
        """Count a vote, and answer with what to show next. The answer is sent after the vote is on disk."""
        voter = self._voter(request)
        said = await _body(request)
        ballot, revision, vote = (said.get(key) for key in ("ballot", "revision", "vote"))
        if voter is None or not isinstance(ballot, str) or type(revision) is not int:
            return _wrong("this is not a vote")
        try:
            counts = self._room.vote(voter, ballot, revision, vote)
        except VoteError as error:
            return _wrong(str(error))
        except KeyError:
            if self._room.complete:
                return _wrong("there is no such ballot")
            return _wrong("this ballot has not been read yet", 503)
        except (UserError, OutputClosed) as error:
            self._give_up(error)
            return _json({"error": "the vote could not be written, and does not count"}, 507)
        if counts:
            voter.finished = False
            self._voted()
            self._check_end()
        return _json({**self._view(voter), "counts": counts})

    async def _finish(self, request: web.Request) -> web.StreamResponse:
        """The person has left the last page."""
        if voter := self._voter(request):
            voter.finished = self._room.complete and not voter.left
            self._check_end()
        return _json({})

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        path = self._paths.get(request.match_info["name"])
        if path is None:
            return _wrong("there is no such picture", 404)
        try:
            data = await asyncio.to_thread(self._pictures, path)
        except RecordFailed:
            return _wrong("the picture cannot be opened any more", 410)
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return web.Response(body=data, content_type=CONTENT_TYPE, headers=headers)

    def _voter(self, request: web.Request) -> Voter | None:
        name = self._person(request)
        return self._room.voter(name) if name else None

    def _asking_for_a_name(self) -> dict[str, Any]:
        return {"name": "", "names": self._room.names}

    def _view(self, voter: Voter, earlier: Ballot | None = None) -> dict[str, Any]:
        """All that the page shows to a person: progress, a ballot, and the pictures that it will need next."""
        room = self._room
        ballot = earlier or room.current(voter)
        return {
            "name": voter.name,
            "names": room.names,
            "done": len(voter.done),
            "total": voter.total,
            "complete": room.complete,
            "seconds_left": voter.seconds_left(),
            "ballot": self._on_page(ballot, voter) if ballot else None,
            "ahead": [name for one in room.ahead(voter) for name in self._names_of(one, voter)],
            "back": room.before(voter, ballot.name() if ballot else "") is not None,
        }

    def _on_page(self, ballot: Ballot, voter: Voter) -> dict[str, Any]:
        aspect = ballot.aspect
        return {
            "id": ballot.name(),
            "revision": self._room.revision(ballot, voter),
            "mode": ballot.mode,
            "aspect": {"name": aspect.name, "title": aspect.title, "rubric": aspect.rubric, "levels": aspect.levels},
            "prompt": ballot.group.images[0]["prompt"] if aspect.with_prompt else None,
            "pictures": self._names_of(ballot, voter),
            "vote": self._room.said(ballot, voter),
        }

    def _names_of(self, ballot: Ballot, voter: Voter) -> list[str]:
        """The names of the pictures on the page, in the order in which this person sees them."""
        paths = [image["file_name"] for image in self._room.shown(ballot, voter)]
        names = [self._doorway.derived("picture", path) for path in paths]
        self._paths.update(zip(names, paths, strict=True))
        return names


def _same(one: str, other: str) -> bool:
    """Whether two texts are equal. The time does not tell where they differ."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())


async def _with_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


async def _body(request: web.Request) -> dict[str, Any]:
    """The JSON object in a request; empty if it holds something else."""
    try:
        said = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _wrong(reason: str, status: int = 400) -> web.Response:
    return _json({"error": reason}, status)


def _refused(text: str) -> web.Response:
    return web.Response(text=text, status=403, headers={"Connection": "close"})
