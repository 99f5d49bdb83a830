"""Which picture a record is about: ids for records that came without them, and pictures that come twice."""

from collections.abc import Callable, Iterable, Iterator

from .. import progress
from ..records import Image, prompt_key


def identified(image: Image, content: Callable[[str], str]) -> Image:
    """The record with a `prompt_id` and an `image_id`. A missing one is computed: from the prompt, from the file.

    `content` returns the hash of a file, and raises `RecordFailed` for a file that cannot be read. Neither the path
    nor the other records change the ids.
    """
    own_id = image.get("image_id") or content(image["file_name"])
    return {**image, "prompt_id": prompt_key(image), "image_id": own_id}


def distinct(images: Iterable[Image]) -> Iterator[Image]:
    """The records without those that repeat a picture among the neighbours of one prompt; each of these is a warning.

    The records have their ids. Two files with the same bytes are the same picture, as where a safety filter of a
    generator returned a black one twice: a second judgement of it would say nothing new.
    """
    prompt = ""
    seen: dict[str, str] = {}
    for image in images:
        if image["prompt_id"] != prompt:
            prompt, seen = image["prompt_id"], {}
        if first := seen.get(image["image_id"]):
            reason = f"has the same prompt_id and image_id as {first}, so it counts as the same picture; it is left out"
            progress.warn_each("records of the same picture", f"{image['file_name']}: {reason}")
            continue
        seen[image["image_id"]] = image["file_name"]
        yield image
