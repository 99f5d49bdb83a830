"""Draw pictures for prompts."""

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import fields
from functools import partial
from typing import Annotated, NamedTuple

from .. import plugins, progress
from ..configs import PRECISIONS, ServerConfig
from ..contracts import AsyncGenerator, Settings
from ..drawing.batches import AUTO, FIRST, ON_CPU, Batches
from ..drawing.outputs import PictureFiles
from ..drawing.plan import GUIDANCE_STEP, DrawingPlan, LoadedGenerator, Shard
from ..drawing.run import Easel, drawn
from ..drawing.served import Calls
from ..errors import LimitReached, SomeFailed, UserError
from ..images.folders import mark
from ..models import launcher
from ..models.pipelines import SCHEDULERS, scheduler_class
from ..options import STDIO, Device, Output, Prompts, Seed, option, options, plugin
from ..records import fingerprint, prompt_too_long
from ..streams.places import folder_of, is_stream
from ..streams.reading import count, read_prompts

LARGEST_GUIDANCE = 1000
LARGEST_SIZE = 1 << 26
"""Pixels. No command opens a larger picture (`images.pictures.MAX_PIXELS`)."""
LARGEST_BATCH = 4096
LARGEST_WEIGHT = 1000
OF_TEXT = ("temperature", "max_tokens")
"""Options of a server that models of text have, and models of pictures do not."""
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
"""Of the files, by --format."""


def batch_size(text: str) -> int:
    """The number of pictures in ``16`` or ``auto``; `AUTO` for the latter."""
    if text == "auto":
        return AUTO
    if not re.fullmatch(r"[0-9]+", text):
        raise UserError(f"--batch {text}: must be a number of pictures, such as 16, or auto")
    if not 1 <= int(text) <= LARGEST_BATCH:
        raise UserError(f"--batch {text}: must be from 1 to {LARGEST_BATCH}")
    return int(text)


