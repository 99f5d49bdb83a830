"""What the frozen encoders of a model make of pictures and prompts: once for each, in the cache of the run.

The cache knows a picture by its content. So it is encoded again if the file has changed, and a resumed run encodes
nothing that is on disk.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .. import progress
from ..errors import RecordFailed, UserError
from ..images.folders import OF_A_PICTURE
from ..images.hashes import ContentHasher
from ..images.pictures import Pictures
from ..models.denoiser import Denoiser
from ..models.denoiser.conditioning import Conditioning
from ..models.denoiser.latents import Posteriors
from ..models.devices import World
from .cache import Part, TensorCache
from .folder import CACHE


class LatentSource(Protocol):
    """Posteriors of pictures by number, in memory or on disk."""

    def __getitem__(self, pictures: Tensor) -> Posteriors:
        """The posteriors of the pictures with these numbers (B,)."""
        ...


class EncodedPictures(LatentSource):
    """The posteriors of some pictures, on disk. Pictures are encoded one by one, so a batch changes nothing."""

    def __init__(self, file_names: Iterable[str], policy: Denoiser, pictures: Pictures, folder: Path | None) -> None:
        """They are stored in the cache of the run in `folder`, unless it is None.

        Raises `UserError` for a picture that cannot be read.
        """
        self._policy, self._pictures = policy, pictures
        self.places: dict[str, int] = {}
        """The number of each picture, by its file name. Files with the same content have the same number."""
        self._names: list[str] = []
        contents = self._contents([*dict.fromkeys(file_names)], folder)
        numbers: dict[str, int] = {}
        for name, content in contents.items():
            self.places[name] = numbers.setdefault(content, len(numbers))
            if numbers[content] == len(self._names):
                self._names.append(name)
        model = policy.latents_identity()
        latents = Part(torch.float16, policy.latent_shape)
        self._cache = TensorCache(
            folder and folder / CACHE / "latents",
            [f"{model} {content}" for content in numbers],
            [latents, latents, Part(torch.float32, (6,))],
            otherwise="a picture is encoded whenever it is used",
        )

    def _contents(self, names: list[str], folder: Path | None) -> dict[str, str]:
        """A hash of the content of each picture. Files that have not changed since an earlier run are not read."""
        if folder:
            with suppress(OSError):  # then nothing is stored, as TensorCache says
                (folder / CACHE).mkdir(exist_ok=True)
        hasher = ContentHasher(self._pictures, str(folder / CACHE / "contents") if folder else "")
        try:
            return {name: hasher(name) for name in names}
        except RecordFailed as failure:
            raise UserError(f"{failure}; {OF_A_PICTURE}") from None
        finally:
            hasher.close()

    def encode(self, world: World) -> None:
        """Encode all pictures that are not stored. The processes divide them among themselves.

        Raises `UserError` for a picture that cannot be opened. Without a cache, nothing is encoded in advance.
        """
        own = range(world.rank, len(self._names), world.size) if self._cache.stores else ()
        for number in progress.track(own, "pictures encoded", total=len(own)):
            self._cache.load([number], self._encode)
        world.any(False)  # waits for the others

    def __getitem__(self, pictures: Tensor) -> Posteriors:
        """The posteriors of the pictures with these numbers (B,). Raises `UserError` if one cannot be opened."""
        return self._policy.posteriors(*self._cache.load(pictures.tolist(), self._encode))

    def _encode(self, numbers: Sequence[int]) -> tuple[Tensor, ...]:
        made = Posteriors.cat([self._encoded(self._names[number]) for number in numbers])
        return made.mean, made.std, made.sizes

    def _encoded(self, name: str) -> Posteriors:
        policy = self._policy
        try:
            picture = self._pictures.open(name)
        except RecordFailed as failure:
            raise UserError(f"{failure}; {OF_A_PICTURE}") from None
        made = policy.encode(policy.fitted([picture]), policy.sizes([picture]))
        if not (made.mean.isfinite().all() and made.std.isfinite().all()):
            raise UserError(f"{name}: its latents are not finite; the weights of the model are broken")
        return made


def keep_prompts(prompts: Iterable[str], policy: Denoiser, folder: Path) -> None:
    """Let the policy encode each of these prompts once, and the empty prompt, and store them in the run in `folder`."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(["", *prompts]))}
    texts = [*numbers]
    encode: Callable[[str], Conditioning] = policy.embeddings.encode
    model = policy.embeddings_identity()
    cache = TensorCache(
        folder / CACHE / "prompts",
        [f"{model} {text}" for text in texts],
        [Part(one.dtype, one.shape[1:]) for one in encode("").tensors],
        otherwise="a prompt is encoded whenever it is used",
    )

    def computed(missing: list[int]) -> tuple[Tensor, ...]:
        return Conditioning.cat([encode(texts[number]) for number in missing]).tensors

    def read(prompt: str) -> Conditioning:
        return Conditioning(cache.load([numbers[prompt]], computed)) if prompt in numbers else encode(prompt)

    policy.embeddings.encode = read
