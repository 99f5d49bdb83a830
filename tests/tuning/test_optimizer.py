"""AdamW with moments in 8 bits, which needs bitsandbytes."""

import copy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.tuning.conftest import Killed, Mortal, new_policy, new_tuner
from tests.tuning.test_dpo import Rendered, true_pairs
from vpctl.configs import DPOConfig
from vpctl.errors import UserError
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.tuning.asked import check_trained
from vpctl.tuning.dpo import DiffusionDPO
from vpctl.tuning.loop import train

CONFIG = DPOConfig(max_steps=3, batch=4, accumulate=1, warmup=0, learning_rate=1e-3, optimizer="adamw8bit")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def test_without_the_library_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpctl.tuning.asked.find_spec", lambda name: None)
    check_trained(replace(CONFIG, optimizer="adamw"), {})
    with pytest.raises(UserError) as caught:
        check_trained(CONFIG, {})
    assert str(caught.value) == "--optimizer adamw8bit: needs bitsandbytes; run pip install 'vpctl[8bit]'"


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_it_trains_nearly_as_in_32_bits_and_resumes_exactly(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path, dtype: str
) -> None:
    config = replace(CONFIG, dtype=dtype, beta=20.0)
    found = []
    for name, last in (("whole", 0), ("cut", 2), ("cut", 0), ("adamw", 0)):
        chosen = replace(config, optimizer="adamw") if name == "adamw" else config
        policy = StableDiffusion(copy.deepcopy(packaged), rank=32, seed=0, dtype=getattr(torch, dtype))
        start = torch.cat([one.detach().flatten() for one in policy.trainable])
        tuner = new_tuner(policy, chosen)
        algorithm = DiffusionDPO(tuner, policy.encode(rendered[1]), true_pairs(rendered), chosen)
        with Mortal(tmp_path / name, {"max_steps": 3}, last=last) as run:
            try:
                train(algorithm, run, save_every=1, evaluate=lambda _: {})
            except Killed:
                continue
        moments = [one for state in tuner._optimizer.state.values() for one in state.values() if torch.is_tensor(one)]
        assert any(one.dtype == torch.uint8 for one in moments) == (name != "adamw")
        found.append(torch.cat([one.detach().flatten() for one in policy.trainable]) - start)
    whole, cut, exact = found
    assert torch.equal(whole, cut)
    assert torch.cosine_similarity(whole, exact, dim=0) > 0.9


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_moments_of_another_model_are_refused(packaged: StableDiffusionPipeline) -> None:
    one, other = (new_tuner(new_policy(packaged, rank=rank), CONFIG) for rank in (32, 16))
    for tuner in (one, other):
        tuner.backward(torch.stack([weight.square().sum() for weight in tuner.policy.trainable]).sum())
        tuner.step("here")
    with pytest.raises(ValueError, match="moments of another shape"):
        other.load_state_dict({**one.state_dict(), "weights": other.policy.trained.weights()})
