"""Says beside an output how its scores were computed: weights, preprocessing, precision, and prompts cut off."""

import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Self

import orjson

from .. import __version__, plugins
from ..contracts import Reward
from ..errors import UserError, os_reason
from ..streams.whole import atomic_write

_LIBRARIES = ("torch", "transformers", "pillow")


class Provenance:
    """How the scores of an output are computed, and for how many pictures a reward read a part of the prompt only.

    It writes the file `path` before the first score and at the end, unless `path` is empty. `finished` has the prompts
    of the pictures that the output already holds, with their numbers. If it is not empty, the file must exist and say
    that their scores were computed in the same way; otherwise this raises `UserError`.
    """

    def __init__(self, path: str, rewards: Mapping[str, Reward], finished: Mapping[str, int]) -> None:
        self._path = path
        self._rewards: dict[str, dict[str, Any]] = {}
        self._checks = {spec: lru_cache(1024)(reward.is_truncated) for spec, reward in rewards.items()}
        self.truncated = dict.fromkeys(rewards, 0)
        """By reward, the number of pictures whose prompts are longer than what it reads."""
        if not path:
            return
        for spec, reward in rewards.items():
            with plugins.blamed("reward", spec):
                self._rewards[spec] = reward.provenance()
        if finished:
            self._compare()
        for prompt, number in finished.items():
            self.add(prompt, number)

    def _compare(self) -> None:
        try:
            with open(self._path, "rb") as file:
                known = orjson.loads(file.read())["rewards"]
            theirs = {spec: {**known[spec]} for spec in self._rewards}
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self._path}: does not say how the finished scores were computed; name another file with --out"
            ) from None
        for spec, ours in self._rewards.items():
            theirs[spec].pop("truncated_prompts", None)
            if changed := sorted(key for key in {*ours, *theirs[spec]} if ours.get(key) != theirs[spec].get(key)):
                raise UserError(
                    f"{self._path}: the finished scores of {spec} were computed with another {changed[0]}: "
                    f"{str(theirs[spec].get(changed[0]))[:100]}; name another file with --out"
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
                spec: {**values, "truncated_prompts": self.truncated[spec]} for spec, values in self._rewards.items()
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
