"""Score pictures with reward models."""

import math
import os
from collections.abc import Iterator
from typing import Annotated, cast

from .. import plugins, progress
from ..errors import RecordFailed, SomeFailed, UserError
from ..options import STDIO, BatchSize, Device, Input, Output, Roots, plugin
from ..records import Image, image_key, listing
from ..streams.places import folder_of, is_stream
from ..streams.reading import count, read
from ..streams.writing import Out


def score(
    images: Input,
    out: Output = STDIO,
    *,
    reward: Annotated[
        list[str] | None,
        plugin(
            "reward",
            "--reward",
            "-r",
            group="Model",
            help="Reward that scores the pictures; repeatable.",
            show_default="shapes, the pixel judge",
        ),
    ] = None,
    root: Roots = None,
    batch: BatchSize = 32,
    device: Device = "auto",
) -> None:
    """Score pictures with reward models.

    Adds the score of each reward to `scores` in every record. The scores are raw: each reward has its own scale. The
    key of a score is the SPEC that was given to --reward. Several rewards are computed in one pass, so each picture is
    decoded only once.

    A record needs `prompt` and `file_name`. A missing `prompt_id` is computed from the prompt. A missing `image_id` is
    computed from the bytes of the file, so identical files have the same `image_id`. The computed ids are added to the
    record. If consecutive records of one prompt have the same `image_id`, only the first is used; a warning names
    the others.

    A picture that cannot be opened or scored is left out; a warning names it. The exit code is 3 if any record failed.

    Examples:

        vpctl score tuned/metadata.jsonl --reward vp:vp-score/
            --reward pickscore --out tuned/scored.jsonl

        vpctl score images/metadata.jsonl
            -r clip:openai/clip-vit-large-patch14 | jq .scores
    """
    specs = [plugins.check("reward", spec) for spec in reward or ["shapes"]]
    if not reward:
        progress.note("no --reward given: using the pixel judge of the built-in shapes world")

    def key(image: Image) -> str:
        """The picture's identity. Raises `UserError` for a record that this command did not write."""
        missing = [] if "image_id" in image else ["an image_id"]
        missing += [f"a score of {spec}" for spec in dict.fromkeys(specs) if spec not in image.get("scores", {})]
        if missing:
            raise UserError(f"{out}: holds pictures without {listing(missing)}; name another file with --out")
        return image_key(image)

    before = os.stat(out).st_mtime if os.path.isfile(out) else math.inf
    done = failed = 0
    with Out(out, Image, key) as sink:
        for spec in specs:
            if sink.resumed and plugins.last_modified(spec) > before:
                raise UserError(f"--reward {spec}: has changed since {out} was written; name another file with --out")
        from ..images.hashes import ContentHasher
        from ..images.identities import DuplicateFilter, with_ids
        from ..images.pictures import Pictures
        from ..models.scoring import compute_scores, load_batches

        pictures = Pictures([folder_of(images), *(root or [])], piped=is_stream(images))
        contents, records, is_repeated = ContentHasher(pictures), read(images, Image), DuplicateFilter()

        def wanted() -> Iterator[Image | RecordFailed]:
            """The records with their ids that are not in the output yet."""
            for record in records:
                try:
                    image = with_ids(record, contents)
                except RecordFailed as failure:
                    yield failure
                    continue
                if not is_repeated(image) and sink.claim(image_key(image)):
                    yield image

        rewards = {spec: plugins.load("reward", spec, device=device) for spec in dict.fromkeys(specs)}
        total = count(images)
        with progress.Counter("pictures", total and total - sink.resumed) as counter:
            for some in load_batches(wanted(), pictures.open, most=batch):
                found, failures = some.with_scores(compute_scores(rewards, some.pictures, some.prompts))
                for record, scores in found:
                    sink.write(cast(Image, {**record, "scores": {**record.get("scores", {}), **scores}}))
                    done += 1
                for failure in failures:
                    progress.warn_each("pictures could not be scored", str(failure))
                failed += len(failures)
                counter(some.size)
    progress.finished(progress.plural(done, "picture"), out, resumed=sink.resumed, failed=failed)
    if failed:
        raise SomeFailed
