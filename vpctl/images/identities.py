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


class Repeats:
    """Says of each picture whether it repeats one among its neighbours of the same prompt, and warns of it if so.

    The records have their ids. Two files with the same bytes are the same picture, as where a safety filter of a
    generator returned a black one twice: a second judgement of it would say nothing new.
    """

    def __init__(self) -> None:
        self._prompt = ""
        self._seen: dict[str, str] = {}

    def __call__(self, image: Image) -> bool:
        """Whether the picture is a repeat."""
        if image["prompt_id"] != self._prompt:
            self._prompt, self._seen = image["prompt_id"], {}
        first = self._seen.setdefault(image["image_id"], image["file_name"])
        if first is image["file_name"]:
            return False
        reason = f"has the same prompt_id and image_id as {first}, so it counts as the same picture; it is left out"
        progress.warn_each("records of the same picture", f"{image['file_name']}: {reason}")
        return True


def distinct(images: Iterable[Image]) -> Iterator[Image]:
    """The records without those that repeat a picture."""
    is_repeated = Repeats()
    return (image for image in images if not is_repeated(image))
