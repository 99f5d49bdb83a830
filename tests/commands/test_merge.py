import json
import re
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import Run, lines, write_lines
from vpctl.commands.merge import merge, parse_annotator_weights, parse_scales
from vpctl.errors import UserError
from vpctl.judging.merging import ANY_ASPECT, ANYONE, MergeCounts, Merging, pairs_of, prompts_of
from vpctl.judging.preferences import Scale, latest
from vpctl.records import Judgement, Pair, Rating, check, split_of
from vpctl.streams.reading import located

Record = dict[str, Any]


def judgement(
    scores: dict[str, float], aspect: str = "fidelity", annotator: str = "human", prompt: str = "p", **more: Any
) -> Record:
    """What one annotator gave the pictures of a prompt."""
    return {
        "prompt_id": prompt,
        "prompt": f"draw {prompt}",
        "aspect": aspect,
        "annotator": annotator,
        "image_ids": [*scores],
        "file_names": [f"{name}.png" for name in scores],
        "scores": [*scores.values()],
        **more,
    }


@pytest.fixture
def pairs(tmp_path: Path) -> Any:
    """`pairs(judgements, min_margin=0.1)`: what merge makes of them."""

    def pairs(*judgements: Record, **options: Any) -> list[Record]:
        source, out = write_lines(tmp_path / "in.jsonl", judgements), tmp_path / "pairs.jsonl"
        merge([str(source)], str(out), **options)
        return lines(out.read_text())

    return pairs


def told(pair: Record) -> tuple[str, str, float, dict[str, float]]:
    """Of a pair, what was decided."""
    return pair["chosen_image_id"], pair["rejected_image_id"], pair["margin"], pair["aspects"]


def test_a_pair_says_all_of_the_preference(pairs: Any) -> None:
    (pair,) = pairs(judgement({"a": 2, "b": 5}, source_prompt="raw", split="test", mine=1, usage={"x": 1}))
    assert pair == {
        "prompt_id": "p",
        "prompt": "draw p",
        "source_prompt": "raw",
        "split": "test",
        "chosen_file_name": "b.png",
        "rejected_file_name": "a.png",
        "chosen_image_id": "b",
        "rejected_image_id": "a",
        "margin": 0.75,
        "aspects": {"fidelity": 0.75},
        "annotators": ["human"],
    }
    check(pair, Pair, "here")


def test_rankings_decide_ties_unless_they_are_left_out(pairs: Any) -> None:
    ranked = judgement({"a": 3, "b": 3, "c": 5}, ranking=[2, 1, 0])
    plain = judgement({"a": 1, "b": 1, "c": 5}, aspect="aesthetic")
    assert [told(pair)[:3] for pair in pairs(ranked, plain)] == [("b", "a", 0.0625), ("c", "a", 0.75), ("c", "b", 0.75)]
    without = pairs(ranked, plain, break_ties="none")
    assert [told(pair)[:3] for pair in without] == [("c", "a", 0.75), ("c", "b", 0.75)]
    old = judgement({"a": 3, "b": 3, "c": 5}, ranking=[0, 1, 2], key="k", template="list@0")
    assert [told(pair)[:2] for pair in pairs(old)] == [("c", "a"), ("c", "b")], "a ranking against its own scores"


def test_every_two_pictures_that_differ_make_a_pair(pairs: Any) -> None:
    made = pairs(judgement({"a": 1, "b": 3, "c": 3, "d": 5}))
    assert [told(pair)[:3] for pair in made] == [
        ("b", "a", 0.5),
        ("c", "a", 0.5),
        ("d", "a", 1.0),
        ("d", "b", 0.5),
        ("d", "c", 0.5),
    ]


TWO_ASPECTS = (judgement({"a": 5, "b": 3}), judgement({"a": 1, "b": 5}, "aesthetic"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("b", "a", 0.25, {"aesthetic": 1.0, "fidelity": -0.5})),
        ({"weight": ["fidelity=3"]}, ("a", "b", 0.125, {"aesthetic": -1.0, "fidelity": 0.5})),
        ({"weight": ["fidelity=2", "aesthetic=0.5"]}, ("a", "b", 0.2, {"aesthetic": -1.0, "fidelity": 0.5})),
        ({"weight": ["aesthetic=0"]}, ("a", "b", 0.5, {"aesthetic": -1.0, "fidelity": 0.5})),
        ({"min_margin": 0.25}, ("b", "a", 0.25, {"aesthetic": 1.0, "fidelity": -0.5})),
    ],
)
def test_the_margin_is_the_weighted_mean_of_the_aspects(pairs: Any, options: Any, expected: Any) -> None:
    (pair,) = pairs(*TWO_ASPECTS, **options)
    assert told(pair) == expected


