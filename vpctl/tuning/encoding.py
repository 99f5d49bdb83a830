"""The latents of pictures that a model is tuned on."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import torch

from .. import progress
from ..errors import RecordFailed, UserError
from ..images.pictures import Pictures
from ..models.denoiser import Denoiser
from ..models.denoiser.latents import Posteriors

AT_ONCE = 16
"""Pictures that are encoded together."""


class EncodedPictures(NamedTuple):
    """The posteriors of some pictures, and the place of each picture among them, by its file name."""

    posteriors: Posteriors
    places: dict[str, int]


def encode(file_names: Iterable[str], policy: Denoiser, pictures: Pictures) -> EncodedPictures:
    """Encode every picture once. Raises `UserError` for a picture that cannot be opened."""
    places = {name: place for place, name in enumerate(dict.fromkeys(file_names))}
    parts = []
    paths = iter(progress.track(places, "pictures encoded", total=len(places)))
    while chunk := list(islice(paths, AT_ONCE)):
        try:
            fitted, sizes = [], []
            for picture in map(pictures.open, chunk):
                fitted.append(policy.fitted([picture]))
                sizes.append(policy.sizes([picture]))
            parts.append(policy.encode(torch.cat(fitted), torch.cat(sizes)))
        except RecordFailed as failure:
            raise UserError(str(failure)) from None
    return EncodedPictures(Posteriors.cat(parts), places)
