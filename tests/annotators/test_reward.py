"""Reward models as judges."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from PIL import Image

from tests.conftest import HOME, PATIENCE, Plugin
from tests.surroundings import ENVIRONMENT
from vpctl import plugins
from vpctl.annotators.reward import RewardJudge
from vpctl.contracts import Mode, Question, Verdicts
from vpctl.errors import RecordFailed, UserError
from vpctl.rewards import shapes

FIDELITY, AESTHETIC = plugins.aspect("fidelity"), plugins.aspect("aesthetic")
LENGTH = """
import array, pathlib
calls = pathlib.Path(__file__).with_suffix(".calls")
calls.write_text("")

def reward(images, prompts):
    with calls.open("a") as file:
        print(len(images), file=file)
    return array.array("d", [image.width + len(prompt) / 100 for image, prompt in zip(images, prompts, strict=True)])

return reward
"""
"""A reward whose value a test can compute: the picture's width, plus a hundredth for each character of the prompt."""


def pictures(judge: RewardJudge, *widths: int) -> list[object]:
    return [judge.prepare(Image.new("RGB", (width, 4)), f"{width}.png") for width in widths]


def ask(judge: RewardJudge, *questions: Question) -> Sequence[list[Verdicts] | BaseException]:
    async def all_of_them() -> Sequence[list[Verdicts] | BaseException]:
        return await asyncio.gather(*map(judge.ask, questions), return_exceptions=True)

    return asyncio.run(all_of_them())


def load(spec: object) -> RewardJudge:
    judge = plugins.load("annotator", f"reward:{spec}", device="cpu")
    assert isinstance(judge, RewardJudge)
    return judge


def test_the_score_is_the_reward_and_the_reason_says_so(plugin: Plugin) -> None:
    path = plugin("length", LENGTH)
    judge = load(path)
    (found,) = ask(judge, Question("abc", pictures(judge, 7, 5, 6), (FIDELITY, AESTHETIC)))
    verdicts = Verdicts([7.03, 5.03, 6.03], [f"{path} gives {reward}" for reward in (7.03, 5.03, 6.03)], {})
    assert found == [verdicts, verdicts]


def test_of_two_compared_the_higher_reward_is_preferred(plugin: Plugin) -> None:
    judge = load(plugin("length", LENGTH))
    asked = [Question("abc", pictures(judge, *widths), (FIDELITY,), "pair") for widths in ((4, 5), (5, 4), (5, 5))]
    found = ask(judge, *asked)
    assert [one[0].scores for one in found if isinstance(one, list)] == [[1.0, 5.0], [5.0, 1.0], [3.0, 3.0]]
    assert "gives 4.03" in str(found[0])


def test_questions_asked_at_once_are_answered_together_and_no_reward_is_taken_twice(plugin: Plugin) -> None:
    path = plugin("length", LENGTH)
    judge = load(path)
    shown = pictures(judge, 3, 4, 5, 6, 7)
    lists = [Question("abc", shown, (aspect,)) for aspect in (FIDELITY, AESTHETIC)]
    points = [Question("abc", [one], (FIDELITY,), "point") for one in shown]
    other = Question("ab", shown[:1], (FIDELITY,))
    found = ask(judge, *lists, *points, other)
    assert [one[0].scores for one in found if isinstance(one, list)] == [
        *[[3.03, 4.03, 5.03, 6.03, 7.03]] * 2,
        *[[3.03], [4.03], [5.03], [6.03], [7.03]],
        [3.02],
    ]
    assert path.with_suffix(".calls").read_text() == "6\n"
    ask(judge, *lists)
    assert path.with_suffix(".calls").read_text() == "6\n", "what is known is not asked again"


def test_many_pictures_go_through_the_reward_a_few_at_a_time(plugin: Plugin) -> None:
    path = plugin("length", LENGTH)
    judge = load(path)
    (found,) = ask(judge, Question("", pictures(judge, *range(1, 27)), (FIDELITY,)))
    assert isinstance(found, list)
    assert found[0].scores == [*range(1, 27)]
    assert path.with_suffix(".calls").read_text() == "16\n10\n"


@pytest.mark.parametrize("mode", ["list", "point", "pair"])
def test_what_is_no_number_is_no_score(plugin: Plugin, mode: Mode) -> None:
    path = plugin("nan", "return lambda images, prompts: [float('nan')] * len(images)")
    judge = load(path)
    (found,) = ask(judge, Question("", pictures(judge, 3, 4), (FIDELITY,), mode))
    assert type(found) is RecordFailed
    assert str(found) == f"{path} gave nan, which is not a valid score"


def test_a_reward_that_gives_too_few_ends_the_run(plugin: Plugin) -> None:
    path = plugin("few", "return lambda images, prompts: [1.0]")
    judge = load(path)
    (found,) = ask(judge, Question("", pictures(judge, 3, 4), (FIDELITY,)))
    assert isinstance(found, UserError)
    assert str(found) == f"--annotator reward:{path}: --reward {path}: gave 1 reward for 2 pictures"


def test_a_reward_of_the_package_gives_as_a_judge_what_it_gives_as_a_reward() -> None:
    judge = load("shapes:aesthetic")
    image = Image.new("RGB", (32, 32), "white")
    (found,) = ask(judge, Question("a red circle", [judge.prepare(image, "")], (AESTHETIC,)))
    assert isinstance(found, list)
    assert found[0].scores == shapes.load("aesthetic")([image], ["a red circle"]).tolist()


def test_the_identity_changes_with_the_reward(plugin: Plugin) -> None:
    path = plugin("length", LENGTH)
    before = orjson.dumps(load(path).identity)
    assert orjson.dumps(load(path).identity) == before
    path.write_text(path.read_text().replace("image.width", "image.height"))
    assert orjson.dumps(load(path).identity) != before


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("reward", "--annotator reward: name a reward model: reward:aesthetic, "),
        ("reward:clipp", "--annotator reward:clipp: --reward clipp: there is no reward 'clipp'; did you mean 'clip'?"),
        ("reward:./mine.py", "--annotator reward:./mine.py: --reward ./mine.py: there is no file ./mine.py"),
    ],
)
def test_what_names_no_reward_is_told_before_anything_heavy_is_loaded(spec: str, said: str, tmp_path: Path) -> None:
    code = f"""
import sys
from vpctl import plugins
from vpctl.errors import UserError
try:
    plugins.load("annotator", {spec!r})
except UserError as error:
    print(error)
print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(HOME)},
        timeout=PATIENCE,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(said), done.stderr
    assert second == "False"
