"""The average of the LoRA over the optimizer steps."""

import contextlib

import torch
from diffusers import StableDiffusionPipeline

from tests.tuning.conftest import disturb, new_policy, new_tuner
from vpctl.configs import OptimizerConfig
from vpctl.models.denoiser import Denoiser
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.tuning.tuner import Tuner


def values(tuner: Tuner) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in tuner.policy.trainable]).clone()


def test_the_average_by_hand_and_after_a_restart(policy: Denoiser, packaged: StableDiffusionPipeline) -> None:
    tuner = new_tuner(policy, OptimizerConfig(ema=0.2, learning_rate=1e-2))
    expected = values(tuner)
    for number, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):
        torch.stack([weight.square().sum() for weight in policy.trainable]).sum().backward()
        tuner.step("here")
        expected = decay * expected + (1 - decay) * values(tuner)
        if number == 2:
            state = tuner.state_dict()
            tuner = new_tuner(new_policy(packaged, seed=3), OptimizerConfig(ema=0.2, learning_rate=1e-2))
            tuner.load_state_dict(state)
            policy = tuner.policy
    trained = values(tuner)
    with tuner.averaged():
        torch.testing.assert_close(values(tuner), expected)
        assert not torch.equal(values(tuner), trained)
    assert torch.equal(values(tuner), trained)


def test_the_trained_weights_come_back_after_an_error(policy: StableDiffusion) -> None:
    tuner = new_tuner(policy, OptimizerConfig(ema=0.2))
    disturb(policy)
    trained = values(tuner)
    with contextlib.suppress(KeyboardInterrupt), tuner.averaged():
        assert not torch.equal(values(tuner), trained)
        raise KeyboardInterrupt
    assert torch.equal(values(tuner), trained)


def test_without_an_average_the_weights_are_the_trained_ones(policy: StableDiffusion) -> None:
    tuner = new_tuner(policy, OptimizerConfig())
    disturb(policy)
    trained = values(tuner)
    with tuner.averaged():
        assert torch.equal(values(tuner), trained)
