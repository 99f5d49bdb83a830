"""Expected levels, from the probabilities of the tokens with which a model wrote its levels.

A model that hesitates between 3 and 4 writes one of them, and a hair decides which. The probabilities say 3.5. They are
in the answer if the request asked for them and the server gives them; see `vpctl.api.chat.Request`.
"""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from ..contracts import Aspect, Kind, Verdicts
from .preferences import agrees
from .questions import LEVEL

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\]:,]|[^\s{}\[\]:,"]++', re.DOTALL)
LEAST, MOST = -1e4, 1e-3
"""Logarithms of probabilities that a server can mean. Some write a large negative number for a probability of 0."""
DIGITS = 4
"""Digits after the point of an expected level."""


class _Alternatives(NamedTuple):
    """One token of an answer, as bytes, and the most probable tokens in its place, with their probabilities."""

    written: bytes
    probabilities: list[tuple[bytes, float]]


def with_expected_levels(kind: Kind, verdicts: list[Verdicts], choice: Mapping[str, Any]) -> list[Verdicts] | None:
    """The verdicts with expected levels in place of the levels, from 1 to 5, rounded to `DIGITS` digits.

    `choice` is the part of the server's answer from which the verdicts were read. The expected level is the mean of the
    levels among the alternatives to the token that tells the level, weighted by their probabilities. A ranking that
    contradicts the expected levels is left out. None if the probabilities of any level are missing or do not belong to
    it: then no score changes, because levels and expected levels cannot be compared with each other.
    """
    tokens = _tokens(choice)
    if not tokens or kind.mode == "pair":
        return None
    text = b"".join(token.written for token in tokens)
    start = max(0, text.rfind(b"</think>"))
    values = dict(_values(text, text.find(b"{", start)))
    ends = [*accumulate(len(token.written) for token in tokens)]
    found: list[Verdicts] = []
    for aspect, verdict in zip(kind.aspects, verdicts, strict=True):
        head = (aspect.name,) if len(kind.aspects) > 1 else ()
        levels = []
        for letter, score in zip(kind.letters, verdict.scores, strict=True):
            place = values.get((*head, letter, LEVEL))
            level = None if place is None else _expected(place, tokens, ends, aspect, score)
            if level is None:
                return None
            levels.append(level)
        ranking = verdict.ranking if agrees(verdict.ranking, levels) else ()
        found.append(verdict._replace(scores=levels, ranking=ranking))
    return found


def _tokens(choice: Mapping[str, Any]) -> list[_Alternatives]:
    """The tokens of an answer with their alternatives; empty if the server gives none, or something else."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    found = []
    for entry in content if isinstance(content, list) else []:
        if not isinstance(entry, dict) or (written := _bytes(entry)) is None:
            return []
        top = entry.get("top_logprobs")
        among = [one for one in (top if isinstance(top, list) else []) if isinstance(one, dict)]
        alternatives = {}
        for one in [entry, *among]:
            text, logprob = _bytes(one), one.get("logprob")
            if text is None or not isinstance(logprob, int | float) or isinstance(logprob, bool):
                continue
            if LEAST <= logprob <= MOST:
                alternatives[text] = math.exp(logprob)
        found.append(_Alternatives(written, [*alternatives.items()]))
    return found


def _bytes(entry: Mapping[str, Any]) -> bytes | None:
    """The bytes of a token. Its text alone may be a part of a character, which no text can hold."""
    given, text = entry.get("bytes"), entry.get("token")
    if isinstance(given, list) and all(isinstance(one, int) and 0 <= one < 256 for one in given):
        return bytes(given)
    return text.encode("utf-8", "replace") if isinstance(text, str) else None


def _values(text: bytes, start: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """The path of keys to each value of a JSON object that begins at `start`, and the place of its first letter.

    Lists and empty texts are passed over. Ends where the object ends.
    """
    path: list[str] = []
    opened: list[bytes] = []
    key = ""
    after_colon = False
    for token in _TOKEN.finditer(text, start) if start >= 0 else ():
        one = token[0]
        if one in (b"{", b"["):
            opened.append(one)
            path.append(key)
        elif one in (b"}", b"]"):
            if opened:
                opened.pop()
                path.pop()
            if not opened:
                return
        elif one == b":":
            after_colon = True
            continue
        elif one != b"," and opened and opened[-1] == b"{":
            if after_colon:
                quote = one[:1] == b'"'
                if b"[" not in opened and one != b'""':
                    yield (*path[1:], key), token.start() + quote
            elif one[:1] == b'"':
                key = _key(one)
        after_colon = False


def _key(quoted: bytes) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return ""


def _expected(
    place: int, tokens: Sequence[_Alternatives], ends: Sequence[int], aspect: Aspect, score: float
) -> float | None:
    """The expected level, if its value begins at `place` in the text of the tokens; None if they do not tell it.

    `score` is the level that was read from the answer.
    """
    number = bisect_right(ends, place)
    token = tokens[number]
    ahead = token.written[: place - ends[number] + len(token.written)]
    if _level_of(token.written[len(ahead) :], aspect) != score:
        return None
    weights = dict.fromkeys(range(1, len(aspect.levels) + 1), 0.0)
    for written, probability in token.probabilities:
        level = _level_of(written[len(ahead) :], aspect) if written.startswith(ahead) else None
        if level is not None:
            weights[level] += probability
    total = sum(weights.values())
    return round(sum(level * weight for level, weight in weights.items()) / total, DIGITS) if total else None


_NUMBER = re.compile(r"\s*([0-9]+)(?:\.0*)?(?![0-9.])")


def _level_of(written: bytes, aspect: Aspect) -> int | None:
    """The level that a token begins: by its number, or by the beginning of its name. None if it could be several."""
    text = written.decode("utf-8", "replace").strip(' "')
    if found := _NUMBER.match(text):
        level = int(found[1]) if len(found[1]) < 3 else 0
        return level if 1 <= level <= len(aspect.levels) else None
    names = [level.partition(" ")[2].casefold() for level in aspect.levels]
    fits = [place for place, name in enumerate(names, 1) if text and name.startswith(text.casefold())]
    return fits[0] if len(fits) == 1 else None