@options(ServerConfig, "server", without=OF_TEXT)
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
    model_weight: Annotated[
        list[str] | None,
        option(
            "--model-weight",
            metavar="SPEC=W",
            group="Model",
            help="How often a model is used, in proportion to the others, whose weight is 1; repeatable.",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        option(
            "--adapter",
            metavar="DIR[=W]",
            group="Model",
            help="Folder of a LoRA, as tune-ppo and tune-dpo write it. The pictures are drawn with its weights added, "
            "or with W times its weights; repeatable.",
        ),
    ] = None,
    scheduler: Annotated[
        str,
        option(
            metavar="NAME",
            offered=tuple(SCHEDULERS),
            group="Sampling",
            help="Scheduler in place of the model's own: a short name, such as dpm++ or euler-a, or a class of "
            "diffusers, such as DPMSolverMultistepScheduler.",
            show_default="the model's own",
        ),
    ] = "",
    dtype: Annotated[
        str,
        option(
            choices=PRECISIONS,
            group="Model",
            help="Precision that the model computes in. It does not change the ids of the pictures: a resumed run "
            "keeps the files that are there.",
            show_default="on a GPU float16, for flow models bfloat16; on a CPU float32",
        ),
    ] = "",
    offload: Annotated[
        str,
        option(
            choices=("model", "sequential"),
            group="Model",
            help="Spare the memory of the GPU: model keeps only the part of the pipeline there that computes, and "
            "sequential only a layer of it, which is slow. They are diffusers' enable_model_cpu_offload and "
            "enable_sequential_cpu_offload.",
            show_default="none",
        ),
    ] = "",
    vae_tiling: Annotated[
        bool, option("--vae-tiling", group="Model", help="Decode large pictures in tiles, which takes less memory.")
    ] = False,
    compile: Annotated[
        bool,
        option(
            "--compile",
            group="Model",
            help="Compile the model with torch.compile. It takes minutes before the first picture, and then less time "
            "for each.",
        ),
    ] = False,
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
    format: Annotated[
        str,
        option(
            choices=tuple(SUFFIXES),
            group="Output",
            help="Format of the files. It does not change the ids of the pictures: a resumed run keeps the files that "
            "are there.",
        ),
    ] = "png",
    quality: Annotated[
        int | None,
        option(metavar="Q", min=1, max=100, group="Output", help="Quality of JPEG and WebP files.", show_default="95"),
    ] = None,
    keep_black: Annotated[
        bool,
        option("--keep-black", group="Output", help="Keep black pictures. Without it, they count as failed."),
    ] = False,
    shard: Annotated[
        str,
        option(
            metavar="K/N",
            group="Input",
            help="Draw only the pictures of part K of N parts of the prompts. All pictures of a prompt are in one "
            "part, by the hash of its prompt_id.",
            show_default="all",
        ),
    ] = "",
    dry_run: Annotated[
        bool,
        option(
            "--dry-run",
            group="Output",
            help="Draw nothing. Only print how many pictures the run would draw with each model, how many are there, "
            "and estimate the disk that the others will take.",
        ),
    ] = False,
    seed: Seed = 0,
    batch: Annotated[
        str,
        option(
            metavar="N|auto",
            offered=("auto",),
            group="Model",
            help="Number of pictures that the model processes at once. If the memory does not suffice, it is halved. "
            "With auto, it is doubled on a GPU until the memory is full.",
        ),
    ] = "16",
    server: ServerConfig,
    device: Device = "auto",
) -> None:
    """Draw pictures for prompts.

    The input is JSON Lines, or plain text with one prompt per line. A .txt file and standard input can be plain text.
    generate writes one record per picture. The records of one prompt are consecutive, so annotate can judge them while
    the next pictures are drawn. A picture depends only on its own record: order and resuming do not change it, nor do
    batches, except that a value may differ by one level of 255, because sums are rounded in another order.

    A picture failed if its values are not numbers, if a safety checker has replaced it, or if it is black: all pixels
    are the same, and dark. It is drawn once more, with a second seed that depends only on the picture. The record has
    the second seed then. If that fails, too, the record goes to a file beside --out, with the reason in `failed`: for
    metadata.jsonl it is metadata.failed.jsonl. A later run skips such a picture; to draw it again, delete its line. A
    black picture is kept if the prompt has the word "black"; a warning says so. --keep-black keeps them all. The exit
    code is 3 if a picture failed in this run.

    --shard divides the work among machines: run the same command with --shard 1/8 to --shard 8/8, each with its own
    --out in the same folder, such as images/metadata-1.jsonl, and join the records with cat, but for the files of
    failed pictures. With accelerate, several GPUs draw together: accelerate launch -m vpctl generate and the same
    options. Each process draws its part; the first one writes --out, and appends the records of the others at the end.
    Both give the pictures and the records of a single process, in another order.

    With -m openai:MODEL, a server with OpenAI's Images API draws. Each picture is a request of its own, and up to
    --concurrency are in progress; in a pipe, up to --batch. What the server does not accept is left out of
    requests. --extra adds keys, such as --extra '{"quality": "low", "background": "opaque"}'. Pictures of such a
    model differ, but OpenAI's server takes no seed, so none of them can be drawn again; `asked` says whether the
    server was sent the seed. A picture that the server refuses to draw is recorded as failed, and never asked for
    again. If a call fails, nothing is recorded, and the next run asks again. A picture that is saved is never paid
    for again, even if the run was killed. The record has the size that the server has drawn, the prompt if the
    server has changed it, and the usage. The exit code is 5 if a limit was reached, or the account is used up; the
    same command then continues.

    The file of a picture says how it was drawn, in the `parameters` of a PNG, or in the user comment of a JPEG or WebP.
    Other tools read this text, because it has the form of the AUTOMATIC1111 web UI. It names no folder.

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

        vpctl generate prompts.jsonl -m openai:gpt-image-2 --size 1024x1024
            --extra '{"quality":"low"}' --max-cost 20
            --out images/metadata.jsonl

        vpctl generate prompts.jsonl -m shapes -m shapes:small
            --model-weight shapes=3 --scheduler dpm++ --steps 8
            --out images/metadata.jsonl
    """
    if launcher.rank():
        progress.mute()  # the first process says what all of them do
    span = guidance_range(guidance)
    most, part = batch_size(batch), part_of(shard)
    width, height = pixels(size)
    if quality and format == "png":
        raise UserError(f"--quality {quality}: PNG files have no quality; name --format jpeg or webp")
    adapters = adapters_of(adapter or [])
    if adapters and len(model or []) > 1:
        raise UserError("--adapter: a LoRA belongs to one model; use it with a single --model")
    specs = list(dict.fromkeys(model or ["shapes"]))
    weights = weights_of(model_weight or [], specs)
    running = {"dtype": dtype, "scheduler": scheduler, "offload": offload, "vae_tiling": vae_tiling, "compile": compile}
    running = {name: value for name, value in running.items() if value}
    asked = {"width": width, "height": height, "scheduler": scheduler}
    asked |= {"guidance": guidance, "steps": steps, "negative": negative}
    for spec in specs:
        for lora in adapters or [Adapter("")]:
            plugins.check("generator", spec, adapter=lora.folder, **asked)
        if other := [name for name in running if not plugins.takes("generator", spec, name)]:
            raise UserError(f"--{other[0].replace('_', '-')}: the generator {spec} does not have this option")
    check_server(server, [spec for spec in specs if may_be_served(spec)])
    if not model:
        progress.note("no --model given: using the built-in shapes world")
    target = folder or ("images" if is_stream(out) else os.path.dirname(out) or "./")

    world = None
    if launcher.processes() > 1 and not dry_run:
        if is_stream(out) or is_stream(prompts):
            raise UserError("with several processes, name a FILE of prompts and a file with --out")
        from ..models.devices import join_world

        world = join_world(device)
        part, device = part.divided(world.rank, world.size), str(world.device)
    with ExitStack() as files:
        outputs = None
        if not dry_run:
            with world.main_first() if world else nullcontext():  # it joins what a killed run has left
                outputs = files.enter_context(PictureFiles(out, part, rank=world.rank if world else 0))
            if world:
                world.any(False)  # now all have locked their files, and the first one can tell when they end
        models = [loaded(spec, adapters, device, {**running, "server": server}) for spec in specs]
        served = {one.name: one.served for one in models if one.served}
        check_server(server, [*served])
        for generator in [] if dry_run else served.values():
            generator.check()
        source = read_prompts(prompts, prompt_too_long)
        plan = DrawingPlan(
            models=models,
            images=images,
            guidance=span,
            settings=Settings(None, steps, width, height, negative),
            adapter=",".join(map(str, adapters)),
            adapter_fingerprint=",".join(one.fingerprint() for one in adapters),
            weights=weights,
            scheduler=scheduler and scheduler_class(scheduler),
            seed=seed,
            part=part,
            suffix=SUFFIXES[format],
        )
        if outputs is None:
            from ..drawing.estimate import estimate

            estimate(source, plan, out).tell(target)
            return
        if os.path.realpath(target) != os.path.realpath(folder_of(out)):
            mark(target)  # or the next command would refuse pictures that lie beside neither it nor the records
        from ..images.pictures import save

        keep = partial(save, quality=quality) if quality else save
        easel = Easel(
            target,
            batches(most, device),
            keep,
            keep_black=keep_black,
            streamed=is_stream(out) or is_stream(prompts),
            calls=Calls(served, at_once=server.concurrency, max_time=server.max_time) if served else None,
        )
        total = count(prompts)
        left = total and max(total * images // part.of - outputs.resumed - outputs.failed_before, 0)
        records = drawn(source, plan, easel, claim=outputs.claim, at_once=is_stream(prompts))
        try:
            for record in progress.track(records, "pictures", total=left):
                outputs.write(record)
        except (KeyboardInterrupt, LimitReached):
            if served:
                tell(outputs, target, served)
            raise
        outputs.join()
    tell(outputs, target, served)
    if easel.postponed:
        pictures = progress.plural(easel.postponed, "picture")
        progress.note(f"{pictures} could not be drawn for now; run the same command again")
    if (outputs.failed or easel.postponed) and not launcher.rank():  # a launcher ends all processes if one fails
        raise SomeFailed


def tell(outputs: PictureFiles, target: str, served: Mapping[str, AsyncGenerator]) -> None:
    """Say how the run went, and what the `served` models have used."""
    retry = f"see {outputs.lost}" if outputs.lost else "try another --seed"
    pictures = progress.plural(outputs.made, "picture")
    used = {name: text for name, one in served.items() if (text := one.summary())}
    spent = "; ".join(f"{name}: {text}" if len(used) > 1 else text for name, text in used.items())
    progress.finished(pictures, target, resumed=outputs.resumed, failed=outputs.failed, retry=retry, more=spent)
    if outputs.failed_before:
        failed_before = progress.plural(outputs.failed_before, "picture")
        progress.note(f"{failed_before} failed in an earlier run; see {outputs.lost}")


def may_be_served(spec: str) -> bool:
    """Whether a model may be on a server. A file of the user is not imported, so it may."""
    return plugins.split(spec)[0].endswith(".py") or plugins.takes("generator", spec, "server")


def check_server(server: ServerConfig, served: list[str]) -> None:
    """Raise `UserError` if options of a server were given that no model, or more than one, would take."""
    given = [one.name for one in fields(server) if getattr(server, one.name) != one.default]
    if given and not served:
        raise UserError(
            f"--{given[0].replace('_', '-')}: no --model is on a server; name one, such as openai:gpt-image-2"
        )
    if len(served) > 1 and (limits := {"max_cost", "max_requests"} & {*given}):
        limit = min(limits).replace("_", "-")
        raise UserError(f"--{limit}: is for the calls of one model; name one of {' and '.join(served)} at a time")


def part_of(text: str) -> Shard:
    """The part of ``K/N``; all if the text is empty."""
    if not text:
        return Shard()
    found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if not found or int(found[1]) > int(found[2]):
        raise UserError(f"--shard {text}: must be the number of a part and the number of parts, such as 1/8")
    return Shard(int(found[1]) - 1, int(found[2]))


def batches(most: int, device: str) -> Batches:
    """The sizes of batches. `AUTO` is a size that grows on a GPU."""
    if most != AUTO:
        return Batches(most)
    from ..models.devices import resolve_device

    return Batches(ON_CPU) if resolve_device(device).type == "cpu" else Batches(FIRST, growing=True)


class Adapter(NamedTuple):
    """A LoRA and its weight."""

    folder: str
    weight: float = 1.0

    def __str__(self) -> str:
        """As on the command line; without a weight of 1."""
        return self.folder if self.weight == 1 else f"{self.folder}={self.weight:g}"

    def fingerprint(self) -> str:
        """Identity of the weights and of their weight; other files in the folder do not change it."""
        weights = os.path.join(self.folder, plugins.LORA_FILE)
        found = fingerprint(weights if os.path.isfile(weights) else self.folder)
        return found if self.weight == 1 else f"{found}={self.weight:g}"


def adapters_of(texts: list[str]) -> list[Adapter]:
    """The LoRAs of ``DIR`` or ``DIR=WEIGHT``. A folder may have such a name itself."""
    found = []
    for text in texts:
        folder, equals, weight = text.rpartition("=")
        if not equals or os.path.isdir(text):
            found.append(Adapter(text))
            continue
        try:
            found.append(Adapter(folder, float(weight)))
        except ValueError:
            raise UserError(f"--adapter {text}: the weight after = must be a number, such as 0.8") from None
        if not 0 < abs(found[-1].weight) <= LARGEST_WEIGHT:
            raise UserError(f"--adapter {text}: the weight must not be 0, and at most {LARGEST_WEIGHT}")
    if len({os.path.realpath(one.folder) for one in found}) < len(found):
        raise UserError("--adapter: a folder is named twice; name it once, with the sum of the weights")
    return found


def weights_of(texts: list[str], specs: list[str]) -> tuple[float, ...]:
    """The weight of each model, by ``SPEC=WEIGHT``; empty if all are equal."""
    weights = dict.fromkeys(specs, 1.0)
    named: set[str] = set()
    for text in texts:
        spec, _, weight = text.rpartition("=")
        if spec in named:
            raise UserError(f"--model-weight {text}: {spec!r} is named twice; name it once")
        named.add(spec)
        if spec not in weights:
            raise UserError(f"--model-weight {text}: name one of the models and a weight, as in {specs[0]}=2")
        try:
            weights[spec] = float(weight)
        except ValueError:
            raise UserError(f"--model-weight {text}: the weight after = must be a number, such as 2") from None
        if not 0 < weights[spec] <= LARGEST_WEIGHT:
            raise UserError(f"--model-weight {text}: the weight must be above 0, and at most {LARGEST_WEIGHT}")
    return tuple(weights.values()) if len({*weights.values()}) > 1 else ()


def loaded(spec: str, adapters: list[Adapter], device: str, running: Mapping[str, object]) -> LoadedGenerator:
    """The generator of a spec, with these LoRAs. `running` has the options of its ``load``."""
    generator = plugins.load("generator", spec, device=device, **running)
    for one in adapters:
        generator.adapt(*(one if one.weight != 1 else one[:1]))
    identity = plugins.model_fingerprint(spec, generator)
    return LoadedGenerator(spec, generator, identity, generator.settings, generator.sampler, generator.side)


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
