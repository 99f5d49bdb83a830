"""The page of eval in a browser: nothing overflows or complains, tables sort, sections fold on a phone."""

import asyncio
import base64
from pathlib import Path
from typing import Any, cast

import pytest

from tests.pages.test_claimed import claims_page
from tests.pages.test_page import BASE, DPO, PPO, accuracy, drawn_rows, run_folder, win_rate
from tests.voting.browser import CHROMIUM, Page, browser
from vpctl.images.pictures import Pictures
from vpctl.pages import page as web_page
from vpctl.records import Report

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")

SCREENS = ((1440, False), (390, True), (390, False), (1440, True))
"""Widths in pixels, and whether the page is dark."""
TOO_WIDE = """[...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && box.right > WIDTH + 0.5 && !one.closest(".wide, .sides, svg");
}).map(one => one.outerHTML.slice(0, 100))"""
"""Elements that reach over the right edge of the window. What scrolls by itself, and text in plots, may."""
UNREADABLE = r"""(() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map(one => one / 255)
      .map(one => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll("body *")].filter(one => {
    if (![...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) return false;
    const style = getComputedStyle(one);
    const ink = light(one instanceof SVGElement ? style.fill : style.color);
    return Math.max(ink, paper) / Math.min(ink, paper) < 4.5;
  }).map(one => one.outerHTML.slice(0, 100));
})()"""
"""Elements with text whose contrast is below that of WCAG AA."""
ROWS = """[...document.querySelectorAll("#of-accuracy ~ *, section")].flatMap(one =>
  [...one.querySelectorAll("[aria-labelledby=of-accuracy] tbody th")].map(cell => cell.textContent)).slice(0, 3)"""


def written(folder: Path) -> str:
    """A page with something in every section. Returns its address."""
    reports = [win_rate(DPO), win_rate(PPO, reward="another:reward-with-a-long-name")]
    reports += [accuracy(name=name, value=value) for name, value in (("b", 0.7), ("a", 0.74), ("c", 0.69))]
    reports += [
        cast(Report, {**accuracy(name=name, metric="elo"), "value": 1e3, "low": 9e2, "high": 2e3}) for name in "ab"
    ]
    wide: list[dict[str, Any]] = [
        {"metric": f"accuracy_{name}", "chance": 0.5} for name in ("pooled", "per_prompt", "ties_count", "tie_aware")
    ]
    reports += [accuracy(**keys) for keys in wide]
    run = run_folder(folder / "run", [{"step": step, "loss": 1 / step} for step in (1, 2, 3)], (0, 3))
    web_page.write(
        str(folder / "page.html"),
        title="A title of quite some length that must be broken on a phone",
        reports=reports,
        rows=drawn_rows(folder, 14),
        scores={"shapes": {BASE: [1.0, 2.0], DPO: [2.0, 3.0]}},
        runs=[run],
        pictures=Pictures([str(folder)]),
    )
    return f"file://{folder}/page.html"


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    asyncio.run(_looked_at(written(tmp_path), tmp_path / "browser"))


async def _looked_at(url: str, folder: Path) -> None:
    async with browser(folder) as page:
        for width, dark in SCREENS:
            await _open(page, url, width, dark=dark)
            folded = await page.value("document.querySelectorAll('section > details:not([open])').length")
            assert folded == (8 if width == 390 else 0), "sections are folded on a phone only"
            await _fits(page, width)
        await _sorted(page)
        await _saved(page, folder / "saved")
        await _linked(page, url)
        await _printed(page)
        await _without_script(page, url)
        assert page.complaints == []
        assert {one.split(":")[0] for one in page.urls} <= {"file", "data", "blob"}


def test_a_page_of_claims_in_a_browser(tmp_path: Path) -> None:
    asyncio.run(_looked_at_claims(claims_page(tmp_path), tmp_path / "browser"))


async def _looked_at_claims(url: str, folder: Path) -> None:
    async with browser(folder) as page:
        for width, dark in SCREENS:
            await _open(page, url, width, dark=dark)
            await _fits(page, width)
        assert page.complaints == []
        assert {one.split(":")[0] for one in page.urls} <= {"file", "data"}


async def _fits(page: Page, width: int) -> None:
    """With all sections open, nothing reaches over the edge, and all text can be read."""
    await page.value("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert await page.value(TOO_WIDE.replace("WIDTH", str(width))) == []
    assert await page.value("document.documentElement.scrollWidth") <= width
    assert await page.value(UNREADABLE) == []


async def _open(page: Page, url: str, width: int, *, dark: bool) -> None:
    await page.screen(width, 800, dark=dark, phone=width < 600)
    await page.call("Page.navigate", url=url)
    await page.until("document.readyState === 'complete' && document.querySelector('thead button')")


async def _sorted(page: Page) -> None:
    """Sort the accuracies by the keyboard, and by names."""
    button = "document.querySelectorAll('[aria-labelledby=of-accuracy] thead button')"
    assert await page.value(ROWS) == ["b", "a", "c"]
    await page.value(f"{button}[1].focus()")
    await page.key("Enter")
    assert await page.value(ROWS) == ["a", "b", "c"]
    assert await page.value(f"{button}[1].parentElement.getAttribute('aria-sort')") == "descending"
    await page.key("Enter")
    assert await page.value(f"{ROWS}.at(-1)") == "a"
    await page.value(f"{button}[0].click()")
    assert await page.value(ROWS) == ["a", "b", "c"]
    assert await page.value("document.querySelectorAll('[aria-sort]').length") == 1


async def _saved(page: Page, folder: Path) -> None:
    """Save a table as CSV, and copy or save it as LaTeX."""
    await page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    tools = "document.querySelector('[aria-labelledby=of-accuracy] ~ .tools')"
    await page.value(f"{tools}.querySelector('[data-kind=csv]').click()")
    await page.until(f"{tools}.innerText.includes('Saved')")
    await page.value(f"{tools}.querySelector('[data-kind=latex]').click()")
    await page.until(f"/Copied|Saved.*Saved/s.test({tools}.innerText)")
    async with asyncio.timeout(20):
        while not (folder / "of-accuracy-1.csv").exists():
            await asyncio.sleep(0.01)
    header, *rows = (folder / "of-accuracy-1.csv").read_text().splitlines()
    assert header.startswith("name,metric,value,low,high,n")
    assert len(rows) == 7


async def _without_script(page: Page, url: str) -> None:
    """Without JavaScript the whole page is open, and has no buttons."""
    await page.call("Emulation.setScriptExecutionDisabled", value=True)
    await page.call("Page.navigate", url=f"{url}?plain")
    await page.until("document.readyState === 'complete' && document.querySelector('footer')")
    assert await page.value("document.querySelectorAll('details.fold:not([open]), th button').length") == 0
    assert await page.value("[...document.querySelectorAll('button')].every(one => !one.getClientRects().length)")


async def _linked(page: Page, url: str) -> None:
    """A link to a folded section unfolds it, and its pictures are decoded."""
    await _open(page, f"{url}?phone#pictures", 390, dark=False)
    assert await page.value("document.querySelector('#pictures').closest('details').open")
    picture = "document.querySelector('#pictures').closest('details').querySelector('img')"
    await page.until(f"{picture}.complete && {picture}.naturalWidth")


async def _printed(page: Page) -> None:
    """A print has all pictures, also those of folded sections."""
    shown = await page.value("new Set([...document.querySelectorAll('img')].map(one => one.src)).size")
    printed = base64.b64decode((await page.call("Page.printToPDF"))["data"])
    assert printed.count(b"/Subtype /Image") == shown == 14 * 3 + 2