@pytest.mark.parametrize(
    "options", [{"weight": ["fidelity=2"]}, {"min_margin": 0.26}, {"weight": ["fidelity=0", "aesthetic=0"]}]
)
def test_ties_and_what_nobody_counts_make_no_pair(pairs: Any, options: Any) -> None:
    assert pairs(*TWO_ASPECTS, **options) == []


@pytest.mark.parametrize("options", [{"weight": ["fidelity=2"]}, {"min_margin": 0.26}])
def test_ties_are_kept_on_request_with_a_margin_of_nothing(
    pairs: Any, options: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tie,) = pairs(*TWO_ASPECTS, **options, keep_ties=True)
    assert told(tie) == ("a", "b", 0, {"aesthetic": -1.0, "fidelity": 0.5}), "none is preferred"
    check(tie, Pair, "here")
    assert "1 pair written to" in (said := capsys.readouterr().err)
    assert "; 1 tie among them\n" in said


def test_annotators_count_alike_each_on_its_own_scale(pairs: Any) -> None:
    (pair,) = pairs(
        judgement({"a": 5, "b": 3}),
        judgement({"a": 4, "b": 10}, annotator="openai:gpt=4o"),
        judgement({"a": 0.9, "b": 0.1}, annotator="net"),
        scale=["openai:gpt=4o=1:10", "net=0:1"],
    )
    mean = (0.5 - 6 / 9 + 0.8) / 3
    assert told(pair) == ("a", "b", round(mean, 6), {"fidelity": round(mean, 6)})
    assert pair["annotators"] == ["human", "net", "openai:gpt=4o"]


def test_of_repeated_judgements_the_mean_counts_once(pairs: Any) -> None:
    (pair,) = pairs(
        judgement({"a": 5, "b": 3}),
        judgement({"a": 4, "b": 3}),
        judgement({"b": 2, "a": 1}),
        judgement({"a": 1, "b": 5}, annotator="another"),
    )
    first = (10 / 3 - 8 / 3) / 4
    assert told(pair) == ("b", "a", round((1 - first) / 2, 6), {"fidelity": round((1 - first) / 2, 6)})


def test_an_annotator_speaks_of_the_pictures_it_has_seen_and_an_aspect_of_what_it_was_asked_for(pairs: Any) -> None:
    made = pairs(
        judgement({"a": 5, "b": 1}),
        judgement({"b": 4, "c": 2}, annotator="another"),
        judgement({"a": 1, "c": 2}, "aesthetic"),
    )
    assert [(told(pair), pair["annotators"]) for pair in made] == [
        (("a", "b", 1.0, {"fidelity": 1.0}), ["human"]),
        (("c", "a", 0.25, {"aesthetic": 0.25}), ["human"]),
        (("b", "c", 0.5, {"fidelity": 0.5}), ["another"]),
    ]


def test_a_refusal_says_nothing_of_the_pictures(pairs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = pairs(
        judgement({"a": 5, "b": 1}),
        judgement({"a": 0, "b": 0}, "harmlessness") | {"scores": [], "refused": "not these"},
        judgement({"c": 0, "d": 0}, prompt="q") | {"scores": [], "refused": "not these"},
    )
    assert [told(pair) for pair in made] == [("a", "b", 1.0, {"fidelity": 1.0})]
    said = capsys.readouterr().err
    assert ", from 3 judgements of 2 pictures for 1 prompt; 0 ties dropped; 2 refusals left out\n" in said


def test_pictures_of_different_prompts_do_not_meet(pairs: Any) -> None:
    made = pairs(
        judgement({"a": 5, "b": 1}),
        judgement({"c": 5, "d": 1}, prompt="q"),
        judgement({"a": 5, "b": 1}, "aesthetic"),
        judgement({"e": 1, "a": 5}),
    )
    assert [(pair["prompt_id"], *told(pair)[:2]) for pair in made] == [
        ("p", "a", "b"),
        ("p", "a", "e"),
        ("q", "c", "d"),
    ]


def test_what_was_tied_is_told_by_aspect(pairs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert pairs(judgement({"a": 3, "b": 3, "c": 3}), judgement({"a": 1, "b": 1, "c": 5}, "aesthetic"))
    said = capsys.readouterr().err.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in said if line.startswith("│")]
    assert rows == [["aesthetic", "3", "33%"], ["fidelity", "3", "100%"]]
    assert said[-1].endswith(", from 2 judgements of 3 pictures for 1 prompt; 1 tie dropped")


SCORES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 5), min_size=2)
JUDGEMENTS = st.lists(
    st.tuples(SCORES, st.sampled_from(["fidelity", "aesthetic"]), st.sampled_from(["x", "y"]), st.sampled_from("pq")),
    min_size=1,
    max_size=8,
)


