"""Held-out prompts during a tuning: rewards that are only watched, and an early stop."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..contracts import Settings
from .loop import Algorithm, Metrics
from .objective import Objective
from .tuner import Tuner

AT_ONCE = 8
"""Pictures that are drawn together."""


class Watched(Algorithm):
    """An algorithm whose policy draws held-out prompts now and then, always from the same noise.

    The pictures are scored with the rewards that are increased and with others. If a training exploits the weakness of
    a reward, that reward still rises on these pictures, and the others fall.

    With `patience`, the reward `first` decides: the training ends when it has not risen in so many measurements in a
    row, and `finish` restores the weights of the best one.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        tuner: Tuner,
        prompts: Sequence[str],
        rewards: Objective,
        settings: Settings,
        *,
        first: str,
        every: int,
        patience: int | None,
        seed: int,
    ) -> None:
        """`settings` are used for drawing. `every` is the number of rounds between two measurements."""
        self._algorithm, self._tuner, self._rewards = algorithm, tuner, rewards
        self._prompts, self._settings, self._seed = list(prompts), settings, seed
        self._first, self._every, self._patience = rewards.names.index(first), every, patience
        self._best: dict[str, Any] = {"round": 0, "value": -math.inf, "weights": {}}
        self.unit = algorithm.unit
        self.total = algorithm.total
        self._waited = 0
        """Measurements since the best one."""
        self._stopped = 0
        """The round after which patience ended the training; 0 before."""

    def step(self, number: int) -> Metrics:
        """Do step `number` of the algorithm."""
        return self._algorithm.step(number)

    def measure(self, number: int) -> dict[str, float]:
        """The mean of each reward on the held-out prompts, also before the first step; empty between measurements."""
        if number % self._every and number != self.total:
            return {}
        scores = self._draw_and_score()
        self._rewards.check_scored(scores, f"of held-out prompts after round {number}", self._tuner.world)
        means = scores.nanmean(0)
        value = float(means[self._first])
        self._waited += 1
        if value > self._best["value"]:
            weights = copy.deepcopy(self._tuner.policy.trained.weights())
            self._best = {"round": number, "value": value, "weights": weights}
            self._waited = 0
        elif self._patience and self._waited >= self._patience:
            self.total = self._stopped = number
        return {f"watched:{name}": float(mean) for name, mean in zip(self._rewards.names, means, strict=True)}

    @torch.no_grad()
    def _draw_and_score(self) -> torch.Tensor:
        """The rewards (P, R) of a picture of each held-out prompt; every process draws its own share."""
        tuner, world = self._tuner, self._tuner.world
        scores = torch.zeros(len(self._prompts), len(self._rewards.names), dtype=torch.float64)
        with world.failing_together() as deferred:
            for start, counts in tuner.in_step([*range(0, len(self._prompts), AT_ONCE)]):
                part = slice(start, start + AT_ONCE)
                prompts = self._prompts[part]
                noise = [torch.Generator().manual_seed(self._seed + start + row) for row in range(len(prompts))]
                pixels = tuner.policy.draw(prompts, noise, self._settings)
                if counts:
                    with deferred():
                        scores[part] = self._rewards.score(pixels, prompts)
        return world.gather(scores).sum(0)

    def finish(self) -> str:
        """Restore the weights of the best measurement if `patience` is given. Says what was measured."""
        name, best = self._rewards.names[self._first], self._best
        said = f"{name} on held-out prompts was best after round {best['round']}: {best['value']:.4g}"
        if not self._patience:
            return said
        self._tuner.policy.trained.load(best["weights"])
        ended = f"; --patience ended the training after round {self._stopped}" if self._stopped else ""
        return f"{said}; these weights are kept{ended}"

    def state_dict(self) -> dict[str, Any]:
        """The state of the algorithm, the best measurement, and whether patience has ended the training."""
        return {**self._algorithm.state_dict(), "best": self._best, "waited": self._waited, "stopped": self._stopped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        if not 0 <= state["stopped"] <= self.total or not state["best"]["value"] < math.inf:
            raise ValueError("a training of another length")
        self._stopped, self._waited, self._best = state["stopped"], state["waited"], state["best"]
        self.total = self._stopped or self.total
        self._algorithm.load_state_dict(state)
