"""The average of the LoRA over the optimizer steps."""

import contextlib
import copy
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.tuning.conftest import disturb, new_policy, new_tuner
from vpctl.configs import OptimizerConfig
from vpctl.models.denoiser import Denoiser
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.models.devices import World
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


@pytest.mark.parametrize(
    "options", [{}, {"ema": 0.5}, {"full": True}, {"full": True, "dtype": torch.bfloat16}, {"full": True, "copies": 1}]
)
def test_the_memory_that_is_told_is_that_of_the_tensors(
    packaged: StableDiffusionPipeline, options: dict[str, Any]
) -> None:
    options = {**options}
    config, copies = OptimizerConfig(ema=options.pop("ema", 0.0)), options.pop("copies", 0)
    policy = StableDiffusion(copy.deepcopy(packaged), rank=4, seed=0, **options)
    tuner = new_tuner(policy, config)
    torch.stack([weight.square().sum() for weight in policy.trainable]).sum().backward()
    held = [one.grad for one in policy.trainable if one.grad is not None]
    held += [*tuner._average, *policy.trained.start, *policy.trainable * copies]
    tuner.step("here")
    held += [one for state in tuner._optimizer.state.values() for one in state.values() if one.dim()]
    model = sum(
        one.nbytes for part in ("unet", "vae", "text_encoder") for one in getattr(policy.pipe, part).parameters()
    )
    added = sum(one.nbytes for one in held)
    told = tuner.memory(copies=copies)
    said = [float(number) * {"k": 1e3, "M": 1e6}[unit] for number, unit in re.findall(r"([\d.]+) ([kM])B", told)]
    assert said == pytest.approx([model + added, model, added], rel=0.01)


def test_the_peak_of_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda device: 11_240_000_000)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=80_000_000_000))
    assert World(torch.device("cpu"), 0, 1).peak_memory() == ""
    said = World(torch.device("cuda"), 0, 1).peak_memory()
    assert said == "11.2 GB of the GPU's 80 GB of memory were in use"