def merged(judgements: list[Record], how: Merging, tally: MergeCounts | None = None) -> list[Any]:
    """The pairs of judgements in memory."""
    tally = tally or MergeCounts()
    kept = latest(enumerate(judgements), tally.counts)  # type: ignore[arg-type]
    return [pair for prompt in prompts_of(kept, how, tally.counts).values() for pair in pairs_of(prompt, how, tally)]


def decided(judgements: list[Record], **options: Any) -> dict[tuple[str, frozenset[str]], tuple[str, Any]]:
    """By prompt and pictures which was chosen, and how clearly."""
    found = {}
    for pair in merged(judgements, Merging(weights={"fidelity": 0.5}, **options)):
        key = (pair["prompt_id"], frozenset([pair["chosen_image_id"], pair["rejected_image_id"]]))
        assert key not in found
        assert 0 < pair["margin"] <= 1
        assert pair["chosen_file_name"] == f"{pair['chosen_image_id']}.png"
        assert pair["rejected_file_name"] == f"{pair['rejected_image_id']}.png"
        found[key] = (pair["chosen_image_id"], pytest.approx(pair["margin"], abs=2e-6))
    return found


HOW = st.fixed_dictionaries(
    {},
    optional={
        "aggregate": st.sampled_from(["mean", "median"]),
        "annotator_weights": st.sampled_from([{}, {(ANY_ASPECT, "x"): 3.0}, {("fidelity", "y"): 0.0}]),
        "min_annotators": st.sampled_from([1, 2]),
        "pairing": st.sampled_from(["all", "dominant"]),
        "min_margin": st.sampled_from([0.0, 0.2]),
    },
)
"""Settings under which no draw, and no order of equal pictures, decides anything."""


@given(JUDGEMENTS, HOW)
def test_who_exchanges_two_pictures_exchanges_chosen_and_rejected(rows: list[Any], how: dict[str, Any]) -> None:
    exchanged = {"a": "b", "b": "a"}
    made = decided([judgement(*row) for row in rows], **how)
    swapped = decided([judgement({exchanged.get(k, k): v for k, v in row[0].items()}, *row[1:]) for row in rows], **how)
    assert swapped == {
        (prompt, frozenset(exchanged.get(name, name) for name in names)): (exchanged.get(chosen, chosen), margin)
        for (prompt, names), (chosen, margin) in made.items()
    }


@given(JUDGEMENTS, HOW)
def test_who_turns_every_score_round_turns_every_pair_round(rows: list[Any], how: dict[str, Any]) -> None:
    made = decided([judgement(*row) for row in rows], **how)
    turned = decided([judgement({k: 6 - v for k, v in row[0].items()}, *row[1:]) for row in rows], **how)
    assert turned == {key: (*(key[1] - {chosen}), margin) for key, (chosen, margin) in made.items()}


@given(JUDGEMENTS, HOW, st.randoms(use_true_random=False))
def test_the_order_of_judgements_and_of_their_pictures_does_not_matter(
    rows: list[Any], how: dict[str, Any], chance: Random
) -> None:
    made = decided([judgement(*row) for row in rows], **how)
    shuffled = []
    for scores, *rest in rows:
        names = list(scores)
        chance.shuffle(names)
        shuffled.append(judgement({name: scores[name] for name in names}, *rest))
    chance.shuffle(shuffled)
    assert decided(shuffled, **how) == made


@given(JUDGEMENTS, HOW)
def test_judgements_that_annotate_wrote_twice_count_once(rows: list[Any], how: dict[str, Any]) -> None:
    written = [
        judgement(*row, key=str(number), order=[*range(len(row[0]))], repeat=number) for number, row in enumerate(rows)
    ]
    assert decided([*written, *written[::-1]], **how) == decided(written, **how)


