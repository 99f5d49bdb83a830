"""What is drawn for a prompt. Choices depend on the picture alone, so any process on any machine makes the same."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple, cast

from .. import plugins
from ..contracts import AsyncGenerator, Settings
from ..errors import RecordFailed
from ..records import ORIGINAL_SUFFIX, Image, Prompt, digest, prompt_key

if TYPE_CHECKING:
    from PIL import Image as PIL

Draw = Callable[[list[str], list[int], Settings], "Sequence[PIL.Image | RecordFailed]"]

GUIDANCE_STEP = 0.5
"""Step between the random weights of a guidance range, so that several pictures of a batch have the same weight."""
OF_ANOTHER_PICTURE = Image.__annotations__.keys() - Prompt.__annotations__.keys()
"""Keys that describe a picture and not its prompt. If the input has them, they describe another picture."""


class Shard(NamedTuple):
    """One of several parts of all prompts, counted from 0. The pictures of a prompt are in one part, by its id."""

    number: int = 0
    of: int = 1

    def holds(self, prompt_id: str) -> bool:
        """Whether a prompt is in this part. Both forms of a prompt, original and polished, are in the same one."""
        place = int(digest(["shard", prompt_id.removesuffix(ORIGINAL_SUFFIX)]), 16)
        return self.of == 1 or place % self.of == self.number

    def divided(self, number: int, of: int) -> "Shard":
        """One of several parts of this part."""
        return Shard(self.number + number * self.of, self.of * of)


ALL = Shard()


class LoadedGenerator(NamedTuple):
    """A generator and its name in records. `fingerprint` identifies its weights; `settings` are its own defaults.

    `sampler` is the name of its sampler, and `side` the width and height of its pictures in pixels, if the settings do
    not say it; empty and 0 if they are unknown.
    """

    name: str
    draw: Draw | AsyncGenerator
    fingerprint: str
    settings: Settings
    sampler: str = ""
    side: int = 0

    @property
    def served(self) -> AsyncGenerator | None:
        """The generator if it draws by calls that run at the same time, such as those of a server."""
        return cast(AsyncGenerator, self.draw) if plugins.implements(self.draw, AsyncGenerator) else None


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
    weights: tuple[float, ...] = ()
    """How often each model is drawn, in proportion; empty if all are drawn equally often."""
    scheduler: str = ""
    """Class of the scheduler that replaces that of the models; empty if none does."""
    part: Shard = ALL
    suffix: str = ".png"
    """Of the files. The identity of a picture does not depend on it: how it is stored does not change what is drawn."""


class Drawing(NamedTuple):
    """One picture to be drawn: its record, its model, its settings."""

    record: Image
    model: LoadedGenerator
    settings: Settings

    @property
    def again(self) -> "Drawing":
        """The second attempt at this picture, with another seed and in another file, both derived from its id.

        It is the same picture in all records: the `image_id` stays. Its own file shows a resumed run that the first
        attempt has failed.
        """
        attempt = digest([self.record["image_id"], "again"])
        suffix = os.path.splitext(self.record["file_name"])[1]
        record: Image = {**self.record, "file_name": file_of(attempt, suffix), "seed": int(attempt[:8], 16)}
        return self._replace(record=record)


def planned(prompt: Prompt, plan: DrawingPlan) -> Iterator[Drawing]:
    """The pictures to draw for one prompt; none if it is in another part.

    Random choices depend on the prompt, the picture's number and --seed.
    """
    own_id = prompt_key(prompt)
    if not plan.part.holds(own_id):
        return
    for number in range(plan.images):
        rng = Random(digest([own_id, number, plan.seed]))
        # `choice` and `choices` take different numbers from the generator, and runs without weights can be resumed.
        model = rng.choices(plan.models, plan.weights)[0] if plan.weights else rng.choice(plan.models)
        settings = resolved(plan.settings, model.settings)
        if plan.guidance:
            low, high = plan.guidance
            drawn_guidance = low + GUIDANCE_STEP * rng.randint(0, int((high - low) / GUIDANCE_STEP))
            settings = settings._replace(guidance_scale=drawn_guidance)
        seed = rng.randrange(2**32)
        another = [plan.scheduler] if plan.scheduler else []
        image_id = digest([prompt["prompt"], model.fingerprint, plan.adapter_fingerprint, seed, *settings, *another])
        record = {
            **{key: value for key, value in prompt.items() if key not in OF_ANOTHER_PICTURE},
            "prompt_id": own_id,
            "image_id": image_id,
            "file_name": file_of(image_id, plan.suffix),
            "model": model.name,
            "seed": seed,
            **{key: value for key, value in settings._asdict().items() if value is not None},
            **{key: value for key in ("adapter", "scheduler") if (value := getattr(plan, key))},
        }
        yield Drawing(cast(Image, record), model, settings)


def file_of(name: str, suffix: str) -> str:
    """The file of a picture. A million files do not stand in one folder, but in 256 by the beginning of their names."""
    return os.path.join(name[:2], f"{name}{suffix}")


def resolved(wanted: Settings, own: Settings) -> Settings:
    """The settings in `wanted`; where one is None, that of `own`."""
    return own._replace(**{key: value for key, value in wanted._asdict().items() if value is not None})
