"""Any reward model as an annotator: reward:SPEC, such as reward:vp:vp-score/, reward:pickscore or reward:./mine.py.

The score of a picture is its reward, the same for every aspect. The rationale states the number. When two pictures are
compared, the one with the higher reward is preferred, and the scores are those of any comparison.

Rewards are not on the scale from 1 to 5 that language models answer on. Give merge the scale of the reward, for example
``--scale reward:clip:openai/clip-vit-large-patch14=-1:1``.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import plugins
from ..contracts import Annotator, Question, Reward, Verdicts
from ..errors import RecordFailed, UserError
from ..judging.microbatch import MicroBatcher
from ..judging.questions import comparison_scores
from ..models.scoring import batches, compute_scores

if TYPE_CHECKING:
    from PIL import Image

ARGUMENTS = "reward"
MAX_QUESTIONS = 8
"""Maximum number of questions in a batch."""
MAX_PICTURES = 16
"""Maximum number of pictures that the reward gets at a time."""


class Picture:
    """A picture with its rewards by prompt. Every aspect and every pass asks for the same ones."""

    def __init__(self, image: "Image.Image") -> None:
        self.image = image
        self.rewards: dict[str, float] = {}


class RewardJudge(Annotator):
    """An annotator that answers with the values of `reward`, whose name is `spec`."""

    def __init__(self, spec: str, reward: Reward) -> None:
        self.identity = {"reward": plugins.fingerprints(spec)[spec]}
        self._spec = spec
        self._reward = reward
        self._batches = MicroBatcher(self._rewards, most=MAX_QUESTIONS, size=lambda question: len(question.pictures))

    def prepare(self, image: "Image.Image", path: str) -> Picture:
        """The picture, with room for its rewards."""
        return Picture(image)

    def pixels(self, picture: Picture) -> int:
        """The number of pixels that stay in memory until all calls about the picture have ended."""
        return picture.image.width * picture.image.height

    async def ask(self, question: Question) -> list[Verdicts]:
        """The same scores for every aspect. Raises `RecordFailed` if a reward is not finite."""
        rewards = await self._batches(question)
        for reward in rewards:
            if not math.isfinite(reward):
                raise RecordFailed(f"{self._spec} gave {reward}, which is not a valid score")
        scores = comparison_scores(rewards) if question.mode == "pair" else rewards
        rationales = [f"{self._spec} gives {reward:.4g}" for reward in rewards]
        return [Verdicts([*scores], rationales, {}) for _ in question.aspects]

    def _rewards(self, questions: list[Question]) -> list[list[float]]:
        """The rewards of the pictures of all questions. Only rewards that are not known yet are computed."""
        shown = [(question.prompt, picture) for question in questions for picture in question.pictures]
        new = {(prompt, id(picture)): picture for prompt, picture in shown if prompt not in picture.rewards}
        pairs = [(prompt, picture) for (prompt, _), picture in new.items()]
        for batch in batches(pairs, MAX_PICTURES, lambda pair: self.pixels(pair[1])):  # a reward copies its pictures
            pictures, prompts = [picture.image for _, picture in batch], [text for text, _ in batch]
            with _named(self._spec):
                rewards = compute_scores({self._spec: self._reward}, {self._spec: pictures}, prompts)[self._spec]
            for (prompt, picture), reward in zip(batch, rewards, strict=True):
                picture.rewards[prompt] = reward
        return [[picture.rewards[question.prompt] for picture in question.pictures] for question in questions]


def check(argument: str) -> None:
    """Raise `UserError` if `argument` does not name a reward, or names one that cannot be used."""
    if not argument:
        known = ", ".join(f"reward:{name}" for name in plugins.catalog("reward"))
        raise UserError(f"--annotator reward: name a reward model: {known}, or your own file as reward:PATH.py")
    with _named(argument):
        plugins.check("reward", argument)


def load(argument: str, *, device: str = "auto") -> RewardJudge:
    """An annotator with the reward that `argument` names, as in ``--reward``."""
    check(argument)
    with _named(argument):
        return RewardJudge(argument, plugins.load("reward", argument, device=device))


@contextmanager
def _named(argument: str) -> Iterator[None]:
    """A context that puts the annotator option in front of errors about the reward."""
    try:
        yield
    except UserError as error:
        raise UserError(f"--annotator reward:{argument}: {error}") from error