@given(JUDGEMENTS)
def test_every_pair_that_was_judged_is_a_pair_or_a_tie(rows: list[Any]) -> None:
    tally = MergeCounts()
    made = merged([judgement(*row) for row in rows], Merging(min_margin=0.3), tally)
    seen: dict[tuple[str, ...], set[str]] = {}
    for scores, *by_whom in rows:
        seen.setdefault(tuple(by_whom), set()).update(scores)
    together = {(by[-1], frozenset(two)) for by, names in seen.items() for two in combinations(names, 2)}
    assert len(made) == tally.counts["written"]
    assert tally.counts["written"] + tally.counts["ties"] == len(together)
    assert all(pair["margin"] >= 0.3 - 1e-6 for pair in made)


FOUR = judgement({"a": 1, "b": 3, "c": 3, "d": 5})


@pytest.mark.parametrize(
    ("pairing", "judgements", "expected"),
    [
        ("best-worst", [FOUR], ["da"]),
        ("adjacent", [FOUR], ["ca", "db"]),  # the order is d, b, c, a, and b and c tie
        ("all", [FOUR], ["ba", "ca", "da", "db", "dc"]),
        ("dominant", [FOUR, judgement({"a": 3, "b": 3, "c": 1, "d": 2}, "aesthetic")], ["ba", "bc", "dc"]),
        ("best-worst", [judgement({"a": 3, "b": 3})], []),
        ("best-worst", [judgement({"a": 1, "b": 3}), judgement({"b": 3, "c": 4}, annotator="x")], []),
    ],
)
def test_which_pictures_are_paired(pairs: Any, pairing: str, judgements: list[Record], expected: list[str]) -> None:
    """In the last one nobody compared the best picture, c, with the worst."""
    made = pairs(*judgements, pairs=pairing)
    assert sorted(pair["chosen_image_id"] + pair["rejected_image_id"] for pair in made) == expected


@pytest.mark.parametrize("pairing", ["best-worst", "adjacent"])
@given(JUDGEMENTS, st.randoms(use_true_random=False))
def test_no_order_decides_which_pictures_are_paired(pairing: str, rows: list[Any], chance: Random) -> None:
    shuffled = [
        judgement({name: scores[name] for name in chance.sample([*scores], len(scores))}, *rest)
        for scores, *rest in chance.sample(rows, len(rows))
    ]
    assert decided(shuffled, pairing=pairing) == decided([judgement(*row) for row in rows], pairing=pairing)


def test_equal_pictures_are_a_tie_of_the_best_and_the_worst(pairs: Any) -> None:
    (tie,) = pairs(judgement({"b": 3, "a": 3, "c": 3}), pairs="best-worst", keep_ties=True)
    assert {tie["chosen_image_id"], tie["rejected_image_id"]} == {"a", "c"}


def test_an_annotator_without_weight_does_not_count(pairs: Any) -> None:
    said = [judgement({"a": 5, "b": 1}, annotator="x"), judgement({"a": 1, "b": 3}, annotator="y")]
    (pair,) = pairs(*said, annotator_weight=["y=0"])
    assert (pair["margin"], pair["annotators"]) == (1.0, ["x"])
    assert pairs(*said, annotator_weight=["y=0"], min_annotators=2) == []
    assert pairs(*said, annotator_weight=["y=0", "x=0"]) == []


def test_dominance_asks_only_the_aspects_that_count(pairs: Any) -> None:
    assert pairs(*TWO_ASPECTS, pairs="dominant") == []
    (pair,) = pairs(*TWO_ASPECTS, pairs="dominant", weight=["aesthetic=0"])
    assert pair["chosen_image_id"] == "a"


def test_the_median_is_not_moved_by_one_who_disagrees(pairs: Any) -> None:
    said = [judgement({"a": 4, "b": 3}, annotator=who) for who in "xy"] + [judgement({"a": 1, "b": 5}, annotator="z")]
    (mean,) = pairs(*said)
    (median,) = pairs(*said, aggregate="median")
    assert (mean["chosen_image_id"], mean["margin"]) == ("b", round((1 - 0.25 - 0.25) / 3, 6))
    assert (median["chosen_image_id"], median["margin"]) == ("a", 0.25)
    passes = [judgement({"a": score, "b": 3}) for score in (5, 5, 1)]
    assert pairs(*passes, aggregate="median")[0]["margin"] == 0.5
    assert pairs(*passes)[0]["margin"] == round((11 / 3 - 3) / 4, 6)


