"""Draw pictures for prompts."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

from .. import plugins, progress
from ..contracts import Settings
from ..errors import UserError
from ..images.folders import mark
from ..options import STDIO, BatchSize, Device, Output, Prompts, Seed, option, plugin
from ..records import Image, Prompt, digest, fingerprint, image_key, listing, prompt_key, prompt_too_long
from ..streams.places import folder_of, is_stream
from ..streams.reading import count, read_prompts
from ..streams.writing import Out

if TYPE_CHECKING:
    from PIL import Image as PIL

Draw = Callable[[list[str], list[int], Settings], "list[PIL.Image]"]

GUIDANCE_STEP = 0.5
"""Step between the random weights of a guidance range, so that several pictures of a batch have the same weight."""
LARGEST_GUIDANCE = 1000
LARGEST_SIZE = 1 << 26
"""Pixels. No command opens a larger picture (`images.pictures.MAX_PIXELS`)."""
LARGEST_WINDOW = 16
"""Maximum number of batches that are planned ahead, to fill them if models or guidance weights are mixed."""


class LoadedGenerator(NamedTuple):
    """A generator and its name in records. `fingerprint` identifies its weights; `settings` are its own defaults."""

    name: str
    draw: Draw
    fingerprint: str
    settings: Settings


@dataclass(frozen=True)
class DrawingPlan:
    """What to draw for every prompt: `images` pictures, each with one of `models` and a weight in `guidance`."""

    models: list[LoadedGenerator]
    images: int
    guidance: tuple[float, float] | None
    settings: Settings
    adapter: str
    adapter_fingerprint: str
    seed: int


OF_ANOTHER_PICTURE = Image.__annotations__.keys() - Prompt.__annotations__.keys()
"""Keys that describe a picture and not its prompt. If the input has them, they describe another picture."""
DRAWN = ("prompt_id", "image_id", "model", "seed")
"""Keys of every record that this command writes. Records of other pictures may lack them."""


class Drawing(NamedTuple):
    """One picture to be drawn: its record, its model, its settings."""

    record: Image
    model: LoadedGenerator
    settings: Settings


def planned(prompt: Prompt, plan: DrawingPlan) -> Iterator[Drawing]:
    """The pictures to draw for one prompt. Random choices depend on the prompt, the picture's number and --seed."""
    own_id = prompt_key(prompt)
    for number in range(plan.images):
        rng = Random(digest([own_id, number, plan.seed]))
        model = rng.choice(plan.models)
        settings = resolved(plan.settings, model.settings)
        if plan.guidance:
            low, high = plan.guidance
            drawn_guidance = low + GUIDANCE_STEP * rng.randint(0, int((high - low) / GUIDANCE_STEP))
            settings = settings._replace(guidance_scale=drawn_guidance)
        seed = rng.randrange(2**32)
        image_id = digest([prompt["prompt"], model.fingerprint, plan.adapter_fingerprint, seed, *settings])
        record = {
            **{key: value for key, value in prompt.items() if key not in OF_ANOTHER_PICTURE},
            "prompt_id": own_id,
            "image_id": image_id,
            "file_name": os.path.join(image_id[:2], f"{image_id}.png"),
            "model": model.name,
            "seed": seed,
            **{key: value for key, value in settings._asdict().items() if value is not None},
            **({"adapter": plan.adapter} if plan.adapter else {}),
        }
        yield Drawing(cast(Image, record), model, settings)


def resolved(wanted: Settings, own: Settings) -> Settings:
    """The settings in `wanted`; where one is None, that of `own`."""
    return own._replace(**{key: value for key, value in wanted._asdict().items() if value is not None})


def drawn(
    prompts: Iterable[Prompt],
    plan: DrawingPlan,
    folder: str,
    *,
    batch: int,
    claim: Callable[[str], bool],
    save: "Callable[[PIL.Image, str], None]",
) -> Iterator[Image]:
    """Draw pictures, save them below `folder`, and yield their records, in the order of the prompts.

    Pictures that `claim` refuses are done already and left out. A batch can have pictures of several prompts, but only
    of one model and setting.
    """
    window: list[Drawing] = []
    with ThreadPoolExecutor(1) as writer:
        for prompt in prompts:
            window += [job for job in planned(prompt, plan) if claim(image_key(job.record))]
            if _full(window, batch):
                yield from _drawn_window(window, folder, batch, save, writer)
                window = []
        yield from _drawn_window(window, folder, batch, save, writer)


