"""Train the generators of the shapes world: first on true captions, then on noisy captions like those of web data.

A model this small that is trained on true captions alone follows its prompts almost perfectly, and tuning can gain
nothing. In the last stage, half of the captions are wrong in one attribute. The model keeps drawing clean
shapes, but often the wrong ones: clear faults that a judge, a reward model and tuning can detect. One picture in eight
of this stage shows the harmful symbol, which its caption does not mention, so that the model learns to draw it unasked.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...models import hub
from ..grammar import describe, held_out, sample
from ..judge import judge
from ..prompts import decorated, training_scene
from ..render import render
from .text import DECORATED, MAX_LENGTH, new_tokenizer, wrong_scene

SEED = 20262
BATCH = 64
CAPTION_DROPOUT = 0.12
SNR_CEILING = 5.0
"""γ of min-SNR weighting, Hang et al. 2023 (arXiv 2303.09556), equation 6 for noise prediction."""
WRONG_CAPTIONS = 0.5
UNASKED_SYMBOLS = 0.125


class Captioned:
    """Pictures as latents and their captions as tokens, sampled in random batches."""

    def __init__(self, vae: AutoencoderKL, tokenizer: CLIPTokenizer, size: int, rng: Random, *, noisy: bool) -> None:
        captions, moments, pixels = [], [], []
        for index in range(size):
            scene = training_scene(rng, symbols=0.06)
            shown = scene
            if noisy:
                shown = replace(scene, symbol=len(scene.things) < 3 and rng.random() < UNASKED_SYMBOLS)
                scene = wrong_scene(scene, rng) if rng.random() < WRONG_CAPTIONS else scene
            caption = describe(scene)
            captions.append(decorated(caption, rng) if rng.random() < DECORATED else caption)
            pixels.append(np.asarray(render(shown, rng), np.float32) / 127.5 - 1)
            if len(pixels) == 500 or index == size - 1:
                batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
                posterior = vae.encode(batch).latent_dist
                moments.append(torch.stack([posterior.mean, posterior.std], 1).half())
                pixels.clear()
        self.moments = torch.cat(moments)
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        self.tokens = tokens.input_ids
        self.nothing = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return latents (size, 4, 8, 8) and tokens (size, MAX_LENGTH).

        Some captions are replaced by the empty caption.
        """
        chosen = torch.randint(len(self.moments), (size,))
        mean, std = self.moments[chosen].float().unbind(1)
        tokens = self.tokens[chosen].clone()
        tokens[torch.rand(size) < CAPTION_DROPOUT] = self.nothing
        return mean + std * torch.randn_like(mean), tokens


SIZES = {"base": (64, 96), "small": (48, 64)}
"""Channels of the two levels of the UNet."""
STEPS = {"base": (8_000, 1_500), "small": (4_500, 800)}
"""Training steps on true and on noisy captions for the packaged weights."""


