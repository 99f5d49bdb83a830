"""Measure pictures without a judge: distance to other pictures, diversity, duplicates, unsafe pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from ... import progress
from ...configs import GateConfig
from ...errors import RecordFailed, UserError
from ...images.folders import OF_A_PICTURE, Folders
from ...models import sources
from ...models.backbones import PACKAGED
from ...options import STDIO, BatchSize, Device, Roots, Whole, argument, option, options
from ...records import Image, Report, prompt_key
from ...report.statistics import as_report, mean_report
from ...streams.joins import ConsistencyChecker, once
from ...streams.places import folder_of, is_stream
from ...streams.reading import located
from ...streams.writing import Replacement
from ._reports import Html, check_gates, check_page, decide, publish, write_page

if TYPE_CHECKING:
    import numpy as np

OPTION = "--features "
UNSAFE = "--unsafe-model "


class Seen(NamedTuple):
    """What was seen of a file's pictures, one entry each: the prompt, the content, the embedding, whether unsafe."""

    prompts: list[str]
    contents: list[str]
    embeddings: "np.ndarray"
    unsafe: list[bool]


@options(GateConfig, "gates")
def images(
    files: Annotated[
        list[str],
        argument(
            metavar="FILE...",
            help="Pictures, one file per model: JSON Lines files, or data sets as FORMAT:PATH; - is standard input.",
        ),
    ],
    out: Whole = STDIO,
    *,
    reference: Annotated[
        str,
        option(
            metavar="FILE",
            group="Input",
            help="Pictures to compare with, such as photographs or those of the base model: also report the distances.",
            show_default="none",
        ),
    ] = "",
    features: Annotated[
        str,
        option(
            metavar="MODEL",
            group="Model",
            help="Model whose embeddings are compared: a folder or a hub id of a CLIP, SigLIP or BLIP, such as "
            "openai/clip-vit-large-patch14.",
            show_default="the small backbone of the shapes world",
        ),
    ] = "",
    unsafe_model: Annotated[
        str,
        option(
            "--unsafe-model",
            metavar="MODEL",
            group="Model",
            help="Also report the share of unsafe pictures, by this model: a folder or a hub id of a classifier of "
            "pictures, or of a safety checker, such as CompVis/stable-diffusion-safety-checker.",
            show_default="none",
        ),
    ] = "",
    gates: GateConfig,
    html: Html = "",
    root: Roots = None,
    batch: BatchSize = 32,
    device: Device = "auto",
) -> None:
    """Measure pictures without a judge: distance to other pictures, diversity, duplicates, unsafe pictures.

    `diversity` is how different the pictures of one prompt are: half of 1 minus the cosine of their embeddings, as a
    mean over every two pictures, and then over the prompts. A model that was trained too far on a reward draws the same
    picture again and again: its diversity falls. `duplicates` is the share of pictures with the very bytes of an
    earlier one of the file. `unsafe` is the share of pictures that --unsafe-model finds unsafe, as in figure 16 of
    VisionPrefer (Wu et al. 2024, arXiv 2404.15100).

    With --reference there are two distances between all pictures of a file and those of the reference.
    `frechet_distance` is computed as FID, and `kernel_distance` as KID, but on the embeddings of --features. With
    CLIP, the first is known as CLIP-FID. They are not comparable with distances on Inception's features, nor with those
    of another model. The Fréchet distance is too large for few pictures: compare only files with as many, and at least
    several thousand. torchmetrics computes both: pip install 'vpctl[images]'. Lower is better.

    The intervals of shares come from a bootstrap over prompts, those of distances from a jackknife over prompts.

    Examples:

        vpctl eval images base/metadata.jsonl tuned/metadata.jsonl
            --features openai/clip-vit-large-patch14

        vpctl eval images tuned/metadata.jsonl --reference base/metadata.jsonl
            --fail-under diversity=0.1
    """
    once([*files, *filter(None, [reference])])
    metrics = [
        "diversity",
        "duplicates",
        *(["unsafe"] if unsafe_model else []),
        *(["frechet_distance", "kernel_distance"] if reference else []),
    ]
    wanted = check_gates(gates, metrics, [*files, reference, out, html])
    check_page(html, [*files, *filter(None, [reference]), out])
    if features:
        sources.check("reward", features, option=OPTION)
    if unsafe_model:
        sources.check("unsafe pictures", unsafe_model, option=UNSAFE)
    if reference:
        from ...report.distribution import check_installed

        check_installed()
    if not features:
        progress.note("no --features given: using the small backbone of the built-in shapes world")
    records = {source: [*_records(source)] for source in (*files, *filter(None, [reference]))}
    for source, some in records.items():
        folders = [folder_of(source), *(root or [])]
        Folders(folders, piped=is_stream(source)).check(one["file_name"] for one in some)
    with Replacement(out, [*records]) as sink:
        eyes = _Eyes(features, unsafe_model, device, batch)
        seen = {source: eyes.see(some, [folder_of(source), *(root or [])]) for source, some in records.items()}
        other = seen.pop(reference).embeddings if reference else None
        reports = [report for source, one in seen.items() for report in _reports(source, one, other, reference)]
        publish(reports, sink, title="Pictures")
    write_page(html, title="Pictures measured", reports=reports)
    decide(wanted, reports, title="Pictures measured", gated=reports)


