"""What tune-ppo and tune-dpo read from the command line: algorithms, rewards and their weights, prompts."""

from pathlib import Path

import pytest

from tests.conftest import Plugin, Run
from vpctl.commands.tune_ppo import divided
from vpctl.errors import UserError
from vpctl.records import Prompt
from vpctl.tuning.asked import weighted, weights_of

NO_GRADIENT = "--reward {}: has no gradient, which this algorithm needs; take a model as the reward, such as vp:DIR"
REWARD = "return lambda images, prompts: [0.0 for _ in images]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("vp:rm", ("vp:rm", 1.0)), ("vp:rm=0.5", ("vp:rm", 0.5)), ("./a=b.py=-2", ("./a=b.py", -2.0))],
)
def test_a_weight_stands_behind_the_last_equals_sign(text: str, expected: tuple[str, float]) -> None:
    assert weighted(text) == expected


@pytest.mark.parametrize("weight", ["heavy", "nan", "0"])
def test_a_weight_that_is_no_number_is_told(weight: str) -> None:
    with pytest.raises(UserError, match=f"{weight!r} is not a number other than 0"):
        weighted(f"vp:rm={weight}")


def test_a_reward_that_is_named_twice_is_told_with_its_option() -> None:
    assert weights_of(["shapes", "shapes:fidelity=0.5"]) == {"shapes": 1.0, "shapes:fidelity": 0.5}
    with pytest.raises(UserError, match="--watch shapes: is named twice"):
        weights_of(["shapes", "shapes=2"], "--watch")
    with pytest.raises(UserError, match=r"^--watch shapes:x: known:"):
        weights_of(["shapes:x"], "--watch")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tune-ppo --clip 0.1 --algorithm refl -r ./r.py", "--clip: is an option of --algorithm ddpo and grpo, "
        "not of refl"),
        ("tune-ppo --updates 3 --algorithm refl -r ./r.py", "--updates: is an option of --algorithm ddpo, grpo and "
        "nft, not of refl"),
        ("tune-ppo --algorithm nft --clip 0.1", "--clip: is an option of --algorithm ddpo and grpo, not of nft"),
        ("tune-ppo --sde flow", "--sde: is an option of --algorithm grpo, not of ddpo"),
        ("tune-ppo --algorithm grpo", "--algorithm grpo: is for flow models, such as Stable Diffusion 3 and FLUX.1, "
        "and the model is a StableDiffusionPipeline; name --algorithm ddpo"),
        ("tune-ppo --algorithm nft --images 1", "--images 1: nft compares the pictures of a prompt; name at least 2"),
        ("tune-ppo --late-share 0.1", "--late-share: is an option of --algorithm refl, not of ddpo"),
        ("tune-ppo --images 1", "--images 1: ddpo compares the pictures of a prompt; name at least 2"),
        ("tune-ppo --eta 0", "--eta 0: ddpo needs at least 0.01, because steps without noise have no "
        "probability"),
        ("tune-ppo --patience 3", "--patience 3: needs a reward that decides; name one with --watch"),
        ("tune-ppo --skip-last 10", "--skip-last 10: leaves none of 10 denoising steps to train on"),
        ("tune-ppo --algorithm refl", NO_GRADIENT.format("shapes")),
        ("tune-ppo --algorithm refl -r shapes:fidelity=2", NO_GRADIENT.format("shapes:fidelity")),
        ("tune-ppo --algorithm refl -r judge:shapes", NO_GRADIENT.format("judge:shapes")),
        ("tune-ppo -r judge:openai:gpt-4o", "OPENAI_API_KEY is not set; export your key (any text, if the server needs "
        "no key)"),
        ("tune-ppo -r judge:shaps", "--reward judge:shaps: there is no annotator 'shaps'; did you mean 'shapes'? "
        "known: human, moderation, openai, reward, shapes, transformers, or the path of your own file"),
        ("tune-ppo --watch judge:openai:", "--watch judge:openai: name the model, as in --reward judge:openai:gpt-4o"),
        ("tune-ppo --max-cost 3", "--max-cost: is an option for a judge; name one, such as --reward "
        "judge:openai:gpt-4o"),
        ("tune-dpo --algorithm d3po --judge-aspect fidelity", "--judge-aspect: is an option for a judge; name one, "
        "such as --reward judge:openai:gpt-4o"),
        ("tune-dpo --judge-aspect fidelity", "--judge-aspect: is an option of --algorithm d3po, not of dpo"),
        ("tune-dpo --algorithm kto --max-cost 3", "--max-cost: is an option of --algorithm d3po, not of kto"),
        ("score -r judge:openai:gpt-4o", "--reward judge:openai:gpt-4o: only tune-ppo and tune-dpo ask a judge; to "
        "score pictures with it, use annotate --annotator openai:gpt-4o"),
        ("tune-ppo --watch shapes", "--watch: prompts.txt has too few prompts to hold some out; give some the split "
        "validation"),
        ("tune-dpo --reward shapes", "--reward: is an option of --algorithm d3po, not of dpo"),
        ("tune-dpo --steps 3", "--steps: is an option of --algorithm d3po; --max-steps is the number of optimizer "
        "steps"),
        ("tune-dpo --algorithm d3po --skip-last 20", "--skip-last 20: leaves none of 20 denoising steps to train on"),
        ("tune-dpo --algorithm d3po --eta 0", "--eta 0: d3po needs at least 0.01, because steps without noise have no "
        "probability"),
        ("tune-dpo --algorithm d3po --sft 1", "--sft: is an option of --algorithm dpo, not of d3po"),
        ("tune-dpo --loss ipo --label-smoothing 0.1", "--label-smoothing: is for --loss dpo, not for ipo"),
        ("tune-dpo --algorithm d3po --prompt-dropout 0.5", "--prompt-dropout: is an option of --algorithm dpo and kto, "
        "not of d3po"),
        ("tune-dpo --algorithm kto --sft 1", "--sft: is an option of --algorithm dpo, not of kto"),
        ("tune-dpo --algorithm kto --eta 0.5", "--eta: is an option of --algorithm d3po, not of kto"),
        ("tune-dpo --algorithm kto --desirable-weight 0 --undesirable-weight 0", "--desirable-weight 0 "
        "--undesirable-weight 0: no picture would count; name a weight above 0 for one of them"),
        ("tune-dpo --desirable-share 0.6", "--desirable-share: is an option of --algorithm kto, not of dpo"),
        ("tune-dpo --steps 2000", "--steps: is an option of --algorithm d3po; --max-steps is the number of optimizer "
        "steps"),
        ("tune-ppo --watch shapes=0.5", "--watch shapes=0.5: a reward that is only watched has no weight; leave it "
        "out"),
        ("tune-ppo --algorithm refl -r ./r.py --pretrain-weight 7", "--pretrain-weight: needs pictures; name them with "
        "--pretrain"),
        ("tune-ppo --algorithm refl -r ./r.py --pretrain empty.jsonl", "--pretrain empty.jsonl: there are no "
        "pictures"),
        ("tune-ppo --steps 2000", "--steps 2000: the model has 1000 noise levels; name at most 1000 steps"),
    ],
)  # fmt: skip
def test_what_an_algorithm_cannot_use_is_told_in_one_line(forked: Run, plugin: Plugin, words: str, said: str) -> None:
    folder = plugin("r", REWARD).parent
    (folder / "prompts.txt").write_text("a red circle\n")
    (folder / "empty.jsonl").touch()
    command, *options = words.split()
    ended = forked(command, "prompts.txt", *options, "--out", "run")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == f"vpctl {command}: error: {said}"


