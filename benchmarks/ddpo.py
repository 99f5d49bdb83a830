"""Seconds for a round of DDPO: trl's DDPOTrainer against `vpctl tune-ppo`.

Both sides tune the same tiny Stable Diffusion pipeline with random weights, on one thread and in float32. They draw 16
pictures a round, in batches of 1, as trl does by default, or in batches of 4. A picture has 10 denoising steps with
guidance, and both sides train on all of them, in two optimizer steps a round. The LoRA has the rank 4 and is on all
attention layers. The reward is the brightness. vpctl runs with --packed 1, its default, and with a larger --packed,
which sends several denoising steps of a picture through the model together. It also measures the KL divergence from the
untuned model in each round, which trl does not. Each side is a process of its own; rounds of all sides alternate, and
medians are told. Goal: at most 0.6 of the seconds, and no more memory.

trl 0.23.1 must be installed. Run from the root of the repository with: python -m benchmarks.ddpo
"""

import importlib.metadata
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageStat

from benchmarks.tiny import Laps, alternate, furnish, prompts, tell
from vpctl import progress
from vpctl.configs import DDPOConfig, PPOConfig, RoundConfig
from vpctl.contracts import Reward
from vpctl.models.devices import join_world
from vpctl.tuning.ddpo import DDPO
from vpctl.tuning.loop import train
from vpctl.tuning.objective import Objective
from vpctl.tuning.run import Run
from vpctl.tuning.tuner import Tuner

PROMPTS, EACH, UPDATES, STEPS, GUIDANCE, RANK = 4, 4, 2, 10, 5.0, 4
PACKED = {1: 8, 4: 2}
"""By batch, how many batches vpctl sends through the model together: 8 pictures, or 16 with guidance."""
ROUNDS, GOAL, NEEDED = 5, 0.6, "0.23.1"


def theirs(folder: Path, batch: int) -> None:
    """trl, as its documentation uses it."""
    from accelerate import PartialState

    PartialState()  # without it, trl's logger fails
    from trl import DDPOConfig as TheirConfig
    from trl import DDPOTrainer, DefaultDDPOStableDiffusionPipeline

    texts = cycle(prompts(PROMPTS))
    drawn: Iterator[tuple[str, dict[str, Any]]] = chain.from_iterable(repeat((text, {}), EACH) for text in texts)

    def reward(pixels: torch.Tensor, *_: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        return pixels.mean((1, 2, 3)), {}

    config = TheirConfig(
        mixed_precision="no",
        save_freq=10**6,
        sample_num_steps=STEPS,
        sample_guidance_scale=GUIDANCE,
        sample_batch_size=batch,
        sample_num_batches_per_epoch=PROMPTS * EACH // batch,
        train_batch_size=batch,
        train_gradient_accumulation_steps=PROMPTS * EACH // batch // UPDATES,
        project_kwargs={"project_dir": str(folder / "trl"), "automatic_checkpoint_naming": True},
    )
    model = DefaultDDPOStableDiffusionPipeline(str(folder / "pipeline"))
    trainer = DDPOTrainer(config, reward, lambda: next(drawn), model)
    trainer.sd_pipeline.set_progress_bar_config(disable=True)
    laps, step = Laps(), 0
    laps()
    for epoch in range(10**6):
        step = trainer.step(epoch, step)
        laps()


def ours(folder: Path, batch: int, packed: int) -> None:
    """vpctl, with all that a run of tune-ppo does."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "pipeline")
    config = PPOConfig(epochs=10**6, prompts_per_epoch=PROMPTS, images=EACH, batch=batch, rank=RANK)
    groups = RoundConfig(updates=UPDATES, timestep_fraction=1.0, packed=packed), DDPOConfig(skip_last=0)
    progress.mute()
    laps = Laps()

    def lap(_: int) -> dict[str, float]:
        laps()
        return {}

    with Run(str(folder / f"batch-{batch}-packed-{packed}"), {}, join_world("cpu")) as run:
        tuner = Tuner.open(pipeline, config, algorithm="ddpo", source="tiny", seed=0, world=run.world)
        objective = Objective({"brightness": Brightness()}, {"brightness": 1.0})
        training = DDPO(tuner, prompts(PROMPTS), objective, config, *groups, steps=STEPS, guidance=GUIDANCE)
        train(training, run, save_every=10**6, evaluate=lap)


class Brightness(Reward):
    """The mean of a picture's pixels."""

    def __call__(self, images: list[Image.Image] | torch.Tensor, prompts: list[str]) -> list[float]:  # noqa: ARG002
        """The brightness of each picture, in [0, 1]."""
        assert isinstance(images, list)
        return [sum(ImageStat.Stat(one).mean) / 765 for one in images]


def sides(batch: int) -> dict[str, Callable[[Path], None]]:
    """The sides with this batch, by name."""
    found: dict[str, Callable[[Path], None]] = {f"trl, batch {batch}": partial(theirs, batch=batch)}
    for packed in (1, PACKED[batch]):
        found[f"vpctl --batch {batch} --packed {packed}"] = partial(ours, batch=batch, packed=packed)
    return found


def main() -> None:
    """Print the seconds for a round, the peak memory and the ratios."""
    try:
        there = importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        there = ""
    if there != NEEDED:
        sys.exit(f"needs trl {NEEDED}, the last version with a DDPOTrainer; pip install trl=={NEEDED}")
    with tempfile.TemporaryDirectory() as name:
        furnish(Path(name))
        for batch in PACKED:
            tell(alternate("benchmarks.ddpo", [*sides(batch)], Path(name), ROUNDS), GOAL, "round")


if __name__ == "__main__":
    if sys.argv[1:]:
        torch.set_num_threads(1)
        every = {name: side for batch in PACKED for name, side in sides(batch).items()}
        every[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
