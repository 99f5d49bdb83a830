"""Reads the JSON in a language model's answer, with or without text around it. Missing parts are never made up."""

import json
import re
from contextlib import suppress
from typing import Any

import orjson

from ..errors import Unusable

_FOLLOWS = re.compile(r"\s*(?:[,:}\]]|$)")
_FENCED = re.compile(r"```(?:json)?\s*+(.*?)```", re.DOTALL)


def loads(text: str | bytes) -> Any:
    """The value of a JSON text. Half of a surrogate pair, as in an answer that was cut short, becomes ``?``.

    Raises `ValueError` if the text is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return _whole(json.loads(text))
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _whole(value: Any) -> Any:
    """The value with halves of surrogate pairs replaced by ``?``."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def parse(text: str | None) -> dict[str, Any]:
    """The one JSON object in an answer, which may be in a code fence or have text or thoughts around it.

    Small errors in the JSON are repaired. Raises `Unusable` if there is no object, if there are several, or if it is
    incomplete: what was cut off is not made up.
    """
    with suppress(ValueError):
        if isinstance(whole := loads(text or ""), dict):
            return whole  # its texts may hold anything, also the end of thoughts
    text = (text or "").rpartition("</think>")[2]
    for candidate in _candidates(text):
        try:
            value = loads(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
        raise Unusable(f"the answer is not a JSON object: {text[:80]!r}", text)
    fenced = [found[1] for found in _FENCED.finditer(text)]
    inner = _object(fenced[-1] if fenced else text)
    if not inner:
        raise Unusable(f"the answer is not JSON: {text[:80]!r}" if text.strip() else "the answer is empty", text)
    import json_repair  # most runs never need it

    try:
        value = _whole(json_repair.loads(inner))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not value:
        raise Unusable(f"the answer is not JSON: {text[:80]!r}", text)
    return value


def _object(text: str) -> str:
    """The one object in a text, from brace to brace; empty if there are several, or if it does not end.

    A quote opens a string after a brace, a bracket, a comma or a colon, and closes it in front of one. Any other quote
    is part of the string.
    """
    start = text.find("{")
    depth, quote, last, end = 0, "", "", -1
    place = max(start, 0) if start >= 0 else len(text)
    while place < len(text):
        one = text[place]
        if quote and one == "\\":
            place += 1
        elif quote and one == quote:
            quote = "" if _FOLLOWS.match(text, place + 1) else quote
        elif not quote:
            if one in "\"'" and last in "{[,:":
                quote = one
            elif one == "{" and end >= 0:
                return ""
            elif one in "{[":
                depth += 1
            elif one in "}]":
                depth -= 1
                if not depth:
                    end = place + 1
            last = last if one.isspace() else one
        place += 1
    return text[start:end] if end >= 0 and depth <= 0 and not quote else ""


def _candidates(text: str) -> list[str]:
    fenced = [found[1] for found in _FENCED.finditer(text)]
    start, end = text.find("{"), text.rfind("}")
    return [text, *fenced[-1:], *([text[start : end + 1]] if 0 <= start < end else [])]
