"""Measure how often annotators agree on which of two pictures is better."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain, combinations
from typing import Annotated

from ...errors import UserError
from ...judging.preferences import Preferences, Scale, without_replaced
from ...options import STDIO, MaxPictures, Whole, argument
from ...records import Judgement, Report
from ...report.statistics import mean_report, preferred
from ...streams.joins import ConsistencyChecker, once
from ...streams.reading import located
from ...streams.writing import Replacement
from ._reports import FailUnder, Html, check_page, gate, publish, write_page

Judged = dict[tuple[str, str], Preferences]
"""The judgements of one annotator, by prompt and aspect."""
TIE = 0.5
"""The side of a pair of pictures that are equally good; 1 is the first picture, 0 the second."""


def agreement(
    judgements: Annotated[
        list[str],
        argument(
            metavar="FILE...",
            help="Judgements of at least two annotators: JSON Lines files; - is standard input.",
        ),
    ],
    out: Whole = STDIO,
    *,
    max_pictures: MaxPictures = 100,
    fail_under: FailUnder = None,
    html: Html = "",
) -> None:
    """Measure how often annotators agree on which of two pictures is better.

    Compares each annotator with every other annotator; people can be annotators, too. Two pictures count if both
    annotators judged them on the same aspect and neither gave a tie. The interval comes from a bootstrap over prompts.
    In public data sets, two people agree on 65 to 78 percent of the pairs. Do not expect more of a model.

    If an annotator judged the same pictures again in the same order and pass, only the last judgement counts.

    Examples:

        vpctl eval agreement judgements.jsonl human.jsonl
    """
    check_page(html, [*judgements, out])
    once(judgements)
    joined = ConsistencyChecker(max_pictures=max_pictures, parts=False)
    records = joined.judgements(chain.from_iterable(located(source, Judgement) for source in judgements))
    said: dict[str, Judged] = defaultdict(lambda: defaultdict(Preferences))
    for judgement in without_replaced(records, Counter()):
        if "refused" not in judgement and "failed" not in judgement:
            place = said[judgement["annotator"]][judgement["prompt_id"], judgement["aspect"]]
            place.add(judgement, Scale(0, 1))
    if len(said) < 2:
        raise UserError(f"agreement needs at least two annotators; found: {', '.join(said) or 'none'}")
    reports = [
        report
        for one, other in combinations(said, 2)
        for report in agreements(said[one], said[other], name=one, baseline=other)
    ]
    if not reports:
        raise UserError(_nothing_to_compare(said))
    with Replacement(out, judgements) as sink:
        publish(reports, sink, title="Agreement on pairs")
    write_page(html, title="Agreement of annotators", reports=reports)
    gate(reports, fail_under)


def agreements(
    one: Judged,
    other: Judged,
    *,
    name: str,
    baseline: str,
) -> Iterator[Report]:
    """Agreement of two annotators on each aspect that both judged; `ties` counts the pairs that one of them tied."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    ties: Counter[str] = Counter()
    for prompt, aspect, sides in _common_pairs(one, other):
        if TIE in sides:
            ties[aspect] += 1
        else:
            found[aspect].append((float(sides[0] == sides[1]), prompt))
    for aspect in sorted(found):
        values, clusters = zip(*found[aspect], strict=True)
        yield mean_report(
            values, clusters, name=name, baseline=baseline, metric="agreement", aspect=aspect, ties=ties[aspect]
        )


def _common_pairs(one: Judged, other: Judged) -> Iterator[tuple[str, str, tuple[float, float]]]:
    """Prompt, aspect and the sides of both annotators, for every two pictures that both have compared."""
    for prompt, aspect in one.keys() & other.keys():
        mine, theirs = one[prompt, aspect], other[prompt, aspect]
        for first, second in combinations(sorted(mine.pictures() & theirs.pictures()), 2):
            margins = mine.difference(first, second), theirs.difference(first, second)
            if None not in margins:
                yield prompt, aspect, (preferred(margins[0] or 0.0, 0.0), preferred(margins[1] or 0.0, 0.0))


def _nothing_to_compare(said: Mapping[str, Judged]) -> str:
    """Why no pair of pictures counts for any two annotators, for a message."""
    common, ties = 0, Counter[str]()
    for names in combinations(said, 2):
        for _, _, sides in _common_pairs(*(said[name] for name in names)):
            common += 1
            ties.update(name for name, side in zip(names, sides, strict=True) if side == TIE)
    if not common:
        return "no two annotators judged the same two pictures on the same aspect"
    always = [name for name in said if ties[name] == common]
    return (
        f"all common pairs of pictures are ties for {' and '.join(always) or 'one of their annotators'}; "
        "add judgements that prefer one picture"
    )
