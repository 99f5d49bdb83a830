"""The server of the vote page, over HTTP: who gets in, what it tells, and that each vote is on disk."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import orjson
import pytest
from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo
from yarl import URL

from tests.conftest import draw, lines, write_lines
from vpctl.contracts import Mode
from vpctl.errors import UserError
from vpctl.flow import StopSignal
from vpctl.images.hashes import ContentHasher
from vpctl.images.pictures import Pictures
from vpctl.judging.plan import group_by_prompt
from vpctl.judging.preferences import without_replaced
from vpctl.plugins import aspect
from vpctl.records import Image, Judgement, check
from vpctl.streams.reading import read
from vpctl.voting import server as serving
from vpctl.voting.address import LOOPBACK, Doorway, Listen
from vpctl.voting.ballots import OVERALL
from vpctl.voting.room import Poll, Room, VoteLedger
from vpctl.voting.server import VoteServer
from vpctl.voting.shown import ShownPictures

Answer = tuple[int, Any]


class Client:
    """A browser without a page: it has cookies, and sends what the page would send."""

    def __init__(self, url: str) -> None:
        self.url, self.base = url, url.rpartition("/")[0]
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str, **more: Any) -> tuple[int, bytes]:
        async with self.session.get(f"{self.base}{path}", **more) as answer:
            return answer.status, await answer.read()

    async def state(self, path: str = "/state") -> Any:
        status, body = await self.get(path)
        assert status == 200, body
        return orjson.loads(body)

    async def post(
        self, path: str, said: Any, *, data: bytes | None = None, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Answer:
        own = {"Origin": self.base, "Content-Type": "application/json", **headers}
        body = orjson.dumps(said) if data is None else data
        async with self.session.post(f"{self.base}{path}", data=body, headers=own) as answer:
            text = await answer.read()
            return answer.status, orjson.loads(text) if answer.content_type == "application/json" else text

    async def vote(self, said: Any, ballot: Any = None) -> Any:
        """Vote on the current ballot, or on another one, and return the next state."""
        ballot = ballot or (await self.state())["ballot"]
        status, found = await self.post("/vote", {"ballot": ballot["id"], "revision": ballot["revision"], "vote": said})
        assert status == 200, found
        return found


class Served:
    """A running server, its room, and clients that have come by the printed address."""

    def __init__(self, room: Room, doorway: Doorway, run: "asyncio.Task[None]") -> None:
        self.room, self.doorway, self.run = room, doorway, run
        self._clients: list[Client] = []

    def stranger(self) -> Client:
        self._clients.append(Client(self.doorway.url))
        return self._clients[-1]

    async def client(self, name: str = "") -> Client:
        made = self.stranger()
        async with made.session.get(made.url) as answer:
            assert answer.status == 200
        if name:
            assert (await made.post("/name", {"name": name}))[0] == 200
        return made

    async def close(self) -> None:
        for client in self._clients:
            await client.session.close()


@asynccontextmanager
async def served(
    folder: Path,
    *names: str,
    mode: Mode = "pair",
    aspects: tuple[Any, ...] = (OVERALL,),
    passes: int = 1,
    again: tuple[str, ...] = (),
) -> AsyncIterator[Served]:
    """The server for the pictures in `folder`; the votes are in votes.jsonl there."""
    out = folder / "votes.jsonl"
    with VoteLedger(str(out), again=again) as ledger:
        doorway = Doorway(Listen(LOOPBACK, 0), str(folder / ".votes.jsonl.page"))
        room = Room(Poll(aspects, mode, passes), ledger, names)
        opener = Pictures([str(folder)])
        groups = group_by_prompt(read(str(folder / "metadata.jsonl"), Image), ContentHasher(opener))
        server = VoteServer(room, doorway, ShownPictures(opener.open), announce=lambda: None, voted=lambda: None)
        stop = StopSignal()
        run = asyncio.create_task(server.run(groups, stop))
        made = Served(room, doorway, run)
        try:
            while not room.complete and not run.done():
                await asyncio.sleep(0.001)
            yield made
        finally:
            await made.close()
            stop.stop("the test has ended")
            await asyncio.wait([run])
            doorway.close()


def votes(folder: Path) -> list[dict[str, Any]]:
    """The records of the votes; each is a judgement."""
    text = (folder / "votes.jsonl").read_text()
    return [check(record, Judgement, "votes.jsonl") for record in lines(text)]


def in_loop(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """A test that is a coroutine function, with pictures of three prompts, two each."""

    def run(tmp_path: Path) -> None:
        draw(tmp_path, prompts=3)
        asyncio.run(asyncio.wait_for(test(tmp_path), 60))

    run.__name__ = test.__name__
    return run


@in_loop
async def test_only_who_has_the_address_gets_in(folder: Path) -> None:
    async with served(folder, "anna") as here:
        stranger = here.stranger()
        for path in ("/", "/state", "/page.js", "/picture/x", f"/{'0' * 32}", "/%ff", "/..%2f..%2fetc/passwd"):
            status, body = await stranger.get(path)
            assert (status, b"<script" in body, b"anna" in body) == (403, False, False), path
        assert (await stranger.post("/vote", {}))[0] == 403
        assert (await stranger.post("/name", {"name": "anna"}))[0] == 403
        forged = {next(iter((await here.client()).session.cookie_jar)).key: "YW5uYQ." + "0" * 32}
        for value in (*forged.values(), "", ".", "YW5uYQ", "\udcff.\udcfe"):
            cookie = {"Cookie": f"{next(iter(forged))}={value}"}
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{stranger.base}/state", headers=cookie) as said,
            ):
                assert said.status == 403, value
        anna = await here.client()
        assert (await anna.state())["name"] == "anna"


@in_loop
async def test_other_sites_get_nothing(folder: Path) -> None:
    async with served(folder, "anna") as here:
        anna = await here.client()
        port = here.doorway.port
        for host in (f"evil.example:{port}", "evil.example", f"127.0.0.1.evil.example:{port}", ""):
            assert (await anna.get("/state", headers={"Host": host}))[0] == 403, host
        assert (await anna.get("/state", headers={"Host": f"localhost:{port}"}))[0] == 200
        ballot = (await anna.state())["ballot"]
        vote = {"ballot": ballot["id"], "revision": 0, "vote": "left"}
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": ""},
            {"Origin": f"http://127.0.0.1:{port + 1}"},
            {"Content-Type": "text/plain"},
        ):
            assert (await anna.post("/vote", vote, headers=headers))[0] == 403, headers
        async with anna.session.get(f"{anna.base}/state", headers={"Origin": "http://evil.example"}) as answer:
            assert not [name for name in answer.headers if name.startswith("Access-Control")]
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        assert votes(folder) == []


@in_loop
async def test_hostile_requests_are_refused_and_the_server_goes_on(folder: Path) -> None:
    async with served(folder, "anna", mode="list") as here:
        anna = await here.client()
        ballot = (await anna.state())["ballot"]
        good = {"ballot": ballot["id"], "revision": 0, "vote": [1, 2]}
        assert (await anna.post("/vote", 0, data=b"[" * 100_000))[0] == 413
        for body in (b"", b"{", b"[]", b"[" * 9000, b'{"ballot": "\xff"}', b"null", b'{"a":1e999}'):
            assert (await anna.post("/vote", 0, data=body))[0] == 400, body
        changes: list[dict[str, Any]] = [
            {"ballot": "x"},
            {"ballot": None},
            {"ballot": ["x"]},
            {"revision": True},
            {"revision": "0"},
            *(
                {"vote": one}
                for one in ("left", 3, [1], [1, 3], [0, 1], [1, 2, 2], [1, True], [1, 1.0], [1, None], None)
            ),
            *(
                {"vote": one}
                for one in ({}, {"refused": "x"}, {"refused": "harmful", "more": 1}, {"refused": ["harmful"]})
            ),
        ]
        for change in changes:
            assert (await anna.post("/vote", good | change))[0] == 400, change
        for name in (7, None, ["anna"], "ben"):
            assert (await anna.post("/name", {"name": name}))[0] == 400, name
        assert (await anna.get("/picture/..%2Fmetadata.jsonl"))[0] == 404
        assert (await anna.get("/metadata.jsonl"))[0] == 404
        assert votes(folder) == []
        assert (await anna.post("/vote", good))[0] == 200
        assert len(votes(folder)) == 1


@in_loop
async def test_the_page_hides_where_pictures_come_from(folder: Path) -> None:
    """Names, ids, seeds, models, scores and what generate writes into the file; only pixels and prompts are sent."""
    about = PngInfo()
    about.add_text("parameters", "a prompt, Model: secret-model")
    opener, records = Pictures([str(folder)]), lines((folder / "metadata.jsonl").read_text())
    for record in records:
        with PIL.open(folder / record["file_name"]) as picture:
            picture.save(folder / record["file_name"], pnginfo=about)
        record |= {"model": "secret-model", "scores": {"vp:secret": 1.5}, "adapter": "secret-lora"}
    write_lines(folder / "metadata.jsonl", records)
    async with served(folder, "anna") as here:
        anna = await here.client()
        said = b"".join([(await anna.get(path))[1] for path in ("/", "/page.js", "/page.css", "/icon.svg", "/state")])
        state = await anna.state()
        for name in state["ballot"]["pictures"]:
            status, body = await anna.get(f"/picture/{name}")
            assert status == 200
            with PIL.open(BytesIO(body)) as shown:
                pixels = {opener.open(str(folder / one["file_name"])).tobytes() for one in records}
                assert shown.convert("RGB").tobytes() in pixels
            said += body
        for secret in (
            b"secret",
            b".png",
            b"metadata",
            *(one["image_id"].encode() for one in records),
            b'"p0"',
            b"seed",
        ):
            assert secret not in said, secret
        harmless = await asyncio.to_thread(aspect, "aesthetic")
    async with served(folder, "anna", aspects=(harmless,)) as here:
        assert (await (await here.client()).state())["ballot"]["prompt"] is None  # this aspect hides it


@in_loop
async def test_each_vote_becomes_a_judgement(folder: Path) -> None:
    files = {one["image_id"]: one["file_name"] for one in lines((folder / "metadata.jsonl").read_text())}
    async with served(folder, "anna") as here:
        anna = await here.client()
        for said in ("left", "tie", {"refused": "harmful"}):
            assert (await anna.vote(said))["counts"]
        left, tie, refused = votes(folder)
        assert [left["scores"], tie["scores"], refused["scores"]] == [[5.0, 1.0], [3.0, 3.0], []]
        assert refused["refused"] == "harmful"
        for record in (left, tie, refused):
            assert (record["annotator"], record["aspect"], record["mode"]) == ("human:anna", "preference", "pair")
            assert [files[one] for one in record["image_ids"]] == record["file_names"]
            assert "order" not in record
            assert record["asked"]["time"].endswith("Z")


@in_loop
async def test_a_ranking_and_a_level_are_scores_in_the_order_of_the_pictures(folder: Path) -> None:
    records = draw(folder, prompts=1, each=4)
    async with served(folder, "anna", mode="list") as here:
        anna = await here.client()
        await anna.vote([4, 1, 1, 2])
        [record] = votes(folder)
        shown = [record["image_ids"][index] for index in record["order"]]
        by_id = dict(zip(record["image_ids"], record["scores"], strict=True))
        assert [by_id[one] for one in shown] == [3.0, 5.0, 5.0, 4.0]
        assert record["image_ids"] == sorted(one["image_id"] for one in records)
    (folder / "votes.jsonl").unlink()
    async with served(folder, "anna", mode="point") as here:
        anna = await here.client()
        for level in (1, 5, 2, 3):
            state = await anna.vote(level)
        assert state["ballot"] is None
        assert [one["scores"] for one in votes(folder)] == [[1.0], [5.0], [2.0], [3.0]]


@in_loop
async def test_two_windows_of_one_person_vote_once(folder: Path) -> None:
    async with served(folder, "anna") as here:
        one, other = await here.client(), await here.client()
        ballot = (await one.state())["ballot"]
        assert (await other.state())["ballot"] == ballot
        assert (await one.vote("left", ballot))["counts"]
        late = await other.vote("right", ballot)
        assert not late["counts"]
        assert late["ballot"]["id"] != ballot["id"]
        both = await asyncio.gather(one.vote("tie", late["ballot"]), other.vote("left", late["ballot"]))
        assert sorted(found["counts"] for found in both) == [False, True]
        first, _ = votes(folder)
        assert first["scores"] == [5.0, 1.0]


@in_loop
async def test_the_last_vote_can_be_changed_and_the_new_one_counts(folder: Path) -> None:
    async with served(folder, "anna") as here:
        anna = await here.client()
        assert not (await anna.state())["back"]
        first = (await anna.state())["ballot"]
        second = (await anna.vote("left"))["ballot"]
        await anna.vote("tie")
        last = await anna.state("/state?before=")
        assert (last["ballot"]["id"], last["ballot"]["vote"]) == (second["id"], "tie")
        earlier = await anna.state(f"/state?before={second['id']}")
        assert (earlier["ballot"]["id"], earlier["ballot"]["vote"], earlier["back"]) == (first["id"], "left", False)
        assert earlier["ballot"]["pictures"] == first["pictures"]
        after = await anna.vote("right", earlier["ballot"])
        assert (after["counts"], after["done"]) == (True, 2)
        assert len(votes(folder)) == 3
        counted = [*without_replaced(read(str(folder / "votes.jsonl"), Judgement), Counter())]
        assert sorted(one["scores"] for one in counted) == [[1.0, 5.0], [3.0, 3.0]]


@in_loop
async def test_a_restart_asks_for_what_is_left_at_the_same_address(folder: Path) -> None:
    async with served(folder, "anna") as here:
        anna = await here.client()
        url, cookies = here.doorway.url, anna.session.cookie_jar.filter_cookies(URL(anna.base))
        done = (await anna.state())["ballot"]
        waiting = (await anna.vote("left"))["ballot"]
        assert (await anna.vote({"refused": "cannot judge"}, waiting))["counts"]
        left_open = (await anna.state())["ballot"]
    with (folder / "votes.jsonl").open("ab") as out:
        out.write(b'{"prompt_id": "torn')
    async with served(folder, "anna") as here:
        assert here.doorway.url == url
        page = here.stranger()  # left open: it never asks for the printed address again
        page.session.cookie_jar.update_cookies(cookies)
        state = await page.state()
        assert (state["done"], state["total"], state["ballot"]) == (2, 3, left_open)
        assert (await page.state("/state?before="))["ballot"]["vote"] == {"refused": "cannot judge"}
        repeated = await page.vote("left", done)  # the answer to this vote was lost, so the page sends it again
        assert not repeated["counts"]
        last = await page.vote("tie", left_open)
        assert (last["counts"], last["ballot"], last["done"]) == (True, None, 3)
        assert len(votes(folder)) == 3
        assert (await page.post("/finish", {}))[0] == 200
        await asyncio.wait_for(here.run, 10)  # nothing is left for anybody
    async with served(folder, "anna", again=("refused",)) as here:
        state = await (await here.client()).state()
        assert (state["done"], state["ballot"]["id"]) == (2, waiting["id"])


@in_loop
async def test_the_server_ends_some_time_after_the_last_vote(folder: Path) -> None:
    draw(folder, prompts=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "LINGER", 0.05)
        async with served(folder, "anna", "ben") as here:
            await (await here.client("anna")).vote("left")
            await asyncio.sleep(0.1)
            assert not here.run.done()
            await (await here.client("ben")).vote("left")
            await asyncio.wait_for(here.run, 10)
    async with served(folder, "anna", "ben") as here:
        await asyncio.wait_for(here.run, 10)


@in_loop
async def test_several_people_vote_each_in_an_own_order(folder: Path) -> None:
    draw(folder, prompts=12)
    async with served(folder) as here:
        assert (await (await here.client()).state()) == {"name": "", "names": []}
        orders = []
        for name in ("Anna", "ben", "ANNA "):
            client = await here.client(name)
            state = await client.state()
            seen = [state["ballot"]]
            while state["ballot"] and name != "ANNA ":
                seen.append(state["ballot"])
                state = await client.vote("left")
            orders.append([(one and one["prompt"], one and one["pictures"][0]) for one in seen])
        assert {*orders[0]} != {*orders[1]}, "the sides differ"
        assert [prompt for prompt, _ in orders[0]] != [prompt for prompt, _ in orders[1]]
        assert orders[2] == [(None, None)], "Anna has voted on everything"
        assert len(votes(folder)) == 24
        assert {one["annotator"] for one in votes(folder)} == {"human:anna", "human:ben"}
        assert not here.run.done(), "others may come"
        for wrong in ("", "a b", "a:b", "x" * 41, "../x", "a,b", "<b>"):
            _, said = await (await here.client()).post("/name", {"name": wrong})
            assert "error" in said or said["name"] == "", wrong


@in_loop
async def test_a_vote_that_cannot_be_written_does_not_count(folder: Path) -> None:
    async with served(folder, "anna") as here:
        anna = await here.client()
        ballot = (await anna.state())["ballot"]
        file = here.room._ledger._file
        saved, full = os.dup(file), os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file)
        os.close(full)
        status, said = await anna.post("/vote", {"ballot": ballot["id"], "revision": 0, "vote": "left"})
        assert (status, "does not count" in said["error"]) == (507, True)
        with pytest.raises(UserError, match="no space left on device"):
            await here.run
        os.dup2(saved, file)
        os.close(saved)


@in_loop
async def test_passes_ask_again_later_and_keep_both_votes(folder: Path) -> None:
    async with served(folder, "anna", passes=2) as here:
        anna = await here.client()
        first = [(await anna.vote("tie")) for _ in range(6)]
        assert first[-1]["ballot"] is None
        assert [record.get("repeat", 1) for record in votes(folder)] == [1, 1, 1, 2, 2, 2]