def test_annotators_have_weights_on_all_aspects_or_on_one(pairs: Any) -> None:
    said = [judgement({"a": 5, "b": 1}, annotator="x"), judgement({"a": 1, "b": 3}, annotator="y")]
    said += [judgement({"a": 5, "b": 1}, "aesthetic", "x"), judgement({"a": 1, "b": 3}, "aesthetic", "y")]
    (pair,) = pairs(*said, annotator_weight=["y=3", "aesthetic@x=9"])
    assert pair["aspects"] == {"aesthetic": (9 - 1.5) / 12, "fidelity": round((1 - 1.5) / 4, 6) + 0.0}
    (pair,) = pairs(*said, annotator_weight=["x=0"])
    assert (pair["chosen_image_id"], pair["margin"]) == ("b", 0.5)
    assert pairs(*said, annotator_weight=["x=0", "y=0"]) == []
    with pytest.raises(UserError, match=r"--annotator-weight z: the judgements have no such name; they have x, y"):
        pairs(*said, annotator_weight=["z=1"])
    with pytest.raises(UserError, match=r"no such name; they have aesthetic, fidelity"):
        pairs(*said, annotator_weight=["beauty@x=1"])


def test_names_of_annotators_may_have_signs() -> None:
    texts = ["human:anna@example.com=2", "fidelity@openai:gpt=4o=0.5", "*@b@c=1"]
    assert parse_annotator_weights(texts) == {
        (ANY_ASPECT, "human:anna@example.com"): 2,
        ("fidelity", "openai:gpt=4o"): 0.5,
        (ANY_ASPECT, "b@c"): 1,
    }
    for wrong in ("x", "=1", "x=-1", "x=nan"):
        with pytest.raises(UserError, match="--annotator-weight"):
            parse_annotator_weights([wrong])


def test_an_aspect_needs_enough_annotators(pairs: Any) -> None:
    said = [judgement({"a": 5, "b": 1}, annotator=who) for who in "xy"]
    alone = judgement({"a": 1, "b": 5, "c": 3}, "aesthetic", "x")
    (pair,) = pairs(*said, alone, min_annotators=2)
    assert told(pair) == ("a", "b", 1.0, {"fidelity": 1.0})


def test_the_draw_of_pairs_is_the_same_whatever_else_there_is(pairs: Any) -> None:
    many = judgement({name: number for number, name in enumerate("abcde", 1)})
    few = pairs(many, balance=3)
    assert len(few) == 3
    assert [one for one in pairs(many) if one in few] == few
    assert pairs(judgement({"a": 1, "b": 2}, prompt="q"), many, balance=3)[1:] == few


def test_ratings_say_which_pictures_are_better_than_the_others(pairs: Any) -> None:
    made = pairs(judgement({"a": 5, "b": 3, "c": 1}, split="test"), to=["ratings"])
    assert [(one["image_id"], one["label"], one["margin"]) for one in made] == [("a", True, 0.75), ("c", False, 0.75)]
    assert made[0] | {"mine": 1} == {
        "prompt_id": "p",
        "prompt": "draw p",
        "split": "test",
        "file_name": "a.png",
        "image_id": "a",
        "label": True,
        "margin": 0.75,
        "mine": 1,
    }
    check(made[0], Rating, "here")
    assert len(pairs(judgement({"a": 5, "b": 4, "c": 1}), to=["ratings"], min_margin=0.5)) == 2


def test_judgements_are_joined_without_those_that_were_replaced(pairs: Any, forked: Run, tmp_path: Path) -> None:
    old, new = (judgement({"a": score, "b": 3}, key=str(score), rationales=["r", "s"], mine=[1]) for score in (1, 5))
    refused = judgement({"c": 1}, prompt="q", refused="no") | {"scores": []}
    write_lines(tmp_path / "x" / "a.jsonl", [old])
    write_lines(tmp_path / "b.jsonl", [refused, new])
    ended = forked("merge", "x/a.jsonl", "b.jsonl", "--to", "judgements", "--out", "y/joined.jsonl")
    assert ended.code == 0, ended.err
    assert ended.err.splitlines()[-1] == (
        "vpctl merge: 2 judgements written to y/joined.jsonl, from 3 judgements of 3 pictures for 2 prompts; "
        "1 judgement replaced by a later one"
    )
    expected = [one | {"file_names": [f"../{name}" for name in one["file_names"]]} for one in (refused, new)]
    assert lines((tmp_path / "y" / "joined.jsonl").read_text()) == expected