def _records(source: str) -> list[Image]:
    found = [*ConsistencyChecker(parts=False).images(located(source, Image))]
    if not found:
        raise UserError(f"{source}: there are no pictures")
    return found


class _Eyes:
    """Looks at pictures with the models of the options."""

    def __init__(self, features: str, unsafe: str, device: str, batch: int) -> None:
        from ...models.reward import load_score

        self._score = load_score(features or str(PACKAGED), option=OPTION, device=device)
        self._batch = batch
        self._is_unsafe: Any = None
        if unsafe:
            from ...models.unsafe_pictures import UnsafePictures

            self._is_unsafe = UnsafePictures(unsafe, device=device)

    def see(self, records: Sequence[Image], folders: Sequence[str]) -> Seen:
        """Look at the pictures of these records. Raises `UserError` at the first one that cannot be opened."""
        import numpy as np

        from ...images.hashes import ContentHasher
        from ...images.pictures import Pictures

        album = Pictures(folders)
        contents, rows = ContentHasher(album), []
        hashes: list[str] = []
        unsafe: list[bool] = []
        with progress.Counter("pictures", len(records)) as counter:
            for start in range(0, len(records), self._batch):
                some = records[start : start + self._batch]
                try:
                    pictures = [album.open(one["file_name"]) for one in some]
                    hashes += [contents(one["file_name"]) for one in some]
                except RecordFailed as failure:
                    raise UserError(f"{failure}; {OF_A_PICTURE}") from None
                rows.append(self._score.embeddings(pictures).cpu().numpy())
                unsafe += self._is_unsafe(pictures) if self._is_unsafe else []
                counter(len(some))
        return Seen([prompt_key(one) for one in records], hashes, np.concatenate(rows), unsafe)


def _reports(source: str, seen: Seen, reference: "np.ndarray | None", against: str) -> list[Report]:
    """The reports of one file."""
    from ...report import distribution

    found = []
    if apart := distribution.diversity(seen.embeddings, seen.prompts):
        found.append(mean_report([*apart.values()], [*apart], name=source, metric="diversity"))
    by_prompt: dict[str, list[str]] = {}
    for prompt, content in zip(seen.prompts, seen.contents, strict=True):
        by_prompt.setdefault(prompt, []).append(content)
    repeated = [(value, prompt) for prompt, some in distribution.repeats(by_prompt).items() for value in some]
    values, prompts = zip(*repeated, strict=True)
    found.append(mean_report(values, prompts, name=source, metric="duplicates"))
    if seen.unsafe:
        found.append(mean_report([float(one) for one in seen.unsafe], seen.prompts, name=source, metric="unsafe"))
    if reference is not None and min(len(seen.embeddings), len(reference)) > 1:
        for metric, distance in (
            ("frechet_distance", distribution.frechet_distance),
            ("kernel_distance", distribution.kernel_distance),
        ):
            interval = distribution.with_interval(distance, seen.embeddings, seen.prompts, reference)
            found.append(as_report(interval, name=source, baseline=against, metric=metric))
    return found
