"""Reports become tables as on the terminal, and the same numbers as CSV and as LaTeX."""

import csv
import io
from typing import Any

import pytest

from vpctl.commands.eval import accuracy as eval_accuracy
from vpctl.commands.eval import agreement as eval_agreement
from vpctl.commands.eval.compare import ELO
from vpctl.pages.meanings import FAMILIES, family, meaning
from vpctl.pages.pivots import Sheet, Table, sheets

Report = dict[str, Any]


def report(metric: str, value: float = 0.75, name: str = "clip", **keys: Any) -> Report:
    return {"name": name, "metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 40, **keys}


def only(found: list[Sheet]) -> Table:
    assert len(found) == 1
    assert len(found[0].tables) == 1
    return found[0].tables[0]


def texts(table: Table) -> dict[str, list[str]]:
    return {row.name: [cell.text if cell else "" for cell in row.cells] for row in table.rows}


def test_a_row_for_each_reward_and_a_column_for_each_definition() -> None:
    reports = [
        report(metric, value, name, **({} if metric == "accuracy" else {"chance": 0.5}))
        for name, value in (("clip", 0.7), ("vp", 0.81234))
        for metric in ("accuracy", "accuracy_pooled")
    ]
    table = only(sheets(reports, {}))
    assert [head for head, _ in table.columns] == ["accuracy", "pooled"]
    assert texts(table) == {"clip": ["70.0", "70.0"], "vp": ["81.2", "81.2"]}
    assert (table.unit, table.chance) == ("%", ["", "50.0"])
    assert table.rows[1].cells[0] is not None
    assert table.rows[1].cells[0].interval == "71.2 to 91.2"


def test_what_guessing_gives_stands_in_the_cells_where_it_differs() -> None:
    reports = [report("accuracy_pooled", name=name, chance=chance) for name, chance in (("a", 0.5), ("b", 0.407))]
    table = only(sheets(reports, {}))
    assert table.chance == []
    assert [cell.note for row in table.rows for cell in row.cells if cell] == ["chance 50.0", "chance 40.7"]
    assert [cell.neutral for row in table.rows for cell in row.cells if cell] == [50.0, 40.7]


def test_parts_have_a_table_of_their_own_and_files_another() -> None:
    parts = [report("accuracy", by="category", group=group, data="x/a.jsonl") for group in ("people", "animals")]
    files = [report("accuracy", data=data) for data in ("x/a.jsonl", "x/b.jsonl")]
    mean = report("accuracy_harmonic_mean")
    found = sheets([*files, *parts, mean], {"x/a.jsonl": "a.jsonl", "x/b.jsonl": "b.jsonl"})
    assert [sheet.family.title for sheet in found] == ["Accuracy", "Accuracy by file"]
    assert [table.title for table in found[0].tables] == ["On a.jsonl", "On b.jsonl", "By category, on a.jsonl"]
    assert [row.name for row in found[0].tables[2].rows] == ["animals", "people"]
    assert [head for head, _ in found[1].tables[0].columns] == ["a.jsonl", "b.jsonl", "harmonic mean"]


def test_elo_has_its_own_axis_with_the_base_on_it() -> None:
    reports = [
        {**report(ELO, value, name, reward="r"), "low": value - 40, "high": value + 60}
        for name, value in (("base", 1000.0), ("dpo", 1275.4))
    ]
    table = only(sheets(reports, {}))
    assert texts(table) == {"base": ["1,000"], "dpo": ["1,275"]}
    first, second = (row.cells[0] for row in table.rows)
    assert first is not None
    assert second is not None
    assert first.neutral == second.neutral == first.place
    assert 0 < first.low < first.place < second.place < second.high < 100


def test_numbers_of_one_table_have_the_same_number_of_decimals() -> None:
    mixed = [report(metric, 0.25, aspect="fidelity", baseline="b") for metric in ("agreement", "cohens_kappa")]
    assert texts(only(sheets(mixed, {}))) == {"fidelity": ["0.250", "0.250"]}
    assert texts(only(sheets([report("accuracy_difference", -0.17, baseline="b")], {}))) == {"clip": ["−17.0"]}
    unknown = [{**report("any", value, str(value)), "low": value, "high": value} for value in (12.0, 0.31)]
    assert texts(only(sheets(unknown, {}))) == {"12.0": ["12.00"], "0.31": ["0.31"]}
    small = [{**report("any", value, str(value)), "low": 0, "high": 1e9} for value in (0.0, 3e-7)]
    assert texts(only(sheets(small, {}))) == {"0.0": ["0.00e+00"], "3e-07": ["3.00e−07"]}


def test_a_missing_cell_and_two_reports_of_one_cell() -> None:
    reports = [report("win_rate", 0.5, "a", reward="x"), report("win_rate", 0.6, "b", reward="y")]
    table = only(sheets([*reports, report("win_rate", 0.7, "a", reward="x")], {}))
    assert [head for head, _ in table.columns] == ["x", "y", "x (2)"]
    assert texts(table) == {"a": ["50.0", "", "70.0"], "b": ["", "60.0", ""]}


def test_places_and_levels_are_columns() -> None:
    slots = [report("slot_preferred", slot=slot, aspect="fidelity") for slot in (1, 2)]
    levels = [report("level", level=level, aspect="fidelity", mode="list") for level in (1, 2)]
    found = sheets([*slots, *levels], {})
    heads = [[head for head, _ in sheet.tables[0].columns] for sheet in found]
    assert heads == [["place 1", "place 2"], ["level 1", "level 2"]]
    (ties, levels_told) = only(sheets([report("ties", mode="list", aspect="fidelity"), *levels], {})).explained
    assert (ties[0], levels_told[0]) == ("ties", "level 1, level 2")


def test_csv_has_every_key_and_digit_and_no_formula() -> None:
    reports = [
        report("win_rate", 1 / 3, "=cmd|'/c calc'!A1", reward='a,"b"', wins=1, p_value=1e-12),
        report("win_rate", -1e-9, "b", reward="a"),
    ]
    rows = list(csv.DictReader(io.StringIO(only(sheets(reports, {})).csv)))
    assert [float(row["value"]) for row in rows] == [1 / 3, -1e-9]
    assert rows[0]["name"] == "'=cmd|'/c calc'!A1"
    assert (rows[0]["reward"], rows[0]["p_value"], rows[1]["wins"]) == ('a,"b"', "1e-12", "")


def test_latex_is_a_booktabs_table_in_which_nothing_is_a_command() -> None:
    reports = [report("win_rate", 0.5, r"a_b & \input{x} 100% $~^#", reward="r_1")]
    latex = only(sheets(reports, {})).latex
    assert latex.splitlines()[1:] == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"model & r\_1 (\%) \\",
        r"\midrule",
        r"a\_b \& \textbackslash{}input\{x\} 100\% \$\textasciitilde{}\textasciicircum{}\# & 50.0 [40.0 to 60.0] \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(
    "metric",
    [
        *eval_accuracy._metrics(several=True, compared=True),
        *eval_agreement.OF_TWO,
        *eval_agreement.OF_ALL,
        *eval_agreement.OF_ONE,
        *("diversity", "duplicates", "unsafe", "frechet_distance", "kernel_distance", "win_rate", ELO),
    ],
)
def test_every_metric_of_eval_has_a_meaning(metric: str) -> None:
    assert meaning(metric).says
    assert family(metric) in FAMILIES