def test_any_number_of_files_in_any_order(run: Run, tmp_path: Path) -> None:
    """And one of them may be standard input; names of files are those of each file's own folder."""
    write_lines(tmp_path / "a" / "j.jsonl", [judgement({"a": 5, "b": 1})])
    write_lines(tmp_path / "b" / "j.jsonl", [judgement({"a": 1, "b": 2}, prompt="q")])
    third = write_lines(tmp_path / "j.jsonl", [judgement({"a": 1, "b": 2}, prompt="r")]).read_text()
    outputs = []
    for order in (["a/j.jsonl", "b/j.jsonl", "-"], ["-", "b/j.jsonl", "a/j.jsonl"]):
        ended = run("merge", *order, "--out", "deep/pairs.jsonl", stdin=third)
        assert (ended.code, ended.out) == (0, "")
        outputs.append(lines((tmp_path / "deep" / "pairs.jsonl").read_text()))
    assert [pair["prompt_id"] for pair in outputs[0]] == ["p", "q", "r"]
    assert outputs[1] == outputs[0][::-1]
    assert [pair["chosen_file_name"] for pair in outputs[0]] == ["../a/a.png", "../b/b.png", "../b.png"]


def test_nothing_makes_nothing(forked: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n")
    ended = forked("merge", "in.jsonl", "--out", "pairs.jsonl")
    assert ended.code == 0
    said = "0 pairs written to pairs.jsonl, from 0 judgements of 0 pictures for 0 prompts; 0 ties dropped"
    assert ended.err == f"vpctl merge: {said}\n"
    assert (tmp_path / "pairs.jsonl").read_bytes() == b""


def parts(made: list[Record]) -> dict[str, str]:
    return {pair["prompt_id"]: pair["split"] for pair in made}


def test_a_prompt_stays_in_its_part_when_the_data_grow(pairs: Any) -> None:
    prompts = [f"prompt {number}" for number in range(60)]
    judgements = [judgement({"a": 5, "b": 1, "c": 3}, prompt=prompt) for prompt in prompts]
    shares = "train:8,validation:1,test:1"
    few, many = pairs(*judgements[:20], split=shares), pairs(*judgements[::-1], split=shares.replace(":", "="))
    assert parts(few).items() <= parts(many).items()
    assert parts(many) == {prompt: split_of(prompt, {"train": 8, "validation": 1, "test": 1}) for prompt in prompts}
    assert set(parts(many).values()) == {"train", "validation", "test"}
    for made in (few, many):
        assert len(made) == 3 * len(parts(made)), "all pairs of a prompt share its part"


def test_the_part_that_is_asked_for_takes_the_place_of_the_one_that_is_there(pairs: Any) -> None:
    said = judgement({"a": 5, "b": 1}, split="test")
    assert pairs(said)[0]["split"] == "test"
    assert pairs(said, split="train:1")[0]["split"] == "train"
    assert "split" not in pairs(judgement({"a": 5, "b": 1}))[0]


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1).filter(lambda text: "*" not in text), max_size=3, unique=True), st.integers(-5, 5))
def test_a_scale_may_be_of_anyone(names: list[str], low: int) -> None:
    assert parse_scales([f"{name}={low}:{low + 1}" for name in names]) == {
        ANYONE: Scale(1, 5),
        **{name: Scale(low, low + 1) for name in names},
    }
    assert parse_scales([f"{low}:{low + 0.5}"]) == {ANYONE: Scale(low, low + 0.5)}


def test_a_score_outside_its_scale_is_told_with_its_place(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [judgement({"a": 1, "b": 5}), judgement({"a": 1, "b": 7.5})])
    out = tmp_path / "pairs.jsonl"
    out.write_text("{}\n")
    with pytest.raises(UserError) as raised:
        merge([str(source)], str(out))
    assert str(raised.value) == (
        f"{source}:2: human gave 7.5, which is outside 1 to 5; set its scale with --scale human=LOW:HIGH"
    )
    assert out.read_text() == "{}\n"
    merge([str(source)], str(out), scale=["human=1:7.5"])
    assert len(lines(out.read_text())) == 1, "two judgements of one pair of pictures are one pair"


