"""Cleans prompts by rules: removes quality words, artists, platforms, renderers and leftover syntax.

A prompt is split into clauses. Noise is removed anywhere. An artist is removed together with the "by" or "in the style
of" before the name. A clause without content is removed completely. Nothing is added except what joins the rest.
"""

import html
import re
import unicodedata
from bisect import bisect
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from ..contracts import Polished
from . import wording as words
from .credits import CACHED, CUT, GONE, KNOWN, LIKELY, is_list, without_credits

ROUNDS = 12
"""Maximum number of rounds. One round may expose noise that the next one removes, so rounds are repeated until the text
no longer changes. Of ten thousand prompts of DiffusionDB, twenty needed a second round and none a third. A text that
still changes after the last round, such as "by a by a by a …", has no content."""

Replacements = list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]


def _any(patterns: Iterable[str]) -> str:
    return "|".join(line.replace(" ", "[ -]") for line in patterns if line)


def _table(*rows: tuple[str, str | Callable[[re.Match[str]], str]]) -> Replacements:
    return [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in rows]


def _closed_up(found: re.Match[str]) -> str:
    return found[0].replace(" ", "")


def _hyphenated(found: re.Match[str]) -> str:
    if found[1].casefold() in _PREFIXES or found[2].casefold() in _SUFFIXES:
        return f"{found[1]}-"
    return f"{found[1]} " if found[2].casefold() == "style" else found[0]


_PREFIXES = frozenset(words.PREFIXES)
_SUFFIXES = frozenset(words.SUFFIXES)
_STRAIGHT = str.maketrans(
    {
        **dict.fromkeys("“”„«»", '"'), **dict.fromkeys("’‘`´", "'"), **dict.fromkeys("–‑", "-"),
        "—": " - ", "，": ", ", "、": ", ", "。": ". ", "；": "; ", "：": ": ", "（": "(", "）": ")", "…": ", ",
        "|": ", ", "\n": ", ",
    }
)  # fmt: skip
_EMOJI = "\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2190-\u21ff\ufe0f\u200d\u20e3\U000e0000-\U000e007f"
_SYNTAX = _table(
    # Everything that is not text: markup, addresses, emoji, control characters.
    (r"</?[a-z][^<>]*+>|(?:https?://|www\.) ?\S+|(?<![\w-])(-*+)[\w-]++\.(?:com|org|net)\b\S*", r"\1 "),
    (rf"[{_EMOJI}]+|[\x00-\x1f\x7f\u200b-\u200f\ufeff]+", " "),
    # Options of image generators: --ar 16:9, -n 4, - h 7 0 4, aspect ratio 16:9.
    (r"\[?\s?-\s?-\s?[a-z]+(?:[\s=]?[\d.:]+)*\]?", " "),
    (r"(?:(?<=[\s,.])|(?<=[a-z]))-\s?[nwhsci]\s?\d[\d ]*+(?:\s?-\s?[a-z]\b)*+(?=\s*+(?:$|,))", " "),
    (r"\b(?:aspect ratio|cfg(?: scale)?|seed|steps)\s?[:=]?\s?\d[\d:./ ]*|(?<!\d)\d++\s?:\s?\d++ aspect rati?on?", " "),
    # Weights: x:-1, x::2, (x:1.3), ((x)), [x], x!!.
    (r":\s?\d++(?:\.\s?\d++)?\s?(?=[)\]])", ""),
    (r"(?:^|(?<=[,;:]))[^,;:]*+:\s?-\s?\d+(?:\.\s?\d+)?", " "),
    (r"(?<!\s)\s*+:\s?:(?:\s?-?\d+(?:\.\d+)?(?=[\s,]|$))?", ", "),
    (r"(?<![\d\s])\s*+:\s?(?:\d++\.\d++(?=[\s,)]|$)|\d(?=\s*+(?:[,)]|$|by\b)))", ", "),
    (r"[\])}][\s\])}]*+([\[({])?", lambda found: ", " if found[1] else found[0]),
    (r"[\[\](){}<>*#~^=\\_¥•·]+", " "),
    (r"(?<!\s)(?:\s*+!){2,}+|\.{2,}", ", "),
    # Words split by a tokenizer, if this is certain: 1 6 k, 3 d, 1 9 5 0 s, it ' s, ghost - in - the - shell, sci - fi.
    (r"\b(?:1 6|3 2|1 2|2 4|6 4|(?<!\d )[24568]) k\b", _closed_up),
    (r"(?<!\d )\b[1234] (?:- )?d\b", lambda found: f"{found[0][0]}d"),
    (r"(?<![\w.])\d(?: \d){1,3}(?! ?\d)", _closed_up),
    (r"(?<=\d) (?=(?:st|nd|rd|th)\b)|(?<=\d0) (?='? ?s\b)", ""),
    (r"(?<=\w) ?' ?(?=(?:s|t|re|ll|ve|d|m)\b)", "'"),
    (r"(?<=\w) - (?:in|of|on|to) - (?:the - )?(?=\w)", _closed_up),
    (r"\b(\w+) - (?=(\w+))", _hyphenated),
    (r"\b[a-z] & [a-z]\b|(?<=\d) [/:] (?=\d)", _closed_up),
    (r"\s+", " "),
    (r" (?=[,;:.!?](?:\s|$))", ""),
    (r"(?<=[^\W\d])([,;])(?=\S)", r"\1 "),
)


