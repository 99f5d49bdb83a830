"""Names of files within records.

In memory the name of a picture's file is an absolute path. In a file of records it is relative to the folder that file
lies in, on a pipe to the working directory; readers and outputs translate.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

_FILE, _FILES = re.compile(r"(.*_)?file_name"), re.compile(r"(.*_)?file_names")
"""Keys whose values are files, as Hugging Face's imagefolder knows them; any other key's value passes through."""


def rename(record: dict[str, Any], changed: Callable[[str], str]) -> None:
    """Change every local file name in a record, in place."""
    for key, value in record.items():
        kind = _names(key)
        if kind is _FILES and isinstance(value, list):
            record[key] = [changed(name) if _is_local(name) else name for name in value]
        elif kind is _FILE and _is_local(value):
            record[key] = changed(value)


@lru_cache(1024)
def _names(key: str) -> re.Pattern[str] | None:
    """Which of the patterns a key is of; records have the same few keys over and over."""
    return next((pattern for pattern in (_FILES, _FILE) if pattern.fullmatch(key)), None)


def _is_local(name: object) -> bool:
    return isinstance(name, str) and name != "" and "://" not in name


def relative(record: Mapping[str, object], base: str) -> dict[str, object]:
    """A copy in which the names of files are relative to `base`."""
    copy = dict(record)
    rename(copy, lambda name: os.path.relpath(name, base))
    return copy


def absolute(record: Mapping[str, object], base: str) -> dict[str, object]:
    """A copy in which names of files that are relative to `base` are absolute."""
    copy = dict(record)
    rename(copy, lambda name: os.path.normpath(os.path.join(base, name)))
    return copy