def test_comparisons_have_no_scale(pairs: Any) -> None:
    scored = judgement({"a": 0.2, "b": 0.2}, annotator="reward:clip")
    orders = ([0, 1], [1, 0])
    compared = [judgement({"a": 5, "b": 1}, annotator="reward:clip", mode="pair", order=order) for order in orders]
    [pair] = pairs(scored, *compared, scale=["reward:clip=-1:1"])
    assert (pair["chosen_image_id"], pair["margin"]) == ("a", 0.125)


def test_a_refusal_has_no_scores_to_be_outside(pairs: Any) -> None:
    assert pairs({**judgement({"a": 0, "b": 0}), "scores": [], "refused": "no"}) == []


def test_files_are_read_as_a_stream_of_records(tmp_path: Path) -> None:
    """A bad line in the second file is told as one of the second file."""
    first = write_lines(tmp_path / "a.jsonl", [judgement({"a": 1, "b": 5})])
    second = tmp_path / "b.jsonl"
    second.write_text("\n[]\n")
    with pytest.raises(UserError, match=r"b\.jsonl:2: a record is a JSON object"):
        merge([str(first), str(second)], str(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_lines(tmp_path / "in" / "j.jsonl", [judgement({"a": 1, "b": 3, "c": 3}, mine="x"), FOUR])


@pytest.mark.parametrize("kind", [[], ["ratings"], ["judgements"]], ids=str)
@pytest.mark.parametrize("target", ["csv:new/x.csv", "parquet:x.parquet"])
def test_a_data_set_holds_what_a_file_would(ranked: Path, tmp_path: Path, kind: list[str], target: str) -> None:
    merge([str(ranked)], str(tmp_path / "out.jsonl"), to=kind)
    merge([str(ranked)], to=[*kind, target])
    names = {"ratings": Rating, "judgements": Judgement}
    record_type: Any = names[kind[0]] if kind else Pair
    written = [one for _, one in located(str(tmp_path / "out.jsonl"), record_type)]
    read = [one for _, one in located(target, record_type)]
    assert read == written
    assert written


def test_merged_rankings_are_written_as_they_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    items = [{"id": "1", "prompt": "a cat", "generations": ["a/1.webp", "a/2.webp"], "ranking": [2, 1]}] * 2
    (tmp_path / "in.json").write_text(json.dumps(items))
    merge(["imagereward:in.json"], to=["imagereward:out/back.json"])
    assert json.loads((tmp_path / "out" / "back.json").read_text()) == items


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        (["pairs", "ratings"], "-", "--to pairs --to ratings: name one kind of records and one data set at most"),
        (["pears"], "-", "--to pears: must be pairs, ratings, judgements or FORMAT:PATH, such as csv:pairs.csv"),
        (["csv:a.csv"], "b.jsonl", "--to csv:a.csv: is written in place of --out; leave --out out"),
        (["csv:in/j.jsonl"], "-", "--to csv:in/j.jsonl: is read by this command; name another path"),
        (["parti:a.tsv"], "-", "parti:a.tsv: the format parti can only be read"),
        (["imagereward:a.json", "pairs"], "-", "imagereward:a.json: the format imagereward holds judgements; "),
        (["cvs:a.csv"], "-", "cvs:a.csv: there is no such file, and no format 'cvs'; did you mean csv:a.csv?"),
    ],
)
def test_a_data_set_that_cannot_be_written_is_told_before_the_work(
    ranked: Path, tmp_path: Path, to: list[str], out: str, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        merge(["in/j.jsonl"], out, to=to)
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_no_picture_from_elsewhere_is_copied_into_a_data_set(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("secret")
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    hostile = judgement({"a": 1, "b": 3}) | {"file_names": ["a.png", str(secret)]}
    write_lines(tmp_path / "j.jsonl", [hostile])
    with pytest.raises(UserError, match=r"secret: .*--root"):
        merge(["j.jsonl"], to=["ratings", "imagefolder:out"])
    assert not (tmp_path / "out" / "secret").exists()
    write_lines(tmp_path / "j.jsonl", [judgement({"a": 1, "b": 3})])
    merge(["j.jsonl"], to=["ratings", "imagefolder:out"])
    assert len([*(tmp_path / "out").rglob("*.png")]) == 1, "both pictures have the same content"
