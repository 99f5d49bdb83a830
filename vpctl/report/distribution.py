"""Measures of a set of pictures, from their embeddings: distance to other pictures, diversity, duplicates."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit

from ..errors import UserError
from .intervals import CONFIDENCE, Interval

PARTS = 10
"""Number of parts of the prompts that a jackknife leaves out, one at a time."""
SUBSETS, SUBSET = 100, 1000
"""Of the kernel distance: how many subsets of the pictures, and their largest size (Bińkowski et al. 2018)."""


class _AsGiven(torch.nn.Module):
    """A network that returns its input: the embeddings are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings


def check_installed() -> None:
    """Raise `UserError` if torchmetrics is missing, which computes the distances."""
    if not find_spec("torchmetrics"):
        raise UserError("--reference: needs the package torchmetrics: pip install 'vpctl[images]'")


def frechet_distance(ours: np.ndarray, reference: np.ndarray) -> float:
    """The Fréchet distance of two sets of embeddings (N, D), as in FID (Heusel et al. 2017, arXiv 1706.08500)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_AsGiven(ours.shape[1]), input_img_size=ours.shape[1:])
    return _compared(metric, ours, reference)


def kernel_distance(ours: np.ndarray, reference: np.ndarray) -> float:
    """The kernel distance of two sets of embeddings (N, D), as in KID (Bińkowski et al. 2018, arXiv 1801.01401)."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(SUBSET, len(ours), len(reference))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it keeps the embeddings in memory; they are there already
        metric = KernelInceptionDistance(feature=_AsGiven(ours.shape[1]), subsets=SUBSETS, subset_size=size)
    torch.manual_seed(0)
    return _compared(metric, ours, reference)


def _compared(metric: Any, ours: np.ndarray, reference: np.ndarray) -> float:
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(reference).double(), real=True)
    metric.update(torch.from_numpy(ours).double(), real=False)
    found = metric.compute()
    return float(found[0] if isinstance(found, tuple) else found)


def with_interval(
    distance: Callable[[np.ndarray, np.ndarray], float], ours: np.ndarray, prompts: Sequence[str], reference: np.ndarray
) -> Interval:
    """A distance with the interval of a jackknife over prompts, which leaves out each of at most `PARTS` parts.

    The interval does not hold the bias of the distance, which falls with the number of pictures: compare only sets of
    the same size. With one prompt its upper end is not bounded, and the interval is the value alone.
    """
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    value, parts = distance(ours, reference), min(PARTS, len(places))
    if parts < 2:
        return Interval(value, value, value, len(ours), len(places))
    part_of = np.array([places[prompt] % parts for prompt in prompts])
    values = np.array([distance(ours[part_of != part], reference) for part in range(parts)])
    error = math.sqrt((parts - 1) / parts * float(((values - values.mean()) ** 2).sum()))
    reach = -float(stdtrit(parts - 1, (1 - CONFIDENCE) / 2)) * error
    return Interval(value, value - reach, value + reach, len(ours), len(places))


def diversity(embeddings: np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
    """How different the pictures of each prompt are, in [0, 1]: half the mean of 1 − cosine over every two of them.

    A prompt with one picture is left out. 0 means that all pictures are the same.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = embeddings / np.maximum(lengths, 1e-12)
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    found = {}
    for prompt, some in rows.items():
        if (count := len(some)) > 1:
            cosines = units[some] @ units[some].T
            off = (cosines.sum() - np.trace(cosines)) / (count * (count - 1))
            found[prompt] = min(1.0, max(0.0, (1 - float(off)) / 2))
    return found


def repeats(contents: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """For each prompt, 1 for a picture whose content an earlier picture of any prompt has, else 0."""
    seen: set[str] = set()
    found: dict[str, list[float]] = {}
    for prompt, some in contents.items():
        for content in some:
            found.setdefault(prompt, []).append(float(content in seen))
            seen.add(content)
    return found
