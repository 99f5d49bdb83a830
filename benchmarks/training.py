"""How many pairs a second train-rm learns from, against ImageReward's pairwise scheme.

Both sides train the same full-size ImageReward (446 million random weights, 70 % of the layers frozen) on the same
pictures, four for each prompt, so six pairs. One side is the scheme of ImageReward's code, written plainly: it decodes
the two pictures of each pair and computes the whole model for both. The other is vpctl from the second epoch on: a
picture is computed once for all its pairs, and only the layers above the frozen ones; in float32, and again with
`--dtype bfloat16`. All accumulate the gradients of a prompt and then do one step of AdamW. Two threads; each in a
process of its own, one after the other.

Usage: python benchmarks/training.py [PROMPTS]
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import torch
from PIL import Image

from vpctl.configs import RewardModelConfig
from vpctl.images.pictures import Pictures
from vpctl.models.devices import join_world
from vpctl.models.reward import RewardModel
from vpctl.tuning.freezing import freeze
from vpctl.tuning.losses import bradley_terry_loss
from vpctl.tuning.reward import Comparison, PromptPairs, RewardTraining
from vpctl.tuning.run import optimizer_step
from vpctl.tuning.store import Store

PER_PROMPT, SIDE, SEED = 4, 512, 0
RATE = 1e-8
"""So small that the first prompt has the same loss on both sides, in whatever order the prompts are learnt from."""


def full_size() -> RewardModel:
    """ImageReward's model with random weights. Its tokenizer knows one word for each letter.

    The weights are larger than those of a new model, so that pictures have different rewards. If they had none, the
    gradients would be full of numbers below 1e-38, with which a CPU is seven times slower.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import BlipConfig, BlipForImageTextRetrieval, CLIPImageProcessorPil, PreTrainedTokenizerFast

    torch.manual_seed(SEED)
    config = BlipConfig(
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 16,
        },
        text_config={"vocab_size": 30524, "num_attention_heads": 12, "encoder_hidden_size": 1024},
    )
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3} | {chr(97 + n): 4 + n for n in range(26)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_max_length=35)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    model = RewardModel(BlipForImageTextRetrieval(config), tokenizer, processor, where="benchmark")
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    freeze(model.backbone, 0.7, "layers")
    return model


def prompts(count: int) -> list[str]:
    """Prompts of about 25 tokens."""
    rng = np.random.default_rng(SEED)
    return ["".join(map(chr, rng.integers(97, 123, 23))) for _ in range(count)]


def plain(folder: Path, count: int) -> tuple[float, float]:
    """Seconds for all pairs in the pairwise scheme, and the mean loss of the first prompt."""
    model = full_size().train()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    pictures = Pictures([str(folder)])
    began, first = time.perf_counter(), 0.0
    for number, prompt in enumerate(prompts(count)):
        pairs = [*combinations(range(PER_PROMPT), 2)]
        for better, worse in pairs:
            pixels = [
                model.recipe.pixels(pictures.open(str(folder / f"{number}-{one}.jpg"))) for one in (better, worse)
            ]
            rewards = model(torch.stack(pixels), **model.tokens([prompt] * 2))
            loss = bradley_terry_loss(rewards[:1] - rewards[1:]).mean() / len(pairs)
            loss.backward()
            first += loss.item() * (number == 0)
        optimizer_step(optimizer, trained, where="plain", largest_norm=1.0)
    return time.perf_counter() - began, first


def ours(folder: Path, count: int, dtype: str) -> tuple[float, float]:
    """Seconds for all pairs in the second epoch of train-rm, and the mean loss of the first prompt."""
    model = full_size()
    store = Store(model, Pictures([str(folder)]))
    groups = []
    for number, prompt in enumerate(prompts(count)):
        pictures = [store.number(str(folder / f"{number}-{one}.jpg")) for one in range(PER_PROMPT)]
        pairs = [Comparison(better, worse) for better, worse in combinations(range(PER_PROMPT), 2)]
        groups.append(PromptPairs(prompt, pictures, pairs))
    config = RewardModelConfig(batch=1, accumulate=1, epochs=2, learning_rate=RATE, dtype=dtype)
    training = RewardTraining(model, groups, [], store.load, config, seed=SEED, world=join_world("cpu"))
    store.freeze(Path(mkdtemp(dir=folder)), None)
    losses = [training.step(number)["loss"] for number in range(1, count + 1)]
    began = time.perf_counter()
    for number in range(count + 1, 2 * count + 1):
        training.step(number)
    first = torch.randperm(count, generator=torch.Generator().manual_seed(SEED)).tolist().index(0)
    return time.perf_counter() - began, losses[first]


SIDES: dict[str, Callable[[Path, int], tuple[float, float]]] = {
    "plain": plain,
    "float32": partial(ours, dtype="float32"),
    "bfloat16": partial(ours, dtype="bfloat16"),
}


def measured(side: str, folder: Path, count: int) -> dict[str, float]:
    """The figures of one side, from a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, str(folder), str(count)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the pairs a second of both sides, their ratio, and the memory of both."""
    torch.set_num_threads(2)
    if sys.argv[1:2] == ["--side"]:
        seconds, loss = SIDES[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "loss": loss, "memory": memory}))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    pairs = count * PER_PROMPT * (PER_PROMPT - 1) // 2
    rng = np.random.default_rng(SEED)
    with TemporaryDirectory() as name:
        for number in range(count):
            for one in range(PER_PROMPT):
                coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
                coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(Path(name) / f"{number}-{one}.jpg")
        found = {side: measured(side, Path(name), count) for side in SIDES}
    for side, figures in found.items():
        print(
            f"{side:8}  {pairs / figures['seconds']:6.3f} pairs/s   peak memory {figures['memory']:.1f} GiB   "
            f"loss {figures['loss']:.6f}   ratio {found['plain']['seconds'] / figures['seconds']:.2f}"
        )


if __name__ == "__main__":
    main()
