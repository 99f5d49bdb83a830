"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): reinforcement learning without probabilities of denoising steps.

A round draws pictures with an old policy, scores them, adds new noise to the finished pictures, and trains the
predictions for these noisy pictures. Any sampler can draw them, also one without noise.

Differences from the released code, which is for flow models: the loss compares predicted latents without noise, and
these come from a predicted noise or velocity alike. Classifier-free guidance is allowed: it is part of the policy, in
drawing and in training. The advantages of a prompt's pictures have the mean 0, so a wrong mean of guided predictions
hardly moves anything, as long as no advantage is clipped. The loss is not multiplied by 5. This only changes the
meaning of --drift-weight.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configs import NFTConfig, PPOConfig, RoundConfig
from ..models.denoiser.conditioning import Conditioning
from ..models.tensors import copied, swapped
from .objective import Objective
from .rollout import Rollout, seeded_noise
from .rounds import RoundAlgorithm
from .tuner import Tuner, blend, restore_weights

METRICS = ("loss", "step_size")
"""The loss; the mean squared difference of the prediction from that of the old policy."""


def nft_loss(new: Tensor, old: Tensor, clean: Tensor, goodness: Tensor, beta: float) -> Tensor:
    """The loss (B,) of predicted latents without noise, by the trained and by the old policy, for `clean` latents.

    [r ‖x⁺ − x₀‖² / w⁺ + (1 − r) ‖x⁻ − x₀‖² / w⁻] / β, with x⁺ = (1 − β) x_old + β x_new, x⁻ = (1 + β) x_old − β x_new,
    the squared norm as a mean over the elements, and w = mean |x − x₀|, at least 1e-5, without a gradient. The weights
    w make all noise levels count alike. `goodness` (B,) is r, from 0 for a bad picture to 1 for a good one; the other
    tensors are (B, C, H, W).

    With r = 1/2 the gradient at x_new = x_old is 0: a picture like the others of its prompt teaches nothing.
    """
    errors = []
    for mixed in ((1 - beta) * old + beta * new, (1 + beta) * old - beta * new):
        error = (mixed - clean).flatten(1)
        errors.append(error.square().mean(1) / error.detach().abs().mean(1).clamp_min(1e-5))
    return (goodness * errors[0] + (1 - goodness) * errors[1]) / beta


class Lesson(NamedTuple):
    """What a round teaches about some of its pictures, B of them."""

    rollout: Rollout
    goodness: Tensor
    """(B,), from 0 to 1."""
    steps: Tensor
    """(B, K): the denoising steps whose noise levels are trained on."""
    seeds: Tensor
    """(B, K): the seeds of the new noise."""


class Noisy(NamedTuple):
    """Finished pictures with new noise, B of them."""

    latents: Tensor
    """(B, C, H, W)."""
    clean: Tensor
    """(B, C, H, W): the same without noise."""
    steps: Tensor
    """(B,): the denoising steps that have their noise levels."""
    conditioning: Conditioning
    rows: Tensor
    """(B,): the place of each in its `Lesson`, on the CPU."""


