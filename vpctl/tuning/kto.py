"""Diffusion-KTO (Li et al. 2024, arXiv 2404.04465): a LoRA from pictures that are liked or disliked, without pairs.

Differences from the released code: the reference is the same model with its LoRA turned off, not a second copy. The
reference point is estimated on all pictures of an optimizer step; the code estimates it anew for each forward pass, so
its result depends on the size of the batch. Each picture is encoded once, as in Diffusion-DPO.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configs import DPOConfig, KTOConfig
from .denoising import NoisedPictures, Shuffled, advice_if_worse, squared_errors, task, with_dropped
from .encoding import LatentSource
from .loop import Algorithm
from .spans import Span, spans
from .tuner import Tuner


class RatedPicture(NamedTuple):
    """A picture for the training: its index, its prompt, and whether it is liked."""

    picture: int
    prompt: str
    liked: bool


def gains(policy: Tensor, reference: Tensor) -> Tensor:
    """Log π_θ/π_ref up to a factor, (N,): how much better the policy denoises the pictures than the reference does.

    The arguments (N,) are squared errors of the noise prediction, each a mean over the latent's elements. The factor is
    part of `beta` in `kto_loss`.
    """
    return reference - policy


def reference_point(gained: Tensor) -> Tensor:
    """max(0, mean of the `gained` (N,)), a scalar without gradient: an estimate of KL(π_θ ‖ π_ref).

    The released code takes the pictures of the batch themselves, and so does this function. In KTO for language models
    (Ethayarajh et al. 2024, arXiv 2402.01306) each answer goes with the question of another one.
    """
    return gained.mean().clamp_min(0).detach()


def kto_loss(gained: Tensor, point: Tensor, liked: Tensor, beta: float) -> Tensor:
    """1 − σ(± β (g − z₀)), (N,), with + for pictures that are `liked` (N,), a bool, and − for the others.

    The loss that Diffusion-KTO minimizes: σ is the utility of Kahneman and Tversky, concave in gains and convex in
    losses, and the reference `point` z₀ is where gains begin. If policy and reference are equal, it is ½.
    """
    sign = torch.where(liked, 1.0, -1.0)
    return 1 - (sign * beta * (gained - point)).sigmoid()


class DiffusionKTO(Algorithm):
    """Tunes the policy's LoRA on liked and disliked pictures.

    The tuner's generator chooses the pictures, the noise and the timesteps. Each picture of a step is a liked one with
    the probability `desirable_share`. So the loss does not depend on how many of each kind there are.
    """

    def __init__(
        self,
        tuner: Tuner,
        posteriors: LatentSource,
        pictures: Sequence[RatedPicture],
        config: DPOConfig,
        own: KTOConfig,
    ) -> None:
        """`config` are the options of all algorithms of tune-dpo, `own` are those of Diffusion-KTO.

        There must be a liked and a disliked one among the `pictures`.
        """
        self.total = config.max_steps
        self._tuner, self._posteriors, self._config, self._own = tuner, posteriors, config, own
        self._pictures = {liked: [one for one in pictures if one.liked == liked] for liked in (True, False)}
        self._orders = {liked: Shuffled(len(some), tuner.generator) for liked, some in self._pictures.items()}
        self._worse = 0

    def step(self, number: int) -> dict[str, float]:
        """Do one step on `batch` × `accumulate` pictures in each process. Returns `_metrics`, and `Tuner.skipped`."""
        tuner, config, own = self._tuner, self._config, self._own
        together = config.batch * config.accumulate * tuner.world.size
        liked = torch.rand(together, generator=tuner.generator) < own.desirable_share
        noised = self._noised(liked)
        batches = tuner.own(spans(together, 1, config.batch)[0])
        errors, last = self._errors(noised, batches)
        policy, reference = tuner.world.gather(errors).sum(0)
        point = reference_point(gains(policy, reference))
        weights = torch.where(liked, own.desirable_weight, own.undesirable_weight)
        others = (self._error(noised[start:stop]) for start, stop in batches[:-1])
        for (start, stop), own_errors in zip([batches[-1], *batches[:-1]], chain([last], others), strict=True):
            losses = kto_loss(gains(own_errors, reference[start:stop]), point, liked[start:stop], config.beta)
            tuner.backward((weights[start:stop] * losses).sum() / together)
        tuner.step(f"step {number}")
        found = self._metrics(policy, reference, point, liked, weights)
        self._worse += found.get("liked_error", 0.0) > found.get("liked_error_reference", 0.0)
        return {**found, **tuner.skipped()}

    def _noised(self, liked: Tensor) -> NoisedPictures:
        """The next liked and disliked pictures, as `liked` (N,) says, with noise. They do not depend on the batch."""
        policy, generator = self._tuner.policy, self._tuner.generator
        taken = {one: iter(self._orders[one].take(int((liked == one).sum()))) for one in (True, False)}
        shown = [self._pictures[one][next(taken[one])] for one in liked.tolist()]
        posteriors = self._posteriors[torch.tensor([one.picture for one in shown])]
        latents = posteriors.draw(generator)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = policy.sample_timesteps(len(shown), generator)
        prompts = with_dropped([one.prompt for one in shown], self._config.prompt_dropout, generator)
        return NoisedPictures(prompts, latents, noise, timesteps, posteriors.sizes)

    def _errors(self, noised: NoisedPictures, batches: list[Span]) -> tuple[Tensor, Tensor]:
        """The squared errors (2, N) of policy and reference on the batches of this process, 0 for the other pictures.

        Also returns the policy's errors on the last batch, with their graph. The reference point needs all errors
        before the first gradient, so each other batch is predicted a second time.
        """
        policy = self._tuner.policy
        found = torch.zeros(2, len(noised.prompts))
        for number, (start, stop) in enumerate(batches, 1):
            asked = task(policy, noised[start:stop])
            with policy.reference():
                found[1, start:stop] = squared_errors(policy, asked).cpu()
            with torch.set_grad_enabled(number == len(batches)):
                last = squared_errors(policy, asked).cpu()
            found[0, start:stop] = last.detach()
        return found, last

    def _error(self, noised: NoisedPictures) -> Tensor:
        """The squared errors (N,) of the policy."""
        policy = self._tuner.policy
        return squared_errors(policy, task(policy, noised)).cpu()

    def _metrics(
        self, policy: Tensor, reference: Tensor, point: Tensor, liked: Tensor, weights: Tensor
    ) -> dict[str, float]:
        """The loss before the step, and means over the pictures of the step, all (N,).

        `reference_point` and the rewards are multiplied by β. `implicit_accuracy` is the share of pictures that are on
        their side of the reference point. A step that has no picture of a kind has no means of that kind.
        """
        beta = self._config.beta
        gained = gains(policy, reference)
        sides = torch.where(liked, 1, -1) * (gained - point).sign()
        found = {
            "loss": (weights * kto_loss(gained, point, liked, beta)).mean(),
            "reference_point": beta * point,
            "implicit_accuracy": 0.5 + 0.5 * sides.mean(),
        }
        for name, which in (("liked", liked), ("disliked", ~liked)):
            if which.any():
                found[f"{name}_error"] = policy[which].mean()
                found[f"{name}_error_reference"] = reference[which].mean()
                found[f"{name}_reward"] = beta * gained[which].mean()
        return {name: float(value) for name, value in found.items()}

    @property
    def advice(self) -> str:
        """What to change if the model has got worse at denoising the liked pictures; else empty."""
        return advice_if_worse(self._worse, self.total, "liked", "disliked", "--desirable-share and --beta")

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state, the next pictures, and the number of steps in which the liked error was too high."""
        orders = {name: self._orders[liked].left for name, liked in (("liked", True), ("disliked", False))}
        return {**self._tuner.state_dict(), **orders, "worse": self._worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        for name, liked in (("liked", True), ("disliked", False)):
            self._orders[liked].restore(state[name])
        self._worse = int(state["worse"])
        self._tuner.load_state_dict(state)
