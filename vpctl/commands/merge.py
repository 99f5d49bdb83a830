"""Turn judgements into preference pairs."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, combinations
from typing import Annotated, Any, cast

from .. import progress
from ..errors import UserError
from ..judging.preferences import ROUNDING, Preferences, Scale, without_replaced
from ..options import STDIO, MaxPictures, Whole, argument, option
from ..records import Judgement, Pair, split_of
from ..streams.joins import ConsistencyChecker, once
from ..streams.reading import located
from ..streams.writing import Replacement

TIE_BREAKERS = ("ranking", "none")
ANYONE = "*"
"""Key of the scale for all annotators without a scale of their own."""


@dataclass
class JudgedPrompt:
    """All judgements of one prompt's pictures, by aspect and annotator."""

    prompt: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    said: dict[tuple[str, str], Preferences] = field(default_factory=dict)

    def add(self, judgement: Judgement, scale: Scale) -> None:
        """Add one judgement."""
        said = self.said.setdefault((judgement["aspect"], judgement["annotator"]), Preferences())
        said.add(judgement, scale)
        self.files.update(zip(judgement["image_ids"], judgement["file_names"], strict=True))

    def difference(self, first: str, second: str) -> tuple[dict[str, float], set[str]]:
        """By aspect, how far `first` is above `second`, as the mean over the annotators that judged both; and these."""
        found: dict[str, list[float]] = {}
        annotators = set()
        for (aspect, annotator), said in self.said.items():
            difference = said.difference(first, second)
            if difference is not None:
                found.setdefault(aspect, []).append(difference)
                annotators.add(annotator)
        return {aspect: sum(values) / len(values) for aspect, values in found.items()}, annotators


def collected(
    judgements: Iterable[Judgement], scales: Mapping[str, Scale], counts: Counter[str], *, rankings: bool = False
) -> list[JudgedPrompt]:
    """The judgements by prompt, in the order of the prompts. Refused and failed ones are counted and left out.

    With `rankings`, the rankings of the pictures count where their scores tie.
    """
    prompts: dict[str, JudgedPrompt] = {}
    for judgement in without_replaced(judgements, counts, keep={"ranking"} if rankings else ()):
        if "refused" in judgement or "failed" in judgement:
            counts["refusals" if "refused" in judgement else "failures"] += 1
            continue
        pictures = prompts.setdefault(judgement["prompt_id"], JudgedPrompt({}))
        for key in ("prompt_id", "prompt", "source_prompt", "split"):
            if key in judgement:
                pictures.prompt.setdefault(key, judgement[key])
        pictures.add(judgement, _scale(judgement, scales))
    return list(prompts.values())


def _scale(judgement: Judgement, scales: Mapping[str, Scale]) -> Scale:
    return scales.get(judgement["annotator"], scales[ANYONE])


def misfit(judgement: Judgement, scales: Mapping[str, Scale]) -> str:
    """Why a judgement does not fit its annotator's scale; empty if it does, or if its pictures were only compared."""
    if judgement.get("mode") == "pair":
        return ""
    who, scale = judgement["annotator"], _scale(judgement, scales)
    outside = [score for score in judgement["scores"] if not scale.low <= score <= scale.high]
    if not outside:
        return ""
    return (
        f"{who} gave {outside[0]:g}, which is outside {scale.low:g} to {scale.high:g}; "
        f"set its scale with --scale {who}=LOW:HIGH"
    )


def merged(
    prompts: Iterable[JudgedPrompt],
    *,
    weights: Mapping[str, float],
    min_margin: float,
    split: Mapping[str, float],
    counts: Counter[str],
    keep_ties: bool = False,
) -> Iterator[Pair]:
    """The pairs of every prompt's pictures that are not tied, and with `keep_ties` those that are, with the margin 0.

    The margin is the weighted mean of the aspects' differences; an aspect that is not in `weights` has the weight 1.
    The paper's preference is the unweighted mean of its four aspects (section 4.1). Pairs with a margin of 0 or below
    `min_margin` are ties.
    """
    for pictures in prompts:
        part = split_of(pictures.prompt["prompt_id"], split) if split else pictures.prompt.get("split")
        for first, second in combinations(pictures.files, 2):
            aspects, annotators = pictures.difference(first, second)
            total = sum(weights.get(aspect, 1.0) for aspect in aspects)
            if not total:
                continue
            margin = sum(weights.get(aspect, 1.0) * value for aspect, value in aspects.items()) / total
            counts.update(f"{aspect} tied" for aspect, value in aspects.items() if abs(value) < ROUNDING)
            counts.update(f"{aspect} seen" for aspect in aspects)
            if abs(margin) < max(min_margin - ROUNDING, ROUNDING):
                counts["ties"] += 1
                if not keep_ties:
                    continue
                margin = 0.0
            counts["pairs"] += 1
            chosen, rejected = (first, second)
            if margin < 0:
                chosen, rejected = (second, first)
                aspects = {aspect: -value for aspect, value in aspects.items()}
            pair = {
                **pictures.prompt,
                **({"split": part} if part else {}),
                "chosen_file_name": pictures.files[chosen],
                "rejected_file_name": pictures.files[rejected],
                "chosen_image_id": chosen,
                "rejected_image_id": rejected,
                "margin": round(abs(margin), 6),
                "aspects": {aspect: round(value, 6) + 0.0 for aspect, value in sorted(aspects.items())},
                "annotators": sorted(annotators),
            }
            yield cast(Pair, pair)


