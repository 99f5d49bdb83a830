"""The pictures of a training, prepared for its model, and kept as long as there is space."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import RecordFailed, UserError
from ..images.folders import OF_A_PICTURE
from ..images.pictures import Pictures
from ..models.reward import RewardModel
from ..records import fingerprint
from .cache import Part, TensorCache
from .folder import CACHE

CACHE_BYTES = 2 << 30
"""Maximum memory in bytes for pixels."""
CHUNK = 16
"""Number of pictures that go through the frozen layers at once."""
OTHERWISE = "the frozen layers are computed in every epoch"


class Store:
    """Inputs of a reward model by the number of a picture.

    If vision layers are frozen, the inputs are their outputs, (P, D) in float16, which a `TensorCache` keeps on disk.
    Otherwise they are pixels (3, height, width). Up to two gigabytes of them are kept in memory.
    """

    def __init__(self, model: RewardModel, pictures: Pictures) -> None:
        self._model, self._pictures = model, pictures
        self._numbers: dict[str, int] = {}
        self._known: dict[int, Tensor] = {}
        self._free = CACHE_BYTES
        self._frozen: TensorCache | None = None
        self._dtype: torch.dtype | None = None

    def number(self, path: str) -> int:
        """The number of a picture. A new path gets the next number."""
        return self._numbers.setdefault(path, len(self._numbers))

    def freeze(self, folder: Path, dtype: torch.dtype | None) -> None:
        """From now on, load the outputs of the frozen layers, if there are any. All pictures must have their numbers.

        They are kept in `folder`, and computed in the precision `dtype`, or in that of the weights if it is None.
        """
        if self._model.frozen_layers:
            layers = f"{self._model.identity_of_frozen_layers()} {dtype}"
            names = [f"{layers} {self._identity(path)}" for path in self._numbers]
            part = Part(torch.float16, self._model.hidden_shape)
            self._frozen = TensorCache(folder / CACHE, names, [part], otherwise=OTHERWISE)
            self._dtype = dtype

    def _identity(self, path: str) -> str:
        """A text that changes with the content of a picture."""
        try:
            return f"{path} {fingerprint(self._pictures.find(path).path)}"
        except (OSError, RecordFailed):
            return ""  # it is an error when the picture is opened

    def load(self, numbers: Sequence[int]) -> Tensor:
        """The inputs (B, …) of these pictures. Raises `UserError` for a picture that cannot be opened."""
        if self._frozen:
            [features] = self._frozen.load(numbers, self._after_frozen_layers)
            return features
        missing = [number for number in dict.fromkeys(numbers) if number not in self._known]
        fresh = dict(zip(missing, self._pixels(missing), strict=True))
        pixels = torch.stack([fresh[number] if number in fresh else self._known[number] for number in numbers])
        for number, one in fresh.items():
            size = one.numel() * one.element_size()
            if size <= self._free:
                self._free -= size
                self._known[number] = one
        return pixels

    @torch.no_grad()
    def _after_frozen_layers(self, numbers: Sequence[int]) -> list[Tensor]:
        """The outputs (B, P, D), always in float16, also where they are not stored."""
        device = next(self._model.parameters()).device
        made = []
        for start in range(0, len(numbers), CHUNK):
            pixels = torch.stack(self._pixels(numbers[start : start + CHUNK])).to(device)
            with torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype is not None):
                made.append(self._model.after_frozen_layers(pixels).float().cpu().half())
            if not made[-1].isfinite().all():
                raise UserError("the output of the frozen layers is too large for float16; train with --freeze 0")
        return [torch.cat(made)]

    def _pixels(self, numbers: Sequence[int]) -> list[Tensor]:
        paths = [*self._numbers]
        found = []
        for number in numbers:  # one at a time: decoded whole, a few of them fill the memory
            try:
                picture = self._pictures.open(paths[number])
            except RecordFailed as failure:
                raise UserError(f"{failure}; {OF_A_PICTURE}") from None
            try:
                found.append(self._model.recipe.pixels(picture))
            except RecordFailed as failure:
                raise UserError(f"{paths[number]}: {failure}; {OF_A_PICTURE}") from None
        return found

    def thaw(self) -> None:
        """From now on, load pixels, so that the model is measured as it will be used."""
        self._frozen = None
