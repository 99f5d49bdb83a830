"""Claims of a paper against reports: which comparisons hold, and what a file of claims may say."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import lines, write_lines
from vpctl.commands.eval.claims import claims
from vpctl.errors import UserError
from vpctl.report.claims import HOLDS, OPPOSITE, UNDECIDED, Claim, PaperFigure, PaperPart, as_reports, read_claims

REPORTS: dict[str, tuple[float, float, float]] = {
    "vp": (0.70, 0.68, 0.72),
    "clip": (0.55, 0.52, 0.58),
    "near": (0.69, 0.67, 0.71),
}


def written(folder: Path, text: str, name: str = "claims.toml") -> str:
    """A file of claims beside reports of three rewards."""
    keys = ("value", "low", "high")
    records = [
        {"name": name, "metric": "accuracy", "n": 100, "confidence": 0.95, **dict(zip(keys, numbers, strict=True))}
        for name, numbers in REPORTS.items()
    ]
    write_lines(folder / "reports.jsonl", records)
    write_lines(folder / "scored.jsonl", [{"prompt": "a dog", "file_name": "gone.png", "scores": {"shapes": 1.0}}])
    (folder / name).write_text(text)
    return str(folder / name)


def part(*holds: str, figures: str = "", more: str = "") -> str:
    told = figures or ",\n".join(
        f'{{ row = "{one}", where = {{ name = "{one}", metric = "accuracy" }} }}' for one in REPORTS
    )
    compared = ", ".join(f'"{one}"' for one in holds)
    return (
        f'title = "A paper"\n[[part]]\ntitle = "Table 1"\nreport = "reports.jsonl"\nfigures = [{told}]\n'
        f"holds = [{compared}]\n{more}\n"
    )


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("vp > clip", HOLDS),
        ("clip < vp", HOLDS),
        ("clip > vp", OPPOSITE),
        ("vp > near", UNDECIDED),
        ("vp > 0.5", HOLDS),
        ("vp > 0.69", UNDECIDED),
        ("vp > 0.75", OPPOSITE),
        ("0.75 > vp", HOLDS),
    ],
)
def test_the_interval_decides(tmp_path: Path, text: str, verdict: str) -> None:
    (found,) = read_claims(written(tmp_path, part(text))).parts
    assert found.claims[0].verdict == found.verdict == verdict


def test_the_interval_of_a_difference_is_that_of_mover(tmp_path: Path) -> None:
    """By hand: .15 with reaches √(.02² + .03²) on both sides."""
    (found,) = read_claims(written(tmp_path, part("vp > clip"))).parts
    reach = math.sqrt(0.02**2 + 0.03**2)
    (margin,) = found.claims
    assert margin[1:] == pytest.approx((0.15, 0.15 - reach, 0.15 + reach, 100, False))


@pytest.mark.parametrize(("text", "sign"), [("vp > near", 1), ("vp < near", -1), ("near > vp", -1)])
def test_a_paired_difference_decides_where_there_is_one(tmp_path: Path, text: str, sign: int) -> None:
    """The intervals of both overlap, but on the same pairs one is better. Other data have another difference."""
    file = written(tmp_path, part(text))
    keys = {"name": "near", "baseline": "vp", "metric": "accuracy_difference", "n": 90}
    differences = [
        {**keys, "data": "other.jsonl", "value": 0.5, "low": 0.4, "high": 0.6},
        {**keys, "value": -0.01, "low": -0.015, "high": -0.004},
    ]
    reports = tmp_path / "reports.jsonl"
    write_lines(reports, [*lines(reports.read_text()), *differences])
    (found,) = read_claims(file).parts
    assert found.claims == [Claim(text, *((0.01, 0.004, 0.015) if sign > 0 else (-0.01, -0.015, -0.004)), 90, True)]
    assert found.verdict == (HOLDS if sign > 0 else OPPOSITE)
    assert [one.get("paired") for one in map(dict, as_reports(read_claims(file)))] == [True]


shares = st.tuples(*[st.floats(0, 1)] * 3).map(sorted)


@given(shares, shares)
def test_the_opposite_claim_has_the_opposite_verdict(one: list[float], other: list[float]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        records = [
            {"name": name, "metric": "m", "low": low, "value": value, "high": high, "n": 1}
            for name, (low, value, high) in (("a", one), ("b", other))
        ]
        write_lines(Path(folder) / "reports.jsonl", records)
        figures = '{ row = "a", where = { name = "a" } }, { row = "b", where = { name = "b" } }'
        file = Path(folder) / "claims.toml"
        file.write_text(part("a > b", "b > a", "a < b", figures=figures))
        there, back, same_as_back = read_claims(str(file)).parts[0].claims
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert back[1:] == same_as_back[1:]
    opposite = {HOLDS: OPPOSITE, OPPOSITE: HOLDS, UNDECIDED: UNDECIDED}
    assert back.verdict == opposite[there.verdict]


def claim(text: str, verdict: str) -> Claim:
    low, high = {HOLDS: (1, 2), OPPOSITE: (-2, -1), UNDECIDED: (-1, 1)}[verdict]
    return Claim(text, (low + high) / 2, low, high, 1)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([HOLDS], "The conclusion holds here: by the interval."),
        ([HOLDS, HOLDS], "The conclusion holds here: both comparisons hold by their intervals."),
        ([UNDECIDED], "Not decided here: by the interval, either may be larger."),
        ([OPPOSITE], "The conclusion does not hold here: by the interval, the opposite is true."),
        (
            [HOLDS, UNDECIDED, UNDECIDED],
            "Not decided here: 1 of 3 comparisons hold; the intervals do not decide “c1” and “c2”.",
        ),
        (
            [HOLDS, OPPOSITE, UNDECIDED],
            "The conclusion does not hold here: the opposite is true of “c1”; 1 of 3 comparisons hold. "
            "The intervals do not decide “c2”.",
        ),
        ([], "Nothing is compared here."),
    ],
)
def test_a_sentence_says_whether_the_conclusion_holds(verdicts: list[str], said: str) -> None:
    claimed = [claim(f"c{place}", verdict) for place, verdict in enumerate(verdicts)]
    report: Any = {"metric": "accuracy"}
    figures = [PaperFigure("a", "", report, "", "reports.jsonl")]
    assert PaperPart("t", "", "", "", figures, claimed, [], {}, "").sentence == said


def test_lines_are_counted_and_shares_of_them_have_an_exact_interval(tmp_path: Path) -> None:
    """Clopper and Pearson's interval of 0 of 10 is (0, 1 - .025^(1/10)), by hand."""
    (tmp_path / "prompts.txt").write_text("\n".join(["a dog", *["a cat"] * 9, "", ""]))
    figures = (
        '{ row = "all", lines = "prompts.txt" }, { row = "dogs", lines = "prompts.txt", containing = ["DOG"] }, '
        '{ row = "cows", lines = "prompts.txt", containing = ["cow", "calf"] }'
    )
    found = read_claims(written(tmp_path, part("dogs > 0.5", "dogs > cows", figures=figures))).parts[0]
    every, dogs, cows = (one.report for one in found.figures)
    assert (every["value"], dogs["value"], cows["value"]) == (10, 0.1, 0)
    assert (cows["low"], cows["high"]) == pytest.approx((0, 1 - 0.025 ** (1 / 10)))
    assert found.verdict == OPPOSITE, "1 of 10 is below one half: the interval ends at .445"


