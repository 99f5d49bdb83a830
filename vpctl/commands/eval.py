"""Measure rewards, tuned models and annotators."""

import contextlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Annotated, cast

import typer

from .. import plugins, progress
from ..errors import OutputClosed, UserError
from ..images.folders import Folders
from ..judging.preferences import Said, Scale, latest
from ..options import STDIO, BatchSize, Device, Input, MaxPictures, Roots, Whole, argument, option, plugin
from ..records import Image, Judgement, Pair, Report, prompt_key
from ..streams.joins import Joined, once
from ..streams.places import folder_of, short_labels
from ..streams.reading import located, read
from ..streams.writing import Replacement

SOME_FAILED = 3
GATE_NOT_MET = 4
NAMES = ("name", "baseline", "reward", "aspect")
"""Keys of a report that say what it is of."""

FailUnder = Annotated[
    float | None,
    option(
        metavar="X",
        min=0,
        max=1,
        help="A gate for CI: exit 4 unless the lower end of every interval is at least X.",
        show_default="no gate",
    ),
]
Html = Annotated[str, option("--html", metavar="FILE", help="Also write a self-contained page to look at.")]


def preferred(first: float, second: float) -> float:
    """1 if the first is higher, 0 if it is lower, 0.5 if they are the same but for what a batch's size may change."""
    if math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-6):
        return 0.5
    return 0.5 + 0.5 * ((first > second) - (first < second))


def reported(values: Sequence[float], clusters: Sequence[str], **keys: object) -> Report:
    """The report of a mean with its interval, by bootstrap over the clusters, which are prompts."""
    from ..report.intervals import CONFIDENCE, bootstrap

    value, low, high, n = bootstrap(values, clusters)
    rest = {"value": value, "low": low, "high": high, "n": n, "confidence": CONFIDENCE}
    return cast(Report, {**keys, **rest})


def accuracy(
    pairs: Input,
    out: Whole = STDIO,
    *,
    reward: Annotated[
        list[str] | None,
        plugin("reward", "--reward", "-r", help="What to measure; repeatable.", show_default="shapes, the pixel judge"),
    ] = None,
    split: Annotated[
        str,
        option(
            metavar="NAME", offered=("train", "test"), help="Only the pairs of this part of the data, such as test."
        ),
    ] = "",
    fail_under: FailUnder = None,
    html: Html = "",
    root: Roots = None,
    batch: BatchSize = 32,
    device: Device = "auto",
) -> None:
    """How often a reward prefers what was preferred.

    Every pair counts 1 if the chosen picture scores higher, 0.5 if both score the same, 0 if it scores lower. The
    interval is a bootstrap over prompts, since the pairs of one prompt share their pictures.

    Examples:

        vpctl eval accuracy pairs.jsonl --reward vp:vp-score/ --split test
            --fail-under 0.65
    """
    specs = [plugins.check("reward", spec) for spec in reward or ["shapes"]]
    check_page(html, [pairs, out])
    joined = Joined().pairs(located(pairs, Pair))
    wanted = [pair for pair in joined if not split or pair.get("split") == split]
    if not wanted:
        raise UserError(f"{pairs}: there are no pairs" + (f" of split {split!r}" if split else ""))
    sides = chain.from_iterable((pair["chosen_file_name"], pair["rejected_file_name"]) for pair in wanted)
    prompts = chain.from_iterable((pair["prompt"],) * 2 for pair in wanted)
    asked = dict.fromkeys(zip(prompts, sides, strict=True))
    Folders([folder_of(pairs), *(root or [])]).check(path for _, path in asked)
    with Replacement(out, [pairs]) as sink:
        from ..images.pictures import Pictures
        from ..models.scoring import scored

        records = [{"prompt": prompt, "file_name": path} for prompt, path in asked]
        rewards = {spec: plugins.load("reward", spec, device=device) for spec in dict.fromkeys(specs)}
        pictures = Pictures([folder_of(pairs), *(root or [])])
        results = scored(records, rewards, batch=batch, open_picture=pictures.open)
        scores = {}
        for record, by_reward, failure in progress.track(results, "pictures", total=len(records)):
            if failure:
                raise UserError(str(failure))
            scores[record["prompt"], record["file_name"]] = by_reward
        reports = []
        for name in rewards:
            values = [
                preferred(
                    scores[pair["prompt"], pair["chosen_file_name"]][name],
                    scores[pair["prompt"], pair["rejected_file_name"]][name],
                )
                for pair in wanted
            ]
            reports.append(reported(values, [*map(prompt_key, wanted)], name=name, metric="accuracy"))
        publish(reports, sink, title=f"Accuracy on {progress.plural(len(wanted), 'pair')}")
    write_page(html, title="Accuracy of rewards", reports=reports)
    gate(reports, fail_under)


