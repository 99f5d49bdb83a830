"""Train the vision-language backbone of the shapes world. Reward models are trained from it.

It has the architecture and the objectives of BLIP (Li et al. 2022, arXiv 2201.12086, section 3.2): image-text contrast,
and image-text matching with hard negatives. A hard negative is a caption that differs in one attribute; each kind of
attribute is equally frequent. Two more objectives teach the model where to look, and their heads are dropped after
training. The first is dense: every patch predicts the colour and shape that cover it. The vision tower is first trained
with this objective alone, because such a step costs a fifth of a step with captions. The second grounds the words, as
in MDETR (Kamath et al. 2021, arXiv 2104.12763): in the middle layer of the text encoder, every noun predicts how many
such things the picture has and where they are.

The pictures are rendered. Most of them then pass through the generators' autoencoder, with some noise on the latents,
so that they look like generated pictures. Neither generated pictures nor the pixel judge are used.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessorPil,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPTokenizer,
)

from ...models import hub
from ..grammar import BACKGROUNDS, SHAPES, Scene, canonical, describe, held_out, near_misses, plural
from ..prompts import decorated, training_scene
from ..render import PALETTE, SIZE, SYMBOL, Placed, arrange, coverage, draw
from .text import DECORATED, MAX_LENGTH, new_tokenizer

SEED = 20263
BATCH = 48
NEAR, FOREIGN = 5, 1
PEAK_LEARNING_RATE = 8e-4
PATCH = 4
THROUGH_AUTOENCODER = 0.85
LATENT_NOISE = 0.15
CONTRAST_WEIGHT, DENSE_WEIGHT, GROUNDING_WEIGHT = 0.25, 0.5, 1.0
MOST_ALIKE = 3


def new_backbone(tokenizer: CLIPTokenizer) -> BlipForImageTextRetrieval:
    """An untrained BLIP of 2.2 million parameters over 8 × 8 patches."""
    vision = BlipVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
    )
    text = BlipTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        encoder_hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        sep_token_id=tokenizer.eos_token_id,
        is_decoder=True,
    )
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=64)
    return BlipForImageTextRetrieval(config)


@dataclass
class ShownScenes:
    """Pictures as 8-bit tensors (N, 3, 32, 32) and what they show.

    `colours` and `shapes` are the labels of every patch, (N, 64) each.
    """

    pixels: Tensor
    scenes: list[Scene]
    placed: list[list[Placed]]
    colours: Tensor
    shapes: Tensor


_COLOUR_LABELS = {name: index for index, name in enumerate(PALETTE)}
_SHAPE_LABELS = {name: index for index, name in enumerate(("", *SHAPES, SYMBOL))}


def shown(vae: AutoencoderKL, size: int, rng: Random) -> ShownScenes:
    """Return `size` pictures of random scenes that are not held out."""
    pixels, scenes, arranged, colours, shapes = [], [], [], [], []
    for _ in range(size):
        scene = training_scene(rng, symbols=0.12)
        taken = {thing.colour for thing in scene.things}
        background = scene.background or rng.choice([colour for colour in BACKGROUNDS if colour not in taken])
        placed = arrange(scene, rng)
        colour = np.full((SIZE // PATCH, SIZE // PATCH), _COLOUR_LABELS[background], np.uint8)
        shape = np.zeros_like(colour)
        for one in placed:
            covered = coverage(one).reshape(SIZE // PATCH, PATCH, SIZE // PATCH, PATCH).mean((1, 3)) > 0.3
            colour[covered] = _COLOUR_LABELS[one.colour]
            shape[covered] = _SHAPE_LABELS[one.shape]
        pixels.append(np.asarray(draw(placed, background)))
        scenes.append(scene)
        arranged.append(placed)
        colours.append(colour.ravel())
        shapes.append(shape.ravel())
    pictures = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        for start in range(0, size, 500):
            through = [i for i in range(start, min(start + 500, size)) if rng.random() < THROUGH_AUTOENCODER]
            latents = vae.encode(pictures[through].float() / 127.5 - 1).latent_dist.sample()
            latents += LATENT_NOISE * rng.random() * torch.randn_like(latents)
            pictures[through] = ((vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    labels = [torch.from_numpy(np.stack(each)).long() for each in (colours, shapes)]
    return ShownScenes(pictures, scenes, arranged, *labels)


def hard_negative(scene: Scene, rng: Random) -> Scene | None:
    """A scene that differs in one attribute and is not held out, or None.

    Each kind of attribute is equally likely.
    """
    kinds: dict[tuple[object, ...], list[Scene]] = {}
    for near in near_misses(scene):
        kinds.setdefault(_changed(scene, near), []).append(near)
    while kinds:
        kind = rng.choice(list(kinds))
        near = rng.choice(kinds[kind])
        if not held_out(describe(near)):
            return near
        kinds[kind].remove(near)
        if not kinds[kind]:
            del kinds[kind]
    return None


def _changed(scene: Scene, near: Scene) -> tuple[object, ...]:
    def properties(one: Scene) -> tuple[object, ...]:
        colours = sorted(str(thing.colour) for thing in one.things)
        return colours, sorted(thing.shape for thing in one.things), one.background, len(one.things), one.relation

    return tuple(a == b for a, b in zip(properties(scene), properties(near), strict=True))


def captions(scenes: list[Scene], everything: list[Scene], rng: Random) -> tuple[list[str], list[Scene]]:
    """Return 1 + NEAR + FOREIGN captions for each scene: its own, hard negatives, and captions of other scenes.

    The second result is the list of the scenes that the captions describe.
    """
    texts, described = [], []
    for scene in scenes:
        wanted = [scene]
        while len(wanted) < 1 + NEAR:
            wanted.append(hard_negative(scene, rng) or rng.choice(everything))
        while len(wanted) < 1 + NEAR + FOREIGN:
            other = rng.choice(everything)
            if canonical(other) != canonical(scene):
                wanted.append(other)
        decorate = rng.random() < DECORATED
        texts += [decorated(describe(one), rng) if decorate else describe(one) for one in wanted]
        described += wanted
    return texts, described


def normalised(pixels: Tensor) -> Tensor:
    """8-bit pixels scaled to [-1, 1], like the output of the image processor with mean 0.5 and std 0.5."""
    return pixels.float() / 127.5 - 1


def packed(ids: Tensor, mask: Tensor, pictures: int) -> dict[str, Tensor]:
    """Pack captions (pictures × K, L) into rows (pictures, K × L), in which no caption attends to another.

    The keys and values of a picture in cross-attention are then computed once per picture instead of once per caption.
    """
    each, length = len(ids) // pictures, ids.shape[1]
    own = torch.block_diag(*[torch.ones(length, length)] * each).bool()
    there = mask.bool().view(pictures, 1, 1, each * length)
    return {
        "input_ids": ids.view(pictures, each * length),
        "attention_mask": torch.where(own & there, 0.0, -1e9),
        "position_ids": torch.arange(length).repeat(each)[None],
    }


@dataclass
class Nouns:
    """The N shape words of some captions.

    They have a position (caption, token), the number of such things in the picture (0 to 3), and the mean position of
    these things, (N, 2) in [-1, 1]. The mean position is meaningless if the number is 0.
    """

    captions: Tensor
    tokens: Tensor
    counts: Tensor
    places: Tensor


def nouns(ids: Tensor, described: list[Scene], placed: list[list[Placed]], shape_words: Tensor) -> Nouns:
    """Locate the nouns in the captions (C, L) of the scenes `described`.

    Counts and mean positions refer to the picture of each caption.
    """
    where, counts, places = [], [], []
    each = len(described) // len(placed)
    unread = [list(dict.fromkeys(scene.things)) for scene in described]
    for caption, token in torch.isin(ids, shape_words).nonzero().tolist():
        kind = unread[caption].pop(0)
        alike = [one for one in placed[caption // each] if (one.shape, one.colour) == (kind.shape, kind.colour)]
        where.append((caption, token))
        counts.append(len(alike))
        middle = [sum(values) / max(len(alike), 1) for values in ([p.x for p in alike], [p.y for p in alike])]
        places.append([value / SIZE * 2 - 1 for value in middle])
    index = torch.tensor(where)
    return Nouns(index[:, 0], index[:, 1], torch.tensor(counts), torch.tensor(places))


def grounding_loss(ground: nn.Linear, halfway: Tensor, said: Nouns) -> Tensor:
    """Cross-entropy of the predicted counts plus 4 × smooth L1 loss of the predicted positions.

    `halfway` is (C, L, D).
    """
    told = ground(halfway[said.captions, said.tokens]).float()
    there = said.counts > 0
    places = F.smooth_l1_loss(told[there, MOST_ALIKE + 1 :], said.places[there], beta=0.1)
    return F.cross_entropy(told[:, : MOST_ALIKE + 1], said.counts) + 4 * places


def caption_losses(
    model: BlipForImageTextRetrieval, ground: nn.Linear, patches: Tensor, ids: Tensor, mask: Tensor, said: Nouns
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the losses of matching, contrast and grounding, and the matching accuracy.

    The accuracy is the share of pictures whose own caption, the first one, has the highest score.
    """
    size, each = len(patches), len(ids) // len(patches)
    layers = model.text_encoder.encoder.layer
    halfway: list[Tensor] = []
    watch = layers[len(layers) // 2 - 1].register_forward_hook(lambda _module, _inputs, output: halfway.append(output))
    crossed = model.text_encoder(
        **packed(ids, mask, size),
        encoder_hidden_states=patches,
        encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long),
    ).last_hidden_state[:, :: ids.shape[1]]
    watch.remove()
    grounding = grounding_loss(ground, halfway[0].reshape(*ids.shape, -1), said)
    logits = model.itm_head(crossed).float().diff(dim=2).squeeze(2)
    truth = torch.zeros(size, dtype=torch.long)
    matching = F.cross_entropy(logits, truth)
    matching = matching + F.binary_cross_entropy_with_logits(logits, F.one_hot(truth, each).float())
    alone = model.text_encoder(input_ids=ids[::each], attention_mask=mask[::each]).last_hidden_state[:, 0]
    image, text = model.vision_proj(patches[:, 0]).float(), model.text_proj(alone).float()
    similar = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T / 0.07
    own = torch.arange(size)
    contrast = (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2
    return matching, contrast, grounding, (logits.argmax(1) == 0).float().mean()


def dense_loss(dense: nn.Linear, patches: Tensor, colours: Tensor, shapes: Tensor) -> Tensor:
    """Cross-entropy of the colour and the shape that every patch (B, 64) predicts."""
    colour, shape = dense(patches[:, 1:]).float().split((len(_COLOUR_LABELS), len(_SHAPE_LABELS)), dim=2)
    return F.cross_entropy(colour.flatten(0, 1), colours.flatten()) + F.cross_entropy(
        shape.flatten(0, 1), shapes.flatten()
    )


class Optimization:
    """AdamW with warm-up and cosine decay. Prints a line every 200 steps."""

    def __init__(self, parameters: list[nn.Parameter], steps: int) -> None:
        self.steps = steps
        self._parameters = parameters
        self._optimizer = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min(1, (step + 1) / 500) * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        self._began, self._step = time.monotonic(), 0
        self._sums: dict[str, float] = {}

    def step(self, loss: Tensor, **watched: Tensor) -> None:
        """Take one optimizer step."""
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._step += 1
        for name, value in watched.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()
        if self._step % 200 == 0:
            words = " ".join(f"{name} {total / 200:.3f}" for name, total in self._sums.items())
            print(f"{self._step} {time.monotonic() - self._began:.0f}s {words}", flush=True)
            self._sums.clear()


def train(
    vae_folder: Path, out: Path, *, start: Path | None, vision_steps: int, steps: int, size: int, seed: int
) -> None:
    """Train from scratch or from the folder `start`.

    Writes the model, the tokenizer and the image processor to `out`.
    """
    torch.manual_seed(seed)
    rng = Random(seed)
    vae = hub.model(AutoencoderKL, vae_folder, dtype=torch.float32, where=str(vae_folder)).eval().requires_grad_(False)
    if start:
        tokenizer = hub.tokenizer(start, where=str(start))
        model = hub.model(BlipForImageTextRetrieval, start, dtype=torch.float32, where=str(start))
    else:
        tokenizer = new_tokenizer()
        model = new_backbone(tokenizer)
    model.train()
    dense = nn.Linear(128, len(_COLOUR_LABELS) + len(_SHAPE_LABELS))
    ground = nn.Linear(128, MOST_ALIKE + 1 + 2)
    shape_words = torch.tensor(
        [tokenizer.convert_tokens_to_ids(f"{word}</w>") for shape in SHAPES for word in (shape, plural(shape))]
    )
    data = shown(vae, size, rng)
    if vision_steps:
        look = Optimization([*model.vision_model.parameters(), *dense.parameters()], vision_steps)
    for _ in range(vision_steps):
        chosen = torch.randint(size, (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            patches = model.vision_model(normalised(data.pixels[chosen])).last_hidden_state
            seen = dense_loss(dense, patches, data.colours[chosen], data.shapes[chosen])
        look.step(seen, dense=seen)
    both = Optimization([*model.parameters(), *dense.parameters(), *ground.parameters()], steps)
    for step in range(1, steps + 1):
        chosen = torch.randint(size, (BATCH,))
        texts, described = captions([data.scenes[index] for index in chosen], data.scenes, rng)
        encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        said = nouns(encoded.input_ids, described, [data.placed[index] for index in chosen], shape_words)
        with torch.autocast("cpu", torch.bfloat16):
            patches = model.vision_model(normalised(data.pixels[chosen])).last_hidden_state
            seen = dense_loss(dense, patches, data.colours[chosen], data.shapes[chosen])
            matching, contrast, grounding, right = caption_losses(
                model, ground, patches, encoded.input_ids, encoded.attention_mask, said
            )
        loss = matching + CONTRAST_WEIGHT * contrast + DENSE_WEIGHT * seen + GROUNDING_WEIGHT * grounding
        both.step(loss, matching=matching, contrast=contrast, dense=seen, grounding=grounding, right=right)
        if step % 1000 == 0 or step == steps:
            save(model, tokenizer, out)


def save(model: BlipForImageTextRetrieval, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the folder that `BlipForImageTextRetrieval.from_pretrained` loads."""
    state = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)
    BlipImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vae", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, help="a folder of an earlier run to go on from")
    parser.add_argument("--vision-steps", type=int, default=6_000)
    parser.add_argument("--steps", type=int, default=7_000)
    parser.add_argument("--size", type=int, default=80_000, help="pictures")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    train(
        arguments.vae,
        arguments.out,
        start=arguments.start,
        vision_steps=arguments.vision_steps,
        steps=arguments.steps,
        size=arguments.size,
        seed=arguments.seed,
    )
