"""Rounds of drawing and scoring, of the algorithms that compare the pictures of a prompt with one another."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configs import PPOConfig, RoundConfig
from .loop import Algorithm
from .objective import Objective
from .rollout import Rollout, roll_out_and_score
from .sampler import Sampler, open_sampler
from .spans import Span, check_batches, spans
from .tuner import Tuner


class Round(NamedTuple):
    """The B pictures of a round."""

    parts: list[list[Span]]
    """The batches of each optimizer step."""
    rollouts: dict[Span, Rollout]
    """The drawn batches of this process."""
    rewards: Tensor
    """(B, R)."""
    advantages: Tensor
    """(B,)."""


class RoundAlgorithm(Algorithm):
    """An algorithm that draws pictures of some prompts, scores them, and trains on them, round by round.

    The tuner's generator chooses the prompts and the noise.
    """

    unit = "round"

    def __init__(
        self,
        tuner: Tuner,
        prompts: list[str],
        objective: Objective,
        config: PPOConfig,
        rounds: RoundConfig,
        *,
        steps: int,
        guidance: float,
    ) -> None:
        """`config` are the options of all algorithms of tune-ppo, `rounds` those of the ones with rounds.

        `steps` and `guidance` are used for drawing. Raises `UserError` if a process would have no pictures.
        """
        pictures = min(config.prompts_per_epoch, len(prompts)) * config.images
        check_batches(pictures, rounds.updates, config.batch, tuner.world.size, sharded=tuner.world.even)
        self.total = config.epochs
        self._tuner, self._prompts, self._objective = tuner, prompts, objective
        self._config, self._rounds, self._guidance = config, rounds, guidance
        self._sampler = open_sampler(tuner.policy, steps, config.eta)

    def _draw(self, number: int, sampler: Sampler, *, only_last: bool = False) -> Round:
        """The pictures of round `number`. For `only_last` see `roll_out_and_score`.

        Raises `UserError` for a reward or a picture that is not finite.
        """
        tuner, config, rounds = self._tuner, self._config, self._rounds
        order = torch.randperm(len(self._prompts), generator=tuner.generator)
        chosen = order[: config.prompts_per_epoch].tolist()
        prompts = [self._prompts[index] for index in chosen for _ in range(config.images)]
        seeds = torch.randint(2**62, (len(prompts),), generator=tuner.generator).tolist()
        parts = spans(len(prompts), rounds.updates, config.batch)
        rollouts, rewards = roll_out_and_score(
            tuner,
            prompts,
            seeds,
            [batch for part in parts for batch in tuner.own(part)],
            sampler,
            self._objective,
            guidance=self._guidance,
            where=f"round {number}",
            together=rounds.packed,
            only_last=only_last,
        )
        advantages = self._objective.advantages(
            rewards, config.images, rounds.advantage_clip, deviation=rounds.deviation
        )
        return Round(parts, rollouts, rewards, advantages)

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state."""
        return self._tuner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self._tuner.load_state_dict(state)
