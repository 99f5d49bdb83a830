"""How often a trained reward model is right on held-out pairs, in all definitions of accuracy in use."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from ..models.reward import RewardModel
from ..records import Report
from ..report.accuracy import (
    DEFINITIONS,
    TIE,
    TIE_AWARE,
    LabelledPair,
    best_threshold,
    in_definitions,
    reports_of,
)
from .heads import Heads
from .reward import Load, PromptPairs, batches, features_of, loaded, margins, preferences, preferred_by_aspect

OVERALL = ""
"""The name of the overall head among those of the aspects."""


class RewardScale(NamedTuple):
    """The mean and standard deviation that rewards are scaled by before they are compared."""

    mean: float = 0.0
    std: float = 1.0


UNSCALED = RewardScale()


@torch.inference_mode()
def labelled(
    model: RewardModel,
    groups: list[PromptPairs],
    load: Load,
    batch: int,
    device: torch.device,
    *,
    heads: Heads | None = None,
    scale: RewardScale = UNSCALED,
) -> dict[str, list[LabelledPair]]:
    """The pairs with their labels and rewards, by `OVERALL`, and by the aspects that have a head in `heads`.

    The overall rewards are scaled. A pair is a tie if its margin is 0. An aspect's label is that of the aspect, which
    may prefer the rejected picture.
    """
    aspects = heads.aspects if heads else []
    found: dict[str, list[LabelledPair]] = {name: [] for name in (OVERALL, *aspects)}
    for part, pixels in loaded(batches(groups, batch), load):
        features = features_of(model, part, pixels, device)
        rewards = {OVERALL: (model.reward(features) - scale.mean) / scale.std}
        labels = {OVERALL: margins(part).sign()}
        if heads and aspects:
            rewards |= zip(aspects, heads(model, features).aspects.T, strict=True)
            labels |= zip(aspects, preferred_by_aspect(part, aspects).T, strict=True)
        prompts = [group.prompt for group in part for _ in group.pairs]
        chosen, rejected = preferences(part)
        for name, values in found.items():
            reward = rewards[name].cpu()
            rows = (((labels[name] + 1) / 2).tolist(), reward[chosen].tolist(), reward[rejected].tolist())
            values += map(LabelledPair, prompts, *rows)
    return found


def threshold_for_ties(validation: Sequence[LabelledPair]) -> float | None:
    """The threshold of the tie-aware accuracy, chosen on validation pairs; None if none of them is a tie."""
    return best_threshold(validation) if any(pair.label == TIE for pair in validation) else None


def accuracy_reports(pairs: Mapping[str, Sequence[LabelledPair]], threshold: float | None, name: str) -> list[Report]:
    """The reports of test pairs, as `labelled` returns them. There are none if all of these are ties.

    The headline is first. Then come the other definitions; without a `threshold`, the tie-aware one is left out. Last
    come the heads of the aspects, each on the pairs that are not tied on its aspect.
    """
    wanted = [one for one in DEFINITIONS if one != TIE_AWARE or threshold is not None]
    found: list[Report] = []
    for which, some in pairs.items():
        if all(pair.label == TIE for pair in some):
            continue
        if which == OVERALL:
            found += reports_of(in_definitions(some, wanted, threshold or 0.0), threshold or 0.0, name=name)
        else:
            found += reports_of(in_definitions(some), 0.0, name=name, aspect=which)
    return found
