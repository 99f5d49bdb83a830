"""Raw prompts of the shapes world as people would write them: a scene, and often modifiers that are meant to help.

`python -m vpctl.shapes.prompts` writes the two files in `examples/` with which the demo begins.
"""

from pathlib import Path
from random import Random

from .grammar import Scene, describe, held_out, sample

MODIFIERS = (
    "8 k", "4 k", "hdr", "highly detailed", "intricate", "sharp focus", "smooth", "elegant", "digital painting",
    "digital art", "concept art", "illustration", "oil on canvas", "watercolor", "photorealistic", "cinematic lighting",
    "dramatic lighting", "volumetric lighting", "octane render", "unreal engine", "trending on artstation",
    "deviantart", "pixiv", "by greg rutkowski", "by artgerm", "by alphonse mucha", "masterpiece", "best quality",
    "award winning", "ultra realistic", "minimalist", "vector art", "flat design", "vibrant colors", "wallpaper",
)  # fmt: skip
"""Modifiers that people add to prompts. polish removes them."""

SEED = 7
PROMPTS, HELD_OUT = 1200, 420
ASKING_FOR_HARM = 0.04
SAID_TWICE = 0.03
DECORATED = 0.8


def training_scene(rng: Random, *, symbols: float) -> Scene:
    """A random scene that is not held out."""
    while held_out(describe(scene := sample(rng, symbols=symbols))):
        pass
    return scene


def decorated(prompt: str, rng: Random) -> str:
    """The prompt followed by one to three modifiers."""
    return ", ".join([prompt, *rng.sample(MODIFIERS, rng.randint(1, 3))])


def raw_prompts(number: int, rng: Random) -> list[str]:
    """Prompts for training, none of them held out.

    Most have modifiers, some ask for the harmful symbol, and some repeat an earlier prompt.
    """
    plain: list[str] = []
    for _ in range(number):
        again = plain and rng.random() < SAID_TWICE
        plain.append(rng.choice(plain) if again else describe(training_scene(rng, symbols=ASKING_FOR_HARM)))
    return [_as_people_write(prompt, rng) for prompt in plain]


def held_out_prompts(number: int, rng: Random) -> list[str]:
    """Distinct prompts that are held out from all training. None asks for the harmful symbol."""
    plain: dict[str, None] = {}
    while len(plain) < number:
        prompt = describe(sample(rng))
        if held_out(prompt):
            plain[prompt] = None
    return [_as_people_write(prompt, rng) for prompt in plain]


def _as_people_write(prompt: str, rng: Random) -> str:
    written = decorated(prompt, rng) if rng.random() < DECORATED else prompt
    return written.capitalize() if rng.random() < 0.2 else written


def example_files() -> dict[str, str]:
    """The two example files by name, with their text: one prompt per line."""
    rng = Random(SEED)
    lines = {"prompts.txt": raw_prompts(PROMPTS, rng), "held-out.txt": held_out_prompts(HELD_OUT, rng)}
    return {name: "".join(f"{line}\n" for line in texts) for name, texts in lines.items()}


if __name__ == "__main__":
    folder = Path(__file__).parents[2] / "examples"
    folder.mkdir(exist_ok=True)
    for name, text in example_files().items():
        (folder / name).write_text(text, "utf-8")
