"""Claims of a paper, or of your own: what was measured beside what is claimed, and whether each claim holds."""

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from ..errors import UserError, os_reason
from ..records import Image, Report, listing
from ..streams.reading import read
from .statistics import COUNT

HOLDS, OPPOSITE, UNDECIDED = "holds", "opposite", "undecided"
VERDICTS = (HOLDS, OPPOSITE, UNDECIDED)
WORDS = {HOLDS: "holds", OPPOSITE: "does not hold", UNDECIDED: "not decided"}
"""The verdicts in words."""
SHARE_OF_LINES = "share"
_COMPARISON = re.compile(r"(?P<one>.+) (?P<sign>[<>]) (?P<other>.+)")
T = TypeVar("T")
R = TypeVar("R", Image, Report)


class PaperFigure(NamedTuple):
    """A number of a table: its row and column, the report that has it here, and what the paper has, as text.

    `source` is the file of the report or of the lines that were counted.
    """

    row: str
    column: str
    report: Report
    paper: str
    source: str

    @property
    def name(self) -> str:
        """The name by which a claim means this number."""
        return _name(self.row, self.column)


class Claim(NamedTuple):
    """A comparison that is claimed, such as ``VP-Score > CLIP``, and by how much it holds, with the interval.

    `is_paired` says that the interval is that of the difference on the same items.
    """

    text: str
    value: float
    low: float
    high: float
    n: int
    is_paired: bool = False

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`: the whole interval is above 0, the whole interval is below 0, or it includes 0."""
        return HOLDS if self.low > 0 else OPPOSITE if self.high < 0 else UNDECIDED


class PaperPart(NamedTuple):
    """A table or figure of a paper: what the paper concludes from it, how it was measured here, and what came out.

    `missing` says why nothing was measured. `runs` are the folders of training runs whose curves are shown. `pictures`
    has the files of pictures that are shown side by side, by their labels. `scores` is the reward whose scores stand
    below them.
    """

    title: str
    paper: str
    here: str
    missing: str
    figures: list[PaperFigure]
    claims: list[Claim]
    runs: list[str]
    pictures: dict[str, str]
    scores: str

    def of(self, verdict: str) -> list[str]:
        """The claims with this verdict."""
        return [one.text for one in self.claims if one.verdict == verdict]

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`, or an empty text if nothing is claimed.

        The conclusion holds if all claims hold. It does not hold if the opposite of one claim is true.
        """
        found = [one.verdict for one in self.claims]
        return next((one for one in (OPPOSITE, UNDECIDED, HOLDS) if one in found), "")

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        shows = self.figures or self.pictures or self.runs
        return WORDS.get(self.verdict, "nothing claimed" if shows else "not measured")

    @property
    def sentence(self) -> str:
        """Whether the conclusion holds here, in words."""
        if not self.claims:
            return self.missing or "Nothing is compared here."
        total, opposite, equal = len(self.claims), self.of(OPPOSITE), self.of(UNDECIDED)
        if self.verdict == HOLDS:
            if all(one.report["metric"] == COUNT for one in self.figures):
                return "The conclusion holds here."
            several = "both" if total == 2 else f"all {total}"
            which = f"{several} comparisons hold by their intervals" if total > 1 else "by the interval"
            return f"The conclusion holds here: {which}."
        if total == 1:
            only = "Not decided here: by the interval, either may be larger."
            return "The conclusion does not hold here: by the interval, the opposite is true." if opposite else only
        hold = f"{total - len(opposite) - len(equal)} of {total} comparisons hold"
        if not opposite:
            return f"Not decided here: {hold}; the intervals do not decide {_listed(equal)}."
        rest = f" The intervals do not decide {_listed(equal)}." if equal else ""
        return f"The conclusion does not hold here: the opposite is true of {_listed(opposite)}; {hold}.{rest}"


def _listed(texts: Sequence[str]) -> str:
    return listing([f"“{one}”" for one in texts])


class Claims(NamedTuple):
    """A file of claims."""

    title: str
    says: str
    parts: list[PaperPart]

    @property
    def sources(self) -> list[str]:
        """All files that were read."""
        return [
            *(one.source for part in self.parts for one in part.figures),
            *(file for part in self.parts for file in part.pictures.values()),
            *(os.path.join(run, "metrics.jsonl") for part in self.parts for run in part.runs),
        ]


def read_claims(path: str) -> Claims:
    """The claims in a TOML file, compared with the reports that it names. Paths are relative to its folder.

    Raises `UserError` if the file or a report cannot be used.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: is not a file; name a TOML file")
    try:
        told = tomllib.loads(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8") from None
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or a number with thousands of digits
        why = "is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: {why}; it must be TOML, see vpctl eval claims --help") from None
    keys = _Keys(told, path, ("title", "says", "part"))
    title, says = keys.text("title"), keys.text("says", "")
    parts = [
        _part(one, f"{path}: part {place}", os.path.dirname(path)) for place, one in enumerate(keys.tables("part"), 1)
    ]
    if not parts:
        raise UserError(f"{path}: has no [[part]]; see vpctl eval claims --help")
    titles = [one.title for one in parts]
    if double := next((one for one in titles if titles.count(one) > 1), ""):
        raise UserError(f"{path}: two parts have the title {double!r}")
    return Claims(title, says, parts)


