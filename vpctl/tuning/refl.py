"""ReFL (Xu et al. 2023, arXiv 2304.05977, section 4): a reward's own gradient, through the last denoising steps.

VisionPrefer (Wu et al. 2024, arXiv 2404.15100) tunes with it. The paper names the method PPO, but there is no ratio and
no clipping: a picture is drawn up to a late random step, the picture without noise is predicted from there, and the
reward of this prediction is differentiated with respect to the trained weights.

With `grad_steps` above 1 the gradient also goes through steps before the last one. With a `late_share` so small that
drawing always stops at the last step, this is DRaFT-K (Clark et al. 2024, arXiv 2309.17400), and DRaFT-1 and AlignProp
(Prabhudesai et al. 2023, arXiv 2310.03739) with one and all steps.

Differences from the released code: each picture has a stop of its own. The rewards are normalised with the mean and
std of the untuned model's pictures, which are measured before the first step. The pre-training loss of the paper, which
the code does not have, is there; its gradient and that of the reward make one optimizer step, not two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configs import PPOConfig, ReFLConfig
from ..errors import UserError
from ..models.denoiser import Denoiser
from .encoding import LatentSource
from .loop import Algorithm
from .objective import Objective
from .rollout import check_finite, seeded_noise, step_mean
from .sampler import Sampler, open_sampler
from .spans import spans
from .tuner import Tuner


class Pretraining(NamedTuple):
    """Pictures with their prompts, for the pre-training loss."""

    posteriors: LatentSource
    places: list[int]
    """The picture of each prompt, among the posteriors."""
    prompts: list[str]


def refl_loss(rewards: Tensor, threshold: float) -> Tensor:
    """The loss (B,) of normalised rewards (B,): max(0, c − r), so that a picture better than c teaches nothing more.

    Xu et al., equation 4, with φ = ReLU; c is 2 in their code. With an infinite c the gradient is that of −r, as in
    DRaFT.
    """
    return (threshold - rewards).relu()


def predicted_latents(
    policy: Denoiser,
    prompts: list[str],
    noise: Tensor,
    stops: Tensor,
    sampler: Sampler,
    *,
    guidance: float,
    grad_steps: int,
) -> Tensor:
    """The latents without noise (B, C, H, W) that the policy predicts at the steps `stops` (B,).

    `noise` (B, N, C, H, W) is the first latents and the noise of each step but the last. Gradients flow through the
    last `grad_steps` predictions of each picture.
    """
    conditioning = policy.embed(prompts)
    latents = noise[:, 0]
    first = (stops - grad_steps + 1).clamp(min=0)
    with torch.no_grad():
        for step in range(int(first.max())):
            rows = (first > step).nonzero().flatten().to(policy.device)
            here = torch.full((len(rows),), step, device=policy.device)
            mean = step_mean(policy, sampler, latents[rows], conditioning[rows], here, guidance)
            latents = latents.index_copy(0, rows, mean + sampler.std[step] * noise[rows, step + 1])
    for after in range(int((stops - first).max())):
        rows = (stops - first > after).nonzero().flatten().to(policy.device)
        here = (first.to(policy.device)[rows] + after).long()
        mean = step_mean(policy, sampler, latents[rows], conditioning[rows], here, guidance)
        std = sampler.std[here].view(-1, 1, 1, 1)
        latents = latents.index_copy(0, rows, mean + std * noise[rows, here + 1])
    here = stops.to(policy.device)
    predicted = policy.predict(latents, sampler.timesteps[here], conditioning, guidance)
    return sampler.original(predicted, latents, here)


@dataclass(frozen=True)
class Draft:
    """B pictures to be drawn: their prompts, the seeds of their noise, and the steps at which drawing stops (B,)."""

    prompts: list[str]
    seeds: list[int]
    stops: Tensor

    def __getitem__(self, pictures: slice) -> "Draft":
        return Draft(self.prompts[pictures], self.seeds[pictures], self.stops[pictures])


NORMALISED_ON = 128
"""Pictures of the untuned model that the mean and std of each reward are measured on."""


class ReFL(Algorithm):
    """Tunes the policy with the gradient of some rewards. A round is one optimizer step.

    `steps` and `guidance` are used for drawing. The tuner's generator chooses the prompts, the noise, the stops and the
    pictures of the pre-training loss.
    """

    unit = "round"

    def __init__(
        self,
        tuner: Tuner,
        prompts: list[str],
        objective: Objective,
        config: PPOConfig,
        own: ReFLConfig,
        *,
        steps: int,
        guidance: float,
        pretraining: Pretraining | None = None,
    ) -> None:
        """`config` are the options of all algorithms of tune-ppo, `own` are those of ReFL.

        Raises `UserError` if a reward has no gradient.
        """
        objective.check_differentiable()
        self.total = config.epochs
        self._tuner, self._prompts, self._objective, self._config, self._own = tuner, prompts, objective, config, own
        self._guidance, self._pretraining = guidance, pretraining
        self._sampler = open_sampler(tuner.policy, steps, config.eta)
        self._untuned = torch.empty(0)
        """Mean and std (2, R) of the rewards of the untuned model's pictures; empty before the first step."""

    def step(self, number: int) -> dict[str, float]:
        """Do one optimizer step on pictures of some prompts. Returns its losses, and the rewards of the predictions.

        Raises `UserError` for a reward or a picture that is not finite.
        """
        tuner, config, own, where = self._tuner, self._config, self._own, f"round {number}"
        if not len(self._untuned):
            self._untuned = self._measure_untuned()
        chosen = torch.randperm(len(self._prompts), generator=tuner.generator)[: config.prompts_per_epoch].tolist()
        draft = self._draft([self._prompts[index] for index in chosen for _ in range(config.images)])
        pictures = len(draft.prompts)
        rewards = torch.zeros(pictures, len(self._objective.names), dtype=torch.float64)
        losses = torch.zeros(2, dtype=torch.float64)
        for start, stop in tuner.own(spans(pictures, 1, config.batch)[0]):
            part = draft[start:stop]
            pixels = check_finite(self._predicted_pixels(part), part.prompts, where, tuner.way_out)
            given = self._objective.score_with_gradients(pixels, part.prompts)
            loss = own.reward_weight * refl_loss(self._normalised(given), own.reward_threshold).sum() / pictures
            tuner.backward(loss)
            rewards[start:stop] = given.detach().cpu()
            losses[0] += loss.item()
        if self._pretraining:
            losses[1] = self._pretrain(self._pretraining, pictures)
        tuner.step(where)
        rewards, losses = tuner.world.gather(rewards).sum(0), tuner.world.gather(losses).sum(0)
        found = {**self._objective.metrics(rewards, config.images), "loss": float(losses[0])}
        found |= tuner.skipped()
        return {**found, **({"pretraining_loss": float(losses[1])} if self._pretraining else {})}

    def _draft(self, prompts: list[str]) -> Draft:
        """Pictures of these prompts, each with noise and a late stop of its own."""
        generator, steps = self._tuner.generator, len(self._sampler.timesteps)
        seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
        late = max(1, round(self._own.late_share * steps))
        return Draft(prompts, seeds, steps - 1 - torch.randint(late, (len(prompts),), generator=generator))

    def _predicted_pixels(self, draft: Draft) -> Tensor:
        """The pixels (B, 3, H, W) that are predicted at the stops. Gradients flow to the trained weights."""
        policy, sampler = self._tuner.policy, self._sampler
        noise = seeded_noise(policy, draft.seeds, len(sampler.timesteps))
        latents = predicted_latents(
            policy,
            draft.prompts,
            noise,
            draft.stops,
            sampler,
            guidance=self._guidance,
            grad_steps=self._own.grad_steps,
        )
        return policy.decode(latents)

    def _normalised(self, rewards: Tensor) -> Tensor:
        """The weighted sum (B,) of the rewards (B, R), each in standard deviations above the untuned model's mean."""
        mean, std = self._untuned.to(rewards)
        weighted: Tensor = ((rewards - mean) / std) @ self._objective.weights.to(rewards)
        return weighted

    @torch.no_grad()
    def _measure_untuned(self) -> Tensor:
        """Mean and std (2, R) of the rewards of pictures that are drawn like those of a step, before the training."""
        tuner = self._tuner
        indices = torch.randint(len(self._prompts), (NORMALISED_ON,), generator=tuner.generator).tolist()
        draft = self._draft([self._prompts[index] for index in indices])
        rewards = torch.zeros(NORMALISED_ON, len(self._objective.names), dtype=torch.float64)
        for start, stop in tuner.own(spans(NORMALISED_ON, 1, self._config.batch)[0]):
            part = draft[start:stop]
            with tuner.policy.reference():
                pixels = check_finite(self._predicted_pixels(part), part.prompts, "the untuned model", tuner.way_out)
            rewards[start:stop] = self._objective.score(pixels, part.prompts)
        rewards = tuner.world.gather(rewards).sum(0)
        for name, std in zip(self._objective.names, rewards.std(0), strict=True):
            if std == 0:
                raise UserError(f"--reward {name}: gives all pictures the same reward, so there is nothing to learn")
        return torch.stack([rewards.mean(0), rewards.std(0)])

    def _pretrain(self, data: Pretraining, pictures: int) -> float:
        """Add the gradient of the noise prediction's squared error on some pictures. Returns this process's part."""
        tuner, policy = self._tuner, self._tuner.policy
        chosen = torch.randint(len(data.prompts), (pictures,), generator=tuner.generator).tolist()
        posteriors = data.posteriors[torch.tensor([data.places[index] for index in chosen])]
        clean = posteriors.draw(tuner.generator)
        noise = torch.randn(clean.shape, generator=tuner.generator)
        timesteps = policy.sample_timesteps(pictures, tuner.generator)
        prompts = [data.prompts[index] for index in chosen]
        total = 0.0
        for start, stop in tuner.own(spans(pictures, 1, self._config.batch)[0]):
            part = slice(start, stop)
            noisy, target = policy.noised(clean[part], noise[part], timesteps[part])
            conditioning = policy.embed(prompts[part], posteriors.sizes[part])
            predicted = policy.predict(noisy, timesteps[part].to(policy.device), conditioning)
            loss = (predicted - target).square().mean((1, 2, 3)).sum() / pictures
            tuner.backward(self._own.pretrain_weight * loss)
            total += loss.item()
        return total

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state, and mean and std of the untuned model's rewards."""
        return {**self._tuner.state_dict(), "untuned": self._untuned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self._untuned = state["untuned"]
        if len(self._untuned) and self._untuned.shape != (2, len(self._objective.names)):
            raise ValueError("a measurement of other rewards")
        self._tuner.load_state_dict(state)
