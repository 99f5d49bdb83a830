"""eval over several files, from scores that are there, by parts of the data, with judges, and its gates for CI."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_eval import RED, image, judgement, pair, picture, reports
from tests.conftest import Plugin, lines, write_lines
from vpctl.commands.eval.accuracy import accuracy
from vpctl.commands.eval.agreement import agreement
from vpctl.commands.eval.compare import compare
from vpctl.errors import GateFailed, SomeFailed, UserError
from vpctl.report.accuracy import HARMONIC_MEAN

Record = dict[str, Any]


def scored(folder: Path, name: str, scores: dict[int, float], prompt: str, **more: Any) -> Record:
    """The records of pictures with the scores of one reward, as score writes them."""
    found = [
        {"prompt": f"draw {prompt}", "prompt_id": prompt, "file_name": picture(folder, number), "scores": {name: score}}
        for number, score in scores.items()
    ]
    return {"rows": [{**one, **more} for one in found]}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of pairs, and the scores of the pictures of both, with models."""
    monkeypatch.chdir(tmp_path)
    ours = [
        pair(tmp_path, 9, 4, "p", category="cats", aspects={"fidelity": 0.5, "aesthetic": -0.25}),
        pair(tmp_path, 8, 3, "q", category="dogs", aspects={"fidelity": 0.0, "aesthetic": 0.5}),
    ]
    write_lines(tmp_path / "one.jsonl", ours)
    write_lines(tmp_path / "two.jsonl", [pair(tmp_path, 1, 2, "r"), pair(tmp_path, 2, 1, "s")])
    rows = [
        *scored(tmp_path, "vp", {9: 0.9, 4: 0.1}, "p", model="a")["rows"],
        *scored(tmp_path, "vp", {8: 0.1}, "q", model="a")["rows"],
        *scored(tmp_path, "vp", {3: 0.9}, "q", model="b")["rows"],
        *scored(tmp_path, "vp", {1: 0.9, 2: 0.1}, "r")["rows"],
        *scored(tmp_path, "vp", {1: 0.9, 2: 0.1}, "s")["rows"],
    ]
    write_lines(tmp_path / "scored.jsonl", rows)
    return tmp_path


def test_scores_that_are_there_need_no_model_and_files_have_a_harmonic_mean(data: Path) -> None:
    accuracy(["one.jsonl", "two.jsonl"], "out.jsonl", scores=["scored.jsonl"])
    found = reports(data / "out.jsonl", "accuracy")
    assert [(one["name"], one["data"], one["value"]) for one in found] == [
        ("vp", "one.jsonl", 0.5),
        ("vp", "two.jsonl", 0.5),
    ]
    [mean] = reports(data / "out.jsonl", HARMONIC_MEAN)
    assert (mean["value"], mean["n"], mean["prompts"]) == (0.5, 2, 2)