def test_prompts_for_watching_are_not_trained_on() -> None:
    prompts: list[Prompt] = [{"prompt": f"{number} stars"} for number in range(200)]
    train, held_out = divided(prompts, "here", watch=True)
    assert 5 < len(held_out) < 40
    assert sorted([*train, *held_out]) == sorted(one["prompt"] for one in prompts)
    assert divided(prompts, "here", watch=False) == ([one["prompt"] for one in prompts], [])
    said: list[Prompt] = [{"prompt": "a", "split": "train"}, {"prompt": "b", "split": "validation"}]
    said += [{"prompt": "a", "split": "validation"}, {"prompt": "c", "split": "test"}]
    assert divided(said, "here", watch=True) == (["a"], ["b"])
    with pytest.raises(UserError, match="no prompts to train on"):
        divided(said[3:], "here", watch=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "--steps: the model ./mine.py has no default for it; name a value"),
        ("--steps 5", "--guidance: the model ./mine.py has no default for it; name a value"),
    ],
)
def test_a_generator_without_settings_of_its_own_needs_them_named(
    forked: Run, plugin: Plugin, tmp_path: Path, words: str, said: str
) -> None:
    plugin("mine", UNSETTLED)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    ended = forked(*f"tune-ppo prompts.txt -m ./mine.py -r shapes --out run {words}".split())
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
