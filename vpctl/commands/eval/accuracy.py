"""Measure how often a reward prefers the chosen picture."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated

from ... import plugins, progress
from ...errors import UserError
from ...images.folders import OF_A_PICTURE, Folders
from ...options import STDIO, BatchSize, Device, Pairs, Roots, Whole, option, plugin
from ...records import Pair, Report, listing, prompt_key
from ...report.accuracy import (
    DEFINITIONS,
    HEADLINE,
    TIE,
    Accuracy,
    LabelledPair,
    difference_report,
    in_definitions,
    reports_of,
)
from ...streams.joins import ConsistencyChecker
from ...streams.places import folder_of, is_stream
from ...streams.reading import located
from ...streams.writing import Replacement
from ._reports import FailUnder, Html, check_page, gate, publish, write_page


def accuracy(
    pairs: Pairs,
    out: Whole = STDIO,
    *,
    reward: Annotated[
        list[str] | None,
        plugin(
            "reward",
            "--reward",
            "-r",
            group="Model",
            help="Reward to measure; repeatable.",
            show_default="shapes, the pixel judge",
        ),
    ] = None,
    split: Annotated[
        str,
        option(
            metavar="NAME",
            offered=("train", "test"),
            group="Input",
            help="Use only the pairs of this part of the data, such as test.",
            show_default="all pairs",
        ),
    ] = "",
    definition: Annotated[
        list[str] | None,
        option(
            choices=(*DEFINITIONS, "all"),
            group="Output",
            help="Also report this definition of accuracy, to compare with published ones; repeatable.",
            show_default="none",
        ),
    ] = None,
    tie_threshold: Annotated[
        float,
        option(
            metavar="T",
            min=0,
            max=1,
            group="Output",
            help="For --definition tie-aware: largest gap that is a predicted tie. The gap is that of two "
            "probabilities: that the first picture is preferred, and that the second one is. The first probability is "
            "1 / (1 + exp(-d)), where d is the score of the first picture minus that of the second. The second "
            "probability is 1 minus the first.",
        ),
    ] = 0.0,
    baseline: Annotated[
        str,
        plugin(
            "reward",
            "--baseline",
            group="Model",
            help="Reward to compare the others with: also report by how much the accuracy of each differs from that of "
            "this one, on the same pairs.",
            show_default="none",
        ),
    ] = "",
    fail_under: FailUnder = None,
    html: Html = "",
    root: Roots = None,
    batch: BatchSize = 32,
    device: Device = "auto",
) -> None:
    """Measure how often a reward prefers the chosen picture.

    Each pair has a chosen picture, which is the preferred one, and a rejected picture. A pair counts 1 if the chosen
    picture scores higher, 0.5 if both score the same, and 0 if the chosen picture scores lower. The accuracy is the
    mean over the pairs. Pairs with a margin of 0 are ties and left out. The interval comes from a bootstrap over
    prompts, and not over pairs, because the pairs of one prompt share their pictures. The usual interval of a bootstrap
    is too narrow for few prompts. So it is made wider, as described by Hesterberg (2015, arXiv 1411.5279, section 5.3).
    A bootstrap knows only the prompts that it has. So with fewer than 10 prompts, the interval is at least as wide as
    Wilson's score interval for as many draws as there are prompts, and a note says how many prompts there are. All
    intervals of eval are computed in this way.

    Papers count ties in other ways, so published accuracies differ by several points. With --definition, there are
    more reports. `pooled` counts 0 if both pictures score the same; ImageReward, MPS and HPSv3 use it. `per-prompt` is
    the mean of `pooled` over prompts; HPSv2 uses it on the labels of ImageReward. `ties-count` counts 1 if both
    pictures score the same, or if the pair is a tie, and is a mean over prompts; HPSv2 uses it on HPDv2. `tie-aware`
    lets a reward predict ties; PickScore uses it. If two scores are nearly equal, the reward predicts a tie. A
    predicted tie counts 1 if the pair is a tie, and 0.5 if it is not. A tie that is not predicted counts 0.5. The
    `chance` in these reports is what guessing gives.

    With --baseline, the interval of the difference is computed from the pairs of both rewards together. It is usually
    narrower than the two intervals suggest, because pairs that are hard for one reward are often hard for the other.

    The gate of --fail-under looks only at the reports of the metric `accuracy`, and only at those of --reward.

    Examples:

        vpctl eval accuracy pairs.jsonl --reward vp:vp-score/ --split test
            --fail-under 0.65

        vpctl eval accuracy pairs.jsonl --reward vp:vp-score/
            --baseline pickscore --definition all
    """
    specs = [plugins.check("reward", spec) for spec in reward or ["shapes"]]
    if baseline and {plugins.check("reward", baseline)} >= {*specs}:
        raise UserError(f"--baseline {baseline}: there is no other reward to compare it with; name one with --reward")
    check_page(html, [pairs, out])
    joined = ConsistencyChecker().pairs(located(pairs, Pair))
    everything = [*joined]
    ours = [pair for pair in everything if not split or pair.get("split") == split]
    untied = [pair for pair in ours if pair["margin"]]
    wanted = ours if definition else untied
    if ties := len(ours) - len(untied):
        where = " of all definitions but ties-count and tie-aware" if definition else ""
        progress.note(f"{progress.plural(ties, 'tie')} left out{where}")
    if not untied:
        raise UserError(f"{pairs}: {_why_none(everything, split)}")
    sides = chain.from_iterable((pair["chosen_file_name"], pair["rejected_file_name"]) for pair in wanted)
    prompts = chain.from_iterable((pair["prompt"],) * 2 for pair in wanted)
    asked = dict.fromkeys(zip(prompts, sides, strict=True))
    Folders([folder_of(pairs), *(root or [])], piped=is_stream(pairs)).check(path for _, path in asked)
    with Replacement(out, [pairs]) as sink:
        from ...images.pictures import Pictures
        from ...models.scoring import load_batches

        records = [{"prompt": prompt, "file_name": path} for prompt, path in asked]
        rewards = {
            spec: plugins.load("reward", spec, device=device)
            for spec in dict.fromkeys([*specs, *filter(None, [baseline])])
        }
        pictures = Pictures([folder_of(pairs), *(root or [])])
        scores: dict[tuple[str, str], dict[str, float]] = {}
        with progress.Counter("pictures", len(records)) as counter:
            for some in load_batches(records, pictures, rewards, most=batch):
                found, failures = some.scored(rewards)
                if failures:
                    raise UserError(f"{failures[0]}; {OF_A_PICTURE}")
                for record, by_reward in found:
                    scores[record["prompt"], record["file_name"]] = by_reward
                counter(some.size)
        accuracies = {
            name: in_definitions([_labelled(pair, name, scores) for pair in wanted], definition or [], tie_threshold)
            for name in rewards
        }
        reports = [*_reports(accuracies, baseline, tie_threshold)]
        against = f"; differences are from {baseline}" if baseline else ""
        publish(reports, sink, title=f"Accuracy on {progress.plural(len(untied), 'pair')}{against}")
    write_page(html, title="Accuracy of rewards", reports=reports)
    gate([one for one in reports if one["metric"] == HEADLINE and one["name"] in specs], fail_under)


def _why_none(pairs: Sequence[Pair], split: str) -> str:
    """Why no pair is left to measure on, and the way out."""
    found = sorted({pair["split"] for pair in pairs if "split" in pair})
    if not pairs or not split or split in found:
        of = f" of split {split!r}" if pairs and split else ""
        return f"all pairs{of} are ties, which prefer no picture" if pairs else "there are no pairs"
    if found:
        return f"there are no pairs of split {split!r}; there are pairs of {listing(map(repr, found))}"
    return (
        f"there are no pairs of split {split!r}, and no pair has a split; merge --split "
        "train:0.8,validation:0.1,test:0.1 makes splits"
    )


def _reports(found: Mapping[str, Mapping[str, Accuracy]], baseline: str, threshold: float) -> Iterator[Report]:
    """For each reward, its accuracies, then their differences from those of the baseline, if there is one."""
    for name, accuracies in found.items():
        yield from reports_of(accuracies, threshold, name=name)
        if baseline and name != baseline:
            for metric, one in accuracies.items():
                other = found[baseline][metric]
                yield difference_report(one, other, name=name, baseline=baseline, metric=f"{metric}_difference")


def _labelled(pair: Pair, reward: str, scores: Mapping[tuple[str, str], Mapping[str, float]]) -> LabelledPair:
    """A pair with its scores by a reward. Its label prefers the first picture, the chosen one, unless it is a tie."""
    chosen, rejected = (
        scores[pair["prompt"], pair[side]][reward] for side in ("chosen_file_name", "rejected_file_name")
    )
    return LabelledPair(prompt_key(pair), 1.0 if pair["margin"] else TIE, chosen, rejected)