_WORDS = re.compile(r"[a-zA-Z]++(?:(?:, |\. |[ -])[a-zA-Z]++)*+")
"""Matches text that is already plain, as most text is in the second round."""


_NO_CHARACTER = re.compile("&#[0-9]{20,}")
"""Matches very long character references. `html.unescape` raises `ValueError` for some of them."""


def _strip_syntax(prompt: str) -> str:
    """The prompt as one line of text without markup, weights or program options."""
    if _WORDS.fullmatch(prompt):
        return prompt
    text = html.unescape(_NO_CHARACTER.sub("", prompt))
    text = unicodedata.normalize("NFC", text).translate(_STRAIGHT)
    for pattern, instead in _SYNTAX:
        text = pattern.sub(instead, text)
    quotes = text.count('"')
    if quotes % 2 or (quotes == 2 and re.fullmatch(r'[ ,.]*"[^"]*"[ ,.]*', text)):
        return text.replace('"', "")
    return re.sub(r'" ?([^"]*?) ?"', r'"\1"', text)


RUN = "{1,8}"
"""Maximum number of modifiers in one phrase. Without it, a long run would be scanned again from each of its words."""

_DEGREES = f"(?:(?:{'|'.join(words.DEGREES)})[ -]?+){RUN}"
_QUALITY = re.compile(rf"\b(?:{_DEGREES}(?:detailed|realistic)|{_any(words.QUALITY)})\b")
_SPOKEN_OF = (" is ", " are ", " was ", " be ", " more ", " less ", " not ", " looks ", " very ", " too ")
"""After these words, a quality word is the statement itself and stays: without it, "the machine is highly detailed"
would lose its end."""

_NOISE = re.compile(
    rf"\b(?:{_DEGREES}(?:{_any(words.DEGREED)})\b"
    rf"|(?:{_any([*words.NOISE, *words.PLATFORMS, *words.RENDERERS, *words.CAMERA])})(?!\w))"
)
_TRENDING = re.compile(
    r"\b(?:(?:currently|now|top|most|best|highly) ){,6}(?:trend(?:ing|s)?|tranding|featured|popular|viral|posted|best)"
    rf"(?: (?:on|in|at|of|by)(?: the)?)? (?:{CUT}|(?:{_any(words.SOCIAL)}|\w+station)\b)"
)
_CUT_WITH = re.compile(
    r"(?:\b(?:rendered|made|created|modell?ed|shot|taken|photographed|captured|filmed|done|drawn|powered) ){,6}"
    rf"\b(?:in|with(?! {CUT} (?:and|&) \w)|on|using|from|at|of|by|via|for) (?:(?:an?|the|its) )?{CUT}"
    rf"|(?:\b(?:in|with) )?(?:\b(?:an?|the) )?\b(?:art )?style (?:of |from )?{CUT}|\bin (?:an? )?{GONE} style\b"
    rf"|{CUT}(?: (?:trending|trends?|winner|quality|style|render(?:ed|ing|er|s)?|graphics|contest|wallpaper)\b"
    r"(?! (?:of|by)\b))+"
)


def _small(text: str) -> str:
    """The text in lower case, if no character changes its position; otherwise the text unchanged.

    Matching lower-case text is used because `re` is slow if it ignores case.
    """
    small = text.lower()
    return small if len(small) == len(text) else text


def _mark_noise(text: str) -> str:
    """The text with a mark in place of each noise phrase."""
    for pattern, mark in ((_QUALITY, GONE), (_NOISE, CUT), (_TRENDING, CUT), (_CUT_WITH, CUT)):
        if pattern is _CUT_WITH and CUT not in text and GONE not in text:
            break
        pieces, end = [], 0
        for found in pattern.finditer(_small(text)):
            if pattern is _QUALITY and text.endswith(_SPOKEN_OF, 0, found.start()):
                continue
            pieces += [text[end : found.start()], mark]
            end = found.end()
        text = "".join([*pieces, text[end:]])
    return text


