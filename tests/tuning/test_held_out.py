"""The accuracies of a trained model on held-out pairs, with a stand-in for the model: its reward is the brightness."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from vpctl.models.reward import RewardModel
from vpctl.report.accuracy import LabelledPair
from vpctl.tuning.heads import HeadOutputs, Heads
from vpctl.tuning.held_out import OVERALL, RewardScale, accuracy_reports, labelled, threshold_for_ties
from vpctl.tuning.reward import Comparison, PromptPairs

CPU = torch.device("cpu")


class Brightness:
    """A model whose reward is the brightness of the picture."""

    def tokens(self, prompts: list[str]) -> dict[str, Tensor]:
        return {}

    def image_features(self, pixels: Tensor) -> Tensor:
        return pixels.mean((1, 2, 3))[:, None]

    def pair_features(self, features: Tensor) -> Tensor:
        return features

    def reward(self, features: Tensor) -> Tensor:
        return features[:, 0]


class Darkness:
    """A head for fidelity that prefers the darker picture."""

    aspects = ("fidelity",)

    def __call__(self, model: Any, features: Tensor) -> HeadOutputs:
        return HeadOutputs(features[:, 0], -features, torch.zeros(len(features)))


def pictures(numbers: list[int]) -> Tensor:
    """Every picture is as bright as its number."""
    return torch.tensor(numbers).float()[:, None, None, None].expand(-1, 3, 2, 2)


def pairs_of(groups: list[PromptPairs], **more: Any) -> dict[str, list[LabelledPair]]:
    return labelled(cast(RewardModel, Brightness()), groups, pictures, 1, CPU, **more)


def test_a_pair_has_the_label_of_the_judges_and_the_scaled_rewards_of_its_pictures() -> None:
    groups = [
        PromptPairs("a", [9, 5], [Comparison(0, 1, 0.5, {"fidelity": -0.5}), Comparison(1, 0, 0.0, {"fidelity": 0.0})]),
        PromptPairs("b", [1, 3], [Comparison(0, 1, 0.2, {"fidelity": 1.0})]),
    ]
    found = pairs_of(groups, heads=cast(Heads, Darkness()), scale=RewardScale(1.0, 2.0))
    assert found == {
        OVERALL: [LabelledPair("a", 1, 4, 2), LabelledPair("a", 0.5, 2, 4), LabelledPair("b", 1, 0, 1)],
        "fidelity": [LabelledPair("a", 0, -9, -5), LabelledPair("a", 0.5, -5, -9), LabelledPair("b", 1, -1, -3)],
    }


def values(pairs: dict[str, list[LabelledPair]], threshold: float | None) -> dict[str, tuple[float, int]]:
    reports = accuracy_reports(pairs, threshold, "vp:rm")
    assert all(report["low"] <= report["value"] <= report["high"] for report in reports)
    return {report.get("aspect", report["metric"]): (report["value"], report["n"]) for report in reports}


def test_ties_reach_the_definitions_that_count_them_and_not_the_headline() -> None:
    """One prompt with a right pair and a tie that is predicted, one with a wrong pair."""
    pairs = [LabelledPair("a", 1, 4, 0), LabelledPair("a", 0.5, 1, 1.1), LabelledPair("b", 1, 0, 4)]
    by_aspect = [LabelledPair("a", 0, 1, 2), LabelledPair("a", 0.5, 1, 2), LabelledPair("b", 1, 2, 1)]
    found = values({OVERALL: pairs, "fidelity": by_aspect, "aesthetic": by_aspect[1:2]}, 0.1)
    assert found == {
        "accuracy": (0.5, 2),
        "accuracy_pooled": (0.5, 2),
        "accuracy_per_prompt": (0.5, 2),
        "accuracy_ties_count": (0.5, 2),
        "accuracy_tie_aware": (pytest.approx(2 / 3), 3),
        "fidelity": (1.0, 2),
    }
    assert next(iter(found)) == "accuracy"
    assert "accuracy_tie_aware" not in values({OVERALL: pairs}, None)
    assert accuracy_reports({OVERALL: pairs[1:2]}, 0.1, "vp:rm") == []


def test_the_threshold_is_the_best_one_where_there_are_ties() -> None:
    """Differences of 0.5 are ties and those of 3 are not: tanh(0.25) = 0.24 and tanh(1.5) = 0.91."""
    pairs = [LabelledPair("a", 0.5, 0, 0.5), LabelledPair("a", 1, 3, 0)]
    assert threshold_for_ties(pairs) == 0.3
    assert threshold_for_ties(pairs[1:]) is None
