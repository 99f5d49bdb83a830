"""Diffusion-KTO: its arithmetic by hand and by another formula, and what must not change its result."""

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.conftest import Run as Command
from tests.conftest import lines, write_lines
from tests.tuning.conftest import Killed, Mortal, disturb, new_policy, new_tuner
from vpctl.configs import DPOConfig, KTOConfig
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.models.tensors import to_pictures
from vpctl.tuning.denoising import squared_errors, task
from vpctl.tuning.kto import DiffusionKTO, RatedPicture, gains, kto_loss, reference_point
from vpctl.tuning.loop import train

Rendered = tuple[list[str], torch.Tensor]
OWN = KTOConfig(desirable_share=0.5)


def true_ratings(rendered: Rendered, *, swapped: bool = False) -> list[RatedPicture]:
    """The true picture of a prompt is liked, and the true picture of the next prompt is disliked."""
    prompts, _ = rendered
    return [
        RatedPicture((index + (not liked)) % len(prompts), prompt, liked != swapped)
        for index, prompt in enumerate(prompts)
        for liked in (True, False)
    ]


def opened(policy: StableDiffusion, rendered: Rendered, own: KTOConfig = OWN, **config: Any) -> DiffusionKTO:
    settings = replace(DPOConfig(max_steps=4, batch=4, accumulate=2, warmup=0, beta=1000.0), **config)
    ratings = true_ratings(rendered)
    return DiffusionKTO(new_tuner(policy, settings), policy.encode(rendered[1]), ratings, settings, own)


def test_the_loss_by_hand() -> None:
    # The policy fits both pictures better, by 0.003 and by 0.001. The reference point is the mean, 0.002.
    gained = gains(torch.tensor([0.097, 0.199]), torch.tensor([0.1, 0.2]))
    point = reference_point(gained)
    assert float(point) == pytest.approx(0.002, rel=1e-4)
    # A liked picture that is above the point, and a disliked one that is below it, both by 0.001.
    losses = kto_loss(gained, point, torch.tensor([True, False]), beta=1000)
    assert losses.tolist() == pytest.approx([1 / (1 + math.e)] * 2, rel=1e-3)
    # With the likes swapped, both are on the wrong side.
    assert kto_loss(gained, point, torch.tensor([False, True]), 1000).tolist() == pytest.approx(
        [math.e / (1 + math.e)] * 2, rel=1e-3
    )


def test_a_model_that_has_only_lost_has_its_reference_point_at_zero() -> None:
    lost = torch.tensor([-0.3, 0.1], requires_grad=True)
    point = reference_point(lost)
    assert float(point) == 0
    assert not reference_point(-lost).requires_grad, "the point is a constant of the loss"


def test_the_loss_is_a_weighted_utility_as_in_kto() -> None:
    """Another way to write it, as in equation 8 of Ethayarajh et al.: λ − v, with v = λ σ(β (r − z)) or λ σ(β (z − r)).

    The gradient of σ is σ (1 − σ), so a picture counts most at the reference point.
    """
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.rand(2, 50, generator=generator, dtype=torch.float64)
    liked = torch.rand(50, generator=generator) < 0.5
    policy.requires_grad_()
    log_ratio = (-policy - -reference).detach()
    z = max(0.0, float(log_ratio.sum() / 50))
    ours = kto_loss(gains(policy, reference), reference_point(gains(policy, reference)), liked, 3.0)
    by_hand = [
        1 - 1 / (1 + math.exp(-3.0 * (r - z if one else z - r)))
        for r, one in zip(log_ratio.tolist(), liked.tolist(), strict=True)
    ]
    assert ours.tolist() == pytest.approx(by_hand, rel=1e-9)
    [gradient] = torch.autograd.grad(ours.sum(), policy)
    slopes = [(3.0 if one else -3.0) * s * (1 - s) for s, one in zip(by_hand, liked.tolist(), strict=True)]
    assert gradient.tolist() == pytest.approx(slopes, rel=1e-9)


def test_a_step_weighs_liked_and_disliked_pictures(policy: StableDiffusion, rendered: Rendered) -> None:
    """Before the first update policy and reference agree, so each picture's loss is half its weight."""
    own = KTOConfig(desirable_share=0.75, desirable_weight=2.0, undesirable_weight=0.4)
    algorithm = opened(policy, rendered, own, batch=50)
    shown = torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.75
    found = algorithm.step(1)
    share = float(shown.float().mean())
    assert found["loss"] == pytest.approx(0.5 * (2.0 * share + 0.4 * (1 - share)), rel=1e-5)
    assert found["implicit_accuracy"] == 0.5
    assert found["reference_point"] == found["liked_reward"] == found["disliked_reward"] == 0
    assert found["liked_error"] == found["liked_error_reference"]