def merge(
    judgements: Annotated[
        list[str], argument(metavar="FILE...", help="Judgements: JSON Lines files; - is standard input.")
    ],
    out: Whole = STDIO,
    *,
    weight: Annotated[
        list[str] | None,
        option(
            "--weight",
            "-w",
            metavar="ASPECT=W",
            group="Preference",
            help="Weight of an aspect in the margin. The default weight is 1; 0 leaves the aspect out; repeatable.",
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        option(
            metavar="[WHO=]LOW:HIGH",
            group="Preference",
            help="Lowest and highest score that the annotator WHO can give. Without WHO: the scale of all annotators "
            "that have no --scale of their own; repeatable.",
            show_default="1:5",
        ),
    ] = None,
    min_margin: Annotated[
        float,
        option(
            metavar="M",
            min=0,
            max=1,
            group="Preference",
            help="Smallest margin of a pair. Pairs with a smaller margin are ties, and ties are dropped.",
        ),
    ] = 0.0,
    keep_ties: Annotated[
        bool,
        option(
            "--keep-ties",
            group="Preference",
            help="Write ties too, with a margin of 0. With --min-margin, pairs with a smaller margin are ties, so they "
            "are written with a margin of 0, too. train-rm --loss ties learns from ties. Everything else leaves them "
            "out.",
        ),
    ] = False,
    break_ties: Annotated[
        str,
        option(
            "--break-ties",
            choices=TIE_BREAKERS,
            group="Preference",
            help="What decides between two pictures to which an annotator gave equal scores, if it did not compare "
            "them. ranking: the annotator's ranking of the pictures, where a judgement has one; the difference is then "
            "at most half a level. none: nothing, they tie.",
        ),
    ] = TIE_BREAKERS[0],
    split: Annotated[
        str,
        option(
            metavar="NAME:SHARE,...",
            offered=("train:0.8,validation:0.1,test:0.1", "train:0.9,test:0.1"),
            group="Preference",
            help="Assign every prompt to one part of the data, with these shares, such as train:0.9,test:0.1. The "
            "shares are divided by their sum. Each pair gets the part of its prompt as `split`.",
            show_default="the split of the judgements",
        ),
    ] = "",
    max_pictures: MaxPictures = 100,
) -> None:
    """Turn judgements into preference pairs.

    Reads any number of files, from several runs and annotators; people can be annotators, too. For each annotator and
    aspect, the score of a picture is the mean over its judgements. The difference of two pictures is the difference of
    their scores, divided by the width of the annotator's scale. The margin of a pair is the mean of these differences:
    first over the annotators, then over the aspects. Pairs without a difference are ties. They are dropped, or with
    --keep-ties written with a margin of 0.

    If every aspect has the same weight, this is the preference of VisionPrefer (Wu et al. 2024, arXiv 2404.15100,
    section 4.1).

    annotate --mode pair and --break-ties compare two pictures in both orders. The difference is then 1 if a picture
    wins in both orders, 0.5 if it wins in one order and ties in the other, and 0 if the orders contradict each other.
    If the two pictures also have scores, their comparison counts only if the scores are equal. The difference is then
    at most half a level, 0.125.

    annotate also asks language models to rank the pictures. A ranking decides between pictures with equal scores that
    were not compared: the difference is 0.125 if one comes before the other in all rankings, and less if the rankings
    contradict each other. A ranking that contradicts its own scores does not count. --break-ties none leaves these
    pairs tied.

    If an annotator judged the same pictures again in the same order and pass, only the last judgement counts.
    Judgements without a `key`, such as those of people, all count.

    With --split, the part of the data that a prompt is assigned to depends only on its id.

    The judgements in all files must agree. One prompt_id must always have the same prompt. One image_id must always
    have the same picture; a moved or copied file is the same picture. One prompt must always be in the same part of
    the data, except with --split, which assigns all prompts to new parts.

    Examples:

        vpctl merge judgements.jsonl --split train:0.8,validation:0.1,test:0.1
            --out pairs.jsonl

        vpctl merge gpt.jsonl human.jsonl --scale human=1:10
            --weight aesthetic=0.5 > pairs.jsonl
    """
    once(judgements)
    weights = _numbers("--weight", [(text, *_assignment(text)) for text in weight or []])
    shares = _numbers("--split", [(split, *_share(split, part)) for part in split.split(",") if part])
    if split and not 0 < sum(shares.values()) < math.inf:
        raise UserError(
            f"--split {split}: no part has a share above 0; write parts and shares such as train:0.9,test:0.1"
        )
    scales = parse_scales(scale or [])
    counts: Counter[str] = Counter()
    joined = ConsistencyChecker(max_pictures=max_pictures, parts=not shares)
    with Replacement(out, judgements) as sink:
        sources = (located(source, Judgement, partial(misfit, scales=scales)) for source in judgements)
        records = joined.judgements(chain.from_iterable(sources))
        prompts = collected(progress.track(records, "judgements"), scales, counts, rankings=break_ties == "ranking")
        for pictures in prompts:
            own = pictures.prompt["prompt_id"]
            pictures.files = {image_id: joined.file(own, image_id) for image_id in pictures.files}
        if prompts:
            said = {one for pictures in prompts for one in pictures.said}
            known("--weight", weights, {aspect for aspect, _ in said})
            known("--scale", scales.keys() - {ANYONE}, {annotator for _, annotator in said})
        how: dict[str, Any] = {"weights": weights, "min_margin": min_margin, "split": shares, "keep_ties": keep_ties}
        for pair in merged(prompts, **how, counts=counts):
            sink.write(pair)
    summarise(counts, len(prompts), out, "among them" if keep_ties else "dropped")


def known(name: str, asked: Iterable[str], there: set[str]) -> None:
    """Raise `UserError` if an option names an aspect or an annotator that no judgement has."""
    for one in sorted(set(asked) - there):
        raise UserError(f"{name} {one}: the judgements have no such name; they have {', '.join(sorted(there))}")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--weight {text}: must be an aspect and its weight, such as aesthetic=0.5")
    return name, value


def _share(split: str, part: str) -> tuple[str, str]:
    name, colon, value = part.partition(":")
    if not (name and colon):
        raise UserError(f"--split {split}: must be names and shares of the parts, such as train:0.9,test:0.1")
    return name, value


def _numbers(option: str, given: list[tuple[str, str, str]]) -> dict[str, float]:
    """The numbers of an option by name, from triples: the option's text, a name, and a number as text.

    Raises `UserError` if a name occurs twice.
    """
    numbers: dict[str, float] = {}
    for text, name, value in given:
        if name in numbers:
            raise UserError(f"{option} {text}: {name!r} is named twice; name it once")
        numbers[name] = _number(option, text, value)
    return numbers


def _number(name: str, text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise UserError(f"{name} {text}: {value!r} is not a number of at least 0")
    return number


def parse_scales(texts: list[str]) -> dict[str, Scale]:
    """Scales from ``LOW:HIGH`` and ``WHO=LOW:HIGH``. The name of an annotator may contain colons and equals signs."""
    scales: dict[str, Scale] = {}
    for text in texts:
        who, equals, span = text.rpartition("=")
        low, _, high = span.partition(":")
        whose = who if equals else ANYONE
        if whose in scales:
            raise UserError(f"--scale {text}: {who or 'the scale of all'} is named twice; name it once")
        try:
            scales[whose] = Scale(float(low), float(high))
        except ValueError:
            raise UserError(
                f"--scale {text}: must be the lowest and highest score, such as 1:10 or human=1:10"
            ) from None
        if not -math.inf < float(low) < float(high) < math.inf:
            raise UserError(f"--scale {text}: the first number must be smaller than the second")
    return {ANYONE: Scale(1, 5), **scales}


def summarise(counts: Counter[str], prompts: int, out: str, ties: str) -> None:
    """Print a table of ties by aspect, and the numbers of judgements and pairs. The pairs were written to `out`.

    `ties` says what became of the ties.
    """
    aspects = sorted(key.removesuffix(" seen") for key in counts if key.endswith(" seen"))
    if aspects:
        progress.table(
            "Pairs of pictures by aspect",
            ["aspect", "judged", "tied"],
            [
                [aspect, str(counts[f"{aspect} seen"]), f"{counts[f'{aspect} tied'] / counts[f'{aspect} seen']:.0%}"]
                for aspect in aspects
            ],
        )
    left_out = {
        "refusal": counts["refusals"],
        "failure": counts["failures"],
    }
    plural = progress.plural
    more = "".join(f"; {plural(number, what)} left out" for what, number in left_out.items() if number)
    more += f"; {plural(counts['replaced'], 'judgement')} replaced by a later one" if counts["replaced"] else ""
    progress.note(
        f"{plural(counts['pairs'], 'pair')} {progress.written(out)}, from {plural(counts['judgements'], 'judgement')} "
        f"of {plural(prompts, 'prompt')}; {plural(counts['ties'], 'tie')} {ties}{more}"
    )
