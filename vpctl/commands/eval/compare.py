"""Measure how often a tuned model's pictures beat the base model's on the same prompts."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, cast

from ... import plugins, progress
from ...configs import GateConfig, PictureConfig, ServerConfig
from ...errors import SomeFailed, UserError
from ...options import STDIO, Roots, Seed, Whole, argument, option, options, plugin
from ...records import Image, Judgement, Report, prompt_key
from ...report.comparing import (
    Decider,
    Matched,
    Side,
    by_prompt,
    groups_of,
    matches,
    scorer,
    selected,
    win_rate,
)
from ...report.statistics import as_report
from ...streams.joins import ConsistencyChecker, once
from ...streams.places import folder_of, is_stream, short_labels
from ...streams.reading import located, read
from ...streams.writing import Replacement
from ._reports import Html, check_gates, check_page, decide, publish, read_suite, write_page

ELO = "elo"
KEPT = ("prompt", "prompt_id", "source_prompt", "image_id", "file_name", "seed", "scores")
"""Keys of a picture that every comparison needs."""


@options(GateConfig, "gates")
@options(PictureConfig, "pictures")
@options(ServerConfig, "server")
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
    annotator: Annotated[
        str,
        plugin(
            "annotator",
            group="Model",
            help="Also ask this annotator which of two pictures is better, in both orders. Two answers that contradict "
            "each other are a tie. Its judgements are kept in the file of --judgements, and not asked for again.",
            show_default="none",
        ),
    ] = "",
    judgements: Annotated[
        list[str] | None,
        option(
            "--judgements",
            metavar="FILE",
            group="Judging",
            help="Also compare the models by these judgements of their pictures, such as those of people; repeatable. "
            "With --annotator, the first file is where its judgements are kept.",
            show_default="none",
        ),
    ] = None,
    aspect: Annotated[
        list[str] | None,
        plugin(
            "aspect",
            group="Judging",
            help="Aspect that --annotator judges, and that counts in --judgements: a name, or your own Markdown file; "
            "repeatable. The mean over the aspects decides.",
            show_default="all aspects",
        ),
    ] = None,
    suite: Annotated[
        str,
        option(
            metavar="FILE",
            group="Input",
            help="Prompts to compare the models on, with keys such as `category`; other prompts are left out.",
            show_default="all prompts",
        ),
    ] = "",
    select: Annotated[
        str,
        option(
            metavar="top-K",
            group="Preference",
            help="Compare only the K best pictures of each prompt, by --by: the best with the best, and so on.",
            show_default="all pictures",
        ),
    ] = "",
    by: Annotated[
        list[str] | None,
        option(
            metavar="NAME",
            group="Preference",
            help="Reward that selects for --select. Name one for all files, or one for each file, BASE first.",
            show_default="none",
        ),
    ] = None,
    group_by: Annotated[
        list[str] | None,
        option(
            "--group-by",
            metavar="KEY",
            offered=("category",),
            group="Output",
            help="Also report the win rate for each value of this key of the prompts, such as category, from the "
            "records or from --suite; repeatable.",
            show_default="none",
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
    gates: GateConfig,
    server: ServerConfig,
    pictures: PictureConfig,
    html: Html = "",
    root: Roots = None,
    seed: Seed = 0,
) -> None:
    """Measure how often a tuned model's pictures beat the base model's on the same prompts.

    The files are the output of score. For each prompt, pictures with the same seed are compared. If the two files
    have no seed in common for a prompt, or pictures have no seed, the first picture is compared with the first, the
    second with the second, and so on. Prompts are matched by prompt_id. polish does not change the prompt_id, so
    pictures of raw prompts can be compared with pictures of polished prompts. The win rate is the mean over the
    compared pictures: a win counts 1, a tie 0.5, and a loss 0. Its interval comes from a bootstrap over prompts. The
    `p_value` is that of a sign test over prompts: how likely prompts are won at least so unevenly by models that are
    equal.

    With --annotator, a model judges the pictures, too, two by two. Then the files need no scores. It sees the prompt of
    the base model's picture. --judgements takes judgements that are there, also those of people. A comparison that an
    annotator did not make, or in one order only, does not count for it.

    With several tuned models, all models are also compared with each other, and ranked by the metric `elo`: their
    strengths in the model of Bradley and Terry. The base model has 1000, by definition. A model with 400 more wins 10
    times as often as it loses. All comparisons count, so the order may differ from that of the win rates against the
    base model alone. --annotator asks only about pairs with a picture of the base model, and its ranking rests on them.

    In the reports, an annotator is named as a reward, such as judge:openai:gpt-4o.

    --select is the protocol of the human study of VisionPrefer (Wu et al. 2024, arXiv 2404.15100), which draws 64
    pictures for each prompt and keeps 3. A reward that selects the pictures must not judge them: its win rate would
    also measure how well it likes its own choice.

    Gates look at all prompts together, and not at the parts of --group-by.

    A picture that cannot be opened is missing on the page of --html; a warning names it. The exit code is 3 if any
    record failed.

    Examples:

        vpctl eval compare base/scored.jsonl ppo/scored.jsonl dpo/scored.jsonl
            --fail-under 0.5

        vpctl eval compare base/scored.jsonl dpo/scored.jsonl --run dpo-lora/
            --html report.html

        vpctl eval compare base/metadata.jsonl dpo/metadata.jsonl
            --annotator openai:gpt-4o --judgements duels.jsonl --max-cost 5
    """
    for name, shown in (("--run", run), ("--report", report)):
        if shown and not html:
            raise UserError(f"{name} {shown[0]}: is shown on the page; name the page with --html")
    sources = [base, *tuned]
    once(tuned)
    kept = judgements or []
    files = [*sources, *kept, *filter(None, [suite]), *(report or [])]
    wanted = check_gates(gates, ["win_rate", *([ELO] if len(tuned) > 1 else [])], [*files, out, html])
    check_page(html, [*files, out], runs=run or [])
    count, selecting = _selection(select, by or [], sources)
    spec = plugins.check("annotator", annotator) if annotator else ""
    if spec and (not kept or is_stream(kept[0])):
        raise UserError(f"--annotator {annotator}: name a file for its judgements, as in --judgements duels.jsonl")
    aspects = [plugins.aspect(name) for name in aspect or plugins.aspects()] if spec else []
    prompts = read_suite(suite)
    needed = None if html else {*KEPT, *(group_by or [])}
    sides = {source: _side(source, needed, prompts.keys() if suite else None) for source in sources}
    if suite:
        _warn_of_missing(prompts, sides, suite)
    origins = {id(image): source for source, side in sides.items() for images in side.values() for image in images}
    rewards = reward or shared_rewards(sides, needed=not (spec or kept or selecting))
    if selecting:
        _check_candidates(sides, base, select)
    for source, name in zip(sources, selecting, strict=False):
        score = scorer(name, origins).score
        if few := sum(len(images) < count for images in sides[source].values()):
            progress.warn(f"--select {select}: {source} has fewer pictures for {progress.plural(few, 'prompt')}")
        sides[source] = selected(sides[source], count, cast(Any, score))
    if biased := sorted({*rewards} & {*selecting}):
        progress.warn(
            f"--by {biased[0]}: selected the pictures, so its own win rate is biased in favour of what it likes; "
            "judge with another reward or an annotator"
        )
    pairs = {source: _matched(sides, source, base, by_place=bool(selecting)) for source in tuned}
    folders = [*map(folder_of, sources), *(root or [])]
    earlier = [one for source in report or [] for one in read(source, Report)]
    complete = True
    if spec:
        from ...images.pictures import Pictures
        from ...judging import duels

        how = {"server": server, "pictures": pictures, "folder": folder_of(base)}
        made = plugins.load("annotator", spec, device="auto", **how)
        opener = Pictures(folders, piped=any(map(is_stream, sources)))
        asked = ((pair.other, pair.one) for some in pairs.values() for pair in some)
        complete = duels.ask(asked, made, spec, aspects, opener, server=server, out=kept[0], seed=seed)
    said = _judgements(kept)
    scorers = [*(scorer(name, origins) for name in rewards), *_annotators(said, aspect)]
    if not scorers:
        raise UserError("there is nothing to compare the pictures by; name --judgements with judgements of them")
    chosen: dict[str, object] = {"selected_by": ",".join(dict.fromkeys(selecting))} if selecting else {}
    reports = [*_win_rates(pairs, scorers, base, group_by or [], prompts, chosen)]
    if not reports:
        raise UserError("--judgements: nobody has compared these pictures; ask an annotator with --annotator")
    ranks = [*(_ranks(sides, pairs, scorers, by_place=bool(selecting), keys=chosen) if len(tuned) > 1 else ())]
    with Replacement(out, files) as sink:
        labels = short_labels({source: os.path.dirname(source) for source in sides})
        chosen_by = f", {select} by {', '.join(dict.fromkeys(selecting))}" if selecting else ""
        publish(reports, sink, title=f"Against {labels[base]}{chosen_by}", labels=labels)
        if ranks:
            publish(ranks, sink, title="Ranking", labels=labels, digits=0)
        reports += ranks
    missing = write_page(
        html,
        title="Tuned models compared",
        reports=[*reports, *earlier],
        sides=sides,
        judgements=said,
        runs=run or [],
        folders=folders,
    )
    gated = [one for one in reports if "by" not in one and (one["metric"] != ELO or one["name"] != base)]
    decide(wanted, reports, title="Tuned models compared", gated=gated)
    if missing or not complete:
        raise SomeFailed


def _selection(select: str, by: Sequence[str], sources: Sequence[str]) -> tuple[int, list[str]]:
    """The number of pictures that --select keeps, and the reward that selects in each file; empty without --select."""
    if not select:
        if by:
            raise UserError(f"--by {by[0]}: selects pictures for --select; name --select top-1, or leave it out")
        return 0, []
    found = re.fullmatch(r"top-([1-9]\d{0,5})", select)
    if not found:
        raise UserError(f"--select {select}: must be top- and a number, such as top-3")
    if len(by) not in (1, len(sources)):
        raise UserError(
            f"--select {select}: name the reward that selects with --by, once or {len(sources)} times, for each file"
        )
    return int(found[1]), list(by) if len(by) == len(sources) else [by[0]] * len(sources)


def _side(source: str, needed: set[str] | None, prompts: Any) -> Side:
    """The pictures of a file, of these prompts, with the keys that are needed; all if None."""
    images = ConsistencyChecker(parts=False).images(located(source, Image))
    ours = (image for image in images if prompts is None or prompt_key(image) in prompts)
    side = by_prompt(
        image if needed is None else cast(Image, {key: value for key, value in image.items() if key in needed})
        for image in ours
    )
    if not side:
        which = "" if prompts is None else " of the prompts of --suite; prompts are matched by their prompt_id, or text"
        raise UserError(f"{source}: there are no pictures{which}")
    return side


def _warn_of_missing(prompts: Mapping[str, object], sides: Mapping[str, Side], suite: str) -> None:
    """Warn of prompts of the suite that a file has no picture of."""
    for source, side in sides.items():
        if missing := len(prompts.keys() - side.keys()):
            progress.warn(f"{source}: {missing} of {len(prompts)} prompts of {suite} have no picture")


def shared_rewards(sides: Mapping[str, Side], *, needed: bool) -> list[str]:
    """The rewards that every picture has a score of, in the order of the first picture.

    Raises `UserError` if there is none, and one is `needed`.
    """
    images = chain.from_iterable(images for side in sides.values() for images in side.values())
    shared = dict.fromkeys(next(images).get("scores", {}))
    for image in images:
        scores = image.get("scores", {})
        if not shared.keys() <= scores.keys():
            shared = {name: None for name in shared if name in scores}
    if not shared and needed:
        raise UserError(
            "the files have no score in common; first run vpctl score with the same --reward on all of them"
        )
    return [*shared]


def _matched(sides: Mapping[str, Side], source: str, base: str, *, by_place: bool) -> list[Matched]:
    """The pictures of a tuned model with those of the base model. Raises `UserError` if there are none."""
    if not sides[base].keys() & sides[source].keys():
        raise UserError(f"{source}: none of its prompts is in {base}")
    pairs = matches(sides[source], sides[base], by_place=by_place)
    warn_of_the_rest(sides[base], sides[source], source, base, len(pairs))
    if not pairs:
        raise UserError(f"{source}: none of its pictures has a counterpart in {base}")
    return pairs


def warn_of_the_rest(base: Side, tuned: Side, source: str, against: str, pairs: int) -> None:
    """Warn of prompts that only one side has, and of pictures without a counterpart; they are left out."""
    shared = base.keys() & tuned.keys()
    if rest := len(base.keys() ^ tuned.keys()):
        both = progress.plural(len(shared), "prompt")
        progress.warn(
            f"{source}: {both} also in {against}; {rest} left out, because only one of the two files has them"
        )
    if alone := sum(len(base[prompt]) + len(tuned[prompt]) for prompt in shared) - 2 * pairs:
        pictures = progress.plural(alone, "picture")
        progress.warn(f"{source}: {pictures} of this file or of {against} left out: no counterpart in the other file")


def _check_candidates(sides: Mapping[str, Side], base: str, select: str) -> None:
    """Raise `UserError` if a prompt has more pictures by one model than by another: the best of more is better."""
    for source, side in sides.items():
        for prompt, images in side.items():
            if prompt in sides[base] and (count := len(sides[base][prompt])) != len(images):
                raise UserError(
                    f"--select {select}: {source} has {progress.plural(len(images), 'picture')} of "
                    f"{images[0]['prompt'][:60]!r}, and {base} has {count}; the best of more is better, so draw as "
                    "many with each model"
                )


def _judgements(sources: Sequence[str]) -> list[Judgement]:
    """The judgements of these files."""
    checker = ConsistencyChecker(parts=False)
    return [*checker.judgements(chain.from_iterable(located(one, Judgement) for one in sources))]


def _annotators(judgements: Sequence[Judgement], aspects: Sequence[str] | None) -> list[Decider]:
    """The annotators of these judgements as deciders, on these aspects, or on all.

    A decider is named as the reward that asks this annotator would be: a reward model may have the annotator's name.
    """
    if not judgements:
        return []
    from ...judging.duels import DuelOutcomes

    names = [plugins.aspect(one).name if one.endswith(".md") else one for one in aspects or []]
    found = DuelOutcomes(judgements, names or None)

    def decides(name: str) -> Decider:
        return Decider(f"judge:{name}", lambda one, other: found.outcome(name, one, other))

    return [decides(name) for name in found.annotators]


def _win_rates(
    pairs: Mapping[str, Sequence[Matched]],
    scorers: Sequence[Decider],
    base: str,
    group_by: Sequence[str],
    prompts: Mapping[str, Mapping[str, object]],
    chosen: Mapping[str, object],
) -> Iterator[Report]:
    """The win rate of each tuned model by each scorer, then those of the groups of prompts."""
    for source, some in pairs.items():
        for one in scorers:
            keys = {"name": source, "baseline": base, **chosen}
            if found := win_rate(some, one, **keys):
                yield found
                continue
            who = one.name.removeprefix("judge:")
            progress.warn(f"--judgements: {who} has not compared pictures of {source} with those of {base}")
    for key in group_by:
        none = True
        for source, some in pairs.items():
            for value, part in groups_of(some, key, prompts).items():
                none = False
                for one in scorers:
                    if found := win_rate(part, one, name=source, baseline=base, **chosen, by=key, group=value):
                        yield found
        if none:
            raise UserError(f"--group-by {key}: no record has this key; name prompts that have it with --suite")


def _ranks(
    sides: Mapping[str, Side],
    pairs: Mapping[str, Sequence[Matched]],
    scorers: Sequence[Decider],
    *,
    by_place: bool,
    keys: Mapping[str, object],
) -> Iterator[Report]:
    """The Elo of each model by each scorer, from the comparisons of every two models."""
    from ...report.ranking import elo, every_two, results_of

    sources = [*sides]
    against = {
        (first, second): pairs[sources[second]]
        if first == 0
        else matches(sides[sources[second]], sides[sources[first]], by_place=by_place)
        for first, second in every_two(len(sources))
    }
    for one in scorers:
        values: dict[tuple[int, int], dict[str, list[float]]] = {}
        for places, some in against.items():
            by_one: dict[str, list[float]] = values.setdefault(places, {})
            for prompt, mine, theirs in some:
                if (outcome := one.outcome(theirs, mine)) is not None:
                    by_one.setdefault(prompt, []).append(outcome)
        results = results_of(values)
        if len({result.prompt for result in results}) > 1:
            for source, found in zip(sources, elo(results, len(sources)), strict=True):
                yield as_report(found, name=source, metric=ELO, reward=one.name, among=sources, **keys)