def test_its_metrics_are_those_of_the_pictures_one_by_one(policy: StableDiffusion, rendered: Rendered) -> None:
    algorithm = opened(policy, rendered, batch=3)
    disturb(policy)
    liked = torch.tensor([True, False, True, True, False, True])
    noised = algorithm._noised(liked)
    (policy_errors, reference_errors), _ = algorithm._errors(noised, [(0, 3), (3, 6)])
    with torch.no_grad():
        for row in range(6):
            one = task(policy, noised[row : row + 1])
            assert float(policy_errors[row]) == pytest.approx(float(squared_errors(policy, one)), rel=1e-4)
            with policy.reference():
                assert float(reference_errors[row]) == pytest.approx(float(squared_errors(policy, one)), rel=1e-4)
    gained = reference_errors - policy_errors
    found = algorithm._metrics(policy_errors, reference_errors, reference_point(gained), liked, torch.ones(6))
    point = max(0.0, float(gained.mean()))
    right = [(one > point) == kind for one, kind in zip(gained.tolist(), liked.tolist(), strict=True)]
    assert found["implicit_accuracy"] == pytest.approx(sum(right) / 6)
    assert found["reference_point"] == pytest.approx(1000 * point)
    assert found["disliked_reward"] == pytest.approx(1000 * float(gained[[1, 4]].mean()), rel=1e-5)
    assert found["liked_error"] == pytest.approx(float(policy_errors[[0, 2, 3, 5]].mean()), rel=1e-5)


def test_the_batch_does_not_change_the_step(packaged: StableDiffusionPipeline, rendered: Rendered) -> None:
    """The reference point is above 0 in the second step: it is that of all pictures, whatever the batch is."""
    together, singly = new_policy(packaged), new_policy(packaged)
    found = []
    for policy, batch in ((together, 8), (singly, 1)):
        algorithm = opened(policy, rendered, batch=batch, accumulate=8 // batch, learning_rate=1e-3)
        found.append([algorithm.step(1), algorithm.step(2)])
    assert found[0][1]["reference_point"] > 0
    assert found[1][1]["reference_point"] == pytest.approx(found[0][1]["reference_point"], rel=1e-2)
    differences = [
        (ours - theirs).detach().abs() for ours, theirs in zip(together.trainable, singly.trainable, strict=True)
    ]
    # AdamW divides by the size of the gradient: of one near zero, rounding alone may turn a step of 1e-3 a little.
    assert sum(float(one.mean()) for one in differences) / len(differences) < 2e-6


def test_it_learns_what_is_liked_and_not_what_is_not(packaged: StableDiffusionPipeline, rendered: Rendered) -> None:
    margins = {}
    for swapped in (False, True):
        policy = new_policy(packaged)
        config = DPOConfig(max_steps=9, batch=12, accumulate=1, warmup=0, learning_rate=2e-3, beta=500.0)
        ratings, posteriors = true_ratings(rendered, swapped=swapped), policy.encode(rendered[1])
        algorithm = DiffusionKTO(new_tuner(policy, config), posteriors, ratings, config, OWN)
        for number in range(9):
            algorithm.step(number + 1)
        # The same pictures, measured with the same noise: those of true prompts are liked.
        measured = DiffusionKTO(new_tuner(policy, config, seed=9), posteriors, true_ratings(rendered), config, OWN)
        found = measured.step(1)
        margins[swapped] = found["liked_reward"] - found["disliked_reward"]
    assert margins[False] > 0.05
    assert margins[True] < -0.05


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path
) -> None:
    weights = {}
    for name, last, seed in (("whole", 0, 0), ("cut", 5, 0), ("cut", 0, 5)):
        policy = new_policy(packaged, seed=seed)
        with suppress(Killed), Mortal(tmp_path / name, {"max_steps": 6}, last=last) as run:
            assert run.saved == (4 if seed else 0)
            train(opened(policy, rendered, max_steps=6), run, save_every=2, evaluate=lambda _: {})
        weights[name] = policy.trainable
    for ours, theirs in zip(weights["cut"], weights["whole"], strict=True):
        assert torch.equal(ours, theirs)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert metrics[0] == metrics[1]