class NFT(RoundAlgorithm):
    """Tunes the policy towards some rewards, in rounds of drawing, scoring and training.

    The tuner's generator also chooses the noise levels to train on, and the new noise.
    """

    def __init__(
        self,
        tuner: Tuner,
        prompts: list[str],
        objective: Objective,
        config: PPOConfig,
        rounds: RoundConfig,
        own: NFTConfig,
        *,
        steps: int,
        guidance: float,
    ) -> None:
        """For the arguments see `RoundAlgorithm`; `own` are the options of NFT."""
        super().__init__(tuner, prompts, objective, config, rounds, steps=steps, guidance=guidance)
        self._own = own
        self._old = copied(tuner.policy.trainable)
        """The weights of the policy that draws."""

    def step(self, number: int) -> dict[str, float]:
        """Draw pictures of some prompts, score them, and train on them. Returns the rewards and the means of `METRICS`.

        Raises `UserError` for a reward or a picture that is not finite.
        """
        tuner, rounds = self._tuner, self._rounds
        policy, levels = tuner.policy, len(self._sampler.timesteps)
        with swapped(policy.trainable, self._old):
            parts, rollouts, rewards, advantages = self._draw(number, self._sampler, only_last=True)
        taken = max(1, round(rounds.timestep_fraction * levels))
        trained = torch.rand(len(rewards), levels, generator=tuner.generator).argsort(1)[:, :taken]
        seeds = torch.randint(2**62, trained.shape, generator=tuner.generator)
        goodness = 0.5 + 0.5 * advantages / rounds.advantage_clip
        lessons = {
            (start, stop): Lesson(drawn, goodness[start:stop], trained[start:stop], seeds[start:stop])
            for (start, stop), drawn in rollouts.items()
        }
        drift = self._measure_drift(next(iter(lessons.values())))  # the first pictures of this process
        sums = torch.zeros(len(METRICS))
        for part in parts:
            share = 1 / (part[-1][1] - part[0][0])
            same = all(map(torch.equal, self._old, policy.trainable))
            for span in tuner.own(part):
                sums += share * self._learn(lessons[span], share, same=same)
            tuner.step(f"round {number}")
        decay = min(self._own.old_decay, self._own.old_decay_rise * number)
        blend(self._old, policy.trainable, decay)
        means = dict(zip(METRICS, (tuner.world.gather(sums).sum(0) / len(parts)).tolist(), strict=True))
        return {
            **self._objective.metrics(rewards, self._config.images),
            **means,
            "drift": float(tuner.world.gather(drift)[0]),
            **tuner.skipped(),
        }

    def _learn(self, lesson: Lesson, share: float, *, same: bool) -> Tensor:
        """Add the gradient of some pictures. Returns the sums of `METRICS` over the pictures, on the CPU.

        `share` is the weight of one picture in its optimizer step. `same` says that the old policy is still the trained
        one, so that one prediction serves for both.
        """
        policy, sampler, weight = self._tuner.policy, self._sampler, self._own.drift_weight
        levels = lesson.steps.shape[1]
        sums = torch.zeros(len(METRICS))
        for columns in torch.arange(levels).split(self._rounds.packed):
            noisy = self._noised(lesson, columns)
            new = self._predict(noisy)
            if same:
                old = new.detach()
            else:
                with torch.no_grad(), swapped(policy.trainable, self._old):
                    old = self._predict(noisy)
            losses = nft_loss(
                sampler.original(new, noisy.latents, noisy.steps),
                sampler.original(old, noisy.latents, noisy.steps),
                noisy.clean,
                lesson.goodness[noisy.rows].to(policy.device),
                self._own.beta,
            )
            if weight:
                with policy.reference():
                    untuned = self._predict(noisy)
                losses = losses + weight * (new - untuned).square().mean((1, 2, 3))
            self._tuner.backward(losses.sum() * share / levels)
            moved = (new.detach() - old).square().mean((1, 2, 3))
            sums += torch.stack([losses.detach().sum(), moved.sum()]).cpu() / levels
        return sums

    @torch.no_grad()
    def _measure_drift(self, lesson: Lesson) -> Tensor:
        """The mean squared difference () of the predictions from those of the untuned model, at one step of each."""
        noisy = self._noised(lesson, torch.arange(1))
        new = self._predict(noisy)
        with self._tuner.policy.reference():
            return (new - self._predict(noisy)).square().mean().cpu()

    def _noised(self, lesson: Lesson, columns: Tensor) -> Noisy:
        """The pictures with new noise, each at its steps in these `columns` (K,)."""
        policy = self._tuner.policy
        rows, columns = (
            torch.arange(len(lesson.steps)).repeat(len(columns)),
            columns.repeat_interleave(len(lesson.steps)),
        )
        steps = lesson.steps[rows, columns].to(policy.device)
        clean = lesson.rollout.latents[rows, -1]
        noise = seeded_noise(policy, lesson.seeds[rows, columns].tolist(), 1)[:, 0].cpu()
        latents, _ = policy.noised(clean, noise, self._sampler.timesteps[steps].cpu())
        prompts = [lesson.rollout.prompts[row] for row in rows.tolist()]
        return Noisy(latents, clean.to(policy.device), steps, policy.embed(prompts), rows)

    def _predict(self, noisy: Noisy) -> Tensor:
        timesteps = self._sampler.timesteps[noisy.steps]
        return self._tuner.policy.predict(noisy.latents, timesteps, noisy.conditioning, self._guidance)

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state, and the weights of the policy that draws."""
        return {**super().state_dict(), "old": self._old}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        restore_weights(self._old, state["old"])
        super().load_state_dict(state)