def test_the_command_writes_a_report_for_each_comparison_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "claims.jsonl"
    claims(written(tmp_path, part("vp > clip", "vp > near")), str(out))
    first, second = lines(out.read_text())
    assert (first["verdict"], second["verdict"]) == (HOLDS, UNDECIDED)
    assert (first["name"], first["group"], first["metric"]) == ("vp > clip", "Table 1", "claim")
    said = capsys.readouterr().err
    assert "not decided" in said
    assert "the intervals do not decide “vp > near”" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "claims.toml: Invalid value (at end of document)"),
        ('title = "x"', "claims.toml: has no [[part]]"),
        ("[[part]]", "claims.toml: needs 'title', a text in quotes"),
        ('title = "x"\n[[part]]\ntitle = 3', "part 1: 'title' must be a text in quotes"),
        ('title = "x"\npart = [3]', "part 1: must be a table with keys"),
        (part(more="tilte = 1"), "part 1: 'tilte' is not a key here; the keys are title, paper, here,"),
        (part(more="runs = [1]"), "part 1, Table 1: 'runs' must be a list of texts"),
        (part("vp = clip"), "'vp = clip' must be a comparison, such as 'VP-Score > CLIP'"),
        (part("vp > clap"), "'clap' is neither a number nor a figure: 'vp', 'clip' and 'near'"),
        (part("vp > nan"), "'nan' is neither a number nor a figure: 'vp', 'clip' and 'near'"),
        (part(figures='{ row = "a", where = { name = "x" } }'), "no report has name = 'x'; its name is vp, clip, near"),
        (
            part(figures='{ row = "a", where = { nam = "x" } }'),
            "no report has nam = 'x'; the keys are name,",
        ),
        (part(figures='{ row = "a" }'), "3 reports have any keys; also name name"),
        (part(figures='{ row = "a", report = "no.jsonl" }'), "no.jsonl: there is no such file"),
        (part(figures='{ row = "a", lines = "no.jsonl" }'), "no.jsonl: there is no such file"),
        (part(figures='{ row = "a", lines = "reports.jsonl", where = { } }'), "has 'lines' and 'where'"),
        (part(figures='{ row = "a", lines = "." }'), "is a folder; name a file"),
        (part(figures='{ row = "a", lines = "reports.jsonl", containing = [] }'), "'containing' must have a text"),
        (part(figures='{ row = "a", containing = ["x"] }'), "'containing' needs 'lines'"),
        (part("vp > 64 %"), "'64 %' is neither a number nor a figure: 'vp', 'clip' and 'near'; write a share as 0.64"),
        (part("vp > clip", more='missing = "x"'), "'missing' is for a part that claims nothing"),
        (part() + '[[part]]\ntitle = "Table 1"\nmissing = "x"', "two parts have the title 'Table 1'"),
        ('title = "x"\n[[part]]\ntitle = "t"', "says in 'missing' why it has none"),
        ('title = "x"\n[[parts]]\ntitle = "t"', "'parts' is not a key here; the keys are title, says and part"),
        ('title = "x"\n[[part]]\ntitle = "t"\nfigures = [{ row = "a" }]', "needs 'report', the file of a report"),
        (part(figures='{ row = "a", lines = "a\\u0000" }'), "'lines' must not have the character NUL"),
        (part(figures='{ row = "a", where = { name.x.y = "vp" } }'), "'where' must have texts and numbers only"),
        (part("vp > vp"), "'vp > vp' must compare a figure with another one, or with a number"),
        (part("1 > 0.5"), "'1 > 0.5' must compare a figure with another one, or with a number"),
        (part(more='runs = ["gone"]'), "gone: is not the folder of a training run; it has no metrics.jsonl"),
        (part(more='pictures = { a = "gone.jsonl" }'), "gone.jsonl: there is no such file"),
        (part(more='pictures = { a = "reports.jsonl" }'), "Table 1: pictures: "),
        (part(more='pictures = { a = "scored.jsonl", b = "scored.jsonl" }'), "scored.jsonl has two labels"),
        (part(more='scores = "x"\npictures = { a = "scored.jsonl" }'), "have no score of 'x'; they have shapes"),
        (
            part("a > b", figures='{ row = "a", where = { name = "vp" } }, { row = "b", lines = "reports.jsonl" }'),
            "'a > b' compares accuracy and count",
        ),
        (f"title = {'9' * 5000}", "it must be TOML"),
        (
            part(figures='{ row = "a", where = { name = "vp" } }, { row = "a", where = { name = "vp" } }'),
            "two figures are named 'a'",
        ),
    ],
)
def test_what_a_file_gets_wrong_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UserError) as raised:
        read_claims(file)
    assert said.casefold() in str(raised.value).casefold()
    assert str(raised.value).startswith(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = " + b"[" * 5000])
def test_bytes_that_are_not_toml_are_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "claims.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"claims\.toml: "):
        read_claims(str(file))


def test_nothing_that_the_command_reads_is_replaced(tmp_path: Path) -> None:
    file = written(tmp_path, part("vp > clip"))
    reports = tmp_path / "reports.jsonl"
    for one in (file, str(reports)):
        with pytest.raises(UserError, match="this command reads or writes that file"):
            claims(file, html=one)
    before = reports.read_bytes()
    with pytest.raises(UserError, match="--out"):
        claims(file, str(reports))
    assert reports.read_bytes() == before


def test_counts_need_no_interval(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a\n")
    (tmp_path / "two.txt").write_text("a\nb\n")
    figures = '{ row = "one", lines = "one.txt" }, { row = "two", lines = "two.txt" }'
    found = read_claims(written(tmp_path, part("two > one", figures=figures))).parts[0]
    assert found.sentence == "The conclusion holds here."
