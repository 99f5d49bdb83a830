"""Duels: two pictures of a prompt, by two models, that an annotator compares in both orders."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, cast

from ..configs import ServerConfig
from ..contracts import Aspect
from ..images.hashes import ContentHasher
from ..images.pictures import Pictures
from ..records import Image, Judgement, prompt_key
from ..streams.places import hidden_beside
from . import live
from .ledger import OutputLedger
from .merging import JudgedPrompt, Merging, prompts_of
from .plan import Group, Plan, group_by_prompt
from .preferences import ROUNDING, latest
from .run import Tally, judging_context

Duel = tuple[Image, Image]


class DuelOutcomes:
    """What annotators said of pictures, to be asked for two of them. With `aspects`, only these aspects count."""

    def __init__(self, judgements: Iterable[Judgement], aspects: Container[str] | None = None) -> None:
        counted = (one for one in judgements if aspects is None or one["aspect"] in aspects)
        by_annotator: dict[str, list[tuple[int, Judgement]]] = {}
        for number, judgement in latest(enumerate(counted), Counter()):
            by_annotator.setdefault(judgement["annotator"], []).append((number, judgement))
        self._how = Merging()
        self._prompts: dict[str, Mapping[str, JudgedPrompt]] = {
            annotator: prompts_of(some, self._how, Counter()) for annotator, some in by_annotator.items()
        }
        self._ids: dict[tuple[str, str], str] = {}
        for prompts in self._prompts.values():
            for prompt_id, prompt in prompts.items():
                self._ids.update({(prompt_id, path): image_id for image_id, path in prompt.files.items()})

    @property
    def annotators(self) -> list[str]:
        """The annotators, in the order of their first judgements."""
        return [*self._prompts]

    def outcome(self, annotator: str, one: Image, other: Image) -> float | None:
        """1 if the annotator prefers the first picture, 0 the second, 0.5 neither; None if it compared them not.

        It is the mean over the aspects, as in merge. Two orders that contradict each other are a tie.
        """
        prompt_id = prompt_key(one)
        prompt = self._prompts[annotator].get(prompt_id)
        if not prompt:
            return None
        first, second = (self._id(prompt_id, picture) for picture in (one, other))
        if first == second:
            return 0.5
        differences = [
            found for said in prompt.said.values() if (found := said[annotator].difference(first, second)) is not None
        ]
        if not differences:
            return None
        margin = sum(differences) / len(differences)
        return 0.5 if abs(margin) < ROUNDING else float(margin > 0)

    def _id(self, prompt_id: str, picture: Image) -> str:
        """The id of a picture in the judgements: that of its file, which an annotator may have hashed, or its own."""
        return self._ids.get((prompt_id, picture["file_name"]), picture.get("image_id", ""))


def ask(
    duels: Iterable[Duel],
    made: Any,
    spec: str,
    aspects: Sequence[Aspect],
    pictures: Pictures,
    *,
    server: ServerConfig,
    out: str,
    seed: int,
) -> bool:
    """Have an annotator compare the pictures of each duel, in both orders. The file `out` gets its judgements.

    `made` is what `plugins.load` returned for `spec`. Comparisons that are in the file are not made again. Both
    pictures are shown with the prompt of the first one: that of the other may be polished. Returns whether all
    comparisons were made; if some failed, the others are in the file.
    """
    with OutputLedger(out) as ledger:
        context = judging_context(made, spec, pictures, ledger)
        context.annotator.check()
        plan = Plan(tuple(aspects), "pair", seed=seed)
        contents = ContentHasher(
            pictures, hidden_beside(out, "contents"), max_side=context.annotator.max_side, opened=True
        )
        tally = Tally()
        with closing(contents):
            live.judge(_groups(duels, contents), plan, context, tally, server, ledger)
    return not (tally.lost or tally.failed)


def _groups(duels: Iterable[Duel], contents: ContentHasher) -> Iterator[Group]:
    """The duels as groups of two pictures. Two pictures of one id are one picture, which needs no comparison."""
    for one, other in duels:
        if not one.get("image_id") or one["image_id"] != other.get("image_id"):
            told = {"prompt": one["prompt"], "prompt_id": prompt_key(one)}
            yield from group_by_prompt((cast(Image, {**picture, **told}) for picture in (one, other)), contents)