def test_the_harmonic_mean_differs_from_that_of_the_baseline(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The other reward is always wrong where `vp` is right: on each file, one of the two pairs."""
    every = lines((data / "scored.jsonl").read_text())
    turned = [{**one, "scores": {"turned": -one["scores"]["vp"]}} for one in every]
    write_lines(data / "turned.jsonl", turned)
    accuracy(["one.jsonl", "two.jsonl"], "out.jsonl", scores=["scored.jsonl", "turned.jsonl"], baseline="vp")
    [difference] = reports(data / "out.jsonl", f"{HARMONIC_MEAN}_difference")
    assert (difference["name"], difference["baseline"], difference["value"]) == ("turned", "vp", 0.0)
    assert -1 <= difference["low"] < 0 < difference["high"] <= 1
    assert "Difference of the harmonic mean from vp" in " ".join(capsys.readouterr().err.split())


def test_a_part_is_the_pairs_with_a_value_of_a_key(data: Path) -> None:
    """On aesthetic, p prefers the other picture: there the scores are wrong on both prompts."""
    accuracy(["one.jsonl"], "out.jsonl", scores=["scored.jsonl"], group_by=["aspect", "category", "model"])
    found = {(one["by"], one["group"]): (one["value"], one["n"]) for one in reports(data / "out.jsonl") if "by" in one}
    assert found == {
        ("aspect", "fidelity"): (1.0, 1),
        ("aspect", "aesthetic"): (0.0, 2),
        ("category", "cats"): (1.0, 1),
        ("category", "dogs"): (0.0, 1),
        ("model", "a"): (1.0, 1),
        ("model", "a and b"): (0.0, 1),
    }


def test_rewards_are_measured_beside_scores_that_are_there(data: Path, plugin: Plugin) -> None:
    red = str(plugin("red", RED))
    accuracy(["one.jsonl"], "out.jsonl", scores=["scored.jsonl"], reward=[red], baseline="vp")
    assert [one["name"] for one in reports(data / "out.jsonl", "accuracy")] == [red, "vp"]
    [difference] = reports(data / "out.jsonl", "accuracy_difference")
    assert (difference["name"], difference["value"]) == (red, 0.5)


def test_rankings_by_people_are_pairs_with_ties(data: Path) -> None:
    rows = [judgement("human", [5, 3, 3], "p"), judgement("human", [1, 5], "q")]
    write_lines(data / "human.jsonl", rows)
    names = [("p", "a", 3.0), ("p", "b", 2.0), ("p", "c", 1.0), ("q", "a", 1.0), ("q", "b", 2.0)]
    told = [
        {"prompt": rows[0]["prompt"] if prompt == "p" else rows[1]["prompt"], "prompt_id": prompt,
         "file_name": f"{name}.png", "scores": {"vp": score}}
        for prompt, name, score in names
    ]  # fmt: skip
    write_lines(data / "told.jsonl", told)
    accuracy(["human.jsonl"], "out.jsonl", scores=["told.jsonl"])
    assert [(one["metric"], one["value"], one["n"]) for one in reports(data / "out.jsonl")] == [
        ("accuracy", 1.0, 3),
        ("accuracy_pooled", 1.0, 3),
        ("accuracy_per_prompt", 1.0, 2),
        ("accuracy_ties_count", 1.0, 2),
        ("accuracy_tie_aware", pytest.approx(3.5 / 4), 4),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group_by": ["colour"], "scores": ["scored.jsonl"]}, "--group-by colour: no pair has this"),
        (
            {"scores": ["few.jsonl"]},
            "--scores few.jsonl: vp has scores for 1 of 4 pictures; {data}/4.png has none; score them all, with vpctl "
            "score",
        ),
        (
            {"scores": ["none.jsonl"]},
            "--scores none.jsonl: has no score of the pictures of the pairs; score the same files and prompts",
        ),
        (
            {"scores": ["scored.jsonl"], "baseline": "vp"},
            "--baseline vp: there is no other reward to compare it with; ",
        ),
        ({"scores": ["one.jsonl"]}, "one.jsonl: is named twice"),
        (
            {"scores": ["scored.jsonl"], "fail_under": ["0"], "junit": "one.jsonl"},
            "--junit one.jsonl: this command reads or writes that file",
        ),
        (
            {"scores": ["scored.jsonl"], "fail_under": ["0"], "junit": "two.jsonl"},
            "--junit two.jsonl: holds something other than XML",
        ),
        ({"scores": ["scored.jsonl"], "junit": "j.xml"}, "--junit j.xml: holds the outcomes of gates; set one"),
        (
            {"scores": ["scored.jsonl"], "previous": "old.jsonl"},
            "--previous old.jsonl: there is no such file; the first time",
        ),
    ],
)
def test_what_cannot_be_measured_is_told(data: Path, options: Any, said: str) -> None:
    [first, *_] = lines((data / "scored.jsonl").read_text())
    write_lines(data / "few.jsonl", [first])
    write_lines(data / "none.jsonl", [{**first, "prompt_id": "another"}])
    with pytest.raises(UserError) as raised:
        accuracy(["one.jsonl"], "out.jsonl", **options)
    assert str(raised.value).lower().startswith(said.format(data=data).lower())
    assert not (data / "out.jsonl").exists()


def shots(folder: Path, name: str, numbers: Callable[[int], int], count: int = 12) -> str:
    """The records of pictures of a model, one for each prompt; their scores are their colours."""
    rows = [
        {**image(str(prompt), 0, red=numbers(prompt)), "file_name": picture(folder, numbers(prompt)),
         "image_id": f"{name}{prompt}", "category": "even" if prompt % 2 == 0 else "odd"}
        for prompt in range(count)
    ]  # fmt: skip
    return str(write_lines(folder / f"{name}.jsonl", rows))


BRIGHT = """
from vpctl.contracts import Verdicts

def judge(prompt, images, aspect):
    with open("asked", "a") as log:
        log.write("asked\\n")
    scores = [float(image.getpixel((0, 0))[0]) for image in images]
    if prompt == "draw 3":
        scores = [2.0, 1.0]
    return Verdicts(scores, ["red"] * len(images), {})

return judge
"""
"""An annotator that likes red, and of prompt 3 always the first picture."""


def test_an_annotator_is_asked_in_both_orders_once(tmp_path: Path, plugin: Plugin, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    base, tuned = shots(tmp_path, "base", lambda n: n + 1), shots(tmp_path, "tuned", lambda n: 50 + n)
    judge = str(plugin("bright", BRIGHT))
    for _ in range(2):
        compare(base, [tuned], "out.jsonl", annotator=judge, aspect=["fidelity"], judgements=["duels.jsonl"])
        assert (tmp_path / "asked").read_text().count("asked") == 24
    by_reward, by_judge = reports(tmp_path / "out.jsonl")
    assert (by_reward["reward"], by_reward["wins"]) == ("red", 12)
    assert (by_judge["reward"], by_judge["wins"], by_judge["ties"], by_judge["losses"]) == (f"judge:{judge}", 11, 1, 0)
    # The judgements are of people as well, without an annotator: one that saw both side by side has no order.
    voted = [
        {**one, "annotator": "human:anna", "scores": [5, 1]} for one in lines((tmp_path / "duels.jsonl").read_text())
    ]
    for one in voted:
        del one["order"], one["key"]
    write_lines(tmp_path / "votes.jsonl", voted[:4])
    compare(base, [tuned], "out.jsonl", judgements=["votes.jsonl"], reward=["red"])
    anna = reports(tmp_path / "out.jsonl")[1]
    assert (anna["reward"], anna["n"], anna["unjudged"]) == ("judge:human:anna", 2, 10)


def test_a_comparison_that_fails_does_not_cost_the_others(tmp_path: Path, plugin: Plugin, monkeypatch: Any) -> None:
    """The second judge sees one of two models only: of the other one, it has no win rate."""
    monkeypatch.chdir(tmp_path)
    base, tuned = shots(tmp_path, "b", lambda n: n + 1, 4), shots(tmp_path, "t", lambda n: n + 9, 4)
    other = shots(tmp_path, "o", lambda n: n + 5, 4)
    judge = str(plugin("bright", BRIGHT))
    (tmp_path / "9.png").write_text("no picture")
    with pytest.raises(SomeFailed):
        compare(base, [tuned], "out.jsonl", annotator=judge, aspect=["fidelity"], judgements=["duels.jsonl"])
    [by_judge] = [one for one in reports(tmp_path / "out.jsonl") if one["reward"] == f"judge:{judge}"]
    assert (by_judge["n"], by_judge["unjudged"]) == (3, 1)
    compare(base, [tuned, other], "out.jsonl", judgements=["duels.jsonl"])
    judged = [one["name"] for one in reports(tmp_path / "out.jsonl", "win_rate") if one["reward"] != "red"]
    assert judged == [tuned]


def test_one_prompt_has_no_ranking_and_the_report_can_be_read_back(tmp_path: Path) -> None:
    rows = [image("p", n, vp=1.7e308) for n in range(2)]
    files = [str(write_lines(tmp_path / f"{name}.jsonl", rows)) for name in "btu"]
    compare(files[0], files[1:], str(tmp_path / "out.jsonl"))
    found = reports(tmp_path / "out.jsonl")
    assert [(one["metric"], "mean" in one) for one in found] == [("win_rate", False)] * 2


def test_a_model_that_changes_nothing_does_not_beat_itself(tmp_path: Path) -> None:
    base = shots(tmp_path, "base", lambda n: 20 + n)
    with pytest.raises(GateFailed):
        compare(base, [base], str(tmp_path / "out.jsonl"), fail_under=["0.5"])
    compare(base, [base], str(tmp_path / "out.jsonl"), fail_under=["0.4"], gate_on="value")


def test_the_best_of_more_pictures_is_not_compared_with_the_best_of_few(tmp_path: Path) -> None:
    few = str(write_lines(tmp_path / "b.jsonl", [image("p", n, vp=n) for n in range(2)]))
    more = str(write_lines(tmp_path / "t.jsonl", [image("p", n, vp=n) for n in range(4)]))
    with pytest.raises(UserError, match=r"t\.jsonl has 4 pictures of 'draw p', and .*b\.jsonl has 2; the best of more"):
        compare(few, [more], select="top-1", by=["vp"], reward=["vp"])


def test_a_suite_selects_prompts_and_has_their_categories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned = shots(tmp_path, "base", lambda n: 20), shots(tmp_path, "tuned", lambda n: 10 + 20 * (n % 2))
    suite = [{"prompt": f"draw {n}", "prompt_id": str(n), "tag": "x" if n else "y"} for n in (0, 1, 2, 99)]
    write_lines(tmp_path / "suite.jsonl", suite)
    suite_file, out = str(tmp_path / "suite.jsonl"), tmp_path / "out.jsonl"
    compare(base, [tuned], str(out), suite=suite_file, group_by=["tag", "category"])
    assert {(one.get("group"), round(one["value"], 3), one["n"]) for one in reports(out)} == {
        (None, 0.333, 3),
        ("y", 0.0, 1),
        ("x", 0.5, 2),
        ("even", 0.0, 2),
        ("odd", 1.0, 1),
    }
    assert "1 of 4 prompts" in capsys.readouterr().err


def test_the_selecting_reward_is_named_and_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [image("p", n, vp=n, clip=-n) for n in range(4)]
    base, tuned = (str(write_lines(tmp_path / f"{name}.jsonl", rows)) for name in "bt")
    compare(base, [tuned], str(tmp_path / "out.jsonl"), select="top-2", by=["vp", "clip"], reward=["vp"])
    [report] = reports(tmp_path / "out.jsonl")
    assert (report["selected_by"], report["losses"], report["n"]) == ("vp,clip", 2, 2)
    assert "its own win rate is biased" in capsys.readouterr().err
    for wrong in ({"select": "best"}, {"select": "top-2"}, {"by": ["vp"]}):
        with pytest.raises(UserError, match=r"^--select|^--by vp: selects pictures for --select"):
            compare(base, [tuned], **wrong)


def test_ci_reads_the_gates(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The same model twice passes; a model that got worse fails, and all forms of the outcome name its metric."""
    base, good = shots(tmp_path, "base", lambda n: 20), shots(tmp_path, "good", lambda n: 30 - n)
    bad = shots(tmp_path, "bad", lambda n: 10)
    previous, summary, junit = str(tmp_path / "old.jsonl"), tmp_path / "summary.md", tmp_path / "junit.xml"
    compare(base, [good], previous)
    compare(base, [good], previous, previous=previous, fail_under=["win_rate=0.5"], junit=str(junit))
    assert 'failures="0"' in junit.read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    (tmp_path / "good.jsonl").write_text((tmp_path / "bad.jsonl").read_text())
    capsys.readouterr()
    with pytest.raises(GateFailed):
        compare(base, [good], "-", previous=previous, fail_under=["win_rate=0.5"], junit=str(junit), github=True)
    said = capsys.readouterr().err
    assert said.count("::error title=") == 2
    assert "win_rate: 0.000 is significantly worse than 0.875" in said
    assert 'failures="2"' in junit.read_text()
    assert "**failed**" in summary.read_text()
    assert bad


def test_agreement_has_gates_for_each_of_its_metrics(tmp_path: Path) -> None:
    rows = [judgement(name, scores, prompt) for prompt in "pqrstu" for name, scores in (("x", [1, 2]), ("y", [1, 2]))]
    source = str(write_lines(tmp_path / "in.jsonl", rows))
    out = str(tmp_path / "out.jsonl")
    agreement([source], out, fail_under=["agreement=0.5", "spearman=-1"])
    with pytest.raises(GateFailed):
        agreement([source], out, fail_under=["agreement=0.9"])
    with pytest.raises(UserError, match="fleiss_kappa=0: nothing was measured"):
        agreement([source], out, fail_under=["fleiss_kappa=0"])
    orders = [{**row, "order": [1, 0]} for row in rows]
    write_lines(tmp_path / "in.jsonl", orders)
    agreement([source], out)
    agreement([source], out, previous=out)
    assert {one["slot"] for one in reports(tmp_path / "out.jsonl", "slot_preferred")} == {1, 2}
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["metric"] == "agreement"
