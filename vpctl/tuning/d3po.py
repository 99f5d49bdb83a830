"""D3PO (Yang et al. 2024, arXiv 2311.13231): preferences between pictures that the policy itself has drawn.

VisionPrefer (Wu et al. 2024, arXiv 2404.15100, section 4.2) tunes with it. Two pictures of a prompt are drawn from the
same noise. The one with the higher reward is preferred, and so is each of its denoising steps.

Differences from the released code: the reference is the same model without its LoRA, not a second copy. All
pairs of a round make one optimizer step; the code does one for each pair. Latents are stored as they were computed, in
float32. The last steps are left out, because they add almost no noise; the code trains on them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..configs import D3POConfig, DPOConfig
from ..models.denoiser.conditioning import Conditioning
from .loop import Algorithm
from .objective import Objective
from .rollout import Rollout, roll_out_and_score, step_mean
from .sampler import open_sampler, usable_steps
from .spans import spans
from .tuner import Tuner


class D3POLoss(NamedTuple):
    """The losses (P,) of P pairs, and their logits (P,): positive if the policy prefers the preferred picture."""

    losses: Tensor
    logits: Tensor


def d3po_loss(new: Tensor, reference: Tensor, preferred: Tensor, beta: float, clip: float) -> D3POLoss:
    """−log σ(β Σᵢ hᵢ log rᵢ) of the two pictures i of a pair, with r = exp(new − reference) clamped to 1 ± ε.

    The objective of D3PO for one denoising step, with the clamp of its code. `new` and `reference` (P, 2) are
    log-probabilities of the step. `preferred` (P, 2) is h: 1 for the preferred picture, −1 for the other one, and 0
    for both if neither is preferred; then the loss is log 2, without a gradient.
    """
    log_ratios = (new - reference).exp().clamp(1 - clip, 1 + clip).log()
    logits = beta * (preferred * log_ratios).sum(1)
    return D3POLoss(-F.logsigmoid(logits), logits)


METRICS = ("loss", "implicit_accuracy", "margin", "clipped", "kl")
"""`margin` is the mean logit, `clipped` the share of clamped ratios. `kl` is the mean divergence of the denoising steps
from those of the untuned model, per element."""


class D3PO(Algorithm):
    """Tunes the policy on preferences between its own pictures. A round is one optimizer step.

    `steps` and `guidance` are used for drawing. The tuner's generator chooses the prompts, the noise and the denoising
    steps to train on.
    """

    unit = "round"

    def __init__(
        self,
        tuner: Tuner,
        prompts: list[str],
        objective: Objective,
        config: DPOConfig,
        own: D3POConfig,
        *,
        steps: int,
        guidance: float,
    ) -> None:
        """`config` are the options of all algorithms of tune-dpo, `own` are those of D3PO."""
        self.total = config.max_steps
        self._tuner, self._prompts, self._objective, self._config, self._own = tuner, prompts, objective, config, own
        self._guidance = guidance
        self._sampler = open_sampler(tuner.policy, steps, own.eta)

    def step(self, number: int) -> dict[str, float]:
        """Draw pairs of pictures, compare them, and train on them. Returns their rewards, and the means of `METRICS`.

        Raises `UserError` for a reward or a picture that is not finite.
        """
        tuner, config, where = self._tuner, self._config, f"round {number}"
        generator = tuner.generator
        together = config.batch * config.accumulate * tuner.world.size
        chosen = torch.randint(len(self._prompts), (together,), generator=generator).tolist()
        prompts = [self._prompts[index] for index in chosen for _ in range(2)]
        seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
        first = torch.randint(2**62, (together,), generator=generator).repeat_interleave(2).tolist()
        usable = usable_steps(self._sampler, self._own.skip_last)
        batches = tuner.own(spans(len(prompts), 1, 2 * config.batch)[0])
        rollouts, rewards = roll_out_and_score(
            tuner,
            prompts,
            seeds,
            batches,
            self._sampler,
            self._objective,
            guidance=self._guidance,
            where=where,
            first=first,
        )
        preferred = self._objective.advantages(rewards, 2, 1.0).sign().view(-1, 2)
        sums = torch.zeros(len(METRICS), dtype=torch.float64)
        for start, stop in batches:
            conditioning = tuner.policy.embed(rollouts[start, stop].prompts)
            share = (stop - start) / (len(prompts) * len(usable))
            seen = torch.zeros_like(sums)
            for step in usable:
                loss, found = self._loss(rollouts[start, stop], conditioning, preferred[start // 2 : stop // 2], step)
                tuner.backward(share * loss)
                seen += found
            sums += share * seen
        tuner.step(where)
        means = dict(zip(METRICS, tuner.world.gather(sums).sum(0).tolist(), strict=True))
        return {**self._objective.metrics(rewards, 2), **means, **tuner.skipped()}

    def _loss(
        self, rollout: Rollout, conditioning: Conditioning, preferred: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """The mean loss of some pairs at a denoising step, and the means of `METRICS`, on the CPU."""
        policy, sampler = self._tuner.policy, self._sampler
        before, after = (rollout.latents[:, one].to(policy.device) for one in (step, step + 1))
        here = torch.full((len(before),), step, device=policy.device)
        with policy.reference():
            reference = step_mean(policy, sampler, before, conditioning, here, self._guidance)
        mean = step_mean(policy, sampler, before, conditioning, here, self._guidance)
        new, old = (sampler.log_prob(after, one, here).view(-1, 2) for one in (mean, reference))
        clip = self._own.ratio_clip
        losses, logits = d3po_loss(new, old, preferred.to(policy.device), self._config.beta, clip)
        right = (logits > 0).float().mean() + 0.5 * (logits == 0).float().mean()
        clipped = (((new - old).exp() - 1).abs() > clip).float().mean()
        seen = [losses.mean(), right, logits.mean(), clipped, sampler.divergence(mean, reference, here).mean()]
        return losses.mean(), torch.stack(seen).detach().cpu().double()

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state."""
        return self._tuner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self._tuner.load_state_dict(state)
