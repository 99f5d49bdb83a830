"""Pictures drawn by a policy, with the latents and log-probabilities that its update needs."""

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..models.denoiser import Denoiser
from ..models.denoiser.conditioning import Conditioning
from .objective import Objective
from .sampler import Sampler
from .spans import Span
from .tuner import Tuner


class Rollout(NamedTuple):
    """B drawn pictures, with their latents and log-probabilities in T steps, on the CPU."""

    prompts: list[str]
    latents: Tensor
    """(B, T + 1, C, H, W), from noise to picture."""
    log_probs: Tensor
    """(B, T), of every step, by the policy that drew the pictures."""

    def last(self) -> "Rollout":
        """The finished pictures alone, with T = 0 steps. The memory of the steps can then be freed."""
        return Rollout(self.prompts, self.latents[:, -1:].clone(), self.log_probs[:, :0])

    def split(self, sizes: list[int]) -> "list[Rollout]":
        """The pictures in parts of these `sizes`."""
        prompts = iter(self.prompts)
        parts = zip(sizes, self.latents.split(sizes), self.log_probs.split(sizes), strict=True)
        return [Rollout([*islice(prompts, size)], latents, log_probs) for size, latents, log_probs in parts]


@torch.no_grad()
def roll_out(policy: Denoiser, prompts: list[str], noise: Tensor, sampler: Sampler, *, guidance: float) -> Rollout:
    """Draw one picture for each prompt. `noise` (B, T + 1, C, H, W) is the first latents and the noise of each step."""
    conditioning = policy.embed(prompts)
    trail, log_probs = [noise[:, 0]], []
    for step in range(len(sampler.timesteps)):
        steps = torch.full((len(prompts),), step, device=policy.device)
        mean = step_mean(policy, sampler, trail[-1], conditioning, steps, guidance)
        trail.append(mean + sampler.std[step] * noise[:, step + 1])
        log_probs.append(sampler.log_prob(trail[-1], mean, steps))
    return Rollout(prompts, torch.stack(trail, 1).cpu(), torch.stack(log_probs, 1).cpu())


def seeded_noise(policy: Denoiser, seeds: list[int], length: int, *, first: list[int] | None = None) -> Tensor:
    """Standard normal noise (B, `length`, C, H, W) on the policy's device, each row from its own seed.

    It does not depend on the batch. With `first`, the first noise of a row is that of another seed, so that pictures
    can begin with the same latents.
    """
    shape = policy.latent_shape
    rows = [torch.randn((length, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    for row, seed in zip(rows, first, strict=True) if first else ():
        row[0] = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.stack(rows).to(policy.device)


def step_mean(
    policy: Denoiser, sampler: Sampler, latents: Tensor, conditioning: Conditioning, steps: Tensor, guidance: float
) -> Tensor:
    """Mean (B, C, H, W) of the latents after a step; `steps` (B,) is the step of each sample."""
    predicted = policy.predict(latents, sampler.timesteps[steps], conditioning, guidance)
    return sampler.mean(predicted, latents, steps)


def roll_out_and_score(
    tuner: Tuner,
    prompts: list[str],
    seeds: list[int],
    batches: list[Span],
    sampler: Sampler,
    objective: Objective,
    *,
    guidance: float,
    where: str,
    first: list[int] | None = None,
    together: int = 1,
    only_last: bool = False,
) -> tuple[dict[Span, Rollout], Tensor]:
    """Draw some batches of the pictures, those of this process, `together` batches at once.

    `only_last` keeps the finished pictures, and not the steps that led to them.

    Returns them, and the rewards (B, R) of the pictures of all processes. Judges are asked about a batch while the next
    ones are drawn; a picture that one gave no score has NaN.

    For `seeds` and `first` see `seeded_noise`. `where` names the round in errors. Raises `UserError` for a reward or a
    picture that is not finite, or if a judge gave too few pictures a score.
    """
    policy = tuner.policy
    rollouts: dict[Span, Rollout] = {}
    scores: dict[Span, Callable[[], Tensor]] = {}
    rewards = torch.zeros(len(prompts), len(objective.names), dtype=torch.float64)
    black = True
    with tuner.world.failing_together() as deferred:
        for number in range(0, len(batches), together):
            parts = batches[number : number + together]
            rows = [row for start, stop in parts for row in range(start, stop)]
            starts = [first[row] for row in rows] if first else None
            noise = seeded_noise(policy, [seeds[row] for row in rows], len(sampler.timesteps) + 1, first=starts)
            drawn = roll_out(policy, [prompts[row] for row in rows], noise, sampler, guidance=guidance)
            for (start, stop), one in zip(parts, drawn.split([stop - start for start, stop in parts]), strict=True):
                with deferred():
                    with torch.no_grad():  # in small batches: a decoder takes more memory than a denoiser
                        pixels = check_finite(
                            policy.decode(one.latents[:, -1].to(policy.device)), one.prompts, where, tuner.way_out
                        )
                    black = black and not pixels.any()
                    scores[start, stop] = objective.begin(pixels, one.prompts)
                    rollouts[start, stop] = one.last() if only_last else one
        if black and batches:
            raise UserError(
                f"{where}: all pictures are black, such as that of {prompts[0][:60]!r}; the model draws nothing with "
                "these --steps and this --guidance"
            )
        for (start, stop), wait in scores.items():
            rewards[start:stop] = wait()
    rewards = tuner.world.gather(rewards).sum(0)
    objective.check_scored(rewards, f"in {where}", tuner.world)
    return rollouts, rewards


def check_finite(pixels: Tensor, prompts: list[str], where: str, way_out: str) -> Tensor:
    """Return drawn pixels (B, 3, H, W). Raises `UserError` if a picture is not finite; `way_out` says what to do then.

    A picture that is not finite would be saved as a black one, and its reward would be that of a black picture.
    """
    finite = pixels.detach().isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        prompt = prompts[finite.index(False)]
        raise UserError(
            f"{where}: the picture of {prompt[:60]!r} has pixels that are not finite; training has diverged, so "
            f"{way_out}; if this is the first round, the weights of the model are broken"
        )
    return pixels
