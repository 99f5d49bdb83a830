"""Finds the artists that a clause credits: after "by", in "the style of …" and "… style", and in lists of names."""

import re
from bisect import bisect_left
from functools import lru_cache

from . import wording as words

CACHED = 1 << 14
"""Number of cached clauses. Many prompts contain the same clauses, and a second round sees those of the first round
again."""

GONE = "\0"
"""Mark for a phrase that was removed from the middle of a clause."""

CUT = "\1"
"""Mark for a removed phrase. The preposition before it must be removed too."""

MARKS = frozenset([GONE, CUT])

KNOWN, LIKELY, ANY = range(3)
"""What counts as a name. `KNOWN`: only known names. `LIKELY`: also a first name and another word. `ANY`: also any words
that are not common English words."""


class _Names:
    """A set of known names that can be matched at a place in a list of words."""

    def __init__(self, *lists: str) -> None:
        self._known = {" ".join(name.split()) for names in lists for name in names.split(",")} - {""}
        self._longest: dict[str, int] = {}
        for name in self._known:
            first = name.partition(" ")[0]
            self._longest[first] = max(self._longest.get(first, 0), name.count(" ") + 1)

    def length(self, keys: list[str], start: int) -> int:
        """The number of words from `start` on that form a known name; 0 if there is none."""
        first = keys[start].partition(" ")[0]
        for length in range(min(self._longest.get(first, 0), len(keys) - start), 0, -1):
            if " ".join(keys[start : start + length]) in self._known:
                return length
        return 0


_ARTISTS = _Names(words.ARTISTS)
_CREDITED = _Names(words.ARTISTS, words.FAMOUS)
_STYLED = _Names(words.ARTISTS, words.FAMOUS, words.TITLES)
_TITLES = _Names(words.TITLES)
_SUBJECTS = _Names(words.SUBJECTS)
_GIVEN = frozenset(words.GIVEN_NAMES)
_MANNERS = frozenset(words.MANNERS)
_AND = frozenset(["and", "&", "or", "x", "aka", "feat", "featuring", "with", "meets", "+", "/"])
_JOINTS = MARKS | _AND | {"by"}
_NO_NAMES = MARKS | _AND | frozenset(words.NO_NAMES)
_PARTICLES = frozenset("da de del della der di du la le van von den el al".split())
_WORD = re.compile(r"[^\W\d_](?:[^\W_]|['.-](?=[^\W_]))*\.?")
_YEAR = re.compile(r"1\d{3}|20\d{2}")