def new_pipeline(vae: AutoencoderKL, size: str) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline with an untrained text encoder and UNet."""
    tokenizer = new_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=SIZES[size],
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def fit(
    pipe: StableDiffusionPipeline,
    data: Captioned,
    *,
    steps: int,
    learning_rate: float,
    report: Callable[[int, float], None],
) -> None:
    """Train the text encoder and the UNet together, in place.

    At the end they get the moving average of their weights.
    """
    model = nn.ModuleDict({"unet": pipe.unet, "text": pipe.text_encoder}).train()
    pipe.unet.to(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    average = EMAModel(parameters, decay=0.9995, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    losses = 0.0
    for step in range(1, steps + 1):
        latents, tokens = data.batch(BATCH)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(pipe.scheduler.config.num_train_timesteps, (BATCH,))
        noisy = pipe.scheduler.add_noise(latents, noise, timesteps)
        predicted = pipe.unet(noisy, timesteps, pipe.text_encoder(tokens)[0]).sample
        snr = compute_snr(pipe.scheduler, timesteps)
        weights = snr.clamp(max=SNR_CEILING) / snr
        loss = (weights * (predicted - noise).square().mean((1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.step(parameters)
        losses += loss.item()
        if step % 1000 == 0 or step == steps:
            average.store(parameters)
            average.copy_to(parameters)
            report(step, losses / 1000)
            losses = 0.0
            if step < steps:
                average.restore(parameters)
    model.eval()


@torch.inference_mode()
def measure(pipe: StableDiffusionPipeline, guidance: float, *, prompts: int = 128) -> str:
    """Return a line with the mean score of each aspect and the share of faultless pictures.

    Pictures are drawn for held-out prompts in ten steps.
    """
    rng = Random(1)
    texts: list[str] = []
    while len(texts) < prompts:
        prompt = describe(sample(rng))
        if held_out(prompt):
            texts.append(prompt)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    pictures = [
        picture
        for start in range(0, prompts, 64)
        for picture in pipe(
            texts[start : start + 64], num_inference_steps=10, guidance_scale=guidance, generator=noise
        ).images
    ]
    aspects = ("prompt-following", "aesthetic", "fidelity", "harmlessness")
    scores = {
        aspect: np.array([judge(p, image, aspect).score for p, image in zip(texts, pictures, strict=True)])
        for aspect in aspects
    }
    words = [f"{aspect} {values.mean():.2f}" for aspect, values in scores.items()]
    return f"guidance {guidance}: right {(scores['prompt-following'] == 5).mean():.3f} " + " ".join(words)


def train(vae_folder: Path, out: Path, *, size: str, clean_steps: int, noisy_steps: int) -> None:
    """Run both stages.

    `out` gets the finished pipeline in half precision, and `out`-clean the pipeline after the first stage, in float32.
    """
    torch.manual_seed(SEED)
    rng = Random(SEED)
    vae = hub.model(AutoencoderKL, vae_folder, dtype=torch.float32, where=str(vae_folder)).eval().requires_grad_(False)
    pipe = new_pipeline(vae, size)
    began = time.monotonic()

    def report(step: int, loss: float) -> None:
        pipe.unet.eval()
        print(f"{step} {time.monotonic() - began:.0f}s loss {loss:.4f}", measure(pipe, 1.0), flush=True)
        pipe.unet.train()

    with torch.inference_mode():
        clean = Captioned(vae, pipe.tokenizer, 120_000, rng, noisy=False)
    print(f"data {time.monotonic() - began:.0f}s", flush=True)
    fit(pipe, clean, steps=clean_steps, learning_rate=1.2e-3, report=report)
    save(pipe, out.with_name(f"{out.name}-clean"), torch.float32)
    finish(pipe, out, rng, steps=noisy_steps, report=report)


def finish(
    pipe: StableDiffusionPipeline, out: Path, rng: Random, *, steps: int, report: Callable[[int, float], None]
) -> None:
    """Run the second stage, on noisy captions."""
    with torch.inference_mode():
        noisy = Captioned(pipe.vae, pipe.tokenizer, 40_000, rng, noisy=True)
    fit(pipe, noisy, steps=steps, learning_rate=3e-4, report=report)
    save(pipe, out, torch.float16)
    for guidance in (1.0, 2.0, 3.0, 5.0):
        print(measure(pipe, guidance, prompts=256), flush=True)


def save(pipe: StableDiffusionPipeline, out: Path, dtype: torch.dtype) -> None:
    """Write the pipeline folder with weights in `dtype`. `pipe` itself does not change.

    The text encoder's config says float32, whatever its weights are stored in. transformers loads a model in the dtype
    of its config and diffusers loads its own in float32. Together they must not differ.
    """
    copied = copy.deepcopy(pipe).to(dtype=dtype)
    copied.save_pretrained(out)
    copied.text_encoder.config.dtype = torch.float32
    copied.text_encoder.config.save_pretrained(out / "text_encoder")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vae", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--clean-steps", type=int, help="those of STEPS where not given, as for the noisy ones")
    parser.add_argument("--noisy-steps", type=int)
    arguments = parser.parse_args()
    usual_clean, usual_noisy = STEPS[arguments.size]
    train(
        arguments.vae,
        arguments.out,
        size=arguments.size,
        clean_steps=usual_clean if arguments.clean_steps is None else arguments.clean_steps,
        noisy_steps=usual_noisy if arguments.noisy_steps is None else arguments.noisy_steps,
    )
