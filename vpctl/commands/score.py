"""Score pictures with reward models."""

import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, cast

from .. import plugins, progress
from ..errors import RecordFailed, SomeFailed, UserError
from ..options import STDIO, BatchSize, Device, Dtype, Input, Output, Roots, option, plugin
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
    dtype: Dtype = "",
    calibrate: Annotated[
        str,
        option(
            metavar="FILE",
            group="Output",
            help="File of reference distributions. For a reward that is in FILE, `percentiles` are added to every "
            "record. The distribution of any other reward is measured on the pictures of this run and added to FILE.",
            show_default="none",
        ),
    ] = "",
    provenance: Annotated[
        bool,
        option(
            group="Output",
            help="Also write a file that says for each reward how its scores were computed. It is beside the output: "
            "for scored.jsonl it is scored.jsonl.provenance.json.",
        ),
    ] = False,
) -> None:
    """Score pictures with reward models.

    Adds the score of each reward to `scores` in every record. The scores are raw: each reward has its own scale. The
    key of a score is the SPEC that was given to --reward. Several rewards are computed in one pass: each picture is
    decoded only once, and rewards with the same model encode it only once if they prepare it alike.

    A record needs `prompt` and `file_name`. A missing `prompt_id` is computed from the prompt. A missing `image_id` is
    computed from the bytes of the file, so identical files have the same `image_id`. The computed ids are added to the
    record. Records of one prompt that follow each other can have the same `image_id`. They count as one picture: only
    the first of them is scored and written. A warning names the others.

    A picture that cannot be opened or scored is left out; a warning names it. The exit code is 3 if any record failed.

    The scores of different rewards do not compare. With --calibrate they do: first score reference pictures, then score
    other pictures with the same FILE. A percentile of 90 means that 90 % of the reference pictures have a lower score.
    Take 100 reference pictures or more; with fewer, a warning says how many there are.

    A reward model reads only the beginning of a long prompt. A warning counts the pictures with such prompts. The file
    of --provenance has this count, too. It also has the hashes of the weights, the steps that prepare a picture, and
    the precision.

    Examples:

        vpctl score tuned/metadata.jsonl --reward vp:vp-score/
            --reward pickscore --out tuned/scored.jsonl

        vpctl score images/metadata.jsonl -r imagereward -r hpsv2.1
            -r aesthetic --calibrate reference.json | jq .scores
    """
    specs = list(dict.fromkeys(plugins.check("reward", spec) for spec in reward or ["shapes"]))
    if not reward:
        progress.note("no --reward given: using the pixel judge of the built-in shapes world")
    if provenance and is_stream(out):
        raise UserError("--provenance: is written beside the output; name a file with --out")
    beside = "" if is_stream(out) else f"{out}.provenance.json"  # one that is there stays true, also without the option
    header = beside if provenance or os.path.exists(beside) else ""
    if calibrate and os.path.realpath(calibrate) in [os.path.realpath(one) for one in (out, header) if one]:
        raise UserError(f"--calibrate {calibrate}: is written by this run for another purpose; name another file")
    from ..report.calibration import Calibration

    calibration = Calibration(calibrate, specs)
    prompts: Counter[str] = Counter()  # of the finished pictures

    def key(image: Image) -> str:
        """The picture's identity. Raises `UserError` for a record that this command did not write."""
        missing = [] if "image_id" in image else ["an image_id"]
        missing += [f"a score of {spec}" for spec in specs if spec not in image.get("scores", {})]
        if missing:
            raise UserError(f"{out}: holds pictures without {listing(missing)}; name another file with --out")
        calibration.finished(image)
        if header:
            prompts[image["prompt"]] += 1
        return image_key(image)

    before = os.stat(out).st_mtime if os.path.isfile(out) else math.inf
    done = failed = 0
    with Out(out, Image, key) as sink:
        for spec in specs:
            if sink.resumed and plugins.last_modified(spec) > before:
                raise UserError(f"--reward {spec}: has changed since {out} was written; name another file with --out")
        calibration.resume(out)
        from ..images.hashes import ContentHasher
        from ..images.identities import DuplicateFilter, with_ids
        from ..images.pictures import Pictures
        from ..models.scoring import load_batches
        from ..report.provenance import Provenance, read_finished

        finished = read_finished(header, specs) if header and sink.resumed else {}
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

        rewards = {spec: plugins.load("reward", spec, device=device, dtype=dtype) for spec in specs}
        about = Provenance(header, rewards, finished, prompts)
        total = count(images)
        with about, progress.Counter("pictures", total and total - sink.resumed) as counter:
            for some in load_batches(wanted(), pictures, rewards, most=batch):
                found, failures = some.scored(rewards)
                for record, scores in found:
                    written = cast(Image, {**record, "scores": {**record.get("scores", {}), **scores}})
                    if percentiles := calibration.percentiles(scores):
                        written["percentiles"] = {**record.get("percentiles", {}), **percentiles}
                    about.add(record["prompt"])
                    sink.write(written)
                    done += 1
                for failure in failures:
                    progress.warn_each("pictures could not be scored", str(failure))
                failed += len(failures)
                counter(some.size)
    for spec, number in about.truncated.items():
        if number:
            progress.warn(
                f"--reward {spec}: read only the beginning of the prompts of {progress.plural(number, 'picture')}"
            )
    mend = "mend what the warnings name, then run the same command again"
    progress.finished(progress.plural(done, "picture"), out, resumed=sink.resumed, failed=failed, retry=mend)
    calibration.save()
    if failed:
        raise SomeFailed
