"""What a run would draw, how much of it is there, and the disk that the rest would take. Draws nothing."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from .. import progress
from ..records import Image, Prompt, image_key
from .outputs import finished
from .plan import Drawing, DrawingPlan, planned

BYTES_PER_PIXEL = {".png": 1.7, ".jpg": 0.5, ".webp": 0.35}
"""Of a photograph, at the default quality. Drawings of few colours take less."""
_SIDE = 512
"""Width and height in pixels of the pictures of a model that does not tell its own."""
_LOOKED_AT = 100
"""Number of finished pictures whose sizes are averaged."""


class DrawingEstimate(NamedTuple):
    """Numbers of pictures by model, and the bytes that those that are not there yet will take."""

    planned: Counter[str]
    there: Counter[str]
    failed: Counter[str]
    """Of those that are there: pictures that could not be drawn."""
    bytes: Counter[str]
    dollars: dict[str, float]
    """What those that are not there yet will cost, of the models on servers whose price is known."""
    unpriced: set[str]
    """Models on servers whose price is unknown."""
    measured: bool
    """Whether the bytes are based on finished pictures, and not only on numbers of pixels."""

    def tell(self, folder: str) -> None:
        """Print it. `folder` is where the pictures go."""
        with_cost = [f"{self.dollars[model]:.2f} USD" if model in self.dollars else "" for model in self.planned]
        basis = "as the finished ones" if self.measured else "by their numbers of pixels"
        rows = [
            [model, str(number), str(self.there[model]), str(number - self.there[model]), size(self.bytes[model])]
            for model, number in self.planned.items()
        ]
        heads = ["model", "all", "there", "to draw", "disk"]
        if self.dollars:
            heads, rows = [*heads, "cost"], [[*row, cost] for row, cost in zip(rows, with_cost, strict=True)]
        progress.table(f"Pictures; the disk is an estimate, {basis}", heads, rows)
        lost = f"; {self.failed.total()} of them failed" if self.failed.total() else ""
        number, there, needed = self.planned.total(), self.there.total(), self.bytes.total()
        are = "is" if there == 1 else "are"
        progress.note(
            f"dry run: {progress.plural(number, 'picture')}; {there} {are} there{lost}; "
            f"the other {number - there} will take about {size(needed)} (an estimate, {basis})"
        )
        if self.dollars:
            progress.note(
                f"they will cost about {sum(self.dollars.values()):.2f} USD, by tokens of pictures of this size"
            )
        for model in sorted(self.unpriced):
            progress.note(
                f"the price of {model} is unknown, so its pictures have no cost here; set it with --prices FILE"
            )
        while not os.path.isdir(folder or "."):
            folder = os.path.dirname(folder.rstrip("/"))
        if (free := shutil.disk_usage(folder or ".").free) < needed:
            progress.warn(f"the disk has only {size(free)} left")


def estimate(prompts: Iterable[Prompt], plan: DrawingPlan, out: str) -> DrawingEstimate:
    """What a run with this plan and output would do."""
    known = {image_key(one): "failed" in one for one in finished(out)}
    mean = _mean(islice(finished(out), _LOOKED_AT))
    found = DrawingEstimate(Counter(), Counter(), Counter(), Counter(), {}, set(), measured=mean > 0)
    seen: set[str] = set()
    for prompt in prompts:
        for job in planned(prompt, plan):
            key = image_key(job.record)
            if key in seen:
                continue
            seen.add(key)
            found.planned[job.model.name] += 1
            if key in known:
                found.there[job.model.name] += 1
                found.failed[job.model.name] += known[key]
            else:
                if served := job.model.served:
                    usage = served.expected(job.record["prompt"], job.settings)
                    if "cost" in usage:
                        found.dollars[job.model.name] = found.dollars.get(job.model.name, 0.0) + usage["cost"]
                    else:
                        found.unpriced.add(job.model.name)
                found.bytes[job.model.name] += round(mean or _pixels(job) * BYTES_PER_PIXEL[plan.suffix])
    return found


def _pixels(job: Drawing) -> int:
    side = job.model.side or _SIDE
    return (job.settings.width or side) * (job.settings.height or side)


def _mean(images: Iterable[Image]) -> float:
    """The mean number of bytes of the files of pictures; 0 if there are none."""
    sizes = [os.path.getsize(one["file_name"]) for one in images if os.path.isfile(one["file_name"])]
    return sum(sizes) / len(sizes) if sizes else 0.0


def size(count: int) -> str:
    """A number of bytes; terabytes, too."""
    return f"{count / 1e12:.3g} TB" if count >= 1e12 else progress.size(count)
