"""An HTML page with reports, pictures side by side and training curves, in one file without external resources.

This module decides what is on the page. The template `page.html.j2` defines its appearance.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence

from .. import progress
from ..images.pictures import Pictures
from ..judging.remarks import Remark
from ..records import Image, Report
from ..streams.places import short_labels
from .axes import Axis
from .curves import FRAME, SMOOTHED_OVER, Training, training
from .gallery import JUDGED_SHOWN, Gallery, Row
from .headlines import SHARES, by_reward, contest, figures, summary
from .histograms import Scores, distributions
from .html import TEMPLATES, rendered, write_whole
from .meanings import family
from .pivots import ReportData, Sheet, sheets

TEXTS = ("name", "baseline", "reward", "aspect", "data", "by", "group", "selected_by", "mode")
"""Keys of a report that hold text. Files of reports come from elsewhere, so they are made text where they are not."""


def no_remarks(_: Image) -> Sequence[Remark]:
    """The remarks about a picture if there are no judgements."""
    return ()


def write(
    path: str,
    *,
    title: str,
    reports: list[Report],
    rows: Iterable[Row] = (),
    scores: Scores | None = None,
    remarks: Callable[[Image], Sequence[Remark]] = no_remarks,
    judged: Sequence[Row] = (),
    runs: Sequence[str] = (),
    pictures: Pictures | None = None,
) -> int:
    """Write the page completely or not at all. Creates missing folders. Returns the number of missing pictures.

    `rows` holds, for each prompt, the first picture of every source; the base comes first. `scores` are the scores of
    all pictures, and `remarks` says what annotators said of a picture. `judged` has further prompts with judged
    pictures, the best first. `runs` are the folders of training runs. If a picture cannot be opened, its cell shows the
    reason.
    """
    run_labels = short_labels({run: run for run in runs})
    if len(runs) == 1:
        run_labels = {runs[0]: os.path.basename(os.path.abspath(runs[0]))}
    trainings = [training(run, label) for run, label in run_labels.items()]
    facts = as_facts(reports)
    contests = [found for one in facts if "by" not in one and (found := contest(one))]
    prompts = list(rows)
    sources = [source for source, _ in prompts[0]] if prompts else []
    labels = labels_of(facts, [*sources, *(source for by_source in (scores or {}).values() for source in by_source)])
    decided = [
        (one.report["name"], one.report["reward"])
        for one in contests
        if "reward" in one.report and sources and one.report.get("baseline") == sources[0]
    ]
    opener = pictures or Pictures([])
    gallery = Gallery(prompts, sources, decided, labels, opener, remarks)
    places = {place: place for row in judged for place, _ in row}
    judgements = Gallery(judged, [], [], places, opener, remarks)
    tables = sheets(facts, labels)
    spreads = distributions(scores or {}, labels)
    cards, extremes, judged_cards = gallery.spread(), gallery.extremes(), judgements.spread(JUDGED_SHOWN)
    page = rendered(
        "page.html.j2",
        title=title,
        figures=figures(facts, labels),
        sentences=summary(facts, labels, sources, len(prompts)),
        contents=contents(tables, bool(spreads), bool(cards), bool(extremes), bool(judged_cards), trainings),
        sheets=tables,
        contests=by_reward(contests),
        distributions=spreads,
        labels=labels,
        shares=SHARES,
        total=len(prompts),
        rewards=gallery.rewards,
        cards=cards,
        extremes=extremes,
        judged=judged_cards,
        total_judged=len(judged),
        trainings=trainings,
        frame=FRAME,
        unit=Axis(0.0, 1.0),
        smoothed_over=SMOOTHED_OVER,
    )
    write_whole(path, page)
    progress.note(f"the page is {path}")
    if missing := {**gallery.missing, **judgements.missing}:
        name, reason = next(iter(missing.items()))
        total = len(gallery.requested | judgements.requested)
        progress.warn(f"{path}: {len(missing)} of {total} pictures are missing; {name}: {reason}")
    return len(missing)


def as_facts(reports: Iterable[Report]) -> list[ReportData]:
    """The different reports, with text where text belongs."""
    made = [{**one, **{key: str(one.get(key)) for key in TEXTS if key in one}} for one in reports]
    return [*{json.dumps(one, sort_keys=True): one for one in made}.values()]


def labels_of(reports: Sequence[ReportData], sources: Iterable[str]) -> dict[str, str]:
    """Short names for the files of pictures, by their folders, and for the files of pairs."""
    compared, measured = (
        [one[key] for one in reports if family(one["metric"]) in kinds for key in ("name", "baseline") if key in one]
        for kinds in (("win_rate", "elo"), ("images",))
    )
    files = dict.fromkeys(one["data"] for one in reports if "data" in one)
    names = {file: os.path.basename(file.rstrip("/")) or file for file in files}
    if len(set(names.values())) < len(names):
        names = {file: file for file in files}
    pictures = dict.fromkeys((*sources, *compared))
    others = [one for one in dict.fromkeys(measured) if one not in pictures]
    return {**names, **_told_apart(others), **_told_apart(pictures)}


def _told_apart(files: Iterable[str]) -> dict[str, str]:
    """Short names for files: their folders, or the ends of their paths if two files are in one folder."""
    every = [*files]
    found = short_labels({file: os.path.dirname(file) for file in every})
    return short_labels({file: file for file in every}) if any(found[file] == file for file in every) else found


def contents(
    tables: Sequence[Sheet], spreads: bool, cards: bool, extremes: bool, judged: bool, trainings: Sequence[Training]
) -> dict[str, str]:
    """The sections of the page, in their order: the heading of each by the name of its place."""
    return {
        **{_anchor(sheet.key): sheet.family.title for sheet in tables},
        **({"scores": "Distributions of scores"} if spreads else {}),
        **({"changes": "Largest changes"} if extremes else {}),
        **({"pictures": "Pictures side by side"} if cards else {}),
        **({"judged": "Judged pictures"} if judged else {}),
        **({"training": "Training"} if trainings else {}),
        **({"previews": "Previews"} if any(one.previews for one in trainings) else {}),
    }


def _anchor(key: str) -> str:
    """A name of a place on the page. A metric from elsewhere may have any name."""
    return "of-" + "".join(character if character.isascii() and character.isalnum() else "-" for character in key)


TEMPLATES.filters.update(anchor=_anchor)