class _Clause(NamedTuple):
    gap: str
    """The separator before the clause."""
    text: str
    tied: bool
    """Whether a dash is before or after it. A single word may then be half of a compound, as in "clean - shaven"."""


_END = _Clause("", "", tied=False)
_GAP = re.compile(
    r"[,;][\s,;.]*| [-/+] |(?<![!?:])[!?:]++(?: |$)"
    # A full stop after an initial or a title does not end a clause.
    r"|\.(?<![ .][^\W\d]\.)(?<!^[^\W\d]\.)(?<!\bdr\.)(?<!\bmr\.)(?<!\bst\.)(?<!\bvs\.)(?<!\bmrs\.)(?: |$)",
    re.IGNORECASE,
)


def _clauses(text: str) -> list[_Clause]:
    found = []
    gap, start = "", 0
    for match in [*_GAP.finditer(text), None]:
        end, behind = (match.start(), match[0]) if match else (len(text), "")
        clause = text[start:end].strip()
        if clause:
            found.append(_Clause(gap, clause, "-" in gap + behind))
        gap, start = behind, match.end() if match else end
    return found


_M = f"[{GONE}{CUT}]"
_GLUE = """
a absolutely also an and art as breathtakingly by created extremely full highly in incredibly insanely is made most of
on plus quality really so stunningly style super the very with y &
""".split()
"""Words without content of their own, if they are between words without content."""


def _worn(before: Iterable[str], patterns: Iterable[str]) -> str:
    return rf"(?:(?:{'|'.join(before)}|{_M}|and|&)[ -]){RUN}(?:{_any(patterns)})"


_UNIT = re.compile(
    r"(?<![\w'-])(?:"
    rf"(?P<medium>{_any(words.MEDIA)})|(?P<stock>{_any(words.STOCK)})"
    rf"|(?P<worn>{_worn(words.PRAISE, words.PRAISED)}|{_worn(words.LIGHT, words.LIT)}|{_worn(words.EXACT, words.PARTS)}"
    rf"|{_any(words.WORN)}|{_any(words.SOCIAL)})|(?P<glue>{'|'.join(_GLUE)}|{_M})"
    r")(?![\w'-])"
)
_WORDS_OF_MEDIA = frozenset(words.WORDS_OF_MEDIA)
_EDGES = " ,.;:!?&-/+"


@lru_cache(CACHED)
def _kind(clause: str) -> str:
    """What a clause without content consists of: "medium", "stock" or "worn"; "" for a clause with content."""
    kinds = set()

    def note(found: re.Match[str]) -> str:
        kinds.add(found.lastgroup)
        return ""

    if _UNIT.sub(note, _small(clause)).strip(_EDGES + "'\""):
        return ""
    return next((kind for kind in ("medium", "stock") if kind in kinds), "worn")


def _without_tail(clause: str) -> str:
    """A clause without the modifiers at its end: from the first mark after which there is no content.

    Worn words before that mark are removed too.
    """
    marks = [found.start() for found in re.finditer(_M, clause)]
    # No mark after the first one of the run has content behind it, so a binary search finds the first one.
    first = bisect(marks, False, key=lambda start: bool(_kind(clause[start:])))
    if first == len(marks):
        return clause
    before = clause[: marks[first]].rstrip()
    for unit in reversed(list(_UNIT.finditer(_small(before)))):
        if unit.end() != len(before) or unit.lastgroup not in ("worn", "glue"):
            break
        before = before[: unit.start()].rstrip()
    return f"{before} {CUT}"


def _without_and(found: re.Match[str]) -> str:
    is_adjective = found[1].casefold() in words.PRAISE or found[1].endswith("ed")
    return f"{found[1]} " if is_adjective else found[0]


_SEAMS = _table(
    # "a \0 and old house", "an old and \0 house", "with \1 in the rain", "a \0 egg", "a house with a \1".
    (rf"(^|\b(?:an?|the|with|in|of|on|as) )(?:{_M} )+(?:and|&) (?=\w)", rf"\1{GONE} "),
    (rf"\b(\w+) (?:and|&) (?:{_M} )*{GONE} (?=\w)", _without_and),
    (rf"\b(?:and|with|in|of|on|at) (?:{_M} )+(?=(?:and|with|in|of|on|at|by|from|wearing)\b)", ""),
    (rf"\b(a)n? (?:{_M} )+(?=(?!eu|one|uni[^mn]|us)[aeiou])", r"\1n "),
    (rf"\b(a)n? (?:{_M} )+", r"\1 "),
    (
        rf"(?:(?<=\W)(?:and|or|with|in|of|on|by|at|the|an?|as|from|for|featuring|very|&) )++((?:{_M} ?)++$)?",
        lambda found: "" if found[1] else found[0],
    ),
    (_M, ""),
    (r" +", " "),
)
_HANGING = frozenset("a an and by of or the with".split())
_SIGNS = " ,.;:&/+-"


