"""What the benchmarks of tune-ppo and tune-dpo share: a tiny pipeline with random weights, and two sides in turns."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from vpctl.shapes.pretraining.text import MAX_LENGTH, new_tokenizer

SIDE = 128
"""Width and height of the pictures, in pixels."""
WORDS = "a red circle left of two small blue stars above a green cross and three orange squares".split()


def prompts(count: int) -> list[str]:
    """Different prompts of up to ten words."""
    return [f"{number} {' '.join(WORDS[number % 7 :][: 4 + number % 6])}" for number in range(count)]


def furnish(folder: Path) -> None:
    """Write a Stable Diffusion pipeline whose UNet has about a million weights.

    Its autoencoder takes 1.4 times as many operations for encoding as the UNet for a prediction, and 3.1 times for
    decoding, as in Stable Diffusion 1.5 at 512 × 512.
    """
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            **ends,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 32),
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=SIDE,
    )
    # The last timestep is 1: at 0 it would add no noise, and trl's log-probability would be NaN.
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "pipeline")


class Costs(NamedTuple):
    """What one round of a side has cost."""

    seconds: float
    cpu: float
    """Seconds of CPU."""
    peak: float
    """Peak memory of the process so far, in MiB."""


class Laps:
    """The clock of a side, which runs in a process of its own. A line on standard input starts a round."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None

    def __call__(self) -> None:
        """End the round, print its costs, and wait for the start of the next one. Ends the process after the last."""
        if self._began:
            seconds, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            print(json.dumps([seconds, cpu, peak]), flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self._began = time.perf_counter(), time.process_time()


def alternate(module: str, sides: list[str], folder: Path, rounds: int) -> dict[str, list[Costs]]:
    """The costs of some rounds of each side, in turns, on one thread. The first round of a side is not counted."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = {
        side: subprocess.Popen(
            [sys.executable, "-m", module, side, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for side in sides
    }
    found: dict[str, list[Costs]] = {side: [] for side in sides}
    try:
        for _ in range(rounds + 1):
            for side, worker in workers.items():
                assert worker.stdin
                assert worker.stdout
                worker.stdin.write("\n")
                worker.stdin.flush()
                found[side].append(Costs(*json.loads(worker.stdout.readline())))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()
    return {side: costs[1:] for side, costs in found.items()}


def tell(found: dict[str, list[Costs]], goal: float, unit: str) -> None:
    """Print the medians of each side, and the ratios to the first side."""
    median = {side: Costs(*map(statistics.median, zip(*costs, strict=True))) for side, costs in found.items()}
    first = next(iter(median.values()))
    for side, costs in found.items():
        own = median[side]
        spread = f"{min(one.seconds for one in costs):.3f} to {max(one.seconds for one in costs):.3f}"
        print(f"{side}: {own.seconds:.3f} s ({spread}) and {own.cpu:.3f} s of CPU per {unit},", end=" ")
        print(f"peak memory {max(one.peak for one in costs):.0f} MiB;", end=" ")
        print(f"ratio {own.seconds / first.seconds:.2f}, in CPU {own.cpu / first.cpu:.2f} (goal {goal})")
