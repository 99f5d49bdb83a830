"""Lets several rewards share what they compute from the same pictures.

Rewards know nothing of each other. Where two of them would compute the same, such as the pixels of a picture or its
CLIP embedding, each asks for it through `once`. Inside `sharing`, the first computes it and the others get its result.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
_results: ContextVar[dict[Hashable, Any] | None] = ContextVar("results", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """A context in which `once` remembers its results. All objects that its keys identify must live until the end."""
    token = _results.set({})
    try:
        yield
    finally:
        _results.reset(token)


def once(key: Hashable, compute: Callable[[], T]) -> T:
    """The result of `compute`, which is called once for each `key` inside `sharing`, and always outside it."""
    results = _results.get()
    if results is None:
        return compute()
    if key not in results:
        results[key] = compute()
    found: T = results[key]
    return found
