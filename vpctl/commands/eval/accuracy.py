"""Measure how often a reward prefers the chosen picture."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, NamedTuple, cast

from ... import plugins, progress
from ...configs import GateConfig
from ...errors import UserError
from ...images.folders import OF_A_PICTURE, Folders
from ...judging.merging import MergeCounts, Merging, pairs_of, prompts_of
from ...judging.preferences import latest
from ...options import STDIO, BatchSize, Device, Roots, Whole, argument, option, options, plugin
from ...records import Image, Judgement, Pair, Report, is_pair, listing, prompt_key
from ...report.accuracy import (
    DEFINITIONS,
    HARMONIC_MEAN,
    HEADLINE,
    TIE,
    Accuracy,
    LabelledPair,
    difference_report,
    harmonic_mean_difference_report,
    harmonic_mean_report,
    in_definitions,
    reports_of,
)
from ...report.tables import print_accuracies, warn_of_few
from ...streams.joins import ConsistencyChecker, once
from ...streams.places import folder_of, is_stream
from ...streams.reading import located, located_comparisons
from ...streams.writing import Replacement
from ._reports import Html, check_gates, check_page, decide, read_suite, write, write_page

ASPECT, MODEL = "aspect", "model"
"""Values of --group-by that are no key of a pair."""


class PromptPicture(NamedTuple):
    """A picture for a prompt, as pairs name it: the prompt's key and the file."""

    prompt_id: str
    path: str