def _full(window: list[Drawing], batch: int) -> bool:
    """Whether at least half of the window's batches are full, or the window has its maximum length."""
    groups = _grouped(window)
    rounds = sum(-(-len(jobs) // batch) for jobs in groups.values())
    full = sum(len(jobs) // batch for jobs in groups.values())
    return len(window) >= batch and (2 * full >= rounds or len(window) >= LARGEST_WINDOW * batch)


def _grouped(window: list[Drawing]) -> dict[tuple[str, Settings], list[Drawing]]:
    groups: dict[tuple[str, Settings], list[Drawing]] = {}
    for job in window:
        groups.setdefault((job.model.name, job.settings), []).append(job)
    return groups


def _drawn_window(
    window: list[Drawing],
    folder: str,
    batch: int,
    save: "Callable[[PIL.Image, str], None]",
    writer: ThreadPoolExecutor,
) -> Iterator[Image]:
    saved = {}
    for (_, settings), jobs in _grouped(window).items():
        for start in range(0, len(jobs), batch):
            records = [job.record for job in jobs[start : start + batch]]
            missing = [one for one in records if not os.path.exists(os.path.join(folder, one["file_name"]))]
            if missing:
                prompts, seeds = [one["prompt"] for one in missing], [one["seed"] for one in missing]
                for one, picture in zip(missing, _pictures(jobs[0].model, prompts, seeds, settings), strict=True):
                    saved[one["image_id"]] = writer.submit(save, picture, os.path.join(folder, one["file_name"]))
    for job in window:
        record = job.record
        if record["image_id"] in saved:
            saved[record["image_id"]].result()
        yield {**record, "file_name": os.path.join(folder, record["file_name"])}


def _pictures(model: LoadedGenerator, prompts: list[str], seeds: list[int], settings: Settings) -> "list[PIL.Image]":
    """One picture per prompt. Raises `UserError` if a plug-in returns anything else."""
    from PIL import Image as PIL

    with plugins.blamed("generator", model.name):
        drawn = model.draw(prompts, seeds, settings)
        if not isinstance(drawn, list) or not all(isinstance(one, PIL.Image) and all(one.size) for one in drawn):
            raise plugins.contract_error("generator", model.name, drawn)
    if len(drawn) != len(prompts):
        pictures = progress.plural(len(drawn), "picture")
        raise UserError(f"--model {model.name}: drew {pictures} for {progress.plural(len(prompts), 'prompt')}")
    return drawn


def generate(
    prompts: Prompts,
    out: Output = STDIO,
    *,
    model: Annotated[
        list[str] | None,
        plugin(
            "generator",
            "--model",
            "-m",
            group="Model",
            help="Model that draws the pictures; repeatable. With several models, each picture uses one of them at "
            "random.",
            show_default="shapes, the model of the shapes world",
        ),
    ] = None,
    adapter: Annotated[
        str,
        option(
            metavar="DIR",
            group="Model",
            help="Folder of a LoRA, as tune-ppo and tune-dpo write it. The pictures are drawn with its weights added.",
        ),
    ] = "",
    images: Annotated[
        int,
        option(
            "--images", "-n", metavar="N", min=1, max=10_000, group="Sampling", help="Number of pictures per prompt."
        ),
    ] = 4,
    guidance: Annotated[
        str,
        option(
            metavar="W[:W]",
            group="Sampling",
            help="Weight of classifier-free guidance. With a range such as 3:12, each picture uses a random weight in "
            "the range: 3, 3.5, 4 and so on.",
            show_default="the model's own",
        ),
    ] = "",
    steps: Annotated[
        int | None,
        option(
            metavar="N",
            min=1,
            max=1000,
            group="Sampling",
            help="Number of denoising steps per picture.",
            show_default="the model's own",
        ),
    ] = None,
    size: Annotated[
        str,
        option(
            metavar="WxH",
            group="Sampling",
            help="Width and height of the pictures in pixels, such as 768x512.",
            show_default="the model's own",
        ),
    ] = "",
    negative: Annotated[
        str | None, option(metavar="TEXT", group="Sampling", help="Negative prompt: what the pictures should not show.")
    ] = None,
    folder: Annotated[
        str,
        option(
            metavar="DIR",
            group="Output",
            help="Folder for the pictures.",
            show_default="the folder of --out, or ./images",
        ),
    ] = "",
    seed: Seed = 0,
    batch: BatchSize = 16,
    device: Device = "auto",
) -> None:
    """Draw pictures for prompts.

    The input is JSON Lines, or plain text with one prompt per line. A .txt file and standard input can be plain text.
    generate writes one record per picture. The records of one prompt are consecutive, so annotate can judge them while
    the next pictures are drawn. A picture depends only on its own record: order, batch size and resuming do not change
    it.

    Hugging Face's imagefolder loader can open the folder of --out. If the pictures go to a folder other than that of
    --out, generate also writes a file named .vpctl into the folder of the pictures. Because of this file, later
    commands may read the pictures there without --root.

    Examples:

        vpctl generate prompts.txt --out images/metadata.jsonl

        vpctl generate prompts.jsonl --guidance 3:12
            -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
            -m diffusion:stabilityai/stable-diffusion-2-1
            --out images/metadata.jsonl

        vpctl generate held-out.jsonl --adapter dpo-lora/ -n 1
            --out tuned/metadata.jsonl
    """
    span = guidance_range(guidance)
    width, height = pixels(size)
    if adapter and len(model or []) > 1:
        raise UserError("--adapter: a LoRA belongs to one model; use it with a single --model")
    asked = {"adapter": adapter, "width": width, "height": height}
    specs = [plugins.check("generator", spec, **asked) for spec in model or ["shapes"]]
    if not model:
        progress.note("no --model given: using the built-in shapes world")
    target = folder or ("images" if is_stream(out) else os.path.dirname(out) or "./")

    def key(image: Image) -> str:
        """The identity of a picture. Raises `UserError` if generate did not draw it."""
        if missing := [name for name in DRAWN if name not in image]:
            has_not = listing(map(repr, missing))
            raise UserError(f"{out}: holds pictures that generate did not draw, without {has_not}; name another --out")
        return image_key(image)

    with Out(out, Image, key) as sink:
        if os.path.realpath(target) != os.path.realpath(folder_of(out)):
            mark(target)  # or the next command would refuse pictures that lie beside neither it nor the records
        from ..images.pictures import save

        source = read_prompts(prompts, prompt_too_long)
        plan = DrawingPlan(
            models=[loaded(spec, adapter, device) for spec in dict.fromkeys(specs)],
            images=images,
            guidance=span,
            settings=Settings(None, steps, width, height, negative),
            adapter=adapter,
            adapter_fingerprint=adapter_fingerprint(adapter) if adapter else "",
            seed=seed,
        )
        total = count(prompts)
        records = drawn(source, plan, target, batch=batch, claim=sink.claim, save=save)
        made = 0
        for record in progress.track(records, "pictures", total=total and total * images - sink.resumed):
            sink.write(record)
            made += 1
    progress.finished(progress.plural(made, "picture"), target, resumed=sink.resumed)


def loaded(spec: str, adapter: str, device: str) -> LoadedGenerator:
    """The generator of a spec, with the LoRA in `adapter` if that is not empty."""
    generator = plugins.load("generator", spec, device=device)
    if adapter:
        generator.adapt(adapter)
    return LoadedGenerator(spec, generator, plugins.model_fingerprint(spec, generator), generator.settings)


def adapter_fingerprint(folder: str) -> str:
    """Identity of the LoRA in a folder; other files in the folder do not change it."""
    weights = os.path.join(folder, plugins.LORA_FILE)
    return fingerprint(weights if os.path.isfile(weights) else folder)


def guidance_range(text: str) -> tuple[float, float] | None:
    """Lowest and highest guidance of ``W`` or ``LOW:HIGH``."""
    if not text:
        return None
    low, colon, high = text.partition(":")
    try:
        span = float(low), float(high if colon else low)
    except ValueError:
        raise UserError(f"--guidance {text}: must be a number such as 7.5, or a range such as 3:12") from None
    if not 0 <= span[0] <= span[1] <= LARGEST_GUIDANCE:
        raise UserError(f"--guidance {text}: must be numbers from 0 to {LARGEST_GUIDANCE}, the smaller first")
    if 0 < span[1] - span[0] < GUIDANCE_STEP:
        raise UserError(f"--guidance {text}: the weights of a range are {GUIDANCE_STEP} apart, so it has only one")
    return span


def pixels(text: str) -> tuple[int | None, int | None]:
    """Width and height of ``WxH``."""
    if not text:
        return None, None
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if not found:
        raise UserError(f"--size {text}: must be width and height in pixels, such as 768x512")
    if int(found[1]) * int(found[2]) > LARGEST_SIZE:
        raise UserError(f"--size {text}: is too large; the maximum is {LARGEST_SIZE} pixels in total")
    return int(found[1]), int(found[2])
