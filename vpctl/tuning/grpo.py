"""Flow-GRPO (Liu et al. 2025, arXiv 2505.05470): policy gradients for flow models.

A flow model draws by an ODE, without noise in its steps. For a policy gradient a step needs a probability, so some
steps add noise, in such a way that the latents keep their distribution. The rest is DDPO: pictures of a prompt are
compared with each other, and PPO's clipped ratio limits how far the model moves. GRPO, group relative policy
optimization, is the name of such a comparison for language models.

Only the steps of a window add noise and are trained on, as in Flow-GRPO-Fast and MixGRPO (Li et al. 2025, arXiv
2507.21802); the others follow the ODE. The window moves from round to round.

Differences from the released code: latents are stored in float32, so with --packed 1 the ratio is exactly 1 before the
first update. The last step never adds noise, which would stay in the picture. The log-probability of a step with `cps`
is that of its normal distribution; the code leaves out the factor 1/(2 std²) there. The KL divergence is that of two
normal distributions; the code leaves out a factor 1/|dt|, so its weights of the penalty are larger.
"""

import torch

from ..configs import DDPOConfig, GRPOConfig, PPOConfig, RoundConfig
from ..models.denoiser.schedule import FlowSchedule
from .ddpo import DDPO
from .objective import Objective
from .sampler import FlowSampler, Sampler, cps, flow_sde
from .tuner import Tuner

KINDS = {"flow": flow_sde, "cps": cps}
"""The steps that add noise, by the value of --sde."""


def noise_window(steps: int, size: int, skip_last: int, generator: torch.Generator) -> range:
    """The steps of a run of `steps` that add noise: `size` neighbours within the first half, chosen at random.

    The first half decides what is in the picture; Flow-GRPO-Fast takes it, too. A larger window begins at the first
    step. With a `size` of 0 all steps add noise, but for the last `skip_last` and the very last one.
    """
    end = steps - max(1, skip_last)
    if not size:
        return range(end)
    starts = max(1, min((steps + 1) // 2, end) - size + 1)
    first = int(torch.randint(starts, (), generator=generator))
    return range(first, min(first + size, end))


class GRPO(DDPO):
    """DDPO for flow models, with noise in a window of the denoising steps. It has the options of DDPO, too.

    The tuner's generator also chooses the window.
    """

    def __init__(
        self,
        tuner: Tuner,
        prompts: list[str],
        objective: Objective,
        config: PPOConfig,
        rounds: RoundConfig,
        shared: DDPOConfig,
        own: GRPOConfig,
        *,
        steps: int,
        guidance: float,
    ) -> None:
        """`config` are the options of all algorithms of tune-ppo, `rounds` those of rounds, `shared` those of DDPO.

        The policy must be a flow model. Raises `UserError` if a process would have no pictures.
        """
        super().__init__(tuner, prompts, objective, config, rounds, shared, steps=steps, guidance=guidance)
        schedule = tuner.policy.noise_schedule(steps)
        assert isinstance(schedule, FlowSchedule), "open_denoiser refuses other models"
        self._schedule, self._kind, self._size = schedule, KINDS[own.sde], own.window

    def _round_sampler(self) -> Sampler:
        """The sampler of a round, with a window of its own."""
        tuner = self._tuner
        window = noise_window(len(self._schedule.sigma), self._size, self._own.skip_last, tuner.generator)
        return FlowSampler(self._schedule, self._config.eta, tuner.policy.device, kind=self._kind, noisy=window)