@lru_cache(CACHED)
def _tidy(clause: str) -> str:
    """A clause without marks, and without words that would have lost their meaning where the marks were."""
    if GONE in clause or CUT in clause:
        for pattern, instead in _SEAMS:
            clause = pattern.sub(instead, clause)
    clause = clause.strip(_EDGES)
    while (word := clause.rpartition(" ")[2].lstrip(_SIGNS)).casefold() in _HANGING:
        clause = clause[: -len(word)].strip(_EDGES)
    return clause


_LEFT_OVER = frozenset(
    "art artstyle composition cover creation design details direction face lighting overlay part parts style".split()
)
"""Words that mean nothing without the artist: "face by …"."""


@lru_cache(CACHED)
def _uncredited(clause: str, sides: int) -> tuple[str, bool]:
    rest, listed = without_credits(clause, sides)
    return (CUT if rest != clause and _tidy(rest).casefold() in _LEFT_OVER else rest), listed


def _joint(gaps: list[str]) -> str:
    """The text that joins two clauses; `gaps` are the separators between them, also those of removed clauses."""
    if any("." in gap for gap in gaps):
        return ". "
    sign = gaps[0].strip()[-1:] if len(gaps) == 1 else ","
    return f" {sign} " if sign in "/+-" else f"{sign} "


def _clean_once(text: str) -> str:
    """The text after one round."""
    edited = names_alone = article = ""
    gaps: list[str] = []
    seen: set[str] = set()
    listed = medium = False
    clauses = _clauses(_mark_noise(text))
    for clause, following in zip(clauses, [*clauses[1:], _END], strict=False):
        gaps.append(clause.gap)
        sides = listed + (bool(edited) and is_list(following.text, LIKELY if listed else KNOWN))
        rest, listed = _uncredited(clause.text, sides)
        kind = "" if clause.tied and clause.text.isalpha() else _kind(rest)
        if kind == "worn" or (kind == "stock" and edited) or (kind == "medium" and medium):
            if rest != clause.text:
                names_alone = names_alone or _tidy(clause.text).removeprefix("by ")
            elif rest.partition(" ")[0].casefold() in ("a", "an"):
                article = rest.partition(" ")[0]
            continue
        rest = _tidy(rest if kind else _without_tail(rest))
        if article:
            # "A beautiful, highly detailed painting" is one phrase.
            rest = rest if rest.startswith(("a ", "an ", "the ")) else _tidy(f"{article} {GONE} {rest}")
            article = ""
        if not edited or len(gaps) > 1:
            rest = re.sub("^(?:(?:and|or) )+", "", rest)
        if not rest or rest.casefold() in seen:
            continue
        edited += _joint(gaps) + rest if edited else rest
        gaps = []
        seen.add(rest.casefold())
        medium = medium or bool(kind) or not _WORDS_OF_MEDIA.isdisjoint(_small(rest).split(" "))
    return _tidy(edited or names_alone)


def _found(patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{_any(patterns.splitlines())})\b")


_UNSAFE = re.compile(
    "|".join(rf"(?P<{kind}>\b(?:{_any(patterns.splitlines())})\b)" for kind, patterns in words.UNSAFE.items())
)
_HARMLESS = _found(words.HARMLESS)
_YOUNG = _found(words.YOUNG)
_SUGGESTIVE = _found(words.SUGGESTIVE)


def _reason(text: str) -> str:
    """Why a prompt is unsafe, or an empty text."""
    text = _HARMLESS.sub(" ", text.casefold())
    suggestive = _SUGGESTIVE.search(text)
    young = _YOUNG.search(text) if suggestive else None
    if suggestive and young:
        return f"minors: {young[0]}, {suggestive[0]}"
    found = _UNSAFE.search(text)
    return f"{str(found.lastgroup).replace('_', '-')}: {found[0]}" if found else ""


def _polished(prompt: str) -> Polished:
    plain = _strip_syntax(prompt)
    text = _clean_once(plain)
    for _ in range(ROUNDS):
        before, text = text, _clean_once(_strip_syntax(text))
        if text == before:
            return Polished(text, _reason(plain))
    return Polished("", _reason(plain))


def polish(prompts: list[str]) -> list[Polished]:
    """Clean every prompt. Cleaning a result again does not change it."""
    return [_polished(prompt) for prompt in prompts]