def test_ratings_and_pairs_in_one_file_are_trained_on(forked: Command, tmp_path: Path, rendered: Rendered) -> None:
    """A pair is a liked and a disliked picture, a tie is left out, and only held-out pairs are measured."""
    prompts, pixels = rendered
    for number, picture in enumerate(to_pictures(pixels)):
        picture.save(tmp_path / f"{number}.png")

    def pair(prompt: int, chosen: int, rejected: int, **more: Any) -> dict[str, Any]:
        names = {"chosen_file_name": f"{chosen}.png", "rejected_file_name": f"{rejected}.png"}
        return {"prompt_id": str(prompt), "prompt": prompts[prompt], **names, "margin": 1.0, **more}

    def rating(prompt: int, picture: int, label: bool, **more: Any) -> dict[str, Any]:
        return {"prompt": prompts[prompt], "file_name": f"{picture}.png", "label": label, **more}

    records = [pair(0, 0, 1), pair(1, 1, 2, margin=0), rating(2, 2, True), rating(3, 4, False), rating(3, 3, True)]
    records += [pair(4, 4, 5, split="validation"), rating(5, 5, True, split="validation")]
    records += [rating(3, 3, False)]  # of another person
    write_lines(tmp_path / "likes.jsonl", records)
    options = "--algorithm kto -m shapes:small --max-steps 2 --batch 2 --accumulate 2 --preview-every 0".split()
    ended = forked("tune-dpo", "likes.jsonl", *options, "--out", "run")
    assert ended.code == 0, ended.err
    assert "1 tie left out" in ended.err
    assert "1 picture liked in one rating and disliked in another" in ended.err
    assert "3 liked pictures of 6; 2 steps of 2 × 2 = 4 pictures" in ended.err
    metrics = lines((tmp_path / "run" / "metrics.jsonl").read_text())
    assert [one["step"] for one in metrics] == [1, 2, 2]
    assert "held_out_accuracy" in metrics[-1]
    assert (tmp_path / "run" / "pytorch_lora_weights.safetensors").exists()
    write_lines(tmp_path / "likes.jsonl", [*records, rating(6, 6, True)])
    again = forked("tune-dpo", "likes.jsonl", *options, "--out", "run")
    assert again.code == 2
    assert "holds a run with data" in again.err


RATING = {"prompt": "a red circle", "file_name": "a.png", "label": True}


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([RATING, {"prompt": "x"}], "likes.jsonl:2: a rating needs 'file_name' and 'label'; this one has prompt"),
        ([{**RATING, "label": 1}], "likes.jsonl:1: 'label' of a rating is true or false, not 1"),
        ([{**RATING, "label": None}], "likes.jsonl:1: 'label' of a rating is true or false, not null"),
        (
            [RATING, {"prompt": "x", "chosen_file_name": "a.png"}],
            "likes.jsonl:2: a pair needs 'prompt_id', 'rejected_file_name' and 'margin'; this one has prompt, "
            "chosen_file_name",
        ),
        (["x"], 'likes.jsonl:1: a record is a JSON object on one line; this is "x"'),
        (
            [{**RATING, "prompt_id": "p"}, {**RATING, "prompt_id": "p", "prompt": "y"}],
            "likes.jsonl:2: prompt_id 'p' has the prompt 'y' here and another one at likes.jsonl:1; pictures of "
            "different prompts cannot be compared: keep the records of one prompt, or give the other prompt another "
            "prompt_id",
        ),
        ([RATING], "likes.jsonl: has no disliked picture to train on; kto learns from both kinds"),
        ([{**RATING, "label": False}], "likes.jsonl: has no liked picture to train on; kto learns from both kinds"),
        (
            [{**RATING, "split": "test"}],
            "likes.jsonl: there are no ratings or pairs to train on; records with another split than train: 1",
        ),
    ],
)
def test_records_that_cannot_be_learned_from_are_told_with_their_line(
    forked: Command, tmp_path: Path, records: list[Any], said: str
) -> None:
    write_lines(tmp_path / "likes.jsonl", records)
    ended = forked("tune-dpo", "likes.jsonl", "--algorithm", "kto", "-m", "shapes:small", "--out", "run")
    assert (ended.code, ended.err) == (2, f"vpctl tune-dpo: error: {said}\n")
    assert not (tmp_path / "run").exists()
