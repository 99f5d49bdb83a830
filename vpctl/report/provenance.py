"""Says beside an output how its scores were computed: weights, preprocessing, precision, and prompts cut off."""

import platform
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Self

import orjson

from .. import __version__, plugins
from ..contracts import Reward
from ..errors import UserError, os_reason
from ..streams.whole import atomic_write

_LIBRARIES = ("torch", "transformers", "pillow")
_TRUNCATED = "truncated_prompts"
"""Key of the number of pictures whose prompts a reward read only in part."""


def read_finished(path: str, specs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How the finished scores were computed, by reward, from the file of an earlier run.

    Raises `UserError` if the file does not say this for all `specs`.
    """
    try:
        with open(path, "rb") as file:
            found = {spec: {**values} for spec, values in orjson.loads(file.read())["rewards"].items()}
        if missing := [spec for spec in specs if spec not in found]:
            raise UserError(f"{path}: does not say how {missing[0]} was computed; name another file with --out")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{path}: does not say how the finished scores were computed; name another file with --out"
        ) from None
    return found


class Provenance:
    """How the scores of an output are computed, and for how many pictures a reward read a part of the prompt only.

    It writes the file `path` before the first score and at the end, unless `path` is empty. `finished` is what
    `read_finished` returned for the finished scores, if there are any. Raises `UserError` if they were computed in
    another way. `prompts` has the prompts of the finished pictures, with their numbers.
    """

    def __init__(
        self,
        path: str,
        rewards: Mapping[str, Reward],
        finished: Mapping[str, dict[str, Any]],
        prompts: Mapping[str, int],
    ) -> None:
        self._path = path
        self._rewards = {**finished}
        self._checks = {spec: lru_cache(1024)(reward.is_truncated) for spec, reward in rewards.items()}
        self.truncated = dict.fromkeys(rewards, 0)
        """By reward, the number of pictures whose prompts are longer than what it reads."""
        if not path:
            return
        for spec, reward in rewards.items():
            with plugins.blamed("reward", spec):
                values = reward.provenance()
            self._rewards[spec] = orjson.loads(orjson.dumps(values))  # as it will be read from the file
            if spec in finished:
                self._compare(spec, finished[spec])
        for prompt, number in prompts.items():
            self.add(prompt, number)

    def _compare(self, spec: str, finished: Mapping[str, Any]) -> None:
        ours, theirs = self._rewards[spec], {key: one for key, one in finished.items() if key != _TRUNCATED}
        if changed := sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)):
            raise UserError(
                f"{self._path}: {changed[0]} of {spec} has changed since the finished scores were computed; it was "
                f"{str(theirs.get(changed[0]))[:100]}; name another file with --out"
            )

    def add(self, prompt: str, number: int = 1) -> None:
        """Count pictures of a prompt."""
        for spec, is_truncated in self._checks.items():
            with plugins.blamed("reward", spec):
                self.truncated[spec] += number * bool(is_truncated(prompt))

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(self, *error: object) -> None:
        self._write()

    def _write(self) -> None:
        if not self._path:
            return
        about = {
            "rewards": {
                spec: {**values, **({_TRUNCATED: self.truncated[spec]} if spec in self.truncated else {})}
                for spec, values in self._rewards.items()
            },
            "versions": {
                "vpctl": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in _LIBRARIES},
            },
        }
        try:
            with atomic_write(self._path, synced=True) as part, open(part, "wb") as file:
                file.write(orjson.dumps(about, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise UserError(f"{self._path}: {os_reason(error)}") from None
