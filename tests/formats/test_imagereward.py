"""imagereward: rankings with ties, there and back."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Run, lines
from tests.formats.test_tables import png
from vpctl import plugins, sources
from vpctl.errors import RecordFailed, UserError
from vpctl.formats._votes import ranks_of
from vpctl.judging.preferences import scores_of_ranks
from vpctl.records import Image, Judgement, Prompt
from vpctl.streams.names import absolute, relative
from vpctl.streams.reading import located


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sources.begin()
    return tmp_path


def item(own: str, prompt: str, *ranking: int) -> dict[str, Any]:
    generations = [f"images/{own}/{index}.webp" for index in range(len(ranking))]
    return {"id": own, "prompt": prompt, "generations": generations, "ranking": [*ranking]}


def write(path: Path, *items: Any) -> None:
    path.write_text(json.dumps(items, ensure_ascii=False, indent=4))


def read(kind: Any = Judgement) -> list[dict[str, Any]]:
    return [{**record} for _, record in located("imagereward:test.json", kind)]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_scores_keep_the_order_and_the_ties_of_ranks_and_fit_the_scale(ranks: list[int]) -> None:
    scores = scores_of_ranks(ranks)
    assert all(1 <= score <= 5 for score in scores)
    for one, other in combinations(range(len(ranks)), 2):
        assert (ranks[one] < ranks[other]) == (scores[one] > scores[other])
        assert (ranks[one] == ranks[other]) == (scores[one] == scores[other])
    again = ranks_of(scores)
    assert scores_of_ranks(again) == scores_of_ranks(ranks_of(scores_of_ranks(again)))
    assert [rank == 1 for rank in again] == [rank == min(ranks) for rank in ranks]


def test_an_item_is_a_judgement_of_people(here: Path) -> None:
    write(here / "test.json", item("1-2", "a cat", 1, 2, 2, 5))
    (judgement,) = read()
    assert (judgement["prompt_id"], judgement["prompt"], judgement["annotator"], judgement["aspect"]) == (
        "1-2",
        "a cat",
        "human:imagereward",
        "preference",
    )
    assert judgement["scores"] == [5, 4, 4, 1]
    assert judgement["file_names"][0] == str(here / "images/1-2/0.webp")
    assert [record["image_id"] for record in read(Image)] == judgement["image_ids"]
    assert read(Prompt) == [{"prompt_id": "1-2", "prompt": "a cat"}]


def test_merge_counts_pairs_and_ties_and_keeps_two_items_with_one_prompt_apart(forked: Run, tmp_path: Path) -> None:
    items = [item("a", "a cat", 1, 2, 2), item("b", "a cat", 1, 1), item("c", "a dog", 3, 2, 1, 4)]
    write(tmp_path / "test.json", *items)
    ended = forked("merge", "imagereward:test.json")
    assert ended.code == 0
    assert "8 pairs written, from 3 judgements of 9 pictures for 3 prompts; 2 ties dropped" in ended.err
    pairs = lines(ended.out)
    assert len([pair for pair in pairs if pair["prompt_id"] == "a"]) == 2
    assert pairs[0]["chosen_file_name"] == "images/a/0.webp"


items = st.builds(
    lambda own, prompt, pictures, more: {
        "id": own,
        "prompt": prompt,
        "generations": [name for name, _ in pictures],
        "ranking": [rank for _, rank in pictures],
        **more,
    },
    st.text(st.characters(codec="utf-8"), min_size=1),
    st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip),
    st.lists(
        st.tuples(st.text("abc./", min_size=1, max_size=5), st.integers(1, 9)),
        min_size=1,
        max_size=5,
        unique_by=lambda one: one[0],
    ),
    st.dictionaries(st.sampled_from(["note", "by"]), st.none() | st.integers() | st.lists(st.text("ab")), max_size=2),
)


@settings(max_examples=40)
@given(st.lists(items, max_size=4))
def test_any_file_comes_back_to_the_byte(tmp_path_factory: pytest.TempPathFactory, written: Any) -> None:
    """Also by way of a file of judgements in another folder."""
    folder = tmp_path_factory.mktemp("round")
    write(folder / "test.json", *written)
    found = [dict(record) for _, record in located(f"imagereward:{folder}/test.json", Judgement)]
    stored = [json.loads(json.dumps(relative(record, "/elsewhere"))) for record in found]
    again = plugins.load("format", f"imagereward:{folder}/again.json")
    assert again.write(absolute(record, "/elsewhere") for record in stored) == len(written)
    assert (folder / "again.json").read_bytes() == (folder / "test.json").read_bytes()


def test_judgements_of_other_annotators_become_rankings(here: Path) -> None:
    judgement = {
        "prompt_id": "p1",
        "prompt": "a cat",
        "aspect": "fidelity",
        "annotator": "openai:gpt-4o",
        "image_ids": ["x", "y", "z"],
        "file_names": [str(here / "images" / name) for name in ("x.png", "y.png", "z.png")],
        "scores": [2.0, 4.5, 2.0],
    }
    refused = {**judgement, "scores": [], "refused": "no"}
    assert plugins.load("format", "imagereward:out.json").write([judgement, refused]) == 1
    assert json.loads((here / "out.json").read_text()) == [
        {
            "id": "p1",
            "prompt": "a cat",
            "generations": ["images/x.png", "images/y.png", "images/z.png"],
            "ranking": [2, 1, 2],
        }
    ]
    plugins.load("format", "imagereward:none.json").write([])
    assert (here / "none.json").read_text() == "[]"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": 3}, "'prompt' must be text"),
        ({"prompt": " "}, "'prompt' must be text"),
        ({"generations": "x"}, "'generations' must be a list of texts"),
        ({"generations": ["x", 3]}, "'generations' must be a list of texts"),
        ({"generations": ["x"]}, "has 1 pictures, and 2 values of preference"),
        ({"generations": ["x", "x"]}, "has the picture x twice"),
        ({"generations": ["x", ""]}, "a file name must be text"),
        ({"generations": [], "ranking": []}, "has no pictures"),
        ({"ranking": [0, 1]}, "'ranking' must be a list of ranks, which are whole numbers from 1 up"),
        ({"ranking": [1, 1.5]}, "'ranking' must be a list of ranks, which are whole numbers from 1 up"),
        ({"ranking": [1, True]}, "'ranking' must be a list of ranks, which are whole numbers from 1 up"),
        ({"ranking": None}, "'ranking' must be a list of ranks, which are whole numbers from 1 up"),
        ({"id": [1]}, "'id' must be text"),
    ],
)
def test_an_item_that_is_malformed_is_told_and_the_others_are_read(
    forked: Run, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    write(tmp_path / "test.json", item("a", "a cat", 1, 2), {**item("b", "a cat", 1, 2), **change}, [3])
    ended = forked("merge", "imagereward:test.json")
    assert ended.code == 3
    assert f"warning: test.json:row 2: {said}; it is left out" in ended.err
    assert "warning: test.json:row 3: is not a JSON object; it is left out" in ended.err
    assert len(lines(ended.out)) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "test.json: is empty; it must hold a JSON array of objects"),
        ("[", "test.json: is empty; it must hold a JSON array of objects"),
        ('[{"id":1}', "test.json: ends behind row 1, before its array does; it may have been cut off"),
        ('[{"id":1},{"id"', "test.json: row 2 is not JSON: expecting ':' delimiter"),
        ('[{"id":1} {"id":2}]', "test.json: is not JSON behind row 1: a comma is missing"),
        ("[" + "[" * 100_000, "test.json: row 1 is nested too deep"),
        ("a cat", "test.json: row 1 is not JSON: expecting value"),
    ],
)
def test_a_file_that_is_no_json_is_told(here: Path, text: str, said: str) -> None:
    (here / "test.json").write_text(text)
    with pytest.raises(UserError) as raised:
        read()
    assert str(raised.value).endswith(said)


@pytest.mark.parametrize("value", ["NaN", "1e999", '"\\ud800"', "[" * 300 + "]" * 300])
def test_a_value_that_is_not_json_costs_only_its_row(here: Path, value: str) -> None:
    good = json.dumps(item("a", "a cat", 1, 2))
    (here / "test.json").write_text(f'[{{"id": {value}}}, {good}]')
    assert len(read()) == 1
    assert sources.some_left_out()


def test_json_lines_are_items_too_and_a_long_item_is_read(here: Path) -> None:
    long = {**item("b", "a dog", 1, 2), "note": "x" * 3_000_000}
    (here / "test.json").write_text(f"{json.dumps(item('a', 'a cat', 1, 2))}\n{json.dumps(long)}\n")
    assert [record["prompt"] for record in read()] == ["a cat", "a dog"]


def rows() -> list[dict[str, Any]]:
    return [
        {
            "image": {"bytes": png(number), "path": None},
            "prompt_id": f"p{number // 3}",
            "prompt": f"a cat {number // 3}",
            "image_path": f"images/{number}.webp",
            "rank": rank,
            "overall_rating": overall,
            "image_text_alignment_rating": 4,
            "fidelity_rating": 7 if number < 3 else None,
        }
        for number, (rank, overall) in enumerate([(1, 7), (2, 4), (2, 1), (3, 2), (1, 5), (2, 3)])
    ]


def test_parquet_has_ratings_too(here: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), here / "a.parquet")
    judgements = [record for _, record in located("imagereward:a.parquet", Judgement)]
    assert [(one["prompt_id"], one["aspect"], one["scores"]) for one in judgements] == [
        ("p0", "preference", [5, 4, 4]),
        ("p0", "overall", [5, 3, 1]),
        ("p0", "prompt-following", [3, 3, 3]),
        ("p0", "fidelity", [5, 5, 5]),
        ("p1", "preference", [3, 5, 4]),
        ("p1", "overall", [1 + 4 / 6, 1 + 16 / 6, 1 + 8 / 6]),
        ("p1", "prompt-following", [3, 3, 3]),
    ]
    assert all(Path(name).is_file() for one in judgements for name in one["file_names"])
    assert [Path(judgements[0]["file_names"][0]).name[:16]] == judgements[0]["image_ids"][:1]


def test_parquet_without_bytes_names_the_files_beside_it(here: Path) -> None:
    table = pyarrow.Table.from_pylist(
        [{**row, "rank": None if row["prompt_id"] == "p1" else row["rank"]} for row in rows()]
    )
    pyarrow.parquet.write_table(table.drop_columns(["image"]), here / "a.parquet")
    assert {one["file_names"][0] for _, one in located("imagereward:a.parquet", Judgement)} == {
        str(here / "images/0.webp")
    }
    assert [
        where
        for where, row in plugins.load("format", "imagereward:a.parquet")("judgement")
        if isinstance(row, RecordFailed)
    ] == ["row 4"]
    pyarrow.parquet.write_table(table.drop_columns(["rank"]), here / "b.parquet")
    with pytest.raises(UserError, match="ImageRewardDB has a column 'rank'"):
        [*located("imagereward:b.parquet", Judgement)]


def test_groups_are_the_votes_of_their_pictures(here: Path) -> None:
    """As in 8k_group: what 8k has in neighbouring rows stands in lists."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), here / "a.parquet")
    lists = ("image", "rank", "overall_rating", "image_text_alignment_rating", "fidelity_rating")
    groups = [
        {"prompt_id": "p0", "prompt": "a cat 0"} | {name: [row[name] for row in rows()[:3]] for name in lists},
        {"prompt_id": "p1", "prompt": "a cat 1"} | {name: [row[name] for row in rows()[3:]] for name in lists},
        {"prompt_id": "p2", "prompt": "a cat 2", "image": [rows()[0]["image"]], "rank": [1, 2]},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(groups), here / "b.parquet")

    def unplaced(spec: str) -> list[dict[str, Any]]:
        return [{**record, "file_names": []} for _, record in located(spec, Judgement)]

    assert unplaced("imagereward:b.parquet") == unplaced("imagereward:a.parquet")
    (fault,) = [
        row for _, row in plugins.load("format", "imagereward:b.parquet")("judgement") if isinstance(row, RecordFailed)
    ]
    assert str(fault) == "its lists must have the same length, at least 1; it has 1 of image, 2 of rank"
    assert [record["prompt_id"] for _, record in located("imagereward:b.parquet", Prompt)] == ["p0", "p1", "p2"]


def test_pairs_are_votes_for_the_better_picture(here: Path) -> None:
    pairs = [
        {
            "prompt_id": "p0",
            "prompt": "a cat",
            "classification": "Animals",
            "img_better": {"bytes": png(one), "path": None},
            "img_worse": {"bytes": png(other), "path": None},
        }
        for one, other in ((1, 2), (1, 3))
    ]
    nothing = {"bytes": None, "path": None}
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([*pairs, pairs[0] | {"img_worse": nothing}]), here / "a.parquet"
    )
    found = [record for _, record in located("imagereward:a.parquet", Judgement)]
    assert [(one["scores"], one["mode"], one["aspect"], one["prompt_id"]) for one in found] == [
        ([5, 1], "pair", "preference", "p0")
    ] * 2
    assert Path(found[1]["file_names"][1]).read_bytes() == png(3)
    assert found[0]["image_ids"][0] == found[1]["image_ids"][0]
    assert sources.some_left_out()
    assert len([*located("imagereward:a.parquet", Image)]) == 3
    assert [record["prompt"] for _, record in located("imagereward:a.parquet", Prompt)] == ["a cat"]
