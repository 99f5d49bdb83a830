"""How long a server asks to wait, read from the headers of its answer."""

import email.utils
import math
import re
import time
from collections.abc import Callable, Mapping

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_wait(text: str, *, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds to wait, from the value of a header: ``20``, ``1.5``, ``6m0s``, ``20ms`` or a date.

    A number above 1e9 is a time in seconds since 1970. Returns None for any other text.
    """
    text = text.strip().lower()
    try:
        if re.fullmatch(rf"(?:{_SPAN.pattern})+", text):
            found = sum(float(amount) * _UNITS[unit] for amount, unit in _SPAN.findall(text))
        elif re.match("[a-z]", text) and (date := email.utils.parsedate_tz(text)):
            found = email.utils.mktime_tz(date) - clock()
        else:
            found = float(text)
            found = found - clock() if found > 1e9 else found
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return max(0.0, found) if math.isfinite(found) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait after an error; None if its headers do not say."""
    if (wait := parse_wait(headers.get("retry-after-ms", ""))) is not None:
        return wait / 1000
    if (wait := parse_wait(headers.get("retry-after", ""))) is not None:
        return wait
    return max(exhausted(headers), default=None)


def exhausted(headers: Mapping[str, str]) -> list[float]:
    """Seconds until each allowance, of requests or of tokens, is reset; only those that are used up."""
    found = []
    for what in ("requests", "tokens"):
        left, reset = headers.get(f"x-ratelimit-remaining-{what}", ""), headers.get(f"x-ratelimit-reset-{what}", "")
        if left.strip() == "0" and (wait := parse_wait(reset)) is not None:
            found.append(wait)
    return found
