"""Show the whole folder of a run on one page: reports, pictures, judgements, training."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from ... import progress
from ...errors import SomeFailed, UserError
from ...options import Roots, argument, option
from ...pages.discovery import FolderContents, found_in, with_files
from ...records import Image, Judgement, Report
from ...report.comparing import Side, by_prompt
from ...streams.reading import read
from ._reports import check_page, write_page

PAGE = "report.html"


def report(
    folder: Annotated[str, argument(metavar="FOLDER", help="Folder of a run, with everything below it.")],
    *,
    html: Annotated[
        str,
        option(
            "--html",
            metavar="FILE",
            group="Output",
            help="Write the page to this file.",
            show_default=f"{PAGE} in FOLDER",
        ),
    ] = "",
    root: Roots = None,
) -> None:
    """Show the whole folder of a run on one page: reports, pictures, judgements, training.

    The page has what is below FOLDER: the reports of eval, the pictures of all models that have scores, what annotators
    said, and the curves of training runs, which have a run.json and a metrics.jsonl. What a file holds is seen from its
    contents, and not from its name. A note names what is left out. Nothing is computed anew: win rates are on the page
    if the reports of eval compare are in FOLDER.

    The base model is the one that the reports compare the others with. Without such reports, it is the first one whose
    pictures were drawn without an adapter. Models without a prompt in common with it are left out.

    The exit code is 3 if a picture is missing on the page.

    Examples:

        vpctl eval report runs/demo

        vpctl eval report runs/demo --html demo.html
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder; name the folder of a run, such as runs/demo")
    found = found_in(folder)
    if not any((found.reports, found.pictures, found.judgements, found.runs)):
        raise UserError(
            f"{folder}: there are no reports, scored pictures, judgements or training runs in it; name another folder"
        )
    page = html or os.path.join(folder, PAGE)
    check_page(page, [*found.reports, *found.pictures, *found.judgements], runs=found.runs)
    reports = [with_files(one, found.pictures) for source in found.reports for one in read(source, Report)]
    judgements = [one for source in found.judgements for one in read(source, Judgement)]
    left_out = {**found.left_out}
    sides = _sides(found, reports, left_out)
    for why in dict.fromkeys(left_out.values()):
        paths = [os.path.relpath(path, folder) for path, reason in left_out.items() if reason == why]
        progress.note(f"left out: {why}: {', '.join(paths)}")
    missing = write_page(
        page,
        title=f"Report of {os.path.basename(os.path.abspath(folder))}",
        reports=_ordered(reports),
        sides=sides,
        judgements=judgements,
        with_judged=True,
        runs=found.runs,
        folders=[folder, *(root or [])],
    )
    if missing:
        raise SomeFailed


def _sides(found: FolderContents, reports: Sequence[Report], left_out: dict[str, str]) -> dict[str, Side]:
    """The pictures of the models that can be compared, the base first. What cannot be compared is left out."""
    every = {source: by_prompt(read(source, Image)) for source in found.pictures}
    files = {source: {one["file_name"] for one in _images(side)} for source, side in every.items()}
    kept: dict[str, Side] = {}
    for source in sorted(every, key=lambda one: -len(files[one])):
        if double := next((other for other in kept if files[source] <= files[other]), ""):
            left_out[source] = f"its pictures are those of {double}"
        else:
            kept[source] = every[source]
    if not kept:
        return {}
    base = _base([one for one in every if one in kept], reports, kept)
    sides = {base: kept[base]}
    for source in every:
        if source in kept and source != base:
            if kept[source].keys() & kept[base].keys():
                sides[source] = kept[source]
            else:
                left_out[source] = f"no prompt in common with the base model, {base}"
    return sides


def _base(sources: Sequence[str], reports: Sequence[Report], sides: Mapping[str, Side]) -> str:
    """The file of the base model."""
    told = [one["baseline"] for one in reports if one["metric"] == "win_rate" and one.get("baseline") in sides]
    plain = [source for source in sources if not any("adapter" in one for one in _images(sides[source]))]
    return next(iter([*told, *plain, *sources]))


def _images(side: Side) -> Iterator[Image]:
    return (image for images in side.values() for image in images)


def _ordered(reports: Sequence[Report]) -> list[Report]:
    """The reports with those of comparisons first, because the first ones become the headline of the page."""
    return sorted(reports, key=lambda one: one["metric"] != "win_rate")