class _Keys:
    """The keys of a table in TOML. Raises `UserError` for those that are wrong, missing or unknown."""

    def __init__(self, told: object, where: str, known: Sequence[str]) -> None:
        if not isinstance(told, dict):
            raise UserError(f"{where}: must be a table with keys")
        self.told, self.where = told, where
        if unknown := next((key for key in told if key not in known), ""):
            raise UserError(f"{where}: {unknown!r} is not a key here; the keys are {listing(known)}")

    def take(self, key: str, kind: type[T], what: str, default: T | None = None) -> T:
        """The value of a key, which has this type."""
        value = self.told.get(key, default)
        if value is None:
            raise UserError(f"{self.where}: needs {key!r}, {what}")
        if not isinstance(value, kind):
            raise UserError(f"{self.where}: {key!r} must be {what}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text."""
        return self._without_nul(key, self.take(key, str, "a text in quotes", default))

    def texts(self, key: str) -> list[str]:
        """A list of texts, which may be left out."""
        found = self.take(key, list, "a list of texts", [])
        if not all(isinstance(one, str) for one in found):
            raise UserError(f"{self.where}: {key!r} must be a list of texts")
        return [self._without_nul(key, one) for one in found]

    def named(self, key: str) -> dict[str, str]:
        """A table of texts, which may be left out."""
        found = self.take(key, dict, "a table of texts", {})
        if not all(isinstance(one, str) for one in found.values()):
            raise UserError(f"{self.where}: {key!r} must be a table of texts")
        return {name: self._without_nul(key, one) for name, one in found.items()}

    def _without_nul(self, key: str, text: str) -> str:
        """The text, if it has no NUL: no file has a name with one."""
        if "\0" in text:
            raise UserError(f"{self.where}: {key!r} must not have the character NUL")
        return text

    def tables(self, key: str) -> list[Any]:
        """A list of tables, which may be left out."""
        return self.take(key, list, "a list of tables", [])


_OF_A_PART = ("title", "paper", "here", "missing", "report", "figures", "holds", "runs", "pictures", "scores")
_OF_A_FIGURE = ("row", "column", "paper", "report", "where", "lines", "containing")


def _part(told: object, where: str, folder: str) -> PaperPart:
    keys = _Keys(told, where, _OF_A_PART)
    title = keys.text("title")
    where = keys.where = f"{where}, {title}"
    common = keys.text("report", "")
    figures = [
        _figure(one, f"{where}: figure {place}", folder, common) for place, one in enumerate(keys.tables("figures"), 1)
    ]
    by_name: dict[str, PaperFigure] = {}
    for one in figures:
        if one.name in by_name:
            raise UserError(f"{where}: two figures are named {one.name!r}")
        by_name[one.name] = one
    runs = [os.path.join(folder, one) for one in keys.texts("runs")]
    for run in runs:
        if not os.path.isfile(os.path.join(run, "metrics.jsonl")):
            raise UserError(f"{where}: runs: {run}: is not the folder of a training run; it has no metrics.jsonl")
    pictures = {name: os.path.join(folder, file) for name, file in keys.named("pictures").items()}
    paper, here, missing, scores = (keys.text(key, "") for key in ("paper", "here", "missing", "scores"))
    for file in pictures.values():
        _check_pictures(file, scores, f"{where}: pictures")
        if [*pictures.values()].count(file) > 1:
            raise UserError(f"{where}: pictures: {file} has two labels")
    claims = [_claim(one, by_name, where) for one in keys.texts("holds")]
    if missing and claims:
        raise UserError(f"{where}: has 'missing' and 'holds'; 'missing' is for a part that claims nothing")
    if not (missing or figures or runs or pictures):
        raise UserError(f"{where}: needs 'figures', 'runs' or 'pictures', or says in 'missing' why it has none")
    return PaperPart(title, paper, here, missing, figures, claims, runs, pictures, scores)


def _check_file(path: str, where: str) -> None:
    if os.path.isdir(path):
        raise UserError(f"{where}: {path}: is a folder; name a file")
    if not os.path.isfile(path):
        raise UserError(f"{where}: {path}: there is no such file; paths are relative to the file of claims")


def _check_pictures(path: str, scores: str, where: str) -> None:
    """Raise `UserError` if a file has no pictures, or its first one has no score of this name."""
    _check_file(path, where)
    first = next(iter(_located(path, Image, where)), None)
    if first is None:
        raise UserError(f"{where}: {path}: has no pictures")
    if scores and scores not in first.get("scores", {}):
        has = ", ".join(first.get("scores", {})) or "none"
        raise UserError(f"{where}: {path}: the pictures have no score of {scores!r}; they have {has}")


def _located(path: str, kind: type[R], where: str) -> Iterator[R]:
    """The records of a file. Errors begin with the place that names it."""
    try:
        yield from read(path, kind)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _name(row: str, column: str) -> str:
    return f"{row}, {column}" if column else row


def _figure(told: object, where: str, folder: str, common: str) -> PaperFigure:
    keys = _Keys(told, where, _OF_A_FIGURE)
    row, column, paper = keys.text("row"), keys.text("column", ""), keys.text("paper", "")
    where = keys.where = f"{where}, {_name(row, column)}"
    lines = keys.text("lines", "")
    name = lines or keys.text("report", common)
    source = os.path.join(folder, name)
    if lines:
        if odd := next((key for key in ("report", "where") if key in keys.told), ""):
            raise UserError(f"{where}: has 'lines' and {odd!r}; a figure is a number of lines or from a report")
        if keys.told.get("containing") == []:
            raise UserError(f"{where}: 'containing' must have a text")
        report = counted(source, keys.texts("containing"), where)
    elif "containing" in keys.told:
        raise UserError(f"{where}: 'containing' needs 'lines', the file whose lines are searched")
    elif not name:
        raise UserError(f"{where}: needs 'report', the file of a report, here or in its part; or 'lines'")
    else:
        wanted = keys.take("where", dict, 'a table of keys of the report, such as {metric = "accuracy"}', {})
        if not all(isinstance(one, str | int | float) for one in wanted.values()):
            raise UserError(f"{where}: 'where' must have texts and numbers only")
        report = _the_report(source, wanted, where)
    return PaperFigure(row, column, report, paper, source)


def counted(path: str, containing: Sequence[str], where: str) -> Report:
    """The number of lines of a file; or the share of those that contain one of some texts, in any case.

    The share has the exact interval of Clopper and Pearson. Empty lines do not count.
    """
    _check_file(path, where)
    wanted = [one.casefold() for one in containing]
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = [any(one in line.casefold() for one in wanted) for line in file if line.strip()]
    except OSError as error:
        raise UserError(f"{where}: {path}: {os_reason(error)}") from None
    total = len(found)
    if not wanted:
        return {"name": path, "metric": COUNT, "value": total, "low": total, "high": total, "n": total}
    if not total:
        raise UserError(f"{where}: {path}: is empty")
    from scipy.stats import binomtest

    share = binomtest(sum(found), total)
    interval = share.proportion_ci(method="exact")
    return {
        "name": path,
        "metric": SHARE_OF_LINES,
        "value": share.statistic,
        "low": interval.low,
        "high": interval.high,
        "n": total,
        "confidence": 0.95,
    }


def _the_report(path: str, wanted: Mapping[str, object], where: str) -> Report:
    """The one report in a file that has these keys."""
    _check_file(path, where)
    every = [*_located(path, Report, where)]
    if not every:
        raise UserError(f"{where}: {path}: has no reports")
    found = [one for one in every if all(_matches(cast(Mapping[str, object], one), *item) for item in wanted.items())]
    if len(found) == 1:
        return found[0]
    keys = ", ".join(f"{key} = {value!r}" for key, value in wanted.items()) or "any keys"
    if found:
        several = cast(Sequence[Mapping[str, object]], found)
        differing = [
            key for key in several[0] if len({str(one.get(key)) for one in several}) > 1 and key not in _NUMBERS
        ]
        raise UserError(
            f"{where}: {path}: {len(found)} reports have {keys}; also name {' or '.join(differing) or 'another file'}"
        )
    raise UserError(f"{where}: {path}: no report has {keys}; {_nearest(every, wanted)}")


_NUMBERS = ("value", "low", "high", "n", "confidence")


def _matches(report: Mapping[str, object], key: str, value: object) -> bool:
    return key in report and (report[key] == value or str(report[key]) == str(value))


def _nearest(every: Sequence[Report], wanted: Mapping[str, object]) -> str:
    """What the reports have in place of the key that none of them matches."""
    for key, value in wanted.items():
        has = list(dict.fromkeys(str(cast(Mapping[str, object], one)[key]) for one in every if key in one))
        if str(value) not in has:
            more = f" and {len(has) - 8} more" if len(has) > 8 else ""
            keys = dict.fromkeys(name for one in every for name in one)
            return f"its {key} is {', '.join(has[:8])}{more}" if has else f"the keys are {listing(keys)}"
    return "these values stand in different reports"


def _claim(text: str, figures: Mapping[str, PaperFigure], where: str) -> Claim:
    """A claim such as ``VP-Score > CLIP`` or ``VP-Score > 0.5``.

    If the file of both numbers also has their paired difference, as eval accuracy --baseline writes it, this decides.
    Otherwise their difference has the interval of MOVER (Zou and Donner 2008, equation 8), from the intervals of both,
    as if they were independent. That of numbers from the same prompts is usually too wide, so fewer claims are decided.
    """
    found = _COMPARISON.fullmatch(text)
    if not found:
        raise UserError(f"{where}: {text!r} must be a comparison, such as 'VP-Score > CLIP' or 'VP-Score < 0.5'")
    names = [found[side].strip() for side in ("one", "other")]
    if found["sign"] == "<":
        names.reverse()
    one, other = (_number(name, figures, f"{where}: {text!r}") for name in names)
    both = [figures[name] for name in names if name in figures]
    if not both or names[0] == names[1]:
        raise UserError(f"{where}: {text!r} must compare a figure with another one, or with a number")
    if len({figure.report["metric"] for figure in both}) > 1:
        raise UserError(f"{where}: {text!r} compares {listing(figure.report['metric'] for figure in both)}")
    if len(both) == 2 and (paired := _paired(*both)):
        return Claim(text, paired["value"], paired["low"], paired["high"], paired["n"], is_paired=True)
    value = one["value"] - other["value"]
    low = value - math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    high = value + math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return Claim(text, value, low, high, max(one["n"], other["n"]))


def _paired(one: PaperFigure, other: PaperFigure) -> Report | None:
    """The difference of two numbers on the same items, from the file of both; None without one."""
    told = [cast(Mapping[str, object], figure.report) for figure in (one, other)]
    metric = f"{one.report['metric']}_difference"
    alike = one.source == other.source and all(told[0].get(key) == told[1].get(key) for key in _SAME)
    if not alike or one.report["metric"] in (COUNT, SHARE_OF_LINES):
        return None
    for report in read(one.source, Report):
        facts = cast(Mapping[str, object], report)
        if report["metric"] == metric and all(facts.get(key) == told[0].get(key) for key in _SAME):
            names = [report["name"], facts.get("baseline")]
            if names == [one.report["name"], other.report["name"]]:
                return report
            if names == [other.report["name"], one.report["name"]]:
                turned = {"value": -report["value"], "low": -report["high"], "high": -report["low"]}
                return cast(Report, {**report, **turned})
    return None


_SAME = ("data", "split", "by", "group", "aspect")
"""Keys that two reports and their paired difference have in common."""


def _number(text: str, figures: Mapping[str, PaperFigure], where: str) -> Report:
    """The figure of this name, or a number as a report without an interval."""
    if text in figures:
        return figures[text].report
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = "; write a share as 0.64" if text.endswith("%") else ""
        known = listing(map(repr, figures)) if figures else "and the part has no figures"
        raise UserError(f"{where}: {text!r} is neither a number nor a figure: {known}{hint}")
    return {"name": text, "metric": "claim", "value": value, "low": value, "high": value, "n": 0}


def as_reports(claims: Claims) -> list[Report]:
    """A report for each claim: by how much it holds, and the verdict."""
    return [
        cast(
            Report,
            {
                "name": one.text,
                "metric": "claim",
                "by": "part",
                "group": part.title,
                "verdict": one.verdict,
                **({"paired": True} if one.is_paired else {}),
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "n": one.n,
                "confidence": 0.95,
            },
        )
        for part in claims.parts
        for one in part.claims
    ]
