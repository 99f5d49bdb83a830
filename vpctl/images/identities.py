"""Which picture a record is about: ids for records without ids, and detection of repeated pictures."""

from collections.abc import Callable, Iterable, Iterator

from .. import progress
from ..records import Image, prompt_key


def with_ids(image: Image, content: Callable[[str], str]) -> Image:
    """Return the record with a `prompt_id` and an `image_id`. Missing ids are computed from the prompt and the file.

    `content` returns the hash of a file, and raises `RecordFailed` if the file cannot be read. The ids do not depend on
    the path or on other records.
    """
    own_id = image.get("image_id") or content(image["file_name"])
    return {**image, "prompt_id": prompt_key(image), "image_id": own_id}


class DuplicateFilter:
    """Detects pictures that repeat an earlier neighbour of the same prompt, and prints a warning for each.

    All records must have ids. Two files with the same bytes are the same picture, for example two black pictures from
    the safety filter of a generator. Judging the second one would add no information.
    """

    def __init__(self) -> None:
        self._prompt = ""
        self._seen: dict[str, str] = {}

    def __call__(self, image: Image) -> bool:
        """Whether the picture repeats an earlier one."""
        if image["prompt_id"] != self._prompt:
            self._prompt, self._seen = image["prompt_id"], {}
        first = self._seen.get(image["image_id"])
        if first is None:
            self._seen[image["image_id"]] = image["file_name"]
            return False
        reason = f"has the same prompt_id and image_id as {first}, so it counts as the same picture; it is left out"
        progress.warn_each("records of the same picture", f"{image['file_name']}: {reason}")
        return True


def without_duplicates(images: Iterable[Image]) -> Iterator[Image]:
    """Return the records without repeated pictures."""
    is_repeated = DuplicateFilter()
    return (image for image in images if not is_repeated(image))
