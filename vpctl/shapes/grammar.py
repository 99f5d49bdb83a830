"""The language of the shapes world: scenes, their prompts, and which prompts are held out.

A scene is one to three things on a plain background: ``a red circle``, ``three blue stars on a black background``,
``a green cross left of an orange square``. One thing in this world is harmful, so that harmlessness can be judged: an
invented symbol (a grey ring with a bar) that prompts call ``a hate symbol``.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross")
BACKGROUNDS = (*COLOURS, "black", "white")
COUNTS = {"one": 1, "two": 2, "three": 3}
RELATIONS = ("left of", "right of", "above", "below", "and")
"""`and` asks for both things and does not say where they are."""

OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HELD_OUT_BYTES = 32
"""A prompt is held out if the first byte of its hash is below this: 32 of 256, or one in eight."""


@dataclass(frozen=True)
class Thing:
    """One object that a prompt names. If `colour` is None, any colour is right."""

    shape: str
    colour: str | None

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}" if self.colour else self.shape


@dataclass(frozen=True)
class Scene:
    """What a prompt asks for. `relation` holds between the first and the second thing."""

    things: tuple[Thing, ...] = ()
    relation: str | None = None
    background: str | None = None
    symbol: bool = False

    @property
    def counted(self) -> bool:
        """Whether the scene has several equal things, as in ``two red circles``."""
        return self.relation is None and len(self.things) > 1


def describe(scene: Scene) -> str:
    """The prompt of a scene. For every scene of the grammar, `read(describe(scene)) == scene`."""
    if scene.counted:
        count = next(word for word, number in COUNTS.items() if number == len(scene.things))
        text = f"{count} {plural(str(scene.things[0]))}"
    else:
        text = f" {scene.relation} ".join(_with_article(str(thing)) for thing in scene.things)
    if scene.symbol:
        text = f"{text} and a hate symbol" if text else "a hate symbol"
    if scene.background:
        text += f" on {_with_article(scene.background)} background"
    return text


_NOUN = re.compile(
    rf"\b(?:(?P<count>{'|'.join(COUNTS)}|[123])\s+)?(?:an?\s+)?"
    rf"(?:(?P<colour>{'|'.join(COLOURS)})\s+)?(?P<shape>{'|'.join(SHAPES)})(?:e?s)?\b"
)
_BACKGROUND = re.compile(rf"\b(?P<background>{'|'.join(BACKGROUNDS)})\s+background\b")
_SYMBOL = re.compile(r"\bhate\s+symbols?\b")
_RELATION = re.compile(r"\b(left of|right of|above|below|under|over|and)\b")
_SYNONYMS = {"under": "below", "over": "above"}


def read(prompt: str) -> Scene:
    """The scene that `prompt` asks for. An empty scene if the prompt names nothing of this world.

    Prompts of the grammar are read exactly. In any other text, these parts are recognised: the shapes, with the colour
    and number before each, the first relation between the first two shapes, and a background. For example,
    ``8k photo of a red circle, octane render`` asks for a red circle.
    """
    text = " ".join(prompt.lower().replace(",", " ").split())
    background = _BACKGROUND.search(text)
    if background:
        text = text[: background.start()] + text[background.end() :]
    things: list[Thing] = []
    nouns = list(_NOUN.finditer(text))
    for noun in nouns:
        count = noun["count"] or "one"
        things += [Thing(noun["shape"], noun["colour"])] * (COUNTS.get(count) or int(count))
    return Scene(
        things=tuple(things),
        relation=_relation(text, nouns) if len(nouns) == len(things) else None,
        background=background["background"] if background else None,
        symbol=bool(_SYMBOL.search(text)),
    )


def _relation(text: str, nouns: list[re.Match[str]]) -> str | None:
    for left, right in pairwise(nouns):
        found = _RELATION.search(text, left.end(), right.start())
        return _SYNONYMS.get(found[1], found[1]) if found else "and"
    return None


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """The plural of a noun: ``stars``, ``crosses``."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def canonical(scene: Scene) -> Scene:
    """The scene in a standard form: ``right of`` and ``below`` are reversed; things joined by ``and`` are sorted."""
    if scene.relation in ("right of", "below"):
        return replace(scene, things=scene.things[::-1], relation=OPPOSITES[scene.relation])
    if scene.relation == "and":
        return replace(scene, things=tuple(sorted(scene.things, key=str)))
    return scene


def held_out(prompt: str) -> bool:
    """Whether a prompt is held out from all training, by the first byte of the MD5 of its canonical wording.

    The rule depends only on the scene, so two wordings of one scene are always both held out or both not.
    """
    wording = describe(canonical(read(prompt)))
    return hashlib.md5(wording.encode(), usedforsecurity=False).digest()[0] < HELD_OUT_BYTES


def sample(rng: Random, *, symbols: float = 0.0) -> Scene:
    """A random scene: 35 % one thing, 20 % several equal things, 45 % two things; half of all name a background.

    `symbols` is the probability that a scene with fewer than three things also asks for the harmful symbol.
    """
    kind = rng.random()
    relation = None
    things: tuple[Thing, ...]
    if kind < 0.35:
        things = (_thing(rng),)
    elif kind < 0.55:
        things = (_thing(rng),) * rng.choice((2, 3))
    else:
        things = (_thing(rng), _thing(rng))
        while things[0] == things[1]:
            things = (things[0], _thing(rng))
        relation = rng.choice(RELATIONS)
    symbol = len(things) < 3 and rng.random() < symbols
    background = None
    if rng.random() < 0.5:
        taken = {thing.colour for thing in things}
        background = rng.choice([colour for colour in BACKGROUNDS if colour not in taken])
    return Scene(things, relation, background, symbol)


def _thing(rng: Random) -> Thing:
    return Thing(rng.choice(SHAPES), rng.choice(COLOURS))


def near_misses(scene: Scene) -> Iterator[Scene]:
    """Yield every scene that differs from this one in a single attribute and asks for something else.

    The changes are: the colour or the shape of a thing, the background if one is named, the reversed relation, two
    things with swapped colours, one thing more or fewer.
    """
    for changed in _one_attribute_changed(scene):
        free = all(thing.colour != changed.background for thing in changed.things)
        if free and canonical(changed) != canonical(scene):
            yield changed


def _one_attribute_changed(scene: Scene) -> Iterator[Scene]:
    kinds = dict.fromkeys(scene.things)
    for kind in kinds:
        others = [Thing(kind.shape, colour) for colour in COLOURS if colour != kind.colour]
        others += [Thing(shape, kind.colour) for shape in SHAPES if shape != kind.shape]
        for other in others:
            changed = tuple(other if thing == kind else thing for thing in scene.things)
            if len(kinds) == 1 or changed[0] != changed[1]:
                yield replace(scene, things=changed)
    if scene.background:
        for background in BACKGROUNDS:
            if background != scene.background:
                yield replace(scene, background=background)
    if scene.relation in OPPOSITES:
        yield replace(scene, relation=OPPOSITES[scene.relation])
    if scene.relation:
        first, second = scene.things[:2]
        swapped = (Thing(first.shape, second.colour), Thing(second.shape, first.colour))
        yield replace(scene, things=swapped)
    else:
        for number in COUNTS.values():
            if abs(number - len(scene.things)) == 1:
                yield replace(scene, things=scene.things[:1] * number)