class Clause:
    """The words of a clause, and their keys.

    Names are compared by keys: lower case, without dots, hyphens and apostrophes.
    """

    def __init__(self, text: str) -> None:
        self.words = text.split(" ")
        self.keys = [_key(word) for word in self.words]
        self._ends: dict[tuple[_Names, int, int, bool], int] = {}
        """The end of a list of names, by the state of `names` at a place. Each state is computed only once."""
        self._unjoined: list[int] = []
        self._manners = [place for place, key in enumerate(self.keys) if key in _MANNERS]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, at: int) -> str:
        """The key at a place; empty after the end."""
        return self.keys[at] if at < len(self.keys) else ""

    def name(self, start: int, known: _Names, guess: int) -> int:
        """The number of words from `start` on that form one name; 0 if they do not."""
        length = known.length(self.keys, start)
        if length > 1 or guess == KNOWN or _SUBJECTS.length(self.keys, start):
            return length
        if length and (start + 2 != len(self) or self.keys[start + 1] in _NO_NAMES):
            return length
        run = 0
        while run < 4 and start + run < len(self) and self._is_name(start + run):
            run += 1
        if run >= 2 and (length or self.keys[start] in _GIVEN or len(self.keys[start]) == 1):
            return run if run == 3 or self.keys[start + 1] in _PARTICLES else 2
        return run if guess == ANY else length

    def _is_name(self, at: int) -> bool:
        is_initial = self.words[at] in ("a.", "A.")
        return (self.keys[at] not in _NO_NAMES or is_initial) and bool(_WORD.fullmatch(self.words[at]))

    def names(self, start: int, known: _Names, guess: int) -> int:
        """The end of the list of names that begins at `start`; `start` itself if there is none."""
        end = at = start
        joined = False
        passed = []
        while at < len(self):
            state = (known, at, guess, joined)
            if state in self._ends:
                end = max(end, self._ends[state])
                break
            passed.append(state)
            length = self.name(at, known, guess)
            if not length and joined and guess == LIKELY:
                length = self._stranger(at)
            if not length:
                break
            end = at = at + length
            at = self._behind_joints(at)
            joined = at > end and self.keys[at - 1] in ("and", "&")
            if at == end:
                guess = KNOWN
            elif not joined and self.keys[at - 1] != "by":
                guess = min(guess, LIKELY)
        self._ends.update(dict.fromkeys(passed, end))
        return end

    def _behind_joints(self, start: int) -> int:
        """The first place from `start` on whose word does not join names."""
        if not self._unjoined:
            self._unjoined = [place for place, key in enumerate(self.keys) if key not in _JOINTS] + [len(self)]
        return self._unjoined[bisect_left(self._unjoined, start)]

    def has_manner(self, start: int) -> bool:
        """Whether one of the words from `start` on belongs to a manner, such as "baroque", and not to a name."""
        return bool(self._manners) and self._manners[-1] >= start

    def _stranger(self, start: int) -> int:
        """The length of an unknown name of two or three words, after an "and"; 0 if there is none.

        It must be followed by the end of the clause, another "and", or a mark.
        """
        run = self.name(start, _ARTISTS, ANY)
        closed = start + run == len(self) or self.keys[start + run] in MARKS | {"and", "&"}
        return run if closed and 2 <= run <= 3 else 0


@lru_cache(CACHED)
def _key(word: str) -> str:
    bare = word.casefold().strip(".,'\"!?:").removesuffix("'s")
    return bare.replace("'", "").replace("-", " ").replace(".", " ")


# Words for works and for making them. "By" after a picture is a credit, but "a car made by apple" is content.
_DRAWN = frozenset(
    """
    artstyle as composed crafted depicted drawn envisioned illustrated imagined inspired influenced painted photographed
    reimagined rendered sculpted sketched
    """.split()
)
_MADE = frozenset("captured created designed directed filmed made produced shot styled stylized taken".split())
_WORKS = (
    _DRAWN
    | _MADE
    | frozenset(
        """
        animation anime art artwork artworks book canvas cinematography comic concept cover creation design direction
        drawing face fanart film graffiti illustration ilustration image landscape lighting masterpiece movie mural oil
        overlay painting paintings part parts photo photograph photography photoshoot picture portrait poster print
        render sculpture sketch still style wallpaper watercolor work
        """.split()
    )
)
_KINDS_OF_ART = frozenset(
    """
    album book box card clip comic concept cover digital fan fine furry game key line manga pixel pop splash street
    vector
    """.split()
)
"""Words before "art by". "… as pop art by …" keeps "pop art", but "a cat in the rain art by …" becomes "a cat in the
rain"."""

_AGENTS = frozenset("bitten born caught driven eaten held hit kept led lit near owned played ridden run worn".split())
"""Words after which "by" is not a credit, unless a known artist follows. The same holds for all words in -ed, -ing and
-ly."""

_CALLINGS = frozenset(
    "the a artist artists painter photographer illustrator director sculptor famous legendary".split()
)
_BEFORE_SUBJECTS = frozenset(
    "a an and are as at be called for from in is like named of or than the to vs wearing with & by".split()
)
"""A person named after one of these words is shown in the picture, and is not its artist."""

_BEFORE_NO_ARTIST = _BEFORE_SUBJECTS | _GIVEN

_BEHIND_NAMES = frozenset("and at by from in on with wearing & but for as".split())


