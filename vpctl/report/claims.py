"""Claims of a paper, or of your own: what was measured beside what is claimed, and whether each claim holds."""

import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from ..errors import UserError, os_reason
from ..records import Report, listing
from ..streams.reading import read

HOLDS, OPPOSITE, UNDECIDED = "holds", "opposite", "undecided"
VERDICTS = (HOLDS, OPPOSITE, UNDECIDED)
WORDS = {HOLDS: "holds", OPPOSITE: "does not hold", UNDECIDED: "not decided", "": "not measured"}
"""The verdicts in words."""
_COMPARISON = re.compile(r"(?P<one>.+) (?P<sign>[<>]) (?P<other>.+)")
T = TypeVar("T")


class PaperFigure(NamedTuple):
    """A number of a table: its row and column, the report that has it here, and what the paper has, as text.

    `source` is the file of the report; empty for lines that were counted.
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
    """A comparison that is claimed, such as ``VP-Score > CLIP``, and by how much it holds, with the interval."""

    text: str
    value: float
    low: float
    high: float
    n: int

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
    def sentence(self) -> str:
        """Whether the conclusion holds here, in words."""
        if not self.claims:
            return self.missing or "Nothing is compared here."
        total, opposite, equal = len(self.claims), self.of(OPPOSITE), self.of(UNDECIDED)
        if self.verdict == HOLDS:
            which = f"all {total} comparisons hold by their intervals" if total > 1 else "by the interval"
            return f"The conclusion holds here: {which}."
        if total == 1:
            only = "Not decided here: the interval includes equality."
            return "The conclusion does not hold here: by the interval, the opposite is true." if opposite else only
        hold = f"{total - len(opposite) - len(equal)} of {total} comparisons hold"
        if not opposite:
            return f"Not decided here: {hold}; for {_listed(equal)} the interval includes equality."
        rest = f" For {_listed(equal)} the interval includes equality." if equal else ""
        return f"The conclusion does not hold here: the opposite is true of {_listed(opposite)}; {hold}.{rest}"


def _listed(texts: Sequence[str]) -> str:
    return listing([f"“{one}”" for one in texts])


class Claims(NamedTuple):
    """A file of claims."""

    title: str
    says: str
    parts: list[PaperPart]


def read_claims(path: str) -> Claims:
    """The claims in a TOML file, compared with the reports that it names. Paths are relative to its folder.

    Raises `UserError` if the file or a report cannot be used.
    """
    try:
        told = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(
            f"{path}: {error or 'is nested too deeply'}; it must be TOML, see vpctl eval claims --help"
        ) from None
    keys = _Keys(told, path)
    title, says = keys.text("title"), keys.text("says", "")
    parts = [
        _part(one, f"{path}: part {place}", os.path.dirname(path)) for place, one in enumerate(keys.tables("part"), 1)
    ]
    keys.done()
    if not parts:
        raise UserError(f"{path}: has no [[part]]; see vpctl eval claims --help")
    return Claims(title, says, parts)


class _Keys:
    """The keys of a table in TOML, taken one by one. Raises `UserError` for those that are wrong, missing or left."""

    def __init__(self, told: object, where: str) -> None:
        if not isinstance(told, dict):
            raise UserError(f"{where}: must be a table with keys")
        self.told, self.where = dict(told), where

    def take(self, key: str, kind: type[T], what: str, default: T | None = None) -> T:
        """The value of a key, which has this type."""
        value = self.told.pop(key, default)
        if value is None:
            raise UserError(f"{self.where}: needs {key!r}, {what}")
        if not isinstance(value, kind):
            raise UserError(f"{self.where}: {key!r} must be {what}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text."""
        return self.take(key, str, "a text in quotes", default)

    def texts(self, key: str) -> list[str]:
        """A list of texts, which may be left out."""
        found = self.take(key, list, "a list of texts", [])
        if not all(isinstance(one, str) for one in found):
            raise UserError(f"{self.where}: {key!r} must be a list of texts")
        return found

    def named(self, key: str) -> dict[str, str]:
        """A table of texts, which may be left out."""
        found = self.take(key, dict, "a table of texts", {})
        if not all(isinstance(one, str) for one in found.values()):
            raise UserError(f"{self.where}: {key!r} must be a table of texts")
        return found

    def tables(self, key: str) -> list[Any]:
        """A list of tables, which may be left out."""
        return self.take(key, list, "a list of tables", [])

    def done(self) -> None:
        """All keys must have been taken."""
        if self.told:
            raise UserError(f"{self.where}: {next(iter(self.told))!r} is not a key of such a table")


