"""Whom a clause credits: names behind "by", in "the style of …" and "… style", and in the lists they come in."""

import re
from bisect import bisect_left
from functools import lru_cache

from . import wording as words

CACHED = 1 << 14
"""Clauses remembered; people paste the same ones over and over, and a second round meets those of the first again."""

GONE = "\0"
"""Stands where something was taken away from the middle of a clause."""

CUT = "\1"
"""Stands where a phrase was taken away that takes the preposition in front of it along."""

MARKS = frozenset([GONE, CUT])

KNOWN, LIKELY, ANY = range(3)
"""What passes for a name: known ones; a first name and a word as well; any words that are no words of English."""


class _Names:
    """Names that are known, found at the beginning of a list of words."""

    def __init__(self, *lists: str) -> None:
        self._known = {" ".join(name.split()) for names in lists for name in names.split(",")} - {""}
        self._longest: dict[str, int] = {}
        for name in self._known:
            first = name.partition(" ")[0]
            self._longest[first] = max(self._longest.get(first, 0), name.count(" ") + 1)

    def length(self, keys: list[str], start: int) -> int:
        """How many words from `start` on are a known name; 0 if none."""
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
    """The words of a clause, and what names are compared by: small letters without dots, hyphens and apostrophes."""

    def __init__(self, text: str) -> None:
        self.words = text.split(" ")
        self.keys = [_key(word) for word in self.words]
        self._ends: dict[tuple[_Names, int, int, bool], int] = {}
        """Where a list of names ends, by the state in which `names` meets a place: each is worked out once."""
        self._unjoined: list[int] = []
        self._manners = [place for place, key in enumerate(self.keys) if key in _MANNERS]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, at: int) -> str:
        """The key at a place; empty behind the end."""
        return self.keys[at] if at < len(self.keys) else ""

    def name(self, start: int, known: _Names, guess: int) -> int:
        """How many words from `start` on are one name; 0 if they are none."""
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
        """Where a list of names that begins at `start` ends: at `start` if there is none."""
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
        """The first place from `start` on that does not join names."""
        if not self._unjoined:
            self._unjoined = [place for place, key in enumerate(self.keys) if key not in _JOINTS] + [len(self)]
        return self._unjoined[bisect_left(self._unjoined, start)]

    def has_manner(self, start: int) -> bool:
        """Whether one of the words from `start` on makes a manner and no name."""
        return bool(self._manners) and self._manners[-1] >= start

    def _stranger(self, start: int) -> int:
        """Two or three words that may be a name and stand between "and" and the end, or another "and"; 0 if none do."""
        run = self.name(start, _ARTISTS, ANY)
        closed = start + run == len(self) or self.keys[start + run] in MARKS | {"and", "&"}
        return run if closed and 2 <= run <= 3 else 0


@lru_cache(CACHED)
def _key(word: str) -> str:
    bare = word.casefold().strip(".,'\"!?:").removesuffix("'s")
    return bare.replace("'", "").replace("-", " ").replace(".", " ")


# What may be made "by" someone. A picture is art; what else is made by whom may be content: "a car made by apple".
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
"""Before "art by": "… as pop art by …" stays pop art, where "a cat in the rain art by …" is a cat."""

_AGENTS = frozenset("bitten born caught driven eaten held hit kept led lit near owned played ridden run worn".split())
"""Before "by", with all that ends in -ed, -ing and -ly: no credit, unless an artist is known by that name."""

_CALLINGS = frozenset(
    "the a artist artists painter photographer illustrator director sculptor famous legendary".split()
)
_BEFORE_SUBJECTS = frozenset(
    "a an and are as at be called for from in is like named of or than the to vs wearing with & by".split()
)
"""Whoever stands behind one of these is shown, and is no artist."""

_BEFORE_NO_ARTIST = _BEFORE_SUBJECTS | _GIVEN

_BEHIND_NAMES = frozenset("and at by from in on with wearing & but for as".split())


@lru_cache(CACHED)
def is_list(text: str, guess: int) -> bool:
    """Whether a clause is nothing but a list of artists."""
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
    """A clause with marks for the artists it credits, and whether it ends with one, so that a list may go on behind it.

    `sides` says on how many sides of the clause artists are listed: the more, the less of a name is asked.
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
    """Where the names end that begin a clause in a list of artists; 0 if none do."""
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
    """Where known artists end that are named without "by", at the end of a clause or before a work of theirs."""
    end = clause.names(at, _ARTISTS, KNOWN)
    if end == at == 0 and clause.names(0, _CREDITED, LIKELY) == len(clause):
        # "jane doe and wlop": whoever is listed with an artist is one.
        return len(clause) if any(_ARTISTS.length(clause.keys, place) for place in range(len(clause))) else at
    if end == at:
        return at
    if end - at >= 4 and end < len(clause):
        end = clause.names(end, _CREDITED, ANY)
    behind = end
    while clause.key(behind) in _WORKS:
        behind += 1
    # "beksinski painting of a house" is one of his, "bob ross painting a house" is he.
    if behind == len(clause) or clause.key(behind) in MARKS or (behind > end and clause.key(behind) in ("of", "by")):
        return end
    return end if at == 0 and clause.keys[-1] in ("art", "artwork", "illustration", "painting") else at


def _credit(clause: Clause, by: int, kept: list[str]) -> int:
    """Where the credit behind "by" ends, or `by` if it is a preposition. Takes "painted" and the like off `kept`."""
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
        # "a castle by kerem beyit" ends with a name, "a castle by rolling hills" does not.
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
    """What passes for a name behind "by", by the word before it."""
    if before in ("inspired", "influenced"):
        return KNOWN
    if before in _MADE:
        return LIKELY
    if not before or before in _WORKS or before in MARKS:
        return LIKELY if titled else ANY
    return KNOWN if before.endswith(("ed", "ing", "ly")) or before in _AGENTS else LIKELY


def _style(clause: Clause, at: int, kept: list[str]) -> int:
    """Where "style of …" or "… style" ends if it names a person or a studio; `at` if it names a manner or a work.

    The style of a film or a game says what there is to see, as a manner does: "in the style of sonic the hedgehog".
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
    """Where the artists end that are listed with a work, which stays; `at` if there are none."""
    begin = title_end
    while clause.key(begin) in _AND:
        begin += 1
    end = clause.names(begin, _CREDITED, KNOWN) if title_end < begin < len(clause) else begin
    if end == begin:
        return at
    kept += clause.words[at:title_end]
    return end


def _take_off_lead(kept: list[str]) -> None:
    """Take the last words off, as far as they lead to "style of …": "painted in the art"."""
    for lead in (
        ("art", "artistic", "comic", "drawing", "illustration", "mixed", "painting", "same", "visual"),
        ("a", "an", "the"),
        ("and", "as", "in", "n", "on", "resembling", "using", "with"),
        ("art", "artwork", "done", "drawn", "illustrated", "made", "painted", "photographed", "rendered", "shot"),
    ):
        if kept and _key(kept[-1]) in lead and not (len(kept) > 1 and _key(kept[-2]) in _KINDS_OF_ART):
            kept.pop()
