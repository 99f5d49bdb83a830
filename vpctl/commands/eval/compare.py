"""Measure how often a tuned model's pictures beat the base model's on the same prompts."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Annotated

from ... import progress
from ...errors import SomeFailed, UserError
from ...options import STDIO, Roots, Whole, argument, option
from ...records import Image, Report, prompt_key
from ...report.statistics import mean_report, preferred
from ...streams.joins import ConsistencyChecker, once
from ...streams.places import folder_of, short_labels
from ...streams.reading import located, read
from ...streams.writing import Replacement
from ._reports import FailUnder, Html, check_page, gate, publish, write_page


def compare(
    base: Annotated[str, argument(metavar="BASE", help="Scored pictures of the base model: a JSON Lines file.")],
    tuned: Annotated[
        list[str], argument(metavar="TUNED...", help="Scored pictures of tuned models, one file per model.")
    ],
    out: Whole = STDIO,
    *,
    reward: Annotated[
        list[str] | None,
        option(
            "--reward",
            "-r",
            metavar="NAME",
            group="Model",
            help="Reward whose scores are compared, as named in `scores`; repeatable.",
            show_default="all rewards that the files share",
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        option(
            metavar="DIR",
            group="Output",
            help="Also show the curves of this training run on the page of --html; repeatable.",
        ),
    ] = None,
    report: Annotated[
        list[str] | None,
        option(
            metavar="FILE",
            group="Output",
            help="Also show the reports in this file on the page of --html; repeatable.",
        ),
    ] = None,
    fail_under: FailUnder = None,
    html: Html = "",
    root: Roots = None,
) -> None:
    """Measure how often a tuned model's pictures beat the base model's on the same prompts.

    The files are the output of score. For each prompt, pictures with the same seed are compared. If the two files
    have no seed in common for a prompt, or pictures have no seed, the first picture is compared with the first, the
    second with the second, and so on. Prompts are matched by prompt_id. polish does not change the prompt_id, so
    pictures of raw prompts can be compared with pictures of polished prompts. The win rate is the mean over the
    compared pictures: a win counts 1, a tie 0.5, and a loss 0. Its interval comes from a bootstrap over prompts.

    A picture that cannot be opened is missing on the page of --html; a warning names it. The exit code is 3 if any
    record failed.

    Examples:

        vpctl eval compare base/scored.jsonl ppo/scored.jsonl dpo/scored.jsonl
            --fail-under 0.5

        vpctl eval compare base/scored.jsonl dpo/scored.jsonl --run dpo-lora/
            --html report.html
    """
    for name, shown in (("--run", run), ("--report", report)):
        if shown and not html:
            raise UserError(f"{name} {shown[0]}: is shown on the page; name the page with --html")
    check_page(html, [base, *tuned, *(report or []), out], runs=run or [])
    once(tuned)
    sides = {
        source: by_prompt(ConsistencyChecker(parts=False).images(located(source, Image))) for source in (base, *tuned)
    }
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
        raise SomeFailed


def by_prompt(images: Iterable[Image]) -> dict[str, list[Image]]:
    """Pictures by prompt, in their order."""
    prompts: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        prompts[prompt_key(image)].append(image)
    return dict(prompts)


def shared_rewards(sides: dict[str, dict[str, list[Image]]]) -> list[str]:
    """The rewards that every picture has a score of, in the order of the first picture."""
    every = [image.get("scores", {}) for prompts in sides.values() for images in prompts.values() for image in images]
    shared = [name for name in every[0] if all(name in scores for scores in every)]
    if not shared:
        raise UserError(
            "the files have no score in common; first run vpctl score with the same --reward on all of them"
        )
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
    return mean_report(
        values, clusters, name=source, baseline=against, metric="win_rate", reward=reward, **outcomes, **means
    )


def warn_of_the_rest(base: dict[str, list[Image]], tuned: dict[str, list[Image]], source: str, against: str) -> None:
    """Warn of prompts that only one side has, and of pictures without a counterpart; they are left out."""
    shared = base.keys() & tuned.keys()
    if rest := len(base.keys() ^ tuned.keys()):
        both = progress.plural(len(shared), "prompt")
        progress.warn(
            f"{source}: {both} also in {against}; {rest} left out, because only one of the two files has them"
        )
    pairs = sum(1 for prompt in shared for _ in matched(tuned[prompt], base[prompt]))
    if alone := sum(len(base[prompt]) + len(tuned[prompt]) for prompt in shared) - 2 * pairs:
        pictures = progress.plural(alone, "picture")
        progress.warn(f"{source}: {pictures} of this file or of {against} left out: no counterpart in the other file")


def matched(ones: list[Image], others: list[Image]) -> Iterator[tuple[Image, Image]]:
    """The pictures of a prompt that are compared: those with the same seed, or else those at the same place.

    The place is used if a picture has no seed, if two pictures of one side have the same seed, or if the two sides have
    no seed in common.
    """
    by_seed = {other["seed"]: other for other in others if "seed" in other}
    seeds = {one["seed"] for one in ones if "seed" in one}
    if len(seeds) == len(ones) and len(by_seed) == len(others) and seeds & by_seed.keys():
        return ((one, by_seed[one["seed"]]) for one in ones if one["seed"] in by_seed)
    return zip(ones, others, strict=True) if len(ones) == len(others) else iter(())


def _score(image: Image, reward: str, source: str) -> float:
    scores = image.get("scores", {})
    if reward not in scores:
        has = ", ".join(scores) or "no score"
        name = image.get("image_id", image["file_name"])
        raise UserError(f"{source}: {name} has no score of {reward!r}; it has {has}")
    return scores[reward]


def side_by_side(sides: dict[str, dict[str, list[Image]]]) -> Iterator[list[tuple[str, Image]]]:
    """For each prompt that all sources have, the first picture of each source, with the name of the source."""
    shared = set.intersection(*(set(prompts) for prompts in sides.values()))
    first = next(iter(sides.values()))
    for prompt in first:
        if prompt in shared:
            yield [(source, prompts[prompt][0]) for source, prompts in sides.items()]
