"""Diffusion-DPO (Wallace et al. 2024, arXiv 2311.12908): a model tuned on preference pairs, with no reward model.

Differences from the released code: the reference is the same UNet without its LoRA, not a second copy. Each
picture is encoded once; its latents are drawn anew at every use, from the stored posterior. There are no ties.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..configs import DPOConfig
from ..models.denoiser import Denoiser
from .denoising import NoisedPictures, Shuffled, advice_if_worse, squared_errors, task, with_dropped
from .encoding import LatentSource
from .loop import Algorithm
from .tuner import Tuner


class Preference(NamedTuple):
    """A pair for the training: the indices of its two pictures, its prompt, and its margin."""

    chosen: int
    rejected: int
    prompt: str
    margin: float = 1.0


def dpo_logits(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    """−β/2 [(L_w − L_w^ref) − (L_l − L_l^ref)], (B,): positive if the model prefers the chosen picture.

    The argument of σ in Wallace et al., equation 14. The arguments (B,) are squared errors of the noise prediction,
    each a mean over the latent's elements: this fixes the scale of `beta`.
    """
    return -0.5 * beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def dpo_loss(logits: Tensor, kind: str = "dpo", smoothing: float = 0.0) -> Tensor:
    """The loss (B,) of the pairs with these `logits`.

    ``dpo``: −log σ(x), Wallace et al., equation 14. If policy and reference are equal, it is log 2. With a `smoothing`
    of ε it is (1 − ε)(−log σ(x)) + ε(−log σ(−x)): a share ε of the labels is wrong (Mitchell 2023, conservative DPO).
    ``ipo``: (x − 1/2)², equation 17 of Azar et al. 2023 (arXiv 2310.12036) times β². ``hinge``: max(0, 1 − x), as in
    SLiC (Zhao et al. 2023, arXiv 2305.10425).
    """
    match kind:
        case "ipo":
            return (logits - 0.5).square()
        case "hinge":
            return (1 - logits).relu()
    return -(1 - smoothing) * F.logsigmoid(logits) - smoothing * F.logsigmoid(-logits)


def pair_weights(margins: Tensor, share: float) -> Tensor:
    """The weights (N,) of pairs with these margins (N,): their mean is 1. A `share` of 0 gives all the same weight."""
    return 1 - share + share * margins / margins.mean()


METRICS = (
    "loss",
    "implicit_accuracy",
    "margin",
    "chosen_error",
    "rejected_error",
    "chosen_error_reference",
    "rejected_error_reference",
)


class DiffusionDPO(Algorithm):
    """Tunes the policy on preference pairs.

    The tuner's generator chooses the order of the pairs, the noise and the timesteps.
    """

    def __init__(
        self, tuner: Tuner, posteriors: LatentSource, preferences: list[Preference], config: DPOConfig
    ) -> None:
        self.total = config.max_steps
        self._tuner, self._posteriors, self._preferences, self._config = tuner, posteriors, preferences, config
        margins = torch.tensor([pair.margin for pair in preferences], dtype=torch.float64)
        self._weights = pair_weights(margins, config.margin_weight).float()
        self._order = Shuffled(len(preferences), tuner.generator)
        self._worse = 0

    def step(self, number: int) -> dict[str, float]:
        """Do one step on `batch` × `accumulate` pairs in each process. Returns the means of `METRICS`.

        They have `Tuner.skipped` beside them.
        """
        tuner, config = self._tuner, self._config
        together = config.batch * config.accumulate * tuner.world.size
        taken = self._order.take(together)
        weights = self._weights[taken].to(tuner.policy.device)
        pairs = noised_pairs(
            tuner.policy,
            self._posteriors,
            [self._preferences[index] for index in taken],
            config.prompt_dropout,
            tuner.generator,
        )
        sums = torch.zeros(len(METRICS), dtype=torch.float64)
        for start in tuner.own([*range(0, together, config.batch)]):
            part = slice(start, start + config.batch)
            errors = four_errors(tuner.policy, pairs[part])
            logits = dpo_logits(*errors, config.beta)
            losses = dpo_loss(logits, config.loss, config.label_smoothing)
            loss = (weights[part] * (losses + config.sft * errors[0])).mean()
            share = config.batch / together
            tuner.backward(loss * share)
            right = (logits > 0).float().mean() + 0.5 * (logits == 0).float().mean()
            seen = [loss, right, logits.mean(), *(error.mean() for error in errors)]
            sums += share * torch.stack(seen).detach().cpu()
        tuner.step(f"step {number}")
        means = dict(zip(METRICS, tuner.world.gather(sums).sum(0).tolist(), strict=True))
        self._worse += means["chosen_error"] > means["chosen_error_reference"]
        return {**means, **tuner.skipped()}

    @property
    def advice(self) -> str:
        """What to change if the model has got worse at denoising the chosen pictures; else empty."""
        return advice_if_worse(self._worse, self.total, "chosen", "rejected", "--sft and --beta")

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state, the next pairs, and the number of steps in which the chosen error was too high."""
        return {**self._tuner.state_dict(), "order": self._order.left, "worse": self._worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self._order.restore(state["order"])
        self._worse = int(state["worse"])
        self._tuner.load_state_dict(state)


@dataclass(frozen=True)
class NoisedPairs:
    """P pairs with their noise. Both pictures of a pair have the same noise, timestep and prompt.

    `chosen`, `rejected` and `noise` are (P, C, H, W), `timesteps` is (P,), `sizes` is (P, 2, 6), of the chosen and the
    rejected picture; all are on the CPU.
    """

    prompts: list[str]
    chosen: Tensor
    rejected: Tensor
    noise: Tensor
    timesteps: Tensor
    sizes: Tensor

    def __getitem__(self, pairs: slice) -> "NoisedPairs":
        return NoisedPairs(
            self.prompts[pairs],
            self.chosen[pairs],
            self.rejected[pairs],
            self.noise[pairs],
            self.timesteps[pairs],
            self.sizes[pairs],
        )


def noised_pairs(
    policy: Denoiser,
    posteriors: LatentSource,
    pairs: list[Preference],
    prompt_dropout: float,
    generator: torch.Generator,
) -> NoisedPairs:
    """Latents, noise, timesteps and dropped prompts of one optimizer step. They do not depend on the batch size."""
    chosen = posteriors[torch.tensor([pair.chosen for pair in pairs])]
    rejected = posteriors[torch.tensor([pair.rejected for pair in pairs])]
    latents = chosen.draw(generator), rejected.draw(generator)
    noise = torch.randn(latents[0].shape, generator=generator)
    timesteps = policy.sample_timesteps(len(pairs), generator)
    prompts = with_dropped([pair.prompt for pair in pairs], prompt_dropout, generator)
    return NoisedPairs(prompts, *latents, noise, timesteps, torch.stack([chosen.sizes, rejected.sizes], 1))


def four_errors(
    policy: Denoiser, pairs: NoisedPairs, reference: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Squared errors (P,) of the policy on chosen and rejected pictures, then those of the reference.

    If those of the `reference` are given, it does not predict.
    """
    both = NoisedPictures(
        [*pairs.prompts, *pairs.prompts],
        torch.cat([pairs.chosen, pairs.rejected]),
        torch.cat([pairs.noise, pairs.noise]),
        pairs.timesteps.repeat(2),
        torch.cat(pairs.sizes.unbind(1)),
    )
    asked = task(policy, both)
    chosen, rejected = squared_errors(policy, asked).chunk(2)
    if reference is None:
        with policy.reference():
            ref_chosen, ref_rejected = squared_errors(policy, asked).chunk(2)
        reference = ref_chosen, ref_rejected
    return chosen, rejected, *reference


class HeldOutPairs:
    """Measures the policy on pairs that it is not trained on.

    The noise is the same in every measurement. Each pair is measured at four timesteps, one in each quarter of the
    noise levels that training draws.
    """

    def __init__(
        self, tuner: Tuner, posteriors: LatentSource, preferences: list[Preference], config: DPOConfig, *, seed: int
    ) -> None:
        """`preferences` are P pairs."""
        self._tuner, self._posteriors, self._preferences = tuner, posteriors, preferences
        self._config, self._seed = config, seed
        self._reference: dict[int, tuple[Tensor, Tensor]] = {}
        """The errors of the reference on the batches of this process. The noise is always the same, and so are they."""

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The share of pairs for which the policy, compared with the reference, favours the chosen picture; the margin.

        The margin is the mean of the logits of `dpo_logits`, also for each quarter of the noise levels; quarter 1 has
        the least noise.
        """
        tuner, config, count = self._tuner, self._config, len(self._preferences)
        generator = torch.Generator().manual_seed(self._seed)
        pairs = noised_pairs(tuner.policy, self._posteriors, self._preferences * 4, 0.0, generator)
        pairs = replace(pairs, timesteps=pairs.timesteps.sort().values)
        logits = torch.zeros(4 * count, dtype=torch.float64)
        for start, counts in tuner.in_step([*range(0, 4 * count, config.batch)]):
            part = slice(start, start + config.batch)
            errors = four_errors(tuner.policy, pairs[part], self._reference.get(start))
            self._reference[start] = errors[2:]
            logits[part] = dpo_logits(*errors, config.beta).double().cpu() if counts else 0
        logits = tuner.world.gather(logits).sum(0)
        margins = logits.view(4, count).mean(1).tolist()
        return {
            "held_out_accuracy": float((0.5 * logits.sign() + 0.5).mean()),
            "held_out_margin": float(logits.mean()),
            **{f"held_out_margin_quarter_{number}": margin for number, margin in enumerate(margins, 1)},
        }
