"""Checks that a rewritten prompt is faithful to the original: it adds nothing and keeps the subject.

Words are compared, not meanings, so that the result is the same on every machine and costs nothing. Both kinds of error
are possible. The thresholds favour the cheap one: a rewrite that is rejected in error is polished by rules.

`_related` assumes English inflections. In other languages that are written with spaces, the first letters decide; in
languages without spaces, every character is a word. A translation shares no words with the original and is rejected,
because vpctl cannot tell whether it is right.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from itertools import islice, pairwise

from ..contracts import Polished
from ..records import MAX_PROMPT_CHARS
from . import wording as words
from .cleaning import polish

MOST_LONGER, WORDS_LONGER = 1.2, 5
"""A rewrite has at most `MOST_LONGER` times the original's words plus `WORDS_LONGER`. The additional words allow for
"a", "of" and "in the style of"."""

MAX_CONTENT_WORDS = 12
"""Number of content words of the original that are looked for in a rewrite. Later words are often noise that the rules
do not know."""

FEW, LEAST_KEPT_OF_FEW, LEAST_KEPT = 6, 0.65, 0.45
"""The share of these words that a rewrite must keep: `LEAST_KEPT_OF_FEW` if there are at most `FEW` words, which hardly
contain noise, otherwise `LEAST_KEPT`."""

HEAD = 3
"""Number of words at the end of the first phrase. A rewrite must keep at least one of them, because a model may shorten
names and compounds."""

MAX_RESPELLED = 3
"""Maximum number of words that a rewrite may spell differently from the original."""

SAME = 3
"""Minimum number of first letters that two forms of a word have in common."""

MOST_COMPARED = 100
"""Maximum number of words with the same beginning that a word is compared with. Prompts written by people have fewer.
Without a limit, the time for a long text of such words would grow with the square of its length."""

_FUNCTION = frozenset(
    """
    a an and are as at be being by for from has have having in into is it its of on onto or that the their them they
    this those these to was were which while who whose with within
    amid among against like set one each both some also where when all
    el la las los les des del den der das dem und mit auf avec dans sur une una uno con por ein eine einen gli della
    het een och med som para uma
    的 在 了 和 与 與 是 有 着 の に を は が で と も へ 이 가 은 는 을 를 의 에 와 과
    """.split()
)
"""Function words. Words of place, such as "behind", and of denial have a meaning and are not among them."""

_NEUTRAL = frozenset(
    """
    show showing shown depict depicting depicted depiction feature featuring scene image picture background setting
    view style styled wearing dressed filled mood themed stands rendered illustrated full
    """.split()
)
"""Words that only repeat that the text is a prompt, or that connect a thing with its attributes."""

_MEDIA = frozenset(
    [
        *words.WORDS_OF_MEDIA,
        *words.PRAISE,
        *"art concept design character portrait shot close closeup movie film cover poster digital oil".split(),
        *"canvas key visual centered wide angle camera lens color colors colour colours light lighting".split(),
    ]
)
"""Words for the medium, the manner, and praise. They are not a subject, and a rewrite may leave them out."""

_SHOWS = frozenset("of showing depicting featuring".split())

_DENIALS = frozenset("no not without never".split())

_IMPLIED = {
    name: frozenset(by.split())
    for name, by in {
        "photograph": "photo photography photographic photorealistic canon nikon dslr polaroid kodak bokeh",
        "photo": "photograph photography photographic photorealistic canon nikon dslr polaroid kodak bokeh",
        "painting": "watercolor watercolour gouache acrylic canvas tempera",
        "drawing": "sketch pencil charcoal crayon",
        "camera": "cam",
        "woman": "female lady",
        "man": "male guy",
        "women": "females ladies",
        "men": "males guys",
        "gray": "grey",
        "grey": "gray",
        "television": "tv",
        "without": "no",
        "no": "without",
    }.items()
}
"""For each word, other words that may replace it."""

_FORMS = {
    form: line.split()[0]
    for line in """
    man men
    woman women
    child children
    person people
    foot feet
    tooth teeth
    mouse mice
    goose geese
    stand stood
    sit sat
    hold held
    ride rode ridden
    wear wore worn
    fly flew flown
    run ran
    fight fought
    break broke broken
    0 zero
    2 two
    3 three
    4 four
    5 five
    6 six
    7 seven
    8 eight
    9 nine
    10 ten
    12 twelve
    20 twenty twenties
    30 thirty thirties
    40 forty forties
    50 fifty fifties
    60 sixty sixties
    70 seventy seventies
    80 eighty eighties
    90 ninety nineties
    100 hundred
    """.strip().splitlines()
    for form in line.split()
}
"""The base form of irregular words, and the digits of number words."""

_COUNTS = frozenset("2 3 4 5 6 7 8 9 10 12".split())

_BENT = frozenset(" s es ed ing e y ies ie".split(" "))
_DERIVED = _BENT | frozenset(
    """
    ly al ic ical ous ious ful en ish ness ity ion ions ation ian an ese ive ism istic or ifying able ance ence
    """.split()
)

_NO_SPACES = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_NO_SPACES}]|\d+|(?:(?![{_NO_SPACES}])[^\W\d_])+(?:'(?!s\b)[^\W\d_]+)?")
_CLAUSE = re.compile(r"[,;:.!?|](?=\s|$)|\s[-/+]\s")
_SENTENCE = re.compile(
    r"(?<=[.!?])(?<![ .][^\W\d]\.)(?<!^[^\W\d]\.)(?<!\b[dms]r\.)(?<!\bst\.)(?<!\bvs\.)(?<!\bmrs\.)\s"
)


def checked(original: str, rewrite: str, unsafe: str = "") -> Polished:
    """Return the cleaned rewrite, with the reason if it is rejected.

    The rules first remove noise that the model left, so that polishing the result again changes nothing.
    """
    if len(rewrite) > MAX_PROMPT_CHARS:
        return Polished("", unsafe, f"too long: {len(rewrite)} characters; the maximum is {MAX_PROMPT_CHARS}")
    text = polish([rewrite])[0].prompt
    return Polished(
        text, unsafe, _too_much(original, text) or reason_added(original, text) or reason_lost(original, text)
    )


def _too_much(original: str, rewrite: str) -> str:
    most = int(MOST_LONGER * len(original.split())) + WORDS_LONGER
    if len(rewrite.split()) > most:
        return f"longer than the original: {len(rewrite.split())} words, {most} at most"
    sentences = len(_SENTENCE.split(rewrite.casefold()))
    return f"{sentences} sentences" if sentences > 1 else ""


def reason_added(original: str, rewrite: str) -> str:
    """What a rewrite says that the original does not, as a reason to reject it; empty if it adds nothing."""
    source = _Words(_words_of(original))
    found = _words_of(rewrite)
    replaced = source.known.difference(found)
    righted = 0
    for place, word in enumerate(found):
        if word in _FUNCTION or word in _NEUTRAL or _short(word) or source.has(word) or source.has_parts(found, place):
            continue
        if word.startswith("photo") and source.isdisjoint(words.WORDS_OF_MEDIA):
            continue
        righted += 1
        if righted > MAX_RESPELLED or not _within_one_edit(word, replaced):
            return f"adds {word!r}"
    return ""


def reason_lost(original: str, rewrite: str) -> str:
    """What the rewrite lost of the original's content, as a reason to reject it; empty if it kept enough.

    The cleaning rules decide which words of the original are content.
    """
    content = polish([original])[0].prompt
    clauses = [_uncredited(_words_of(clause)) for clause in _CLAUSE.split(content)]
    wanted = list(dict.fromkeys(word for clause in clauses for word in _content(clause)))[:MAX_CONTENT_WORDS]
    if not wanted:
        return ""
    found = _Words(_words_of(rewrite))

    def kept(word: str) -> bool:
        same = any(word in _IMPLIED.get(one, ()) for one in found.known)
        return same or found.has(word) or _within_one_edit(word, found.known)

    parts = _words_of(content)
    missing = [word for word in wanted if not kept(word) and not found.has_parts(parts, parts.index(word))]
    head = next((head for clause in clauses if (head := _head(clause))), wanted)
    if all(word in missing for word in head[-HEAD:]):
        return f"loses the subject {head[-1]!r}"
    least = LEAST_KEPT_OF_FEW if len(wanted) <= FEW else LEAST_KEPT
    if len(wanted) - len(missing) < least * len(wanted):
        return f"keeps {len(wanted) - len(missing)} of {len(wanted)} words of content, not {missing[0]!r}"
    for word, after in pairwise(parts):
        if after in missing or after not in wanted:
            continue
        if word in _DENIALS and _DENIALS.isdisjoint(found.known):
            return f"turns '{word} {after}' round"
        if _base(word) in _COUNTS and after.isalpha() and not kept(word):
            return f"does not say how many: '{word} {after}'"
    return ""


def _words_of(text: str) -> list[str]:
    """The words of a text in lower case, without accents and possessive endings."""
    plain = unicodedata.normalize("NFKD", text.translate({0x2019: "'", 0x2018: "'"}))
    plain = unicodedata.normalize("NFC", "".join(one for one in plain if not unicodedata.combining(one)))
    return _WORD.findall(plain.casefold())


def _short(word: str) -> bool:
    """Whether a word is too short to be content: a leftover ending, or a function word in many languages."""
    return len(word) <= 2 and not word.isdigit() and word not in _DENIALS and not re.match(f"[{_NO_SPACES}]", word)


def _content(found: Iterable[str]) -> Iterator[str]:
    for word in found:
        if not any(word in some for some in (_FUNCTION, _NEUTRAL, _MEDIA, _DENIALS)) and not _short(word):
            yield word


def _uncredited(clause: list[str]) -> list[str]:
    """A clause without "by" and an artist that the rules do not know. "Surrounded by smoke" is not a credit."""
    for place, word in enumerate(clause):
        if word == "by" and place and not clause[place - 1].endswith(("ed", "en")):
            return clause[:place]
    return clause


def _head(clause: list[str]) -> list[str]:
    """The content words of the first phrase of a clause, up to a function word or an activity in -ing.

    Words before a medium belong to the medium if the subject follows: "an eerie painting of a house".
    """
    head: list[str] = []
    for word, after in zip(clause, [*clause, ""][1:], strict=True):
        is_content = bool(list(_content([word])))
        if is_content and not (head and word.endswith("ing") and len(word) > 5):
            head.append(word)
        elif word in _MEDIA and (after in _SHOWS or list(_content([after]))):
            head = []
        elif head and word not in _MEDIA:
            break
    return [] if all(word.isdigit() for word in head) else head


class _Words:
    """A set of words that also finds inflected forms, and words that are written as one or as several words."""

    def __init__(self, found: list[str]) -> None:
        self.known = frozenset(found)
        runs = [(start, start + size) for size in (2, 3, 4) for start in range(len(found) - size + 1)]
        joined = {"".join(found[start:end]) for start, end in runs}
        # "r'lyeh" is also written as "r lyeh" and as "rlyeh".
        parts = {part for word in found if "'" in word for part in (*word.split("'"), word.replace("'", ""))}
        self.joined = frozenset(joined | parts)
        self._beginning: dict[str, list[str]] = {}
        for word in self.known | self.joined:
            for letters in _beginnings(word):
                self._beginning.setdefault(letters, []).append(word)

    def isdisjoint(self, others: Collection[str]) -> bool:
        return self.known.isdisjoint(others)

    def has(self, word: str) -> bool:
        """Whether the set has the word, a form of it, or a word that implies it, also if written as several words."""
        if word in self.known or word in self.joined or not self.known.isdisjoint(_IMPLIED.get(word, ())):
            return True
        near = (other for letters in _beginnings(word) for other in self._beginning.get(letters, ()))
        return any(_related(word, other) for other in islice(near, MOST_COMPARED))

    def has_parts(self, found: list[str], place: int) -> bool:
        """Whether the word at `place`, joined with one or two neighbours, is in the set."""
        runs = [(start, start + size) for size in (2, 3) for start in range(max(0, place - size + 1), place + 1)]
        return any(self.has("".join(found[start:end])) for start, end in runs)


def _related(one: str, other: str) -> bool:
    """Whether two words are forms of one word: "wolf" and "wolves", "magic" and "magical", "riding" and "rides"."""
    return _alike(one, other) or _alike(_base(one), _base(other))


def _beginnings(word: str) -> set[str]:
    """The first letters of a word and of its base form. Two related words have at least one of these in common."""
    return {word[:SAME], _base(word)[:SAME]}


def _base(word: str) -> str:
    if word in _FORMS:
        return _FORMS[word]
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    return f"{word[:-3]}f" if word.endswith(("ves", "ven")) else word


def _alike(one: str, other: str) -> bool:
    size = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    longest = max(len(one), len(other))
    if size == longest:
        return True
    if size < SAME:
        return False
    if not one.isascii() or not other.isascii():
        return size >= 0.6 * longest
    endings = {_ending(one, size), _ending(other, size)}
    if endings == {"", "e"}:  # "plan" and "plane"
        return False
    if endings == {"", "d"}:
        return one[size - 1] == "e"
    return endings <= (_BENT if size == SAME else _DERIVED)


def _ending(word: str, size: int) -> str:
    """The rest of a word after its first `size` letters, without a doubled consonant: "ing" in "running"."""
    ending = word[size:]
    return ending[1:] if ending[1:] in _BENT and ending[1:] and ending[0] == word[size - 1] else ending


def _within_one_edit(word: str, others: Iterable[str]) -> bool:
    """Whether a long word differs by only one letter from another one. A corrected spelling is not an addition."""
    return any(
        one[:1] == word[:1] and max(len(one), len(word)) > 5 and min(len(one), len(word)) > 4 and _one_apart(one, word)
        for one in others
    )


def _one_apart(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    if len(long) - len(short) > 1:
        return False
    place = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return short[place + (len(short) == len(long)) :] == long[place + 1 :]