def _part(told: object, where: str, folder: str) -> PaperPart:
    keys = _Keys(told, where)
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
    part = PaperPart(
        title,
        keys.text("paper", ""),
        keys.text("here", ""),
        keys.text("missing", ""),
        figures,
        [_claim(one, by_name, where) for one in keys.texts("holds")],
        [os.path.join(folder, one) for one in keys.texts("runs")],
        {name: os.path.join(folder, file) for name, file in keys.named("pictures").items()},
        keys.text("scores", ""),
    )
    keys.done()
    return part


def _name(row: str, column: str) -> str:
    return f"{row}, {column}" if column else row


def _figure(told: object, where: str, folder: str, common: str) -> PaperFigure:
    keys = _Keys(told, where)
    row, column, paper = keys.text("row"), keys.text("column", ""), keys.text("paper", "")
    where = keys.where = f"{where}, {_name(row, column)}"
    source, lines = "", keys.text("lines", "")
    if lines:
        report = counted(os.path.join(folder, lines), keys.text("matching", ""), where)
    else:
        source = keys.text("report", common)
        if not source:
            raise UserError(f"{where}: needs 'report', the file of a report, here or in its part; or 'lines'")
        wanted = keys.take("where", dict, 'a table of keys of the report, such as {metric = "accuracy"}', {})
        report = _the_report(os.path.join(folder, source), wanted, where)
    keys.done()
    return PaperFigure(row, column, report, paper, source and os.path.join(folder, source))


def counted(path: str, matching: str, where: str) -> Report:
    """The number of lines of a file, or the share of those that match a regular expression.

    The share has the exact interval of Clopper and Pearson.
    """
    try:
        pattern = re.compile(matching)
        with open(path, encoding="utf-8", errors="replace") as file:
            found = [bool(pattern.search(line)) for line in file if line.strip()]
    except re.error as error:
        raise UserError(f"{where}: 'matching' is not a regular expression: {error}") from None
    except OSError as error:
        raise UserError(f"{where}: {path}: {os_reason(error)}") from None
    total = len(found)
    if not matching:
        return {"name": path, "metric": "count", "value": total, "low": total, "high": total, "n": total}
    if not total:
        raise UserError(f"{where}: {path}: is empty")
    from scipy.stats import binomtest

    share = binomtest(sum(found), total)
    interval = share.proportion_ci(method="exact")
    return {
        "name": path,
        "metric": "share",
        "value": share.statistic,
        "low": interval.low,
        "high": interval.high,
        "n": total,
        "confidence": 0.95,
    }


def _the_report(path: str, wanted: Mapping[str, object], where: str) -> Report:
    """The one report in a file that has these keys."""
    if not os.path.isfile(path):
        raise UserError(f"{where}: {path}: there is no such file")
    every = [*read(path, Report)]
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
            return f"its {key} is {', '.join(has[:8])}" if has else f"none has the key {key!r}"
    return "these values stand in different reports"


def _claim(text: str, figures: Mapping[str, PaperFigure], where: str) -> Claim:
    """A claim such as ``VP-Score > CLIP`` or ``VP-Score > 0.5``.

    If the file of both numbers also has their paired difference, as eval accuracy --baseline writes it, this decides.
    Otherwise their difference has the interval of MOVER (Zou and Donner 2008, equation 8), from the intervals of both.
    If both were measured on the same prompts, that interval is wider than it had to be, so fewer claims are decided.
    """
    found = _COMPARISON.fullmatch(text)
    if not found:
        raise UserError(f"{where}: {text!r} must be a comparison, such as 'VP-Score > CLIP' or 'VP-Score < 0.5'")
    names = [found[side].strip() for side in ("one", "other")]
    if found["sign"] == "<":
        names.reverse()
    one, other = (_number(name, figures, f"{where}: {text!r}") for name in names)
    if all(name in figures for name in names) and (paired := _paired(*(figures[name] for name in names))):
        return Claim(text, *paired, one["n"])
    value = one["value"] - other["value"]
    low = value - math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    high = value + math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return Claim(text, value, low, high, max(one["n"], other["n"]))


def _paired(one: PaperFigure, other: PaperFigure) -> tuple[float, float, float] | None:
    """The difference of two numbers on the same pairs with its interval, from the file of both; None without one."""
    if not one.source or one.source != other.source:
        return None
    told = [cast(Mapping[str, object], figure.report) for figure in (one, other)]
    if any(told[0].get(key) != told[1].get(key) for key in ("metric", *_SAME)):
        return None
    for report in read(one.source, Report):
        facts = cast(Mapping[str, object], report)
        if facts["metric"] != f"{told[0]['metric']}_difference" or any(
            facts.get(key) != told[0].get(key) for key in _SAME
        ):
            continue
        names = [facts["name"], facts.get("baseline")]
        if names == [one.report["name"], other.report["name"]]:
            return report["value"], report["low"], report["high"]
        if names == [other.report["name"], one.report["name"]]:
            return -report["value"], -report["high"], -report["low"]
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
        raise UserError(f"{where}: {text!r} is neither a number nor one of {', '.join(figures)}")
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
