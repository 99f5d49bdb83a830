"""Pictures of several models side by side, with their scores."""

import base64
import io
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, cast

from PIL import Image as PIL

from ..errors import RecordFailed
from ..images.pictures import Pictures
from ..judging.remarks import Remark, Remarks
from ..records import Image, Judgement, prompt_key
from .axes import decimals, fixed

PROMPTS_SHOWN = 48
EXTREMES_SHOWN = 8
JUDGED_SHOWN = 12
JUDGED_EACH = 6
"""Number of pictures of one judged prompt: the best ones."""
ENLARGED_TO = 96
"""Pixels. A picture whose longer side is smaller is enlarged by the smallest whole factor that reaches this size."""
EMBEDDED_AT = 256
"""Maximum longer side, in pixels, of a picture as it is stored in the page."""
SHOWN_AT = 160
"""Maximum longer side, in CSS pixels, of a large picture on the page. It stays sharp on a high-density screen."""

Row = list[tuple[str, Image]]
"""For one prompt, the first picture of each source."""


class PictureView(NamedTuple):
    """A picture as a data URI with its size on the page, or the reason why it is missing."""

    uri: str = ""
    width: int = ENLARGED_TO
    height: int = ENLARGED_TO
    pixelated: bool = False
    failure: str = ""


class Opinion(NamedTuple):
    """What an annotator said of a picture on an aspect: a short verdict, and its reasons."""

    annotator: str
    aspect: str
    verdict: str
    reasons: list[str]


class Card(NamedTuple):
    """A prompt with the picture of each source.

    For each reward, `scores` holds the text of every picture's score and whether it is the best. `opinions` has what
    annotators said of each picture of which they said something, by the label of its source.
    """

    prompt: str
    prompt_id: str
    sides: list[tuple[str, PictureView]]
    scores: dict[str, list[tuple[str, bool]]]
    opinions: list[tuple[str, list[Opinion]]]
    change: str = ""


class Extremes(NamedTuple):
    """The prompts on which a tuned source lost most and gained most against the base, by one reward."""

    tuned: str
    base: str
    reward: str
    losses: list[Card]
    gains: list[Card]


