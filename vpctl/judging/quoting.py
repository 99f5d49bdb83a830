"""Quotes a prompt for a language model, as JSON in which nothing can pass for a control token or for our own text.

The prompt is not changed: who reads the JSON gets every character back.
"""

import unicodedata

import orjson

_BRACKETS = frozenset("<>[]|")
"""With these, chat templates write control tokens, such as those that begin a turn or stand for a picture."""
_ESCAPED = frozenset("<[\x7f")
"""ASCII that is escaped. Without its first bracket, a control token is none; the other brackets stay readable."""
_LOOK_ALIKES = frozenset("‹›«»˂˃ᐸᐳ≪≫≺≻❮❯𐑂ǀ∣∥❘❙│┃╎║⼁丨ǁ▁")
"""Characters that look like a bracket or a bar and are not normalised to one; and the line of DeepSeek's tokens."""
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and symbols that are drawn as nothing."""
_RISKY = frozenset(["Cc", "Cf", "Co", "Cn", "Zl", "Zp", "Ps", "Pe"])
"""Categories of hidden characters, and of brackets.

Hidden are control characters, marks of direction and of zero width, tags, private and unassigned characters, and
separators of lines and paragraphs.
"""
_SELECTORS = (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
"""Variation selectors, in which a text can be hidden."""


def quoted(prompt: str) -> str:
    """The prompt as one line of JSON, with escapes for control tokens, their look-alikes, and hidden characters."""
    return orjson.dumps({"prompt": prompt}).decode().translate(_ESCAPES)


class _Escapes(dict[int, str]):
    """What stands for each character, by its code point. Found out when it is first asked for."""

    def __missing__(self, code: int) -> str:
        one = chr(code)
        units = one.encode("utf-16-be")
        escape = "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))
        return self.setdefault(code, escape if _is_risky(one) else one)


_ESCAPES = _Escapes()


def _is_risky(one: str) -> bool:
    if one.isascii():
        return one in _ESCAPED
    return (
        unicodedata.category(one) in _RISKY
        or one in _LOOK_ALIKES
        or one in _FILLERS
        or any(ord(one) in some for some in _SELECTORS)
        or not _BRACKETS.isdisjoint(unicodedata.normalize("NFKC", one))
    )