@lru_cache(CACHED)
def is_list(text: str, guess: int) -> bool:
    """Whether a clause consists only of a list of artists."""
    clause = Clause(text)
    begin = _begin(clause)
    return begin < len(clause) and clause.names(begin, _ARTISTS, guess) == len(clause)


def _begin(clause: Clause) -> int:
    begin = 0
    while clause.key(begin) in ("and", "&", "by"):
        begin += 1
    return begin


@lru_cache(CACHED)
def without_credits(text: str, sides: int) -> tuple[str, bool]:
    """Return a clause with marks in place of its artists, and whether it ends with a credit.

    If it ends with a credit, the next clause may continue the list. `sides` is the number of neighbouring clauses (0 to
    2) that list artists: with more of them, weaker evidence counts as a name.
    """
    clause = Clause(text)
    kept: list[str] = []
    at = _listed(clause, sides) if sides else 0
    if at:
        kept.append(CUT)
    while at < len(clause):
        end = at
        if clause.key(at) == "by":
            end = _credit(clause, at, kept)
        elif clause.key(at) in ("style", "styles", "artstyle", "manner"):
            end = _style(clause, at, kept)
        elif at == 0 or clause.key(at - 1) not in _BEFORE_NO_ARTIST:
            end = _bare(clause, at)
        if end > at:
            kept.append(CUT if end == len(clause) else GONE)
            at = end
        else:
            kept.append(clause.words[at])
            at += 1
    return " ".join(kept), kept[-1] == CUT != clause.words[-1]


def _listed(clause: Clause, sides: int) -> int:
    """The end of the names at the start of a clause in a list of artists; 0 if there are none."""
    begin = _begin(clause)
    if begin == len(clause):
        return 0
    end = clause.names(begin, _CREDITED, LIKELY)
    if end == begin and sides == 2 and 2 <= len(clause) - begin <= 3:
        end = clause.names(begin, _CREDITED, ANY)
    if end == begin and len(clause) == 2 and _ARTISTS.length(clause.keys, 1) and clause.key(0) not in _NO_NAMES:
        end = 2
    if end == begin or (end < len(clause) and clause.key(end) not in MARKS | _WORKS | _BEHIND_NAMES):
        return 0
    return end + (clause.key(end) == "style")


def _bare(clause: Clause, at: int) -> int:
    """The end of known artists that are named without "by"; `at` if there are none.

    They must be at the end of the clause or before a word for their work, such as "painting".
    """
    end = clause.names(at, _ARTISTS, KNOWN)
    if end == at == 0 and clause.names(0, _CREDITED, LIKELY) == len(clause):
        # "jane doe and wlop": a name in a list with an artist is an artist too.
        return len(clause) if any(_ARTISTS.length(clause.keys, place) for place in range(len(clause))) else at
    if end == at:
        return at
    if end - at >= 4 and end < len(clause):
        end = clause.names(end, _CREDITED, ANY)
    behind = end
    while clause.key(behind) in _WORKS:
        behind += 1
    # "beksinski painting of a house" is a work by him; "bob ross painting a house" shows him.
    if behind == len(clause) or clause.key(behind) in MARKS or (behind > end and clause.key(behind) in ("of", "by")):
        return end
    return end if at == 0 and clause.keys[-1] in ("art", "artwork", "illustration", "painting") else at


def _credit(clause: Clause, by: int, kept: list[str]) -> int:
    """The end of the credit after "by"; the place of "by" if it is only a preposition.

    Removes words such as "painted" before it from `kept`.
    """
    begin = by + 1
    while clause.key(begin) in _CALLINGS:
        begin += 1
    if begin >= len(clause):
        return by
    before = _key(kept[-1]) if kept else ""
    titled = begin > by + 1
    trust = _trust(before, titled=titled)
    end = clause.names(begin, _CREDITED, trust)
    if end == begin and trust == LIKELY and before not in _MADE and not titled:
        # "a castle by kerem beyit" ends with a name; "a castle by rolling hills" does not.
        end = clause.names(begin, _CREDITED, ANY)
        if end - begin < 2 or end < len(clause) or clause.key(begin).endswith(("ing", "ed")):
            return by
    if end == begin:
        return by
    while kept and _key(kept[-1]) in _DRAWN | _MADE:
        kept.pop()
    if len(kept) > 4 and _key(kept[-1]) in ("art", "artwork") and _key(kept[-2]) not in _KINDS_OF_ART:
        kept.pop()
    if kept and _key(kept[-1]) == "style":
        kept.pop()
        _take_off_lead(kept)
    return end + bool(_YEAR.fullmatch(clause.key(end)))