def compare(
    base: Annotated[str, argument(metavar="BASE", help="Scored pictures of the model compared with.")],
    tuned: Annotated[list[str], argument(metavar="TUNED...", help="Scored pictures of tuned models, a file each.")],
    out: Whole = STDIO,
    *,
    reward: Annotated[
        list[str] | None,
        option(
            "--reward", "-r", metavar="NAME", help="Which scores decide; repeatable.", show_default="all they share"
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        option(metavar="DIR", help="Show this training run's curves on the page of --html; repeatable."),
    ] = None,
    report: Annotated[
        list[str] | None, option(metavar="FILE", help="Show these reports on the page of --html too; repeatable.")
    ] = None,
    fail_under: FailUnder = None,
    html: Html = "",
    root: Roots = None,
) -> None:
    """How often a tuned model's pictures beat another's on the same prompts.

    Reads what score wrote. Of every prompt the pictures of one seed meet, and where the two have no seed in common,
    the first meets the first, the second the second, and so on. Prompts are matched by their prompt_id, which polish
    keeps: pictures of raw prompts meet those of polished ones. A win counts 1, a tie 0.5; the interval is a bootstrap
    over prompts.

    Examples:

        vpctl eval compare base/scored.jsonl ppo/scored.jsonl dpo/scored.jsonl
            --fail-under 0.5

        vpctl eval compare base/scored.jsonl dpo/scored.jsonl --run dpo-lora/
            --html report.html
    """
    for name, shown in (("--run", run), ("--report", report)):
        if shown and not html:
            raise UserError(f"{name} {shown[0]}: is shown on the page; say with --html where that goes")
    check_page(html, [base, *tuned, *(report or []), out], runs=run or [])
    once(tuned)
    sides = {source: by_prompt(Joined(parts=False).images(located(source, Image))) for source in (base, *tuned)}
    for source, images in sides.items():
        if not images:
            raise UserError(f"{source}: there are no pictures")
    rewards = reward or shared_rewards(sides)
    reports = []
    for source in tuned:
        if not sides[base].keys() & sides[source].keys():
            raise UserError(f"{source}: none of its prompts is in {base}")
        warn_of_the_rest(sides[base], sides[source], source, base)
        for name in rewards:
            reports.append(compared(sides[base], sides[source], name, source, base))
    earlier = [one for source in report or [] for one in read(source, Report)]
    with Replacement(out, [base, *tuned, *(report or [])]) as sink:
        labels = short_labels({source: os.path.dirname(source) for source in sides})
        publish(reports, sink, title=f"Against {labels[base]}", labels=labels)
    missing = write_page(
        html,
        title="Tuned models compared",
        reports=[*reports, *earlier],
        rows=side_by_side(sides),
        runs=run or [],
        folders=[*map(folder_of, sides), *(root or [])],
    )
    gate(reports, fail_under)
    if missing:
        raise typer.Exit(SOME_FAILED)


def by_prompt(images: Iterable[Image]) -> dict[str, list[Image]]:
    """Pictures by prompt, in their order."""
    prompts: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        prompts[image["prompt_id"]].append(image)
    return dict(prompts)


def shared_rewards(sides: dict[str, dict[str, list[Image]]]) -> list[str]:
    """The rewards every picture has a score of, in the order of the first."""
    every = [image.get("scores", {}) for prompts in sides.values() for images in prompts.values() for image in images]
    shared = [name for name in every[0] if all(name in scores for scores in every)]
    if not shared:
        raise UserError("the pictures share no score; run vpctl score with the same --reward on all of them first")
    return shared


def compared(
    base: dict[str, list[Image]], tuned: dict[str, list[Image]], reward: str, source: str, against: str
) -> Report:
    """Win rate of `tuned` over `base` by one reward, with its wins, ties and losses, and the mean scores of both."""
    values, clusters = [], []
    totals: Counter[str] = Counter()
    for prompt in (prompt for prompt in base if prompt in tuned):
        for one, other in matched(tuned[prompt], base[prompt]):
            new, old = _score(one, reward, source), _score(other, reward, against)
            values.append(preferred(new, old))
            clusters.append(prompt)
            totals.update({"mean": new, "baseline_mean": old})
    if not values:
        raise UserError(f"{source}: none of its pictures has a counterpart in {against}")
    outcomes = {"wins": values.count(1.0), "ties": values.count(0.5), "losses": values.count(0.0)}
    means = {name: total / len(values) for name, total in totals.items()}
    return reported(
        values, clusters, name=source, baseline=against, metric="win_rate", reward=reward, **outcomes, **means
    )


def warn_of_the_rest(base: dict[str, list[Image]], tuned: dict[str, list[Image]], source: str, against: str) -> None:
    """Warn of prompts that only one side has, and of pictures without a counterpart; they are left out."""
    shared = base.keys() & tuned.keys()
    if rest := len(base.keys() ^ tuned.keys()):
        both = progress.plural(len(shared), "prompt")
        progress.warn(f"{source}: {both} also in {against}; {rest} in one of the two files alone and left out")
    pairs = sum(1 for prompt in shared for _ in matched(tuned[prompt], base[prompt]))
    if alone := sum(len(base[prompt]) + len(tuned[prompt]) for prompt in shared) - 2 * pairs:
        pictures = progress.plural(alone, "picture")
        progress.warn(f"{source}: {pictures}, of these or of {against}, left out: no counterpart in the other file")


def matched(ones: list[Image], others: list[Image]) -> Iterator[tuple[Image, Image]]:
    """The pictures of a prompt that meet: those of one seed, or if no seed is on both sides, those of one place."""
    by_seed = {other["seed"]: other for other in others}
    seeds = {one["seed"] for one in ones}
    if len(seeds) == len(ones) and len(by_seed) == len(others) and seeds & by_seed.keys():
        return ((one, by_seed[one["seed"]]) for one in ones if one["seed"] in by_seed)
    return zip(ones, others, strict=True) if len(ones) == len(others) else iter(())


def _score(image: Image, reward: str, source: str) -> float:
    scores = image.get("scores", {})
    if reward not in scores:
        has = ", ".join(scores) or "no score"
        raise UserError(f"{source}: {image['image_id']} has no score of {reward!r}; it has {has}")
    return scores[reward]


def side_by_side(sides: dict[str, dict[str, list[Image]]]) -> Iterator[list[tuple[str, Image]]]:
    """For each prompt that all have, the first picture of each, with its source."""
    shared = set.intersection(*(set(prompts) for prompts in sides.values()))
    first = next(iter(sides.values()))
    for prompt in first:
        if prompt in shared:
            yield [(source, prompts[prompt][0]) for source, prompts in sides.items()]


def agreement(
    judgements: Annotated[
        list[str], argument(metavar="FILE...", help="Judgements of at least two annotators, people among them or not.")
    ],
    out: Whole = STDIO,
    *,
    max_pictures: MaxPictures = 100,
    fail_under: FailUnder = None,
    html: Html = "",
) -> None:
    """How often annotators agree on which of two pictures is better.

    Compares every two annotators on the pairs of pictures that both judged on the same aspect and that neither held
    equal. The interval is a bootstrap over prompts. Single people agree with one another on 65 to 78 percent of pairs
    in the public data sets, so that no more can be asked of a model.

    Examples:

        vpctl eval agreement judgements.jsonl human.jsonl
    """
    check_page(html, [*judgements, out])
    once(judgements)
    joined = Joined(max_pictures=max_pictures, parts=False)
    records = joined.judgements(chain.from_iterable(located(source, Judgement) for source in judgements))
    said: dict[str, dict[tuple[str, str], Said]] = defaultdict(lambda: defaultdict(Said))
    for judgement in latest(records, Counter()):
        if "refused" not in judgement and "failed" not in judgement:
            place = said[judgement["annotator"]][judgement["prompt_id"], judgement["aspect"]]
            place.add(judgement, Scale(0, 1))
    if len(said) < 2:
        raise UserError(f"agreement takes at least two annotators; there is {', '.join(said) or 'none'}")
    reports = [
        report
        for one, other in combinations(said, 2)
        for report in agreements(said[one], said[other], name=one, baseline=other)
    ]
    if not reports:
        raise UserError("no two annotators judged the same two pictures on the same aspect")
    with Replacement(out, judgements) as sink:
        publish(reports, sink, title="Agreement on pairs")
    write_page(html, title="Agreement of annotators", reports=reports)
    gate(reports, fail_under)


def agreements(
    one: dict[tuple[str, str], Said],
    other: dict[tuple[str, str], Said],
    *,
    name: str,
    baseline: str,
) -> Iterator[Report]:
    """Agreement of two annotators on each aspect they share; `ties` counts the pairs that one of them held equal."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    ties: Counter[str] = Counter()
    for prompt, aspect in one.keys() & other.keys():
        mine, theirs = one[prompt, aspect], other[prompt, aspect]
        for first, second in combinations(sorted(mine.pictures() & theirs.pictures()), 2):
            margins = mine.difference(first, second), theirs.difference(first, second)
            if None in margins:
                continue
            sides = [preferred(margin or 0.0, 0.0) for margin in margins]
            if 0.5 in sides:
                ties[aspect] += 1
            else:
                found[aspect].append((float(sides[0] == sides[1]), prompt))
    for aspect in sorted(found):
        values, clusters = zip(*found[aspect], strict=True)
        yield reported(
            values, clusters, name=name, baseline=baseline, metric="agreement", aspect=aspect, ties=ties[aspect]
        )


def publish(reports: list[Report], out: Replacement, *, title: str, labels: Mapping[str, str] | None = None) -> None:
    """Write the reports, and show them as a table, in which `labels` stand for longer names.

    A reader that has gone changes neither the table nor what a gate says.
    """
    short = labels or {}
    with contextlib.suppress(OutputClosed):
        for report in reports:
            out.write(report)
    named = [key for key in NAMES if any(key in report for report in reports)]
    same = {key for key in named if len({report.get(key) for report in reports}) == 1 and len(reports) > 1}
    shown = [key for key in named if key not in same] or ["name"]
    progress.table(
        title,
        [*shown, reports[0]["metric"].replace("_", " "), "95 % interval", "n"],
        [
            [
                *(short.get(text, text) for text in (str(report.get(key, "")) for key in shown)),
                f"{report['value']:.3f}",
                f"{report['low']:.3f} to {report['high']:.3f}",
                str(report["n"]),
            ]
            for report in reports
        ],
    )


def check_page(html: str, others: list[str], *, runs: Sequence[str] = ()) -> None:
    """Raise what is wrong with the place of a page, if `html` names one, or with its runs; see `page.check`."""
    if html:
        from ..report import page

        page.check(html, runs, others)


def write_page(
    html: str,
    *,
    title: str,
    reports: list[Report],
    rows: Iterable[list[tuple[str, Image]]] = (),
    runs: Sequence[str] = (),
    folders: Sequence[str] = (),
) -> int:
    """Write the page, if `html` names a file; its pictures lie in `folders`. Returns how many of them are missing."""
    if not html:
        return 0
    from ..images.pictures import Pictures
    from ..report import page

    return page.write(html, title=title, reports=reports, rows=rows, runs=runs, pictures=Pictures(folders))


def gate(reports: list[Report], fail_under: float | None) -> None:
    """Exit 4 if the lower end of any interval is below the gate."""
    under = [report for report in reports if fail_under is not None and not report["low"] >= fail_under]
    for report in under:
        facts = cast(Mapping[str, object], report)
        what = ", ".join(str(facts[key]) for key in NAMES if key in facts)
        progress.warn(f"{what}: {report['low']:.3f}, the lower end, is under the gate of {fail_under:g}")
    if under:
        raise typer.Exit(GATE_NOT_MET)
