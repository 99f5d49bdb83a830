"""The vote page in a browser: with keys, with touches, and while the server is killed and started again."""

import asyncio
import re
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.conftest import draw, lines, rest, told, vpctl
from tests.surroundings import ENVIRONMENT
from tests.voting.browser import CHROMIUM, Page, browser

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")


class Serving:
    """The command that serves the page, which can be killed and started again."""

    def __init__(self, folder: Path, *more: str) -> None:
        draw(folder, prompts=3, each=4 if "list" in more else 2)
        self.folder = folder
        self._words = vpctl("annotate", "metadata.jsonl", "--annotator", "human:anna", "--out", "votes.jsonl", *more)
        self.start()

    def start(self) -> None:
        """Start the command, and wait for its address."""
        self._process = subprocess.Popen(
            self._words, cwd=self.folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        found = re.search(r"http://\S+", told(self._process, "vote at"))
        assert found
        self.url = found[0]

    def kill(self) -> None:
        """Kill the command."""
        self._process.kill()
        rest(self._process)

    def ended(self) -> tuple[int, str]:
        """The exit code of the command that ends by itself, and what it has said."""
        said = rest(self._process)
        return self._process.returncode, said

    def votes(self) -> list[dict[str, Any]]:
        """The records that it has written."""
        return lines((self.folder / "votes.jsonl").read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()


async def is_ready(page: Page, count: str) -> None:
    """Wait until this many votes are done, and the pictures of the next ones are there."""
    await page.until(f"document.querySelector('#count').textContent.startsWith({count!r}) && ready")


def in_browser(folder: Path, test: Callable[[Page], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a page of a new browser."""

    async def run() -> None:
        async with browser(folder / "profile") as page:
            await test(page)

    asyncio.run(asyncio.wait_for(run(), 120))


def test_votes_by_key_and_by_touch_survive_a_kill_of_the_server(tmp_path: Path) -> None:
    async def vote(page: Page) -> None:
        await page.screen(1440, 900)
        await page.call("Page.navigate", url=server.url)
        await is_ready(page, "0 of 3")
        assert server.url.rpartition("/")[2] not in await page.value("location.href")
        await page.key("ArrowLeft")
        await is_ready(page, "1 of 3")
        await page.key("u")
        await page.until("document.querySelector('[aria-pressed=true]').textContent.startsWith('A') && ready")
        await page.key("ArrowRight")
        await page.until("view.ballot.vote === null && ready")
        assert len(server.votes()) == 2
        server.kill()
        await page.key(" ")  # this vote is sent when the server is back
        await page.until("!document.querySelector('#away').hidden")
        assert "not saved yet" in await page.value("document.querySelector('#away').textContent")
        before = server.url
        await asyncio.to_thread(server.start)
        assert server.url == before
        await is_ready(page, "2 of 3")
        assert await page.value("document.querySelector('#away').hidden")
        await page.screen(390, 844, phone=True, dark=True)
        assert await page.value("document.documentElement.scrollWidth") == 390
        await page.touch(".frame")
        await page.until("document.querySelector('#zoom').open")
        await page.touch("#zoom-close")
        await page.touch(".choices button:last-child")
        await page.until("document.querySelector('#finish')")
        await page.touch("#finish")
        code, said = await asyncio.to_thread(server.ended)
        assert (code, "anna 3 of 3" in said) == (0, True)
        assert not [text for text in page.complaints if "ERR_CONNECTION" not in text]
        assert {urlsplit(url).netloc for url in page.urls} == {urlsplit(server.url).netloc}

    with Serving(tmp_path, "--mode", "pair") as server:
        in_browser(tmp_path, vote)
    first, changed, tie, last = server.votes()
    assert (first["scores"], changed["scores"], changed["key"] == first["key"]) == ([5.0, 1.0], [1.0, 5.0], True)
    assert (tie["scores"], last["scores"]) == ([3.0, 3.0], [1.0, 5.0])


def test_pictures_are_ranked_by_key_and_by_touch(tmp_path: Path) -> None:
    async def vote(page: Page) -> None:
        await page.call("Page.navigate", url=server.url)
        await is_ready(page, "0 of 3")
        await page.key("Enter")  # nothing is ranked yet
        for name in ("2", "1", "ArrowRight", "4", "ArrowLeft", "2", "Enter"):
            await page.key(name)
        await is_ready(page, "0 of 3")
        await page.key("3")
        await page.key("Enter")
        await is_ready(page, "1 of 3")
        await page.screen(390, 844, phone=True)
        for picture, place in enumerate((3, 1, 2, 3), 1):
            await page.touch(f"figure:nth-child({picture}) .ranks button:nth-child({place})")
        await page.touch("#send")
        await is_ready(page, "2 of 3")
        await page.key("x")
        await page.until("document.querySelector('#finish')")
        await page.key("Enter")
        code, _ = await asyncio.to_thread(server.ended)
        assert (code, page.complaints) == (0, [])

    with Serving(tmp_path, "--mode", "list") as server:
        in_browser(tmp_path, vote)
    by_key, by_touch, refused = server.votes()
    assert [by_key["scores"][index] for index in by_key["order"]] == [5.0, 5.0, 4.0, 3.0]
    assert [by_touch["scores"][index] for index in by_touch["order"]] == [3.0, 5.0, 4.0, 3.0]
    assert refused["refused"] == "cannot judge"
