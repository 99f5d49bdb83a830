"""Makes scores of different rewards comparable: the percentile of a score among those of reference pictures."""

import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from statistics import fmean, quantiles, stdev
from typing import Any, NamedTuple, Self

from .. import plugins, progress
from ..errors import UserError, os_reason
from ..records import Image
from ..streams.places import is_stream
from ..streams.whole import atomic_update

QUANTILES = 101
"""How many quantiles are stored: the minimum, the 99 percentiles between, and the maximum."""
FEWEST = 100
"""With fewer reference pictures, percentiles are coarse, and a warning says so."""
LARGEST = 1e100
"""Magnitude above which scores are not measured, because their quantiles could overflow."""


class Reference(NamedTuple):
    """The distribution of a reward's scores over reference pictures."""

    n: int
    mean: float
    std: float
    quantiles: tuple[float, ...]
    fingerprint: str
    """Identifies the weights of the reward."""

    @classmethod
    def of(cls, scores: Sequence[float], fingerprint: str) -> Self:
        """The distribution of at least two scores."""
        low, high = min(scores), max(scores)
        # Interpolated quantiles of nearly equal scores may be out of order by a rounding error.
        inner = sorted(min(max(one, low), high) for one in quantiles(scores, n=QUANTILES - 1, method="inclusive"))
        return cls(len(scores), fmean(scores), stdev(scores), (low, *inner, high), fingerprint)

    def percentile(self, score: float) -> float:
        """The percentage of reference pictures with a lower score, from 0 to 100. An equal score counts half."""
        below, upto = bisect_left(self.quantiles, score), bisect_right(self.quantiles, score)
        if below < upto:
            return (below + upto - 1) / 2
        if not 0 < below < QUANTILES:
            return 0.0 if below == 0 else 100.0
        low, high = self.quantiles[below - 1 : below + 1]
        return below - 1 + (score - low) / (high - low)


class Calibration:
    """The references of one run: a reward in the file `path` gives percentiles, and any other reward is measured.

    An empty `path` does neither. First, call `finished` with every record that the output already holds, and then
    `resume`. Raises `UserError` if the file cannot be read or written, is malformed, or has a reward that has changed.
    """

    def __init__(self, path: str, specs: Sequence[str]) -> None:
        self._path = path
        self._found = _read(path) if path else {}
        self._fingerprints = plugins.fingerprints(*specs) if path else {}
        for spec, fingerprint in self._fingerprints.items():
            if spec in self._found and self._found[spec].fingerprint != fingerprint:
                raise UserError(
                    f"--calibrate {path}: {spec} has changed since it was measured; remove its entry, or name another "
                    "file"
                )
        self._references = {spec: self._found[spec] for spec in self._fingerprints if spec in self._found}
        self._measured: dict[str, list[float]] = {spec: [] for spec in self._fingerprints if spec not in self._found}
        self._without: dict[str, list[float]] = {spec: [] for spec in self._references}
        if self._measured:
            _check_folder(path)

    def finished(self, image: Image) -> None:
        """Take in a record of the output. It must have the scores of all rewards."""
        for spec, scores in self._measured.items():
            scores.append(image["scores"][spec])
        for spec, scores in self._without.items():
            if spec not in image.get("percentiles", {}):
                scores.append(image["scores"][spec])

    def resume(self, out: str) -> None:
        """Raise `UserError` if finished records lack percentiles.

        If the reference was measured on these very records, they lack them rightly: the same command has been run
        again, perhaps with more pictures. Then the reward is measured again, over all pictures.
        """
        for spec, scores in self._without.items():
            if not scores:
                continue
            reference = self._references.pop(spec)
            if len(scores) != reference.n or Reference.of(scores, reference.fingerprint) != reference:
                raise UserError(f"{out}: holds pictures without a percentile of {spec}; name another file with --out")
            self._measured[spec] = scores

    def percentiles(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The percentiles of a picture's scores, by reward. Its other scores are measured."""
        for spec, values in self._measured.items():
            values.append(scores[spec])
        return {spec: reference.percentile(scores[spec]) for spec, reference in self._references.items()}

    def save(self) -> None:
        """Add what was measured to the file, unless it is there. What other runs have added meanwhile is kept."""
        added = {spec: one for spec, scores in self._measured.items() if (one := self._reference(spec, scores))}
        added = {spec: one for spec, one in added.items() if one != self._found.get(spec)}
        for spec, one in {**self._references, **added}.items():
            if one.n < FEWEST:
                progress.warn(
                    f"--calibrate {self._path}: {spec} is measured on only {progress.plural(one.n, 'picture')}, so its "
                    f"percentiles are coarse; measure it on {FEWEST} or more"
                )
        if not added:
            return
        try:
            with atomic_update(self._path) as part:
                known = _read(self._path)
                for spec in [*added]:
                    if known.get(spec) != self._found.get(spec):
                        progress.warn(f"--calibrate {self._path}: another run has added {spec} meanwhile; it is kept")
                        del added[spec]
                with open(part, "w", encoding="utf-8") as file:
                    every = {spec: one._asdict() for spec, one in {**known, **added}.items()}
                    json.dump(every, file, indent=2, ensure_ascii=False)
                    file.write("\n")
        except OSError as error:
            raise UserError(f"--calibrate {self._path}: {os_reason(error)}") from None
        for spec, one in added.items():
            progress.note(
                f"added the distribution of {spec} over {progress.plural(one.n, 'picture')} to {self._path}; "
                "use the same file to add percentiles to other pictures"
            )

    def _reference(self, spec: str, scores: list[float]) -> Reference | None:
        """The distribution of the scores, or None, with a warning, if they have none."""
        if len({*scores}) < 2:
            why = "gave fewer than two different scores"
        elif max(map(abs, scores)) > LARGEST:
            why = f"gave a score beyond {LARGEST:g}"
        else:
            return Reference.of(scores, self._fingerprints[spec])
        progress.warn(f"--calibrate {self._path}: {spec} {why}, so it was not added")
        return None


def _read(path: str) -> dict[str, Reference]:
    """The references in a file, by reward; none if there is no such file. Raises `UserError` if it is malformed."""
    if is_stream(path):
        raise UserError(f"--calibrate {path}: is not a regular file; name one")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return {str(spec): _reference(one) for spec, one in found.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"--calibrate {path}: cannot be read: {os_reason(error)}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"--calibrate {path}: is not a file that score --calibrate wrote; name another file") from None


def _reference(value: Mapping[str, Any]) -> Reference:
    numbers = tuple(float(one) for one in value["quantiles"])
    found = Reference(int(value["n"]), float(value["mean"]), float(value["std"]), numbers, str(value["fingerprint"]))
    if len(numbers) != QUANTILES or sorted(numbers) != [*numbers] or not max(map(abs, numbers)) <= LARGEST:
        raise ValueError
    return found


def _check_folder(path: str) -> None:
    """Raise `UserError` if a file cannot be created here: otherwise this would only show after all the work."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--calibrate {path}: {os_reason(error)}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--calibrate {path}: permission denied")