def _trust(before: str, *, titled: bool) -> int:
    """What counts as a name after "by", given the word before "by"."""
    if before in ("inspired", "influenced"):
        return KNOWN
    if before in _MADE:
        return LIKELY
    if not before or before in _WORKS or before in MARKS:
        return LIKELY if titled else ANY
    return KNOWN if before.endswith(("ed", "ing", "ly")) or before in _AGENTS else LIKELY


def _style(clause: Clause, at: int, kept: list[str]) -> int:
    """The end of "style of …" or "… style" if it names a person or a studio; `at` if it names a manner or a work.

    The style of a film or a game says what the picture shows, as a manner does: "in the style of sonic the hedgehog".
    """
    if clause.key(at + 1) == "of":
        return _style_of(clause, at, kept)
    for length in range(min(5, len(kept)), 0, -1):
        name = [_key(one) for one in kept[-length:]]
        if length > 1 and name[-1] == "art":
            name.pop()
        known = _CREDITED.length(name, 0) == len(name)
        likely = len(name) == 2 and name[0] in _GIVEN and name[1] not in _NO_NAMES | _MANNERS
        if known or (likely and _WORD.fullmatch(kept[-1])):
            del kept[-length:]
            if kept and _key(kept[-1]) in ("in", "with"):
                kept.pop()
            return at + 1
    if at + 1 < len(clause):
        end = clause.names(at + 1, _CREDITED, KNOWN)
        if end > at + 1:
            _take_off_lead(kept)
            return end
    return at


def _style_of(clause: Clause, at: int, kept: list[str]) -> int:
    begin = at + 2
    while clause.key(begin) in ("the", "by", "and", "artist", "artists"):
        begin += 1
    if begin >= len(clause):
        return at
    if title := _TITLES.length(clause.keys, begin):
        return _behind_title(clause, at, begin + title, kept)
    end = clause.names(begin, _STYLED, LIKELY)
    if end == begin and not clause.has_manner(begin) and clause.name(begin, _STYLED, ANY) >= 2:
        end = clause.names(begin, _STYLED, ANY)
        if end < len(clause) and clause.key(end) not in MARKS | _BEHIND_NAMES:
            return at
    if end == begin:
        return at
    end += clause.key(end) in _WORKS
    if _MANNERS.isdisjoint(clause.keys[end : end + 2]):
        _take_off_lead(kept)
    else:
        kept += clause.words[at:begin]
    return end


def _behind_title(clause: Clause, at: int, title_end: int, kept: list[str]) -> int:
    """The end of the artists that are listed after a film or game, which stays; `at` if there are none."""
    begin = title_end
    while clause.key(begin) in _AND:
        begin += 1
    end = clause.names(begin, _CREDITED, KNOWN) if title_end < begin < len(clause) else begin
    if end == begin:
        return at
    kept += clause.words[at:title_end]
    return end


def _take_off_lead(kept: list[str]) -> None:
    """Remove the words at the end of `kept` that lead to "style of …", such as "painted in the art"."""
    for lead in (
        ("art", "artistic", "comic", "drawing", "illustration", "mixed", "painting", "same", "visual"),
        ("a", "an", "the"),
        ("and", "as", "in", "n", "on", "resembling", "using", "with"),
        ("art", "artwork", "done", "drawn", "illustrated", "made", "painted", "photographed", "rendered", "shot"),
    ):
        if kept and _key(kept[-1]) in lead and not (len(kept) > 1 and _key(kept[-2]) in _KINDS_OF_ART):
            kept.pop()
