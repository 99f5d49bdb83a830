"""How often the 95 % intervals of eval hold the truth, and how often a gate fires without cause.

Simulated experiments: 120 prompts with 2 to 9 pictures each, whose quality people rank with noise and with ties, and
whose scores by two rewards are the quality with noise. The truth of each statistic is its value over 20,000 prompts.
For the win rate, two models draw 4 pictures for each of 40 prompts, and ties occur. In each of 1,000 experiments the
interval of each statistic either holds the truth or not. Goal: 93 to 97 %.

The gate compares two runs of the same model on prompts of their own, as --previous does. Goal: it fires in at most 3 %.

Run from the root of the repository with: python -m benchmarks.coverage
"""

import numpy as np

from vpctl.records import Report
from vpctl.report.accuracy import Accuracy, LabelledPair, in_definitions
from vpctl.report.gates import regressions
from vpctl.report.intervals import bootstrap
from vpctl.report.statistics import mean_report, preferred

EXPERIMENTS = 1000
PROMPTS, LARGE = 120, 20_000
NOISE = (1.0, 1.6)
"""Of the two rewards, in standard deviations of the quality."""
MODELS = (40, 4, 0.25)
"""Prompts, pictures for each, and how much better the tuned model is."""


def pairs(rng: np.random.Generator, prompts: int) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """The pairs of pictures of simulated prompts, with the scores of the one reward and of the other."""
    found: tuple[list[LabelledPair], list[LabelledPair]] = [], []
    for prompt in range(prompts):
        count = int(rng.integers(2, 10))
        quality = rng.normal(size=count)
        ranks = np.round(1.5 * (quality + rng.normal(scale=0.8, size=count))).tolist()
        scores = [(quality + rng.normal(scale=noise, size=count)).tolist() for noise in NOISE]
        for one in range(count):
            for other in range(one):
                label = preferred(ranks[one], ranks[other])
                for side, score in zip(found, scores, strict=True):
                    side.append(LabelledPair(str(prompt), label, score[one], score[other]))
    return found


def accuracies(rng: np.random.Generator, prompts: int) -> list[dict[str, Accuracy]]:
    """The accuracies of both rewards in all definitions."""
    return [in_definitions(side, ["all"]) for side in pairs(rng, prompts)]


def outcomes(rng: np.random.Generator, prompts: int) -> tuple[list[float], list[str]]:
    """The outcomes of a tuned model against the base model, and their prompts. Some prompts suit it better."""
    _, pictures, better = MODELS
    gains = rng.normal(better, 0.5, prompts)
    apart = np.round(2 * (gains[:, None] + rng.normal(size=(prompts, pictures))))
    values = (np.sign(apart) / 2 + 0.5).ravel().tolist()
    return values, [str(prompt) for prompt in range(prompts) for _ in range(pictures)]


def main() -> None:
    """Print the coverage of each interval, and how often the gate fires."""
    rng = np.random.default_rng(0)
    one, other = accuracies(rng, LARGE)
    truth = {metric: found.value for metric, found in one.items()}
    truth["difference"] = one["accuracy"].value - other["accuracy"].value
    truth["win rate"] = float(np.mean(outcomes(rng, LARGE)[0]))
    held = dict.fromkeys(truth, 0)
    fired = 0
    for _ in range(EXPERIMENTS):
        one, other = accuracies(rng, PROMPTS)
        mine, theirs = one["accuracy"], other["accuracy"]
        apart = [left - right for left, right in zip(mine.values, theirs.values, strict=True)]
        found = {metric: bootstrap(some.values, some.prompts) for metric, some in one.items()}
        found["difference"] = bootstrap(apart, mine.prompts, lowest=-1)
        runs = [outcomes(rng, MODELS[0]) for _ in range(2)]
        found["win rate"] = bootstrap(*runs[0])
        for metric, interval in found.items():
            held[metric] += interval.low <= truth[metric] <= interval.high
        now, before = (reported(*run) for run in runs)
        fired += bool(regressions([now], [before], source="before")[0].failure)
    for metric, count in held.items():
        share = 100 * count / EXPERIMENTS
        print(f"{metric.replace('_', ' '):22s} {truth[metric]:.3f}: held by {share:.1f} % (goal 93 to 97)")
    print(f"gate without cause: fires in {100 * fired / EXPERIMENTS:.1f} % (goal at most 3)")


def reported(values: list[float], prompts: list[str]) -> Report:
    """The report of a win rate."""
    return mean_report(values, prompts, name="tuned", metric="win_rate")


if __name__ == "__main__":
    main()
