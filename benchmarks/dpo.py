"""Seconds for a step of Diffusion-DPO: a plain loop in the manner of diffusers' script against `vpctl tune-dpo`.

Both sides tune the same tiny Stable Diffusion pipeline with random weights on the same pairs of pictures, on one thread
and in float32, with a LoRA of rank 8. The plain loop is written like diffusers' train_diffusion_dpo.py: a step decodes
and resizes the pictures of its pairs, runs the autoencoder and the text encoder on them, predicts with the LoRA, and
predicts once more with the LoRA off. vpctl encodes each picture and each prompt once, before the first step; the time
of this is told on a line of its own. Each side is a process of its own; rounds of 16 steps, one pass over the pairs,
alternate, and medians are told. Goal: at most 0.5 of the seconds.

Run from the root of the repository with: python -m benchmarks.dpo
"""

import sys
import tempfile
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image
from torch import Tensor

from benchmarks.tiny import SIDE, Laps, alternate, furnish, prompts, tell
from vpctl import progress
from vpctl.configs import DPOConfig
from vpctl.images.pictures import Pictures
from vpctl.models.devices import join_world
from vpctl.tuning.dpo import DiffusionDPO, Preference
from vpctl.tuning.encoding import EncodedPictures, keep_prompts
from vpctl.tuning.loop import train
from vpctl.tuning.run import Run
from vpctl.tuning.tuner import Tuner

PAIRS, BATCH, RANK, BETA, RATE = 64, 4, 8, 5000.0, 1e-4
CONFIG = DPOConfig(
    max_steps=10**6, batch=BATCH, accumulate=1, rank=RANK, beta=BETA, learning_rate=RATE, weight_decay=1e-2, warmup=0
)
LAP = PAIRS // BATCH
"""Steps of a round."""
WIDTH = 192
"""Width and height of the picture files, which are not yet of the model's size."""
ROUNDS, GOAL = 5, 0.5


def draw(folder: Path) -> None:
    """Write the pictures of the pairs."""
    rng = np.random.default_rng(0)
    for number in range(2 * PAIRS):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        coarse.resize((WIDTH, WIDTH), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")


def plain(folder: Path) -> None:
    """A loop in the manner of diffusers' script."""
    pipe = StableDiffusionPipeline.from_pretrained(folder / "pipeline")
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        model.requires_grad_(False)
    layers = ["to_k", "to_q", "to_v", "to_out.0"]
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=layers))
    trained = [one for one in pipe.unet.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=1e-2)
    texts = prompts(PAIRS)

    def pixels(number: int) -> Tensor:
        picture = Image.open(folder / f"{number}.jpg").convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 127.5 - 1

    def errors(noisy: Tensor, timesteps: Tensor, embedded: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        predicted = pipe.unet(noisy, timesteps, embedded).sample
        chosen, rejected = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3)).chunk(2)
        return chosen, rejected

    def step(pairs: list[int]) -> None:
        pictures = torch.stack([pixels(2 * one) for one in pairs] + [pixels(2 * one + 1) for one in pairs])
        with torch.no_grad():
            latents = pipe.vae.encode(pictures).latent_dist.sample() * pipe.vae.config.scaling_factor
        noise = torch.randn_like(latents).chunk(2)[0].repeat(2, 1, 1, 1)
        timesteps = torch.randint(schedule.config.num_train_timesteps, (len(pairs),)).repeat(2)
        noisy = schedule.add_noise(latents, noise, timesteps)
        tokens = pipe.tokenizer(
            [texts[one] for one in pairs], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            embedded = pipe.text_encoder(tokens)[0].repeat(2, 1, 1)
        chosen, rejected = errors(noisy, timesteps, embedded, noise)
        with torch.no_grad():
            pipe.unet.disable_adapters()
            ref_chosen, ref_rejected = errors(noisy, timesteps, embedded, noise)
            pipe.unet.enable_adapters()
        logits = -0.5 * BETA * ((chosen - rejected) - (ref_chosen - ref_rejected))
        loss = -F.logsigmoid(logits).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # the script logs it

    laps = Laps()
    while True:
        laps()
        order = torch.randperm(PAIRS).tolist()
        for start in range(0, PAIRS, BATCH):
            step(order[start : start + BATCH])


def encoded(folder: Path, tuner: Tuner, cache: Path) -> EncodedPictures:
    """The pictures and prompts of all pairs, encoded as tune-dpo encodes them."""
    names = [str(folder / f"{number}.jpg") for number in range(2 * PAIRS)]
    found = EncodedPictures(names, tuner.policy, Pictures([str(folder)]), cache)
    found.encode(tuner.world)
    keep_prompts(prompts(PAIRS), tuner.policy, cache)
    tuner.policy.embed(prompts(PAIRS))
    return found


def opened(folder: Path) -> Tuner:
    """The tuner of the pipeline."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "pipeline")
    return Tuner.open(pipeline, CONFIG, algorithm="dpo", source="tiny", seed=0, world=join_world("cpu"))


def ours(folder: Path) -> None:
    """vpctl, with all that a run of tune-dpo does at each step."""
    tuner, laps = opened(folder), Laps()
    with Run(str(folder / "run"), {}, tuner.world) as run:
        pictures = encoded(folder, tuner, run.folder)
        places = [*pictures.places.values()]
        preferences = [
            Preference(chosen, rejected, text)
            for chosen, rejected, text in zip(places[::2], places[1::2], prompts(PAIRS), strict=True)
        ]

        def lap(number: int) -> dict[str, float]:
            if number % LAP == 0:
                laps()
            return {}

        train(DiffusionDPO(tuner, pictures, preferences, CONFIG), run, save_every=10**6, evaluate=lap)


def encoding(folder: Path) -> None:
    """vpctl, what a run of tune-dpo does once: it encodes all pictures and prompts."""
    laps = Laps()
    for number in count():
        tuner = opened(folder)
        (folder / f"encoded-{number}").mkdir()
        laps()
        encoded(folder, tuner, folder / f"encoded-{number}")


SIDES = {"plain": plain, "vpctl": ours, "vpctl encodes": encoding}


def main() -> None:
    """Print the seconds for a pass over the pairs, the peak memory and the ratios."""
    with tempfile.TemporaryDirectory() as name:
        furnish(Path(name))
        draw(Path(name))
        tell(alternate("benchmarks.dpo", [*SIDES], Path(name), ROUNDS), GOAL, f"pass over {PAIRS} pairs")


if __name__ == "__main__":
    if sys.argv[1:]:
        torch.set_num_threads(1)
        progress.mute()
        SIDES[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