@options(GateConfig, "gates")
def accuracy(
    pairs: Annotated[
        list[str],
        argument(
            metavar="FILE...",
            help="Pairs or judgements, such as rankings by people: JSON Lines files, or data sets as FORMAT:PATH; - is "
            "standard input. Each file is a data set of its own.",
        ),
    ],
    out: Whole = STDIO,
    *,
    reward: Annotated[
        list[str] | None,
        plugin(
            "reward",
            "--reward",
            "-r",
            group="Model",
            help="Reward to measure, also one that --scores has; repeatable.",
            show_default="shapes, the pixel judge; with --scores all that it has",
        ),
    ] = None,
    scores: Annotated[
        list[str] | None,
        option(
            metavar="FILE",
            group="Input",
            help="Take the scores of rewards from this file: pictures, as score writes them. A picture is known by its "
            "prompt and its image_id, or its file. No model is loaded for them; repeatable.",
            show_default="none",
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
    group_by: Annotated[
        list[str] | None,
        option(
            "--group-by",
            metavar="KEY",
            offered=(ASPECT, MODEL, "category"),
            group="Output",
            help="Also report the accuracy for each value of this key of the pairs, such as category; repeatable. "
            "aspect: by the preference on each aspect. model: by the model that drew the pictures, from the records of "
            "--scores.",
            show_default="none",
        ),
    ] = None,
    suite: Annotated[
        str,
        option(
            metavar="FILE",
            group="Input",
            help="Prompts with keys for --group-by, such as `category`, which pairs lack.",
            show_default="none",
        ),
    ] = "",
    tie_threshold: Annotated[
        float,
        option(
            metavar="T",
            min=0,
            max=1,
            group="Output",
            help="For the definition tie-aware: largest gap that is a predicted tie. The gap is that of two "
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
    gates: GateConfig,
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
    is too narrow for few prompts, or if some prompts have many more pairs than others. So it is made wider, as
    described by Hesterberg (2015, arXiv 1411.5279, section 5.3), with the standard error of the jackknife. A bootstrap
    knows only the prompts that it has. So with fewer than 10 prompts, the interval is at least as wide as Wilson's
    score interval for as many draws as there are prompts, and a note says how many prompts there are. If all pairs are
    right, or all are wrong, the interval is the exact one of Clopper and Pearson. All intervals of eval are computed in
    this way.

    Papers count ties in other ways, so published accuracies differ by several points. The other reports have these
    definitions. `pooled` counts 0 if both pictures score the same; ImageReward, MPS and HPSv3 use it. `per-prompt` is
    the mean of `pooled` over prompts; HPSv2 uses it on the labels of ImageReward. `ties-count` counts 1 if both
    pictures score the same, or if the pair is a tie, and is a mean over prompts; HPSv2 uses it on HPDv2. `tie-aware`
    lets a reward predict ties; PickScore uses it. If two scores are nearly equal, the reward predicts a tie. A
    predicted tie counts 1 if the pair is a tie, and 0.5 if it is not. A tie that is not predicted counts 0.5. The
    `chance` in these reports, and in the table below the rewards, is what guessing gives. `pairs` and `ties` are the
    numbers of pairs and of equal scores.

    Judgements become pairs as merge makes them, with its default options and with ties.

    With several files there is also the harmonic mean of the accuracies on them, as in table 2 of VisionPrefer (Wu et
    al. 2024, arXiv 2404.15100). Its interval comes from a bootstrap over the prompts of all files. A prompt that
    several files have is drawn for all of them at once.

    With --baseline, the interval of the difference is computed from the pairs of both rewards together. It is usually
    narrower than the two intervals suggest, because pairs that are hard for one reward are often hard for the other.

    Gates look at the rewards of --reward and --scores, and at all pairs of a file. They do not look at the parts of
    --group-by.

    Examples:

        vpctl eval accuracy pairs.jsonl --reward vp:vp-score/ --split test
            --fail-under 0.65

        vpctl eval accuracy pairs.jsonl --reward vp:vp-score/
            --baseline pickscore

        vpctl eval accuracy imagereward:test.json hpd:test.json
            --scores ir/scored.jsonl --scores hpd/scored.jsonl
    """
    once([*pairs, *(scores or []), *filter(None, [suite])])
    named = list(dict.fromkeys(reward or []))
    if not scores:
        named = [plugins.check("reward", spec) for spec in named or ["shapes"]]
        _check_baseline(baseline and plugins.check("reward", baseline), named)
    metrics = [*_metrics(several=len(pairs) > 1, compared=bool(baseline))]
    wanted = check_gates(gates, metrics, [*pairs, *(scores or []), suite, out, html])
    check_page(html, [*pairs, *(scores or []), out])
    known_prompts = read_suite(suite)
    data = {source: [_with_keys(pair, known_prompts) for pair in _read(source, split)] for source in pairs}
    every = [pair for ours in data.values() for pair in ours]
    told, models = _told(scores or [], _ids(every))
    asked = list(dict.fromkeys(chain.from_iterable(map(_pictures, every))))
    known = _common(told, asked, scores or [])
    names = named or [one for one in known if one != baseline]
    _check_baseline(baseline, names)
    loaded = [spec for spec in dict.fromkeys([*names, *filter(None, [baseline])]) if spec not in known]
    for spec in loaded:
        plugins.check("reward", spec)
    groups = {key: _groups(data, key, models) for key in group_by or []}
    with Replacement(out, [*pairs, *(scores or [])]) as sink:
        found = {name: {picture: told[picture][name] for picture in asked} for name in known}
        if loaded:
            texts = {picture: pair["prompt"] for pair in every for picture in _pictures(pair)}
            folders = [*map(folder_of, pairs), *(root or [])]
            found |= _scored(texts, loaded, folders, piped=any(map(is_stream, pairs)), batch=batch, device=device)
        order = dict.fromkeys([*names, *filter(None, [baseline])])
        keys = {"split": split} if split else {}
        reports = [*_reports(data, groups, {name: found[name] for name in order}, baseline, tie_threshold, keys)]
        write(reports, sink)
    print_accuracies(reports, labels=_labels(pairs))
    warn_of_few(reports)
    write_page(html, title="Accuracy of rewards", reports=reports)
    gated = [one for one in reports if one["name"] in names and "by" not in one]
    decide(wanted, reports, title="Accuracy of rewards", gated=gated)


def _check_baseline(baseline: str, names: Sequence[str]) -> None:
    """Raise `UserError` if there is no reward beside the baseline."""
    if baseline and not {*names} - {baseline}:
        raise UserError(f"--baseline {baseline}: there is no other reward to compare it with; name one with --reward")


def _metrics(*, several: bool, compared: bool) -> Iterator[str]:
    """The metrics of this evaluation, the headline first."""
    of_accuracy = [HEADLINE, *(f"{HEADLINE}_{name.replace('-', '_')}" for name in DEFINITIONS)]
    yield from of_accuracy
    if compared:
        yield from (f"{metric}_difference" for metric in of_accuracy)
    if several:
        yield HARMONIC_MEAN
        if compared:
            yield f"{HARMONIC_MEAN}_difference"


def _read(source: str, split: str) -> list[Pair]:
    """The pairs of a file, or those that its judgements make, with ties. Raises `UserError` if all are ties."""
    checker = ConsistencyChecker()
    pairs: list[Pair] = []
    judgements: list[tuple[int, Judgement]] = []
    how = Merging(keep_ties=True)
    for where, record in located_comparisons(source):
        if is_pair(record):
            pairs += checker.pairs([(where, record)])
            continue
        judgement = cast(Judgement, record)
        checker.judgement(where, judgement)
        if reason := how.misfit(judgement):
            raise UserError(f"{where}: {reason}; do so with merge, and measure its pairs")
        judgements.append((len(judgements), judgement))
    for prompt in prompts_of(latest(judgements, Counter()), how, Counter()).values():
        pairs += pairs_of(prompt, how, MergeCounts())
    ours = [pair for pair in pairs if not split or pair.get("split") == split]
    if ties := sum(pair["margin"] == 0 for pair in ours):
        left = f"{progress.plural(ties, 'tie')} left out of all definitions but ties-count and tie-aware"
        progress.note(f"{source}: {left}")
    if ties == len(ours):
        raise UserError(f"{source}: {_why_none(pairs, split)}")
    return ours


def _with_keys(pair: Pair, prompts: Mapping[str, Mapping[str, object]]) -> Pair:
    """The pair with the keys of its prompt in --suite that it lacks."""
    return cast(Pair, {**prompts.get(prompt_key(pair), {}), **pair})


def _pictures(pair: Pair) -> tuple[PromptPicture, PromptPicture]:
    """The chosen and the rejected picture."""
    prompt_id = prompt_key(pair)
    return PromptPicture(prompt_id, pair["chosen_file_name"]), PromptPicture(prompt_id, pair["rejected_file_name"])


def _ids(pairs: Iterable[Pair]) -> dict[tuple[str, str], PromptPicture]:
    """The pictures of the pairs by the ids of their prompt and their own, where they have one."""
    found = {}
    for pair in pairs:
        ids = pair.get("chosen_image_id"), pair.get("rejected_image_id")
        for image_id, picture in zip(ids, _pictures(pair), strict=True):
            if image_id:
                found[picture.prompt_id, image_id] = picture
    return found


def _told(
    sources: Iterable[str], ids: Mapping[tuple[str, str], PromptPicture]
) -> tuple[dict[PromptPicture, Mapping[str, float]], dict[PromptPicture, str]]:
    """The scores that records of pictures have, and the models that drew the pictures.

    A record is of the picture with its `image_id` among `ids`, or else of the one with its file.
    """
    scores: dict[PromptPicture, Mapping[str, float]] = {}
    models: dict[PromptPicture, str] = {}
    for source in sources:
        for image in ConsistencyChecker(parts=False).images(located(source, Image)):
            own = PromptPicture(prompt_key(image), image["file_name"])
            picture = ids.get((own.prompt_id, image.get("image_id", "")), own)
            scores[picture] = {**scores.get(picture, {}), **image.get("scores", {})}
            if "model" in image:
                models[picture] = image["model"]
    return scores, models


def _common(
    told: Mapping[PromptPicture, Mapping[str, float]], asked: Sequence[PromptPicture], sources: Sequence[str]
) -> dict[str, None]:
    """The rewards that have a score for each picture. Raises `UserError` if a reward has some, and not all."""
    if not sources:
        return {}
    numbers = Counter(chain.from_iterable(told.get(picture, ()) for picture in asked))
    if not numbers:
        raise UserError(
            f"--scores {sources[0]}: has no score of the pictures of the pairs; score the same files and prompts"
        )
    for name, number in numbers.items():
        if number < len(asked):
            missing = next(picture for picture in asked if name not in told.get(picture, ()))
            raise UserError(
                f"--scores {sources[0]}: {name} has scores for {number} of {len(asked)} pictures; {missing.path} has "
                "none; score them all, with vpctl score"
            )
    return dict.fromkeys(numbers)


def _scored(
    texts: Mapping[PromptPicture, str],
    rewards: Iterable[str],
    folders: list[str],
    *,
    piped: bool,
    batch: int,
    device: str,
) -> dict[str, dict[PromptPicture, float]]:
    """The scores of the pictures by reward. Each picture is opened once."""
    Folders(folders, piped=piped).check(picture.path for picture in texts)
    from ...images.pictures import Pictures
    from ...models.scoring import load_batches

    loaded = {spec: plugins.load("reward", spec, device=device) for spec in rewards}
    records = [{"prompt": text, "prompt_id": one.prompt_id, "file_name": one.path} for one, text in texts.items()]
    scores: dict[str, dict[PromptPicture, float]] = {spec: {} for spec in loaded}
    with progress.Counter("pictures", len(records)) as counter:
        for some in load_batches(records, Pictures(folders), loaded, most=batch):
            found, failures = some.scored(loaded)
            if failures:
                raise UserError(f"{failures[0]}; {OF_A_PICTURE}")
            for record, by_reward in found:
                for spec, score in by_reward.items():
                    scores[spec][PromptPicture(record["prompt_id"], record["file_name"])] = score
            counter(some.size)
    return scores


def _labels(sources: Sequence[str]) -> dict[str, str]:
    """The names of the files without their folders, if these names differ."""
    short = {source: os.path.basename(source.rstrip("/")) for source in sources}
    return short if len(set(short.values())) == len(short) and all(short.values()) else {}


PairsByValue = dict[str, list[Pair]]
"""Pairs by the value of a key."""


def _groups(data: Mapping[str, list[Pair]], key: str, models: Mapping[PromptPicture, str]) -> dict[str, PairsByValue]:
    """The pairs of each file by the value of a key of --group-by. Raises `UserError` if no pair has one."""
    found: dict[str, PairsByValue] = {source: {} for source in data}
    for source, pairs in data.items():
        for pair in pairs:
            for value, part in _parts(pair, key, models):
                found[source].setdefault(value, []).append(part)
    if not any(found.values()):
        ways_out = {MODEL: "name the records of the pictures with --scores", ASPECT: "merge makes pairs with aspects"}
        way_out = f"; {ways_out.get(key, 'name prompts that have it with --suite')}"
        raise UserError(f"--group-by {key}: no pair has this{way_out}")
    return {source: dict(sorted(groups.items())) for source, groups in found.items()}


def _parts(pair: Pair, key: str, models: Mapping[PromptPicture, str]) -> Iterator[tuple[str, Pair]]:
    """The groups of a pair, and the pair as it is in each: on an aspect another picture may be better."""
    if key == ASPECT:
        for aspect, margin in pair.get("aspects", {}).items():
            turned = margin < 0
            sides = (pair["chosen_file_name"], pair["rejected_file_name"])
            chosen, rejected = reversed(sides) if turned else sides
            yield aspect, {**pair, "margin": abs(margin), "chosen_file_name": chosen, "rejected_file_name": rejected}
    elif key == MODEL:
        if len(names := {models[picture] for picture in _pictures(pair) if picture in models}) > 0:
            yield " and ".join(sorted(names)), pair
    elif (value := cast(Mapping[str, object], pair).get(key)) is not None:
        yield value if isinstance(value, str) else json.dumps(value), pair


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


def _reports(
    data: Mapping[str, list[Pair]],
    groups: Mapping[str, Mapping[str, PairsByValue]],
    scores: Mapping[str, Mapping[PromptPicture, float]],
    baseline: str,
    threshold: float,
    keys: Mapping[str, str],
) -> Iterator[Report]:
    """For each file and reward: its accuracies, their differences from the baseline's, its parts; then the means."""
    headlines: dict[str, list[Accuracy]] = {}
    for source, pairs in data.items():
        where = {**keys, **({"data": source} if len(data) > 1 else {})}
        found = {name: in_definitions(_labelled(pairs, of), ["all"], threshold) for name, of in scores.items()}
        for name, accuracies in found.items():
            headlines.setdefault(name, []).append(accuracies[HEADLINE])
            yield from reports_of(accuracies, threshold, name=name, **where)
            if baseline and name != baseline:
                for metric, one in accuracies.items():
                    other = found[baseline][metric]
                    facts = {"name": name, "baseline": baseline, "metric": f"{metric}_difference", **where}
                    yield difference_report(one, other, **facts)
        for key, by_source in groups.items():
            for value, some in by_source[source].items():
                if not any(pair["margin"] for pair in some):
                    progress.note(f"{source}: all pairs of {key} {value} are ties; it has no accuracy")
                else:
                    for name, of in scores.items():
                        of_part = in_definitions(_labelled(some, of))
                        yield from reports_of(of_part, threshold, name=name, **where, by=key, group=value)
    if len(data) > 1:
        for name, found_of in headlines.items():
            yield harmonic_mean_report(found_of, name=name, **keys)
            if baseline and name != baseline:
                facts = {"name": name, "baseline": baseline, **keys}
                yield harmonic_mean_difference_report(found_of, headlines[baseline], **facts)


def _labelled(pairs: Iterable[Pair], scores: Mapping[PromptPicture, float]) -> list[LabelledPair]:
    """The pairs with their scores by a reward. A label prefers the first picture, the chosen one, or is a tie."""
    return [
        LabelledPair(prompt_key(pair), 1.0 if pair["margin"] else TIE, *(scores[one] for one in _pictures(pair)))
        for pair in pairs
    ]
