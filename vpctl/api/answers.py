"""Reading what a language model wrote as JSON, however it wrapped it, and never more into it than is there."""

import json
import re
from typing import Any

import json_repair
import orjson

from ..errors import Unusable

_FENCED = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.DOTALL)


def loads(text: str | bytes) -> Any:
    """JSON, also with half of a surrogate pair in it, as a model that was cut short may write; that becomes ``?``.

    Raises `ValueError` if it is none.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        value = json.loads(text)
        return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def parse(text: str | None) -> dict[str, Any]:
    """The one JSON object in an answer: alone, fenced, or with words or thoughts around it, small slips mended.

    Raises `Unusable` if there is none, or if it does not end: what was cut off is not made up.
    """
    text = (text or "").rpartition("</think>")[2]
    for candidate in _candidates(text):
        try:
            value = loads(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
        raise Unusable(f"the answer is no JSON object: {text[:80]!r}", text)
    start, end = text.find("{"), text.rfind("}")
    inner = text[start : end + 1]
    if start < 0 or end < start or inner.count("{") > inner.count("}"):
        raise Unusable(f"the answer is not JSON: {text[:80]!r}" if text.strip() else "the answer is empty", text)
    value = json_repair.loads(inner)
    if not isinstance(value, dict) or not value:
        raise Unusable(f"the answer is not JSON: {text[:80]!r}", text)
    return value


def _candidates(text: str) -> list[str]:
    fenced = [found[1] for found in _FENCED.finditer(text)]
    start, end = text.find("{"), text.rfind("}")
    return [text, *fenced[-1:], *([text[start : end + 1]] if 0 <= start < end else [])]
