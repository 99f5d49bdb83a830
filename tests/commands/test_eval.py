import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PIL

from tests.conftest import Plugin, Run, lines, write_lines
from vpctl.commands.eval.accuracy import accuracy
from vpctl.commands.eval.agreement import agreement
from vpctl.commands.eval.compare import compare
from vpctl.commands.eval.judgements import judgements
from vpctl.errors import GateFailed, UserError
from vpctl.records import Report, check
from vpctl.report.intervals import bootstrap
from vpctl.report.statistics import preferred

Record = dict[str, Any]
RED = """
import array

def reward(images, prompts):
    with open("opened", "a") as log:
        log.writelines(f"{image.getpixel((0, 0))[0]}\\n" for image in images)
    return array.array("d", [float(image.getpixel((0, 0))[0]) * float(argument or 1) for image in images])

return reward
"""
"""A reward of red pictures; it writes down what it has seen."""


@pytest.fixture
def red(plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The spec of a reward that is the picture's number."""
    monkeypatch.chdir(tmp_path)
    return str(plugin("red", RED))


def picture(folder: Path, number: int) -> str:
    """The name of a picture whose colour is its number."""
    PIL.new("RGB", (2, 2), (number, 0, 0)).save(folder / f"{number}.png")
    return f"{number}.png"


def pair(folder: Path, chosen: int, rejected: int, prompt: str = "p", **more: Any) -> Record:
    return {
        "prompt_id": prompt,
        "prompt": f"draw {prompt}",
        "chosen_file_name": picture(folder, chosen),
        "rejected_file_name": picture(folder, rejected),
        "margin": 0.5,
        **more,
    }


def reports(path: Path, metric: str = "") -> list[Record]:
    """What eval has written; each is a report. With `metric`, only those of this metric."""
    found = [check(report, Report, "here") for report in lines(path.read_text())]
    return [one for one in found if metric in ("", one["metric"])]


@given(st.floats(-9, 9), st.floats(-9, 9))
def test_one_of_two_is_preferred_or_neither(first: float, second: float) -> None:
    apart = abs(first - second) > 1e-4
    assert preferred(first, second) in ({1.0} if apart and first > second else {0.0} if apart else {0.0, 0.5, 1.0})
    assert preferred(first, second) + preferred(second, first) == 1


def test_what_the_size_of_a_batch_may_change_decides_nothing() -> None:
    assert preferred(1.2345678, 1.2345679) == preferred(0.0, 1e-9) == 0.5
    assert preferred(1.2345, 1.2346) == 0.0


def test_accuracy_is_how_often_the_chosen_picture_scores_higher(tmp_path: Path, red: str) -> None:
    rows = [
        pair(tmp_path, 9, 4, "p"),
        pair(tmp_path, 9, 5, "p"),
        pair(tmp_path, 4, 9, "q"),
        pair(tmp_path, 7, 7, "r"),
        pair(tmp_path, 8, 4, "s", split="test"),
    ]
    alike = shutil.copy(tmp_path / rows[3]["rejected_file_name"], tmp_path / "alike.png")
    rows[3]["rejected_file_name"] = os.path.basename(alike)
    source, out = write_lines(tmp_path / "pairs.jsonl", rows), tmp_path / "reports.jsonl"
    accuracy([str(source)], str(out), reward=[red, f"{red}:-1", red])
    by_prompt = [1.0, 1.0, 0.0, 0.5, 1.0], ["p", "p", "q", "r", "s"]
    expected = bootstrap(*by_prompt)
    assert expected.value == 0.7
    first, second = reports(out, "accuracy")
    assert first == {
        "name": red,
        "metric": "accuracy",
        "pairs": 5,
        "ties": 1,
        "value": 0.7,
        "low": expected.low,
        "high": expected.high,
        "n": 5,
        "confidence": 0.95,
        "prompts": 4,
    }
    assert second["name"] == f"{red}:-1"
    assert second["value"] == pytest.approx(0.3)
    seen = [int(line) for line in (tmp_path / "opened").read_text().split()]
    assert sorted(seen[: len(seen) // 2]) == [4, 4, 4, 5, 7, 7, 8, 9, 9], "a picture is scored once for each prompt"


def test_accuracy_is_of_pairs_and_not_of_ties(tmp_path: Path, red: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = [pair(tmp_path, 9, 1), pair(tmp_path, 1, 9, margin=0), pair(tmp_path, 2, 2 + 1, margin=0)]
    source, out = write_lines(tmp_path / "pairs.jsonl", made), tmp_path / "out.jsonl"
    accuracy([str(source)], str(out), reward=[red])
    (report,) = reports(out, "accuracy")
    assert (report["value"], report["n"]) == (1.0, 1)
    assert "2 ties left out" in capsys.readouterr().err


def test_accuracy_of_a_part_of_the_data(tmp_path: Path, red: str) -> None:
    rows = [
        pair(tmp_path, 9, 4, "p", split="train"),
        pair(tmp_path, 4, 9, "q", split="test"),
        pair(tmp_path, 9, 4, "r"),
    ]
    source, out = write_lines(tmp_path / "pairs.jsonl", rows), tmp_path / "reports.jsonl"
    for split, value, n in (("train", 1.0, 1), ("test", 0.0, 1), ("", 2 / 3, 3)):
        accuracy([str(source)], str(out), reward=[red], split=split)
        (report,) = reports(out, "accuracy")
        assert (report["value"], report["n"]) == (pytest.approx(value), n)
    with pytest.raises(UserError) as raised:
        accuracy([str(source)], reward=[red], split="validation")
    there = "there are pairs of 'test' and 'train'"
    assert str(raised.value) == f"{source}: there are no pairs of split 'validation'; {there}"
    write_lines(source, [{key: value for key, value in row.items() if key != "split"} for row in rows])
    with pytest.raises(UserError, match=r"'test', and no pair has a split; merge --split train:0\.8,.* makes splits$"):
        accuracy([str(source)], reward=[red], split="test")
    write_lines(source, [{**rows[0], "margin": 0}])
    with pytest.raises(UserError, match=r"all pairs of split 'train' are ties"):
        accuracy([str(source)], reward=[red], split="train")


def test_two_prompts_pass_no_gate_however_many_pairs_they_have(
    tmp_path: Path, red: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine of ten pairs of both prompts are right, so the bootstrap alone sees no variation."""
    rows = [pair(tmp_path, *((9, 4) if n else (4, 9)), prompt) for prompt in "pq" for n in range(10)]
    source, out = write_lines(tmp_path / "pairs.jsonl", rows), tmp_path / "reports.jsonl"
    with pytest.raises(GateFailed):
        accuracy([str(source)], str(out), reward=[red], fail_under=["0.8"])
    (report,) = reports(out, "accuracy")
    assert (report["value"], report["n"], report["prompts"]) == (0.9, 20, 2)
    assert report["low"] < 0.4
    assert "only 2 prompts: the intervals are wide" in capsys.readouterr().err


def test_accuracy_is_of_all_pairs_or_of_none(tmp_path: Path, red: str) -> None:
    source = write_lines(tmp_path / "pairs.jsonl", [pair(tmp_path, 9, 4), pair(tmp_path, 8, 3)])
    (tmp_path / "3.png").unlink()
    out = tmp_path / "reports.jsonl"
    with pytest.raises(UserError) as raised:
        accuracy([str(source)], str(out), reward=[red])
    way_out = "restore this picture, or leave out the records that name it"
    assert str(raised.value) == f"{tmp_path}/3.png: there is no such picture; {way_out}"
    assert not out.exists()


def tied(folder: Path, number: int, prompt: str) -> Record:
    """A pair of two pictures of one colour."""
    made = pair(folder, number, number, prompt)
    made["rejected_file_name"] = os.path.basename(shutil.copy(folder / made["chosen_file_name"], folder / "alike.png"))
    return made


def test_accuracy_is_reported_in_the_definitions_of_papers_and_the_headline_stays(tmp_path: Path, red: str) -> None:
    """Two pairs of p are right, the pair of q is wrong, and the scores tie that of r."""
    rows = [pair(tmp_path, 9, 4, "p"), pair(tmp_path, 9, 5, "p"), pair(tmp_path, 4, 9, "q"), tied(tmp_path, 7, "r")]
    source, out = write_lines(tmp_path / "pairs.jsonl", rows), tmp_path / "reports.jsonl"
    accuracy([str(source)], str(out), reward=[red])
    _, *others = reports(out)
    assert {(one["name"], one["pairs"], one["ties"]) for one in others} == {(red, 4, 1)}
    found = {one["metric"]: (one["value"], one["n"], one["chance"]) for one in others}
    assert found == {
        "accuracy_pooled": (0.5, 4, 3 / 8),
        "accuracy_per_prompt": (pytest.approx(1 / 3), 3, 3 / 8),
        "accuracy_ties_count": (pytest.approx(2 / 3), 3, 5 / 8),
        "accuracy_tie_aware": (0.625, 4, 0.5),
    }
    assert [one.get("threshold") for one in others] == [None, None, None, 0.0]
    # The smallest difference of the scores, 4, gives preferences that differ by tanh(2) = 0.964, and 5 by 0.987.
    accuracy([str(source)], str(out), reward=[red], tie_threshold=0.97)
    [aware] = reports(out, "accuracy_tie_aware")
    assert (aware["value"], aware["ties"], aware["threshold"]) == (0.5, 2, 0.97)


def test_ties_of_the_pairs_count_only_in_the_definitions_that_have_a_place_for_them(
    tmp_path: Path, red: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong pair of p, and of q a tie whose scores are far apart and one whose scores are nearly the same."""
    rows = [pair(tmp_path, 4, 9, "p"), pair(tmp_path, 9, 1, "q"), pair(tmp_path, 5, 4, "q")]
    ties = [{**one, "margin": 0.0} for one in rows[1:]]
    source, out = write_lines(tmp_path / "pairs.jsonl", [rows[0], *ties]), tmp_path / "reports.jsonl"
    accuracy([str(source)], str(out), reward=[red], tie_threshold=0.5)
    assert {one["metric"]: (one["value"], one["n"]) for one in reports(out)} == {
        "accuracy": (0.0, 1),
        "accuracy_pooled": (0.0, 1),
        "accuracy_per_prompt": (0.0, 1),
        "accuracy_ties_count": (0.5, 2),
        "accuracy_tie_aware": (0.5, 3),
    }
    said = capsys.readouterr().err
    assert "2 ties left out of all definitions but ties-count and tie-aware" in said
    assert "Accuracy on 1 pair " in said


def test_a_reward_is_compared_with_a_baseline_on_the_same_pairs(
    tmp_path: Path, red: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    rows = [pair(tmp_path, 9, 4, "p"), pair(tmp_path, 9, 5, "q"), pair(tmp_path, 4, 9, "r")]
    source, out = write_lines(tmp_path / "pairs.jsonl", rows), tmp_path / "reports.jsonl"
    worse, page = f"{red}:-1", tmp_path / "page.html"
    accuracy([str(source)], str(out), reward=[red], baseline=worse, html=str(page))
    assert [one["name"] for one in reports(out, "accuracy")] == [red, worse]
    [difference] = reports(out, "accuracy_difference")
    assert (difference["metric"], difference["baseline"]) == ("accuracy_difference", worse)
    assert (difference["value"], difference["n"], difference["pairs"]) == (pytest.approx(1 / 3), 3, 3)
    assert difference["low"] == -1, "the interval of a difference may lie below 0"
    shown = [row.strip("│").split("│") for row in capsys.readouterr().err.splitlines() if row.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in shown]
    assert [row[:2] for row in cells] == [[red, "0.667"], [worse, "0.333"], ["(by chance)", "0.500"], [red, "0.333"]]
    assert [row[3] for row in cells] == ["0.667", "0.333", "0.500", "0.333"], "pooled"
    assert "Differences of accuracies" in page.read_text()
    with pytest.raises(UserError) as raised:
        accuracy([str(source)], str(out), reward=[red, red], baseline=red)
    assert str(raised.value) == (
        f"--baseline {red}: there is no other reward to compare it with; name one with --reward"
    )


def test_the_gate_looks_at_the_headline_of_the_rewards_and_at_nothing_else(
    tmp_path: Path, red: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [pair(tmp_path, 9, number, str(number)) for number in range(1, 7)]
    source, worse = write_lines(tmp_path / "pairs.jsonl", rows), f"{red}:-1"
    out = str(tmp_path / "reports.jsonl")
    accuracy([str(source)], out, reward=[red], baseline=worse, fail_under=["0.5"])
    assert min(one["low"] for one in reports(Path(out))) < 0.5
    capsys.readouterr()
    with pytest.raises(GateFailed):
        accuracy([str(source)], out, reward=[red, worse], baseline=worse, fail_under=["0.5"])
    warnings = [line for line in capsys.readouterr().err.splitlines() if "below the gate" in line]
    assert len(warnings) == 1
    assert f"{worse}, accuracy: the lower end of the interval" in warnings[0]


def test_an_output_that_cannot_be_is_told_before_anything_is_scored(forked: Run, tmp_path: Path, red: str) -> None:
    source = write_lines(tmp_path / "pairs.jsonl", [pair(tmp_path, 9, 4)])
    ended = forked("eval", "accuracy", source, "--reward", red, "--out", ".")
    assert ended.code == 2
    assert ended.err == "vpctl eval accuracy: error: .: is a folder; name a file in it, such as ./out.jsonl\n"
    assert not (tmp_path / "opened").exists()


def image(prompt: str, number: int, **scores: float) -> Record:
    return {
        "prompt": f"draw {prompt}",
        "prompt_id": prompt,
        "image_id": f"{prompt}{number}",
        "file_name": f"{prompt}{number}.png",
        "model": "m",
        "seed": number,
        "scores": scores,
    }


BASE = [
    image("a", 0, clip=0.1, vp=5),
    image("a", 1, clip=0.2, vp=5),
    image("b", 0, clip=0.3, vp=5),
    image("c", 0, clip=0.4, vp=5),
    image("only base", 0, clip=0.9, vp=5),
]
TUNED = [
    image("only tuned", 0, clip=0.0, vp=9),
    image("b", 0, clip=0.3, vp=6),
    image("b", 1, clip=0.9, vp=9),
    image("a", 0, clip=0.2, vp=4),
    image("a", 1, clip=0.1, vp=6),
    image("c", 0, clip=0.8, vp=6),
]


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures of a base and of a tuned model, and it is the working one."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "base.jsonl", BASE)
    write_lines(tmp_path / "tuned.jsonl", TUNED)
    return tmp_path


def test_compare_meets_the_first_with_the_first_and_the_second_with_the_second(sides: Path) -> None:
    compare("base.jsonl", ["tuned.jsonl"], "out.jsonl")
    clip, vp = reports(sides / "out.jsonl")
    shared: Record = {"name": "tuned.jsonl", "metric": "win_rate", "baseline": "base.jsonl", "n": 4, "prompts": 3}
    outcomes, prompts = {"clip": [1.0, 0.0, 0.5, 1.0], "vp": [0.0, 1.0, 1.0, 1.0]}, ["a", "a", "b", "c"]
    for report, reward, mean, baseline in ((clip, "clip", 0.35, 0.25), (vp, "vp", 5.5, 5.0)):
        values = outcomes[reward]
        estimate = bootstrap(values, prompts)
        assert report == {
            **shared,
            "confidence": 0.95,
            "reward": reward,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "wins": values.count(1.0),
            "ties": values.count(0.5),
            "losses": values.count(0.0),
            "p_value": {"clip": 1.0, "vp": 0.5}[reward],
            "mean": pytest.approx(mean),
            "baseline_mean": pytest.approx(baseline),
        }


def test_pictures_of_raw_prompts_meet_those_of_the_polished_ones(sides: Path) -> None:
    """polish keeps the prompt_id, so that both are of one prompt."""
    write_lines(sides / "tuned.jsonl", [{**one, "prompt": f"polished {one['prompt']}"} for one in TUNED])
    compare("base.jsonl", ["tuned.jsonl"], "out.jsonl")
    assert [report["n"] for report in reports(sides / "out.jsonl")] == [4, 4]


def test_pictures_of_one_seed_meet_wherever_they_stand_and_what_meets_none_is_told(
    sides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four = [image("a", number, clip=number / 10) for number in range(4)]
    write_lines(sides / "base.jsonl", four)
    write_lines(sides / "tuned.jsonl", [four[3], four[1], four[2]])
    compare("base.jsonl", ["tuned.jsonl"], "out.jsonl", reward=["clip"])
    [report] = reports(sides / "out.jsonl")
    assert (report["wins"], report["ties"], report["losses"]) == (0, 3, 0)
    assert "1 picture of this file or of base.jsonl left out: no counterpart" in capsys.readouterr().err
    write_lines(sides / "tuned.jsonl", [{**one, "seed": one["seed"] + 100} for one in four])
    compare("base.jsonl", ["tuned.jsonl"], "out.jsonl", reward=["clip"])
    assert reports(sides / "out.jsonl")[0]["ties"] == 4, "seeds that are all others say nothing; places do"


def test_compare_takes_several_models_and_the_rewards_that_are_named(sides: Path) -> None:
    write_lines(sides / "other.jsonl", [image("a", 0, clip=0.0), image("c", 0, clip=0.4)])
    compare("base.jsonl", ["tuned.jsonl", "other.jsonl"], "out.jsonl")
    found = [
        (report["name"], report["reward"], report["value"], report["n"])
        for report in reports(sides / "out.jsonl", "win_rate")
    ]
    assert found == [("tuned.jsonl", "clip", 0.625, 4), ("other.jsonl", "clip", 0.25, 2)], "the reward that all share"
    compare("base.jsonl", ["tuned.jsonl"], "out.jsonl", reward=["vp"])
    assert [report["reward"] for report in reports(sides / "out.jsonl")] == ["vp"]


def test_a_model_is_as_good_as_itself_and_turned_round_the_rate_is_its_complement(sides: Path) -> None:
    compare("base.jsonl", ["base.jsonl"], "out.jsonl")
    assert {(report["value"], report["ties"]) for report in reports(sides / "out.jsonl")} == {(0.5, 5)}
    compare("base.jsonl", ["tuned.jsonl"], "there.jsonl")
    compare("tuned.jsonl", ["base.jsonl"], "back.jsonl")
    for there, back in zip(reports(sides / "there.jsonl"), reports(sides / "back.jsonl"), strict=True):
        assert there["value"] + back["value"] == pytest.approx(1)
        assert (there["wins"], there["ties"]) == (back["losses"], back["ties"])


def test_compare_says_the_same_every_time(run: Run, tmp_path: Path) -> None:
    """Also where Python's sets of texts have another order."""
    chosen = [(f"prompt {number}", number % 7 / 7, number % 5 / 5) for number in range(60)]
    write_lines(tmp_path / "base.jsonl", [image(prompt, 0, vp=base) for prompt, base, _ in chosen])
    write_lines(tmp_path / "tuned.jsonl", [image(prompt, 0, vp=tuned) for prompt, _, tuned in chosen])
    one, other = (run("eval", "compare", "base.jsonl", "tuned.jsonl", env={"PYTHONHASHSEED": seed}) for seed in "12")
    assert one.code == other.code == 0
    assert one.out == other.out


@pytest.mark.parametrize(
    ("tuned", "options", "said"),
    [
        ([], {}, "tuned.jsonl: there are no pictures"),
        ([image("z", 0, clip=1, vp=1)], {}, "tuned.jsonl: none of its prompts is in base.jsonl"),
        (
            [image("a", 0, other=1)],
            {},
            "the files have no score in common; first run vpctl score with the same --reward on all of them",
        ),
        (
            [image("a", 0, clip=1)],
            {"reward": ["vp"]},
            "tuned.jsonl: a0 has no score of 'vp'; it has clip",
        ),
        (
            [image("a", 0)],
            {"reward": ["vp"]},
            "tuned.jsonl: a0 has no score of 'vp'; run vpctl score with --reward vp, or name another",
        ),
    ],
)
def test_what_cannot_be_compared_is_told(sides: Path, tuned: list[Record], options: Any, said: str) -> None:
    write_lines(sides / "tuned.jsonl", tuned)
    with pytest.raises(UserError) as raised:
        compare("base.jsonl", ["tuned.jsonl"], "out.jsonl", **options)
    assert str(raised.value) == said
    assert not (sides / "out.jsonl").exists()


def judgement(
    annotator: str, scores: Sequence[float], prompt: str = "p", aspect: str = "fidelity", **more: Any
) -> Record:
    names = "abcde"[: len(scores)]
    return {
        "prompt_id": prompt,
        "prompt": f"draw {prompt}",
        "aspect": aspect,
        "annotator": annotator,
        "image_ids": [*names],
        "file_names": [f"{name}.png" for name in names],
        "scores": [*scores],
        **more,
    }


def test_agreement_is_of_pairs_that_neither_holds_equal(tmp_path: Path) -> None:
    rows = [
        judgement("human", [1, 2, 3]),
        judgement("net", [0.1, 0.3, 0.2]),
        judgement("human", [2, 2, 1], "q"),
        judgement("net", [0.9, 0.1, 0.5], "q"),
        judgement("human", [5, 1], "q", "aesthetic"),
        judgement("net", [0.5, 0.1], "q", "aesthetic"),
        judgement("human", [5, 1], "r"),
        judgement("net", [1, 5], "s"),
        judgement("net", [], "r", refused="no") | {"image_ids": ["a", "b"], "file_names": ["a.png", "b.png"]},
    ]
    source, out = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    agreement([str(source)], str(out))
    aesthetic, fidelity, mean = reports(out, "agreement")
    estimate = bootstrap([1, 1, 0, 1, 0], "pppqq")
    assert estimate.value == 0.6
    assert fidelity == {
        "name": "human",
        "baseline": "net",
        "metric": "agreement",
        "aspect": "fidelity",
        "ties": 1,
        "value": 0.6,
        "low": estimate.low,
        "high": estimate.high,
        "n": 5,
        "confidence": 0.95,
        "prompts": 2,
    }
    assert (aesthetic["aspect"], aesthetic["value"], aesthetic["n"], aesthetic["ties"]) == ("aesthetic", 1.0, 1, 0)
    # Of q, only a and b were judged on both aspects: the mean of 0 and 4 prefers a, as that of .8 and .4 does.
    assert (mean["aspect"], mean["value"], mean["n"], mean["ties"]) == ("mean of aspects", 0.75, 4, 0)


def test_agreement_compares_one_question_with_the_mean_of_several(tmp_path: Path) -> None:
    """By hand: the means of the model's aspects are 2, 3 and 3, so it ties b and c, and agrees on a with the person."""
    rows = [
        judgement("person", [1, 3, 2], aspect="preference"),
        judgement("model", [1, 5, 3], aspect="fidelity"),
        judgement("model", [3, 1, 3], aspect="aesthetic"),
    ]
    out = tmp_path / "out.jsonl"
    agreement([str(write_lines(tmp_path / "in.jsonl", rows))], str(out))
    (found,) = reports(out, "agreement")
    assert (found["aspect"], found["value"], found["n"], found["ties"]) == ("mean of aspects", 1.0, 2, 1)
    (with_ties,) = reports(out, "agreement_with_ties")
    assert with_ties["value"] == pytest.approx(2 / 3)


def test_agreement_compares_every_two_annotators_over_all_files(tmp_path: Path) -> None:
    sources = [
        str(write_lines(tmp_path / f"{name}.jsonl", [judgement(name, scores)]))
        for name, scores in {"x": [1, 2, 3], "y": [1, 3, 2], "z": [3, 2, 1]}.items()
    ]
    agreement(sources, str(tmp_path / "out.jsonl"))
    found = {
        (report["name"], report["baseline"]): report["value"] for report in reports(tmp_path / "out.jsonl", "agreement")
    }
    assert found == {("x", "y"): pytest.approx(2 / 3), ("x", "z"): 0.0, ("y", "z"): pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "agreement needs at least two annotators, or one with --passes 2; found: none"),
        ([judgement("human", [1, 2])], "agreement needs at least two annotators, or one with --passes 2; found: human"),
        (
            [judgement("human", [1, 2]), judgement("net", [1, 2], "q")],
            "no two annotators judged the same two pictures",
        ),
    ],
)
def test_what_cannot_agree_is_told(tmp_path: Path, rows: list[Record], said: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", rows)
    with pytest.raises(UserError) as raised:
        agreement([str(source)])
    assert str(raised.value) == said


def test_judgements_are_described_over_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [
        judgement("m", [5, 3, 3], order=[2, 0, 1], key="1"),
        judgement("m", [1, 2, 4], "q", order=[0, 1, 2], key="2"),
    ]
    second = [
        judgement("m", [2, 1, 1], "q", order=[0, 1, 2], key="3"),  # replaces the one of the first file
        judgement("m", [1, 3, 3], order=[0, 1, 2], repeat=2, key="4"),
        judgement("m", [], "r", refused="no", key="5") | {"image_ids": ["a"], "file_names": ["a.png"]},
    ]
    sources = [str(write_lines(tmp_path / f"{name}.jsonl", rows)) for name, rows in (("1", first), ("2", second))]
    out = tmp_path / "out.jsonl"
    judgements(sources, str(out))
    found = {(one["metric"], one.get("level")): one for one in reports(out)}
    shares = {key: (one["value"], one["n"]) for key, one in found.items()}
    expected: dict[tuple[str, int | None], tuple[Any, int]] = {
        ("refused", None): (0.25, 4),
        ("failed", None): (0.0, 4),
        ("ties", None): (pytest.approx(1 / 3), 9),
        # First and last shown: 3 and 3, 2 and 1, 1 and 3.
        ("first_preferred", None): (0.5, 3),
        # Of the pictures of p, a lost to b and to c in the second pass only; b and c were equal in both.
        ("flips", None): (1.0, 2),
        **{("level", level): (pytest.approx(n / 9), 9) for level, n in ((1, 3), (2, 1), (3, 4), (4, 0), (5, 1))},
    }
    assert shares == expected
    assert found["first_preferred", None]["difference"] == pytest.approx(-1 / 3)
    estimate = bootstrap([1, 0, 0, 1, 0, 0, 1, 0, 0], "pppqqqppp")
    assert (found["ties", None]["low"], found["ties", None]["high"]) == (estimate.low, estimate.high)
    assert {(one["name"], one["aspect"], one["mode"]) for one in found.values()} == {("m", "fidelity", "list")}
    assert "Judged by m, list" in capsys.readouterr().err


def test_scores_that_are_no_levels_have_no_shares_of_levels(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [judgement("reward:clip", [0.1, -7.3])])
    judgements([str(source)], str(tmp_path / "out.jsonl"))
    assert {one["metric"] for one in reports(tmp_path / "out.jsonl")} == {"refused", "failed", "ties"}


def test_a_gate_that_is_not_met_is_exit_4_and_the_reports_are_there(
    sides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(sides / "certain.jsonl", [image(name, 0, clip=1, vp=9) for name in "abc"])
    compare("base.jsonl", ["certain.jsonl"], "out.jsonl", fail_under=["0.29"])
    write_lines(sides / "lost.jsonl", [image(name, 0, clip=0, vp=1) for name in "abc"])
    capsys.readouterr()
    with pytest.raises(GateFailed) as ended:
        compare("base.jsonl", ["certain.jsonl", "lost.jsonl"], "out.jsonl", fail_under=["0.29"])
    assert ended.value.exit_code == 4
    assert len(reports(sides / "out.jsonl", "win_rate")) == 4
    warnings = [line for line in capsys.readouterr().err.splitlines() if "below the gate" in line]
    named = [line.split(": ")[2] for line in warnings]
    assert named == ["lost.jsonl, base.jsonl, clip, win_rate", "lost.jsonl, base.jsonl, vp, win_rate"]
    assert all(line.endswith("is below the gate of 0.29") for line in warnings)


def test_the_table_shows_what_differs_and_takes_names_as_they_are(
    sides: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich would take brackets for its own markup, and end in an error over these."""
    monkeypatch.setenv("COLUMNS", "80")
    write_lines(sides / "tuned [/b].jsonl", TUNED)
    compare("base.jsonl", ["tuned.jsonl", "tuned [/b].jsonl"], "out.jsonl", reward=["clip"])
    said = capsys.readouterr().err
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if line.startswith("│")]
    low, high = (reports(sides / "out.jsonl")[0][end] for end in ("low", "high"))
    assert rows[:2] == [
        [name, "0.625", f"{low:.3f} to {high:.3f}", "4"] for name in ("tuned.jsonl", "tuned [/b].jsonl")
    ]