class Gallery:
    """The pictures of the page and their scores. Each picture file is opened only once.

    `decided` has the sources that were compared with the first source, the base, each with the reward that decided.
    `rewards` are those rewards. If there are none, they are all rewards for which the pictures have scores.
    """

    def __init__(
        self,
        prompts: Sequence[Row],
        sources: Sequence[str],
        decided: Iterable[tuple[str, str]],
        labels: Mapping[str, str],
        pictures: Pictures,
        remarks: Callable[[Image], Sequence[Remark]],
    ) -> None:
        self._prompts, self._labels = prompts, labels
        base, *self._tuned = sources or [""]
        self._base = base
        self._decided = [(tuned, reward) for tuned, reward in decided if tuned in self._tuned]
        every = chain.from_iterable(image.get("scores", {}).items() for row in prompts for _, image in row)
        scores: dict[str, list[float]] = {}
        for reward, score in every:
            scores.setdefault(reward, []).append(score)
        self._decided = [one for one in self._decided if one[1] in scores]
        self.rewards = list(dict.fromkeys(reward for _, reward in self._decided)) or list(scores)
        self._remarks = remarks
        self._decimals = {reward: decimals(values) for reward, values in scores.items()}
        self._pictures = pictures
        self._shown: dict[str, PictureView] = {}

    @property
    def requested(self) -> set[str]:
        """The files of the pictures that the cards have requested so far."""
        return {*self._shown}

    @property
    def missing(self) -> dict[str, str]:
        """The files of the requested pictures that cannot be opened, each with the reason."""
        return {path: one.failure for path, one in self._shown.items() if one.failure}

    def _show(self, path: str) -> PictureView:
        if path not in self._shown:
            self._shown[path] = shown(self._pictures, path)
        return self._shown[path]

    def spread(self, most: int = PROMPTS_SHOWN) -> list[Card]:
        """Cards of up to `most` prompts at even distances. The choice does not depend on the scores."""
        total = len(self._prompts)
        count = min(most, total)
        return [self._card(self._prompts[index * total // count], self.rewards) for index in range(count)]

    def extremes(self) -> list[Extremes]:
        """For each tuned source, the prompts whose scores rose most and fell most.

        The scores are those of the reward in the source's first contest.
        """
        found = []
        for tuned in self._tuned:
            reward = next((reward for source, reward in self._decided if source == tuned), "")
            changes = self._changes(tuned, reward)
            falls = [one for one in changes if one[0] < 0][:EXTREMES_SHOWN]
            rises = [one for one in reversed(changes) if one[0] > 0][:EXTREMES_SHOWN]
            losses, gains = (
                [self._card(row, [reward], fixed(change, self._decimals[reward], signed=True)) for change, row in group]
                for group in (falls, rises)
            )
            if changes:
                found.append(Extremes(self._labels[tuned], self._labels[self._base], reward, losses, gains))
        return found

    def _changes(self, tuned: str, reward: str) -> list[tuple[float, Row]]:
        """The change of each prompt's score, with the two pictures, in ascending order: the largest loss first."""
        changes = []
        for row in self._prompts:
            sides = dict(row)
            pair = [(source, sides[source]) for source in (self._base, tuned)]
            old, new = (image.get("scores", {}).get(reward) for _, image in pair)
            if old is not None and new is not None:
                changes.append((new - old, pair))
        return sorted(changes, key=lambda change: change[0])

    def _card(self, row: Row, rewards: list[str], change: str = "") -> Card:
        sides = [(self._labels[source], self._show(image["file_name"])) for source, image in row]
        scores = {}
        for reward in rewards:
            values = [image.get("scores", {}).get(reward) for _, image in row]
            texts = ["–" if value is None else fixed(value, self._decimals[reward]) for value in values]
            best = max((value for value in values if value is not None), default=None)
            rest = {text for text, value in zip(texts, values, strict=True) if value not in (None, best)}
            # Between numbers that print the same, a mark would say what they do not show.
            told = {text for text, value in zip(texts, values, strict=True) if value == best} - rest if rest else set()
            scores[reward] = [(text, text in told) for text in texts]
        opinions = [
            (self._labels[source], found) for source, image in row if (found := [*map(opinion, self._remarks(image))])
        ]
        first = row[0][1]
        return Card(first["prompt"], prompt_key(first), sides, scores, opinions, change)


def judged_rows(judgements: Iterable[Judgement], remarks: Remarks, known: Container[str]) -> list[Row]:
    """For each judged prompt that is not `known`, its pictures with what annotators gave them, the best first.

    The sources are places: 1 for the best picture. The scores are by aspect; of several annotators, by annotator, too.
    """
    prompts: dict[str, dict[str, Image]] = {}
    annotators = set()
    for one in judgements:
        annotators.add(one["annotator"])
        if one["prompt_id"] not in known:
            told = {"prompt": one["prompt"], "prompt_id": one["prompt_id"]}
            for image_id, file in zip(one["image_ids"], one["file_names"], strict=True):
                image = cast(Image, {**told, "image_id": image_id, "file_name": file})
                prompts.setdefault(one["prompt_id"], {})[image_id] = image
    rows = []
    for images in prompts.values():
        for image in images.values():
            said = [remark for remark in remarks.of(image) if remark.score is not None]
            image["scores"] = {
                one.aspect if len(annotators) == 1 else f"{one.annotator}, {one.aspect}": cast(float, one.score)
                for one in said
            }
        best_first = sorted(images.values(), key=lambda image: -sum(image["scores"].values()))
        rows.append([(str(place), image) for place, image in enumerate(best_first[:JUDGED_EACH], 1)])
    return rows


def opinion(remark: Remark) -> Opinion:
    """A remark with its verdict in words."""
    if remark.score is None:
        verdict = "refused"
    elif remark.outcomes:
        counts = zip(("won", "tied", "lost"), remark.outcomes, strict=True)
        verdict = ", ".join(f"{what} {count}" for what, count in counts if count)
    else:
        verdict = fixed(remark.score, 2)
    return Opinion(remark.annotator, remark.aspect, verdict, remark.reasons)


def shown(pictures: Pictures, path: str) -> PictureView:
    """Open a picture for the page.

    A small one is enlarged by a whole factor, without smoothing; a large one is reduced.
    """
    try:
        picture = pictures.open(path)
    except RecordFailed as error:
        return PictureView(failure=str(error).removeprefix(f"{path}: "))
    longest = max(picture.size)
    if longest < ENLARGED_TO:
        scale = -(-ENLARGED_TO // longest)
        return PictureView(data_uri(picture, "PNG"), picture.width * scale, picture.height * scale, pixelated=True)
    picture.thumbnail((EMBEDDED_AT, EMBEDDED_AT))
    share = min(1.0, SHOWN_AT / max(picture.size))
    width, height = (max(1, round(one * share)) for one in picture.size)
    return PictureView(data_uri(picture, "JPEG"), width, height)


def data_uri(picture: PIL.Image, format: str) -> str:
    """The picture as a data URI in a format of Pillow, such as PNG."""
    data = io.BytesIO()
    picture.save(data, format, optimize=True, quality=85)
    return f"data:image/{format.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
