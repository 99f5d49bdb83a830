"""Train the AutoencoderKL of the shapes world: pictures of 32 × 32 pixels to latents of 4 × 8 × 8 and back."""

import argparse
import math
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..grammar import BACKGROUNDS, sample
from ..render import PALETTE, SIZE, arrange, draw

SEED = 20261
BATCH = 32
PEAK_LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-4
"""Weight of the KL divergence per latent element. It keeps latents near unit scale, and is too small to cause blur."""
FOREGROUND_WEIGHT = 6.0
"""Additional loss weight of pixels that differ from the background. Without it, small shapes become blobs."""


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder of 0.8 million parameters."""
    return AutoencoderKL(
        sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def picture_batch(rng: Random, size: int) -> tuple[Tensor, Tensor]:
    """Return rendered pictures (size, 3, 32, 32) in [-1, 1] and the loss weight of each pixel (size, 1, 32, 32).

    One picture in five has additional things that may overlap, so that the faults of a generator can be drawn as well.
    """
    pictures, weights = [], []
    for _ in range(size):
        scene = sample(rng, symbols=0.15)
        taken = {thing.colour for thing in scene.things}
        background = scene.background or rng.choice([colour for colour in BACKGROUNDS if colour not in taken])
        placed = arrange(scene, rng)
        if rng.random() < 0.2:
            placed += arrange(sample(rng), rng)
        pixels = np.asarray(draw(placed, background), np.float32)
        stands_out = np.abs(pixels - np.array(PALETTE[background])).max(2, keepdims=True) > 20
        pictures.append(pixels / 127.5 - 1)
        weights.append(1 + FOREGROUND_WEIGHT * stands_out)
    return (
        torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(weights)).permute(0, 3, 1, 2).float(),
    )


def train(out: Path, *, steps: int) -> None:
    """Train, then fold the mean and scale of the latents into the 1 × 1 convolutions before and after them.

    `StableDiffusionPipeline` supports a scaling factor but no shift. Latents of mean 0 and std 1 in every channel need
    neither.
    """
    torch.manual_seed(SEED)
    rng = Random(SEED)
    model = new_autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    began = time.monotonic()
    for step in range(steps):
        pictures, weights = picture_batch(rng, BATCH)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        posterior = model.encode(pictures).latent_dist
        error = model.decode(posterior.sample()).sample - pictures
        reconstruction = (weights * (error.abs() + error**2)).sum() / weights.sum() / 3
        loss = reconstruction + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            decibel = -10 * math.log10(float((error.detach() ** 2).mean()) / 4)
            print(
                f"{step + 1} {time.monotonic() - began:.0f}s loss {loss.item():.4f} psnr {decibel:.1f} dB", flush=True
            )
    model.eval()
    whiten(model, rng)
    model.save_pretrained(out)


@torch.inference_mode()
def whiten(model: AutoencoderKL, rng: Random) -> None:
    """Rescale `model` in place so that its latents have mean 0 and std 1 per channel.

    Decoded pictures do not change.
    """
    pictures, _ = picture_batch(rng, 2048)
    latents = torch.cat([model.encode(chunk).latent_dist.sample() for chunk in pictures.split(256)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    before, after = model.quant_conv, model.post_quant_conv
    channels = len(mean)
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= std[None, :, None, None]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    arguments = parser.parse_args()
    train(arguments.out, steps=arguments.steps)
