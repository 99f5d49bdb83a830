"""tune-ppo's own part: rewards and their weights."""

from pathlib import Path

import pytest
import torch

from tests.conftest import Plugin, Run
from vpctl.commands.tune_ppo import summed_reward, weighted
from vpctl.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("vp:rm", ("vp:rm", 1.0)), ("vp:rm=0.5", ("vp:rm", 0.5)), ("./a=b.py=-2", ("./a=b.py", -2.0))],
)
def test_a_weight_stands_behind_the_last_equals_sign(text: str, expected: tuple[str, float]) -> None:
    assert weighted(text) == expected


def test_a_weight_that_is_no_number_is_told() -> None:
    with pytest.raises(UserError, match="'heavy' is not a number"):
        weighted("vp:rm=heavy")


def test_the_sum_is_weighted_and_of_pictures_as_they_would_be_saved() -> None:
    rewards = {
        "red": lambda pictures, prompts: torch.tensor([float(one.getpixel((0, 0))[0]) for one in pictures]),
        "length": lambda pictures, prompts: torch.tensor([float(len(prompt)) for prompt in prompts]),
    }
    pixels = torch.zeros(2, 3, 4, 4)
    pixels[0, 0] = 100.4 / 255
    pixels[1, 0] = 2.0
    found = summed_reward(rewards, {"red": 2.0, "length": -1.0})(pixels, ["four", "twelve chars"])
    assert found.tolist() == [2 * 100 - 4, 2 * 255 - 12]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "--steps: the model ./mine.py has no default for it; name a value"),
        ("--steps 5", "--guidance: the model ./mine.py has no default for it; name a value"),
    ],
)
def test_a_generator_without_settings_of_its_own_needs_them_named(
    run: Run, plugin: Plugin, tmp_path: Path, words: str, said: str
) -> None:
    plugin("mine", UNSETTLED)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    ended = run(*f"tune-ppo prompts.txt -m ./mine.py -r shapes --out run {words}".split())
    assert ended.code == 2
    assert ended.err == f"vpctl tune-ppo: error: {said}\n"


UNSETTLED = """
from vpctl.contracts import TunableGenerator

class Mine(TunableGenerator):
    pipeline = None

    def __call__(self, prompts, seeds, settings):
        return []

return Mine()
"""
