"""Writes a page of HTML, in one file without external resources."""

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from .. import __version__
from ..errors import UserError, os_reason
from ..streams.whole import atomic_write, own_part
from .axes import decimals, fixed, number, percent
from .curves import read_metrics, read_settings
from .headlines import span

DOCTYPE = b"<!doctype html>"
STREAMS = ("-", "/dev/stdout", "/dev/stderr")

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(decimals=decimals, fixed=fixed, number=number, percent=percent, span=span)


def rendered(template: str, **values: object) -> bytes:
    """The page that a template of this folder makes of `values`.

    Its content security policy allows its own script only, known by a hash, and no request.
    """
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = TEMPLATES.get_template(template).render(
        **values,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{known}'",
        version=__version__,
        written=datetime.now(UTC),
    )
    return page.encode("utf-8", "replace")


def check(path: str, runs: Sequence[str] = (), others: Iterable[str] = ()) -> None:
    """Raise at once each `UserError` that `write` could raise at the end about its path or its runs.

    Also raises `UserError` if the page would replace one of `others`, files that the command reads or writes, or a file
    that is not a page.
    """
    if os.path.realpath(path) in map(os.path.realpath, others):
        raise UserError(f"--html {path}: this command reads or writes that file; name another")
    if path in STREAMS or path.startswith("/dev/fd/"):
        raise UserError(f"--html {path}: the page must be a file, such as page.html")
    if os.path.isfile(path) and not _is_page(path):
        raise UserError(f"--html {path}: holds something other than a page; name another file")
    for run in runs:
        read_metrics(run)
        read_settings(run)
    write_whole(path, None)


def _is_page(path: str) -> bool:
    """Whether a file is empty or begins like a page of vpctl. Other files must not be replaced by a page."""
    try:
        with open(path, "rb") as file:
            return file.read(len(DOCTYPE)).lower() in (b"", DOCTYPE)
    except OSError:
        return True  # writing the page reports the error


def write_whole(path: str, page: bytes | None) -> None:
    """Write the page in one step. A device or a pipe is written to directly.

    With None as the page, only check that it could be written. A pipe is then not opened, because its reader would see
    it end.
    """
    target = os.path.realpath(path)
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(target):
            raise IsADirectoryError
        if page is None:
            if not os.path.exists(target) or os.path.isfile(target):
                tried = Path(own_part(target))
                tried.touch()
                tried.unlink()
        elif not os.path.exists(target) or os.path.isfile(target):
            with atomic_write(target, shared=True) as part:
                Path(part).write_bytes(page)
        else:
            Path(target).write_bytes(page)
    except IsADirectoryError:
        example = os.path.join(path, "page.html")
        raise UserError(f"--html {path}: is a folder; name a file in it, such as {example}") from None
    except OSError as error:
        raise UserError(f"--html {path}: {os_reason(error)}; name another file") from None
