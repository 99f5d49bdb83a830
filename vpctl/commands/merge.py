"""Turn judgements into preference pairs."""

import math
import os
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain
from typing import Annotated

from .. import progress
from ..contracts import RecordKind
from ..errors import UserError
from ..judging.joining import KINDS, WHOLE, Joined, Joining, Summary, joined
from ..judging.merging import AGGREGATES, ANY_ASPECT, ANYONE, PAIRINGS, Merging
from ..judging.preferences import Scale
from ..options import STDIO, MaxPictures, Roots, Whole, argument, option
from ..sources import NamedDataSet, find
from ..streams.joins import once
from ..streams.jsonlines import parse
from ..streams.names import absolute
from ..streams.places import folder_of, is_stream, real_path
from ..streams.writing import Replacement

TIE_BREAKERS = ("ranking", "none")


def merge(
    judgements: Annotated[
        list[str],
        argument(metavar="FILE...", help="Judgements: JSON Lines files, or FORMAT:PATH; - is standard input."),
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
    aggregate: Annotated[
        str,
        option(
            "--aggregate",
            choices=AGGREGATES,
            group="Preference",
            help="What becomes of several judgements of one annotator, and of several annotators: their mean or their "
            "median.",
        ),
    ] = AGGREGATES[0],
    annotator_weight: Annotated[
        list[str] | None,
        option(
            "--annotator-weight",
            metavar="[ASPECT@]WHO=W",
            group="Preference",
            help="Weight of the annotator WHO among the annotators, on one aspect or on all. The default weight is 1; "
            "0 leaves the annotator out; repeatable.",
        ),
    ] = None,
    min_annotators: Annotated[
        int,
        option(
            metavar="N",
            min=1,
            group="Preference",
            help="Two pictures are compared on an aspect only if at least this many annotators judged both.",
        ),
    ] = 1,
    pairs: Annotated[
        str,
        option(
            "--pairs",
            choices=PAIRINGS,
            group="Preference",
            help="Which pictures of a prompt are paired. all: every two. best-worst: the best and the worst. adjacent: "
            "each and the next worse one. dominant: every two, if one is at least as good on every aspect.",
        ),
    ] = PAIRINGS[0],
    balance: Annotated[
        int,
        option(
            metavar="N",
            min=0,
            group="Preference",
            help="Keep at most this many pairs of each prompt, drawn at random, so that prompts with many pictures do "
            "not count more. 0 means no limit.",
        ),
    ] = 0,
    to: Annotated[
        list[str] | None,
        option(
            "--to",
            metavar="KIND|FORMAT:PATH",
            offered=KINDS,
            group="Output",
            help="What is written. pairs: pairs of pictures. ratings: single pictures that are liked or disliked, for "
            "tune-dpo --algorithm kto. judgements: the judgements that count, joined into one file. FORMAT:PATH, such "
            "as parquet:pairs.parquet, writes a data set in place of --out; give --to twice to name a kind, too. "
            "dataset:DIR holds judgements, pairs and pictures together, with a data card, ready to be published.",
            show_default="pairs",
        ),
    ] = None,
    html: Annotated[
        str,
        option(
            "--html",
            metavar="FILE",
            group="Output",
            help="Also write an HTML page about the judgements: scores and ties of each aspect, correlations between "
            "aspects, agreement of annotators, contested prompts and, with --pictures, what wins.",
        ),
    ] = "",
    pictures: Annotated[
        list[str] | None,
        option(
            "--pictures",
            metavar="FILE",
            group="Input",
            help="Records of the pictures, as generate writes them. The page of --html and the card of --to "
            "dataset:DIR then say how often each model and each guidance wins, and the data set keeps how each picture "
            "was drawn; repeatable.",
        ),
    ] = None,
    root: Roots = None,
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

    --pairs and --to ratings order the pictures of a prompt. A picture's place depends on how far it is above the other
    pictures of the prompt on average. With --to ratings, a picture is liked if it is above them and disliked if it is
    below; its `margin` is how far.

    The memory hardly grows with the number of judgements. What does not fit is kept in a temporary file in the folder
    of --out, or without one in that of TMPDIR. It has no name, so nothing of it stays behind. The command uses all
    cores.

    The judgements in all files must agree. One prompt_id must always have the same prompt. One image_id must always
    have the same picture; a moved or copied file is the same picture. One prompt must always be in the same part of
    the data, except with --split, which assigns all prompts to new parts.

    Examples:

        vpctl merge judgements.jsonl --split train:0.8,validation:0.1,test:0.1
            --out pairs.jsonl

        vpctl merge gpt.jsonl human.jsonl --scale human=1:10
            --weight aesthetic=0.5 > pairs.jsonl

        vpctl merge part-*.jsonl --pairs dominant --html judgements.html
            --pictures images/metadata.jsonl --out pairs.jsonl
    """
    once(judgements)
    weights = _numbers("--weight", [(text, *_assignment(text)) for text in weight or []])
    shares = _numbers("--split", [(split, *_share(split, part)) for part in split.split(",") if part])
    if split and not 0 < sum(shares.values()) < math.inf:
        raise UserError(
            f"--split {split}: no part has a share above 0; write parts and shares such as train:0.9,test:0.1"
        )
    how = Merging(
        scales=parse_scales(scale or []),
        weights=weights,
        annotator_weights=parse_annotator_weights(annotator_weight or []),
        aggregate=aggregate,
        min_annotators=min_annotators,
        rankings=break_ties == "ranking",
        pairing=pairs,
        min_margin=min_margin,
        keep_ties=keep_ties,
        balance=balance,
        split=shares,
    )
    kind, target = destination(to or [], out, [*judgements, *(pictures or [])])
    if html:
        from ..pages import html as pages

        pages.check(html, others=[*judgements, *(pictures or []), target.path if target else out])
    if pictures and not html and kind != WHOLE:
        raise UserError(
            "--pictures: only the page and --to dataset:DIR need these records; name one of them, or leave them out"
        )
    base = os.getcwd() if target else folder_of(out)
    with_overview = bool(html) or kind == WHOLE
    joining = Joining(kind=kind, how=how, base=base, max_pictures=max_pictures, with_overview=with_overview)
    folders = [*map(folder_of, [*judgements, *(pictures or [])]), *(root or [])]
    with ExitStack() as stack:
        sink = None if target else stack.enter_context(Replacement(out, judgements))
        folder = None if target or is_stream(out) else base
        found = stack.enter_context(joined(judgements, joining, folder, pictures or []))
        check_names(how, found)
        if sink:
            for lines in found.lines:
                sink.write_lines(lines)
        elif target:
            each = (parse(line, target.spec) for line in chain.from_iterable(map(bytes.splitlines, found.lines)))
            if kind == WHOLE:
                target.publish(each, Summary(found.tally, found.overview, how), folders)
            else:
                target.write((absolute(record, base) for record in each), folders)
            out = target.spec
    text = summarise(found, joining, out)
    if html:
        from ..images.pictures import Pictures
        from ..pages import judged

        judged.write(
            html,
            title="Judgements",
            overview=found.overview,
            tally=found.tally,
            facts=[f"{text[0].upper()}{text[1:]}."],
            pictures=Pictures(folders),
        )


def destination(to: list[str], out: str, sources: list[str]) -> tuple[str, NamedDataSet | None]:
    """What is written, one of `KINDS` or `WHOLE`, and the data set that it is written to, if it is not --out.

    Raises `UserError` if the data set cannot hold it or is read by this command.
    """
    kinds, specs = [one for one in to if one in KINDS], [one for one in to if one not in KINDS]
    if len(kinds) > 1 or len(specs) > 1:
        raise UserError(f"--to {' --to '.join(to)}: name one kind of records and one data set at most")
    if not specs:
        return (kinds or [KINDS[0]])[0], None
    target = find(specs[0], is_read=True)
    if not target:
        raise UserError(f"--to {specs[0]}: must be {', '.join(KINDS)} or FORMAT:PATH, such as csv:pairs.csv")
    if out != STDIO:
        raise UserError(f"--to {specs[0]}: is written in place of --out; leave --out out")
    if os.path.realpath(target.path) in map(real_path, sources):
        raise UserError(f"--to {specs[0]}: is read by this command; name another path")
    if target.publishes:
        if kinds:
            raise UserError(f"--to {specs[0]}: holds pairs and judgements together; leave --to {kinds[0]} out")
        return WHOLE, target
    wanted: dict[RecordKind, str] = {"pair": "pairs", "rating": "ratings", "judgement": "judgements"}
    asked = [kind for kind, plural in wanted.items() if plural in kinds]
    taken = target.taken(asked or wanted)
    target.check_old()
    return wanted[taken], target


def check_names(how: Merging, found: Joined) -> None:
    """Raise `UserError` if an option names an aspect or an annotator that no judgement has."""
    if found.aspects:
        known("--weight", how.weights, found.aspects)
        known("--scale", how.scales.keys() - {ANYONE}, found.annotators)
        known("--annotator-weight", {who for _, who in how.annotator_weights}, found.annotators)
        known("--annotator-weight", {one for one, _ in how.annotator_weights} - {ANY_ASPECT}, found.aspects)


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
    name, sign, value = part.partition(":" if ":" in part else "=")
    if not (name and sign):
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


def parse_annotator_weights(texts: list[str]) -> dict[tuple[str, str], float]:
    """Weights by aspect and annotator, from ``WHO=W`` and ``ASPECT@WHO=W``.

    What is before an @ is an aspect, unless it has a colon, as in ``human:anna@example.com``.
    """
    weights: dict[tuple[str, str], float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not (equals and name):
            raise UserError(f"--annotator-weight {text}: must be an annotator and its weight, such as human:anna=2")
        aspect, at, who = name.partition("@")
        key = (aspect, who) if at and ":" not in aspect else (ANY_ASPECT, name)
        if key in weights:
            raise UserError(f"--annotator-weight {text}: {name!r} is named twice; name it once")
        weights[key] = _number("--annotator-weight", text, value)
    return weights


def summarise(found: Joined, joining: Joining, out: str) -> str:
    """Print a table of ties by aspect, and what was written to `out`. Returns the numbers of it as a text."""
    counts, plural = found.tally.counts, progress.plural
    seen, tied = found.tally.seen, found.tally.tied
    if seen:
        progress.table(
            "Pairs of pictures by aspect",
            ["aspect", "judged", "tied"],
            [[aspect, str(seen[aspect]), f"{tied[aspect] / seen[aspect]:.0%}"] for aspect in sorted(seen)],
        )
    left_out = {"refusal": counts["refusals"], "failure": counts["failures"]}
    if joining.kind != "judgements":
        ties = f"; {plural(counts['ties'], 'tie')} {'among them' if joining.how.keep_ties else 'dropped'}"
        left_out["pair"] = counts["unbalanced"]
    else:
        ties = ""
    more = "".join(f"; {plural(number, what)} left out" for what, number in left_out.items() if number)
    more += f"; {plural(counts['replaced'], 'judgement')} replaced by a later one" if counts["replaced"] else ""
    made = plural(counts["written"], "pair" if joining.kind == WHOLE else joining.kind[:-1])
    pictures, prompts = plural(counts["pictures"], "picture"), plural(counts["prompts"], "prompt")
    source = f"{plural(counts['judgements'], 'judgement')} of {pictures} for {prompts}"
    progress.note(f"{made} {progress.written(out)}, from {source}{ties}{more}")
    return f"{made} from {source}{ties}{more}"
