"""Measure how often annotators agree on which of two pictures is better."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING, Annotated

from ...configs import GateConfig
from ...errors import UserError
from ...judging.preferences import Preferences, Scale, without_replaced
from ...options import STDIO, MaxPictures, Whole, argument, options
from ...records import Judgement, Report
from ...report.statistics import as_report, mean_report
from ...report.tables import print_agreement, warn_of_few
from ...streams.joins import ConsistencyChecker, once
from ...streams.reading import located
from ...streams.writing import Replacement
from ._reports import Html, check_gates, check_page, decide, write, write_page

if TYPE_CHECKING:
    from ...report.agreement import SidedPair

AGREEMENT = "agreement"
OF_TWO = (AGREEMENT, "agreement_with_ties", "cohens_kappa", "spearman", "kendall")
OF_ALL = ("fleiss_kappa", "krippendorff_alpha")
OF_ONE = ("self_consistency", "slot_preferred")


class AnnotatorJudgements:
    """What one annotator said: all together, by pass, and each judgement that has scores."""

    def __init__(self) -> None:
        self.judged: dict[tuple[str, str], Preferences] = defaultdict(Preferences)
        self.passes: dict[int, dict[tuple[str, str], Preferences]] = defaultdict(lambda: defaultdict(Preferences))
        self.judgements: list[Judgement] = []

    def add(self, judgement: Judgement) -> None:
        """Add one judgement with scores."""
        place = judgement["prompt_id"], judgement["aspect"]
        self.judged[place].add(judgement, Scale(0, 1))
        self.passes[judgement.get("repeat", 1)][place].add(judgement, Scale(0, 1))
        self.judgements.append(judgement)


@options(GateConfig, "gates")
def agreement(
    judgements: Annotated[
        list[str],
        argument(
            metavar="FILE...",
            help="Judgements of annotators: JSON Lines files, or data sets as FORMAT:PATH; - is standard input.",
        ),
    ],
    out: Whole = STDIO,
    *,
    max_pictures: MaxPictures = 100,
    gates: GateConfig,
    html: Html = "",
) -> None:
    """Measure how often annotators agree on which of two pictures is better.

    Compares each annotator with every other annotator, on each aspect that both judged; people can be annotators, too.
    Two pictures count if both annotators judged them. `agreement` is the share of pairs on which both prefer the same
    picture; pairs that one of them ties do not count. In public data sets, two people agree on 65 to 78 percent of
    these pairs. Do not expect more of a model. `agreement_with_ties` counts all pairs: both must prefer the same
    picture, or both tie. `cohens_kappa` is the same without what chance gives: 0 is chance, 1 is perfect.

    If two annotators judged several aspects, or different ones, there is also the agreement on the `mean of aspects`:
    each one's scores are averaged over its own aspects. So a person who answered one question is compared with a model
    that judged four aspects.

    `spearman` and `kendall`, which is tau-b, are the rank correlations of the scores of single pictures, from -1 to 1.

    For an aspect that three annotators or more judged, `fleiss_kappa` is the kappa of all, on the pairs that all of
    them judged. `krippendorff_alpha` is the agreement of all on the scores, as numbers; they need not have judged the
    same pictures. Scores of different scales have a low alpha.

    Two more metrics are of one annotator. `self_consistency` is the agreement of its passes with each other, ties left
    out. `slot_preferred` is how often the picture in the first place, the second, and so on, is preferred to another
    one; a tie counts 0.5. A good annotator has values near 0.5, because the order is random.

    The intervals come from a bootstrap over prompts; those of the correlations from a jackknife over prompts. If an
    annotator judged the same pictures again in the same order and pass, only the last judgement counts.

    Examples:

        vpctl eval agreement judgements.jsonl human.jsonl

        vpctl eval agreement judgements.jsonl human.jsonl
            --fail-under cohens_kappa=0.2
    """
    wanted = check_gates(gates, [*OF_TWO, *OF_ALL, *OF_ONE], [*judgements, out, html])
    check_page(html, [*judgements, out])
    once(judgements)
    joined = ConsistencyChecker(max_pictures=max_pictures, parts=False)
    records = joined.judgements(chain.from_iterable(located(source, Judgement) for source in judgements))
    said: dict[str, AnnotatorJudgements] = defaultdict(AnnotatorJudgements)
    for judgement in without_replaced(records, Counter()):
        if "refused" not in judgement and "failed" not in judgement:
            said[judgement["annotator"]].add(judgement)
    reports = [
        *chain.from_iterable(_of_two(said, *two) for two in combinations(said, 2)),
        *(_of_all(said) if len(said) > 2 else ()),
    ]
    alone = [*chain.from_iterable(_of_one(name, one) for name, one in said.items())]
    if not reports and not any(one["metric"] == "self_consistency" for one in alone):
        raise UserError(_nothing_to_compare(said))
    with Replacement(out, judgements) as sink:
        write([*reports, *alone], sink)
    print_agreement([*reports, *alone])
    warn_of_few(reports)
    write_page(html, title="Agreement of annotators", reports=[*reports, *alone])
    decide(wanted, [*reports, *alone], title="Agreement of annotators", gated=[*reports, *alone])


def _of_two(said: Mapping[str, AnnotatorJudgements], name: str, baseline: str) -> Iterator[Report]:
    """The agreement of two annotators on each aspect that both judged; `ties` counts the pairs that one tied."""
    from ...report.agreement import TIE, common_pairs, common_scores, correlation, kappa, over_aspects

    both = [said[name].judged, said[baseline].judged]
    pairs: dict[str, list[SidedPair]] = defaultdict(list)
    for one in common_pairs(both):
        pairs[one.aspect].append(one)
    if len({aspect for judged in both for _, aspect in judged}) > 1:
        for one in common_pairs([over_aspects(judged) for judged in both]):
            pairs[one.aspect].append(one)
    for aspect in sorted(pairs):
        keys = {"name": name, "baseline": baseline, "aspect": aspect}
        all_of = pairs[aspect]
        untied = [one for one in all_of if TIE not in one.sides]
        ties = len(all_of) - len(untied)
        if untied:
            yield _share(untied, **keys, metric=AGREEMENT, ties=ties)
        yield _share(all_of, **keys, metric="agreement_with_ties", ties=ties)
        yield as_report(kappa(all_of), **keys, metric="cohens_kappa")
        scored = common_scores(both, aspect)
        for method in ("spearman", "kendall"):
            if found := correlation(scored, method):
                yield as_report(found, **keys, metric=method)


def _share(pairs: "Sequence[SidedPair]", **keys: object) -> Report:
    """The share of the pairs on which both annotators say the same."""
    return mean_report([float(one.sides[0] == one.sides[1]) for one in pairs], [one.prompt for one in pairs], **keys)


def _of_all(said: Mapping[str, AnnotatorJudgements]) -> Iterator[Report]:
    """The agreement of all annotators on each aspect."""
    from ...report.agreement import alpha, common_pairs, common_scores, kappa

    everyone = [one.judged for one in said.values()]
    pairs: dict[str, list[SidedPair]] = defaultdict(list)
    for compared in common_pairs(everyone):
        pairs[compared.aspect].append(compared)
    for aspect in sorted({aspect for judged in everyone for _, aspect in judged}):
        number = sum(any(one == aspect for _, one in judged) for judged in everyone)
        if number < 3:
            continue
        of = "" if number == len(said) else f" of {len(said)}"
        keys = {"name": f"{number}{of} annotators", "aspect": aspect}
        if aspect in pairs:
            yield as_report(kappa(pairs[aspect]), **keys, metric="fleiss_kappa")
        if found := alpha(common_scores(everyone, aspect)):
            yield as_report(found, **keys, metric="krippendorff_alpha")


def _of_one(name: str, annotator: AnnotatorJudgements) -> Iterator[Report]:
    """How far the passes of an annotator agree, and how often the picture in each slot is preferred."""
    from ...report.agreement import TIE, Slot, consistency, slots

    pairs: dict[str, list[SidedPair]] = defaultdict(list)
    for one in consistency([*annotator.passes.values()]):
        if TIE not in one.sides:
            pairs[one.aspect].append(one)
    by_aspect: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in annotator.judgements:
        by_aspect[judgement["aspect"]].append(judgement)
    for aspect, some in sorted(by_aspect.items()):
        keys = {"name": name, "aspect": aspect}
        if pairs[aspect]:
            yield _share(pairs[aspect], **keys, metric="self_consistency")
        by_slot: dict[int, list[Slot]] = defaultdict(list)
        for found in slots(some):
            by_slot[found.slot].append(found)
        for slot, shown in sorted(by_slot.items()):
            values, prompts = [one.outcome for one in shown], [one.prompt for one in shown]
            yield mean_report(values, prompts, **keys, metric="slot_preferred", slot=slot)


def _nothing_to_compare(said: Mapping[str, AnnotatorJudgements]) -> str:
    """Why there is nothing to measure, for a message."""
    if len(said) < 2:
        return f"agreement needs at least two annotators, or one with --passes 2; found: {', '.join(said) or 'none'}"
    return "no two annotators judged the same two pictures"
