"""Describe how annotators judge: levels, ties, position bias, changed preferences."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Annotated

from ...errors import SomeFailed, UserError
from ...judging.preferences import without_replaced
from ...judging.quality import (
    LEVELS,
    KindOfJudgement,
    Quality,
    Series,
    level_of,
    measure_quality,
    on_levels,
    print_tables,
)
from ...judging.suspects import find_suspects, print_suspects, telling_only
from ...options import STDIO, MaxPictures, Roots, Whole, argument
from ...records import Judgement, Report
from ...report.statistics import mean_report, preferred
from ...streams.joins import ConsistencyChecker, once
from ...streams.places import folder_of
from ...streams.reading import located
from ...streams.writing import Replacement
from ._reports import Html, check_page, write, write_page


def judgements(
    files: Annotated[list[str], argument(metavar="FILE...", help="Judgements: JSON Lines files; - is standard input.")],
    out: Whole = STDIO,
    *,
    max_pictures: MaxPictures = 100,
    html: Html = "",
    root: Roots = None,
) -> None:
    """Describe how annotators judge: levels, ties, position bias, changed preferences.

    Prints a table for each annotator and mode, with a row for each aspect. "judged" is the number of judgements with
    scores. "refused" is the share of refused judgements. "1 to 5, in %" is the share of each level among the scores.
    "ties" is the share of equal scores, over all pairs of pictures that were judged together. "slots" is the score of
    the picture that was shown first minus the score of the picture that was shown last, as a mean over the judgements.
    "flips" is the share of changed preferences, over all pairs of pictures that were judged again. A good annotator
    has few ties, few flips, and a value near 0 for slots.

    A picture can contain writing that tells the annotator how to judge it. A second table lists the pictures to look
    at: those with the top level on every aspect and far above the other pictures of their prompt, and those with a
    reason that speaks of instructions or scores. Such a picture may also be honest. merge uses its judgements unless
    you remove them.

    The output has a report for each share, with an interval from a bootstrap over prompts. Its `metric` is `refused`,
    `failed`, `level`, `ties`, `first_preferred`, `flips` or `suspicious`. `first_preferred` is how often the picture
    that was shown first scores higher than the picture that was shown last; a tie counts 0.5. `suspicious` is the share
    of pictures in the second table.

    The page of --html also shows pictures of some prompts, with their scores and the annotator's reasons. A picture
    that cannot be opened is missing there; a warning names it, and the exit code is 3.

    If an annotator judged the same pictures again in the same order and pass, only the last judgement counts.

    Examples:

        vpctl eval judgements judgements.jsonl --html judgements.html

        vpctl eval judgements judgements.jsonl 2> /dev/null
            | jq -r 'select(.metric == "flips") | [.aspect, .value] | @tsv'
    """
    check_page(html, [*files, out])
    once(files)
    joined = ConsistencyChecker(max_pictures=max_pictures, parts=False)
    records: Iterable[Judgement] = joined.judgements(chain.from_iterable(located(one, Judgement) for one in files))
    shown: list[Judgement] = []
    if html:  # only the page needs all reasons in the memory
        records = shown = [*records]
    kept = list(without_replaced(map(telling_only, records), Counter(), keep={"rationales"}))
    found = measure_quality(kept)
    suspects, flags = find_suspects(kept)
    if not found:
        raise UserError(f"{files[0]}: there are no judgements")
    measured = [*reports(found), *suspicious(flags)]
    with Replacement(out, files) as sink:
        write(measured, sink)
    print_tables(found)
    print_suspects(suspects)
    title, folders = "Quality of judgements", [*map(folder_of, files), *(root or [])]
    if write_page(html, title=title, reports=measured, judgements=shown, with_judged=True, folders=folders):
        raise SomeFailed


def reports(found: Mapping[KindOfJudgement, Quality]) -> Iterator[Report]:
    """A report for each metric of each kind of judgement. A metric without any value has no report."""
    for (annotator, aspect, mode), quality in found.items():
        what = {"name": annotator, "aspect": aspect, "mode": mode}
        shares: list[tuple[Series, dict[str, object]]] = [
            (quality.refused, {"metric": "refused"}),
            (quality.failed, {"metric": "failed"}),
            (quality.ties, {"metric": "ties"}),
            (_first_preferred(quality.slots), {"metric": "first_preferred", "difference": quality.slots.mean}),
            (quality.flips, {"metric": "flips"}),
        ]
        if on_levels(quality):
            shares += [(_at(level, quality.scores), {"metric": "level", "level": level}) for level in LEVELS]
        for series, keys in shares:
            if series.values:
                yield mean_report(series.values, series.prompts, **what, **keys)


def suspicious(flags: Mapping[tuple[str, str], Mapping[str, list[bool]]]) -> Iterator[Report]:
    """A report for each annotator and mode: the share of the pictures that may contain instructions."""
    for (annotator, mode), by_prompt in flags.items():
        values = [float(flag) for some in by_prompt.values() for flag in some]
        prompts = [prompt for prompt, some in by_prompt.items() for _ in some]
        yield mean_report(values, prompts, name=annotator, metric="suspicious", mode=mode)


def _first_preferred(slots: Series) -> Series:
    return Series([preferred(difference, 0.0) for difference in slots.values], slots.prompts)


def _at(level: int, scores: Series) -> Series:
    return Series([float(level_of(score) == level) for score in scores.values], scores.prompts)
