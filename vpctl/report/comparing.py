"""Pictures of several models, side by side: which one is compared with which, and how often one wins."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, cast

from ..errors import UserError
from ..records import Image, Report, prompt_key
from .statistics import mean_report, preferred

Side = dict[str, list[Image]]
"""The pictures of one model, by prompt."""
Outcome = Callable[[Image, Image], float | None]
"""1 if the first picture is better, 0 if the second one is, 0.5 for a tie; None if they were not compared."""


class Matched(NamedTuple):
    """Two models' pictures that are compared, with the key of their prompt."""

    prompt: str
    one: Image
    other: Image


class Decider(NamedTuple):
    """A reward or an annotator that decides. `score` is the score of a picture, and None for an annotator."""

    name: str
    outcome: Outcome
    score: Callable[[Image], float] | None = None


def by_prompt(images: Iterable[Image]) -> Side:
    """Pictures by prompt, in their order."""
    prompts: Side = {}
    for image in images:
        prompts.setdefault(prompt_key(image), []).append(image)
    return prompts


def selected(side: Side, count: int, score: Callable[[Image], float]) -> Side:
    """The pictures of each prompt with the highest scores, the best first, at most so many."""
    return {prompt: sorted(images, key=score, reverse=True)[:count] for prompt, images in side.items()}


def matches(tuned: Side, base: Side, *, by_place: bool = False) -> list[Matched]:
    """The pictures of the prompts that both models drew, as `matched` pairs them, in the order of the base model."""
    pair_up = _in_order if by_place else matched
    return [
        Matched(prompt, one, other)
        for prompt in base
        if prompt in tuned
        for one, other in pair_up(tuned[prompt], base[prompt])
    ]


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


def _in_order(ones: list[Image], others: list[Image]) -> Iterator[tuple[Image, Image]]:
    return zip(ones, others, strict=False)


def scorer(reward: str, sources: Mapping[int, str]) -> Decider:
    """The reward of this name as a scorer, from the scores in the records.

    `sources` has the file of each record, by its identity, for messages. Raises `UserError` for one without a score.
    """

    def score(image: Image) -> float:
        scores = image.get("scores", {})
        if reward not in scores:
            has = ", ".join(scores)
            name = image.get("image_id", image["file_name"])
            way_out = f"run vpctl score with --reward {reward}, or name another" if not scores else f"it has {has}"
            raise UserError(f"{sources[id(image)]}: {name} has no score of {reward!r}; {way_out}")
        return scores[reward]

    return Decider(reward, lambda one, other: preferred(score(one), score(other)), score)


def win_rate(pairs: Sequence[Matched], scorer: Decider, **keys: object) -> Report | None:
    """The win rate of the first model of each pair, with its wins, ties and losses; None if nothing was compared.

    `p_value` is that of the two-sided sign test over prompts: a prompt counts for the model that won more often on it.
    With a reward, the report has the mean scores of both models.
    """
    found = [(prompt, one, other, scorer.outcome(one, other)) for prompt, one, other in pairs]
    decided = [(prompt, one, other, value) for prompt, one, other, value in found if value is not None]
    if not decided:
        return None
    values = [value for *_, value in decided]
    prompts = [prompt for prompt, *_ in decided]
    facts: dict[str, object] = {
        "wins": values.count(1.0),
        "ties": values.count(0.5),
        "losses": values.count(0.0),
        "p_value": sign_test(prompts, values),
    }
    if scorer.score:
        means = {
            "mean": sum(scorer.score(one) for _, one, _, _ in decided) / len(decided),
            "baseline_mean": sum(scorer.score(other) for _, _, other, _ in decided) / len(decided),
        }
        facts |= {name: mean for name, mean in means.items() if math.isfinite(mean)}  # of scores near 1e308 it is not
    if len(decided) < len(found):
        facts["unjudged"] = len(found) - len(decided)
    return mean_report(values, prompts, metric="win_rate", reward=scorer.name, **keys, **facts)


def sign_test(prompts: Sequence[str], outcomes: Sequence[float]) -> float:
    """The p-value of the two-sided sign test: how likely prompts are won at least so unevenly by equal models.

    A prompt is won by the model that won more of its comparisons; one with as many wins as losses is left out. The
    pictures of one prompt are not independent, so single comparisons cannot be counted.
    """
    from scipy.special import bdtr

    nets: Counter[str] = Counter()
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        nets[prompt] += cast(int, outcome - 0.5)
    won, lost = sum(net > 0 for net in nets.values()), sum(net < 0 for net in nets.values())
    return min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5))) if won + lost else 1.0


def groups_of(pairs: Sequence[Matched], key: str, told: Mapping[str, Mapping[str, object]]) -> dict[str, list[Matched]]:
    """The pairs by the value of a key of their prompt. `told` has more keys of the prompts, by their ids."""
    found: dict[str, list[Matched]] = {}
    for pair in pairs:
        value = told.get(pair.prompt, {}).get(key, cast(Mapping[str, object], pair.other).get(key))
        if value is not None:
            found.setdefault(value if isinstance(value, str) else json.dumps(value), []).append(pair)
    return dict(sorted(found.items()))


def side_by_side(sides: Mapping[str, Side]) -> Iterator[list[tuple[str, Image]]]:
    """For each prompt that all sources have, the first picture of each source, with the name of the source."""
    if not sides:
        return
    shared = set.intersection(*(set(prompts) for prompts in sides.values()))
    first = next(iter(sides.values()))
    for prompt in first:
        if prompt in shared:
            yield [(source, prompts[prompt][0]) for source, prompts in sides.items()]


def scores_of(sides: Mapping[str, Side]) -> dict[str, dict[str, list[float]]]:
    """By reward and source, the scores of all pictures. A source without a score of the reward has an empty list."""
    found: dict[str, dict[str, list[float]]] = {}
    for source, side in sides.items():
        for image in chain.from_iterable(side.values()):
            for reward, score in image.get("scores", {}).items():
                found.setdefault(reward, {one: [] for one in sides})[source].append(score)
    return found
