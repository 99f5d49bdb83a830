"""Training a reward model: its loss by hand, what it freezes, what must not change its result."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
import torch
from safetensors import safe_open

from tests.tuning.conftest import Killed, Mortal
from vpctl.configs import RewardModelConfig
from vpctl.errors import UserError
from vpctl.models.devices import join_world
from vpctl.models.reward import RewardModel, open_backbone
from vpctl.models.tensors import from_pictures
from vpctl.records import Report
from vpctl.shapes.grammar import describe, near_misses, read, sample
from vpctl.shapes.render import render
from vpctl.tuning.freezing import freeze
from vpctl.tuning.heads import collapsed, five_layers
from vpctl.tuning.held_out import accuracy_reports, labelled
from vpctl.tuning.loop import train
from vpctl.tuning.reward import (
    Comparison,
    Kept,
    PromptPairs,
    RewardTraining,
    cosine_decay,
    features_of,
    measure,
    preferences,
    preferred_by_aspect,
    rewarded,
)

CPU = torch.device("cpu")
ALONE = join_world("cpu")


def test_the_learning_rate_falls_as_half_a_cosine() -> None:
    assert [cosine_decay(2.0, step, 4) for step in range(4)] == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5])


def test_pairs_are_found_among_the_pictures_of_all_prompts() -> None:
    groups = [
        PromptPairs("a", [7, 8, 9], [Comparison(0, 2), Comparison(1, 0)]),
        PromptPairs("b", [3, 4], [Comparison(1, 0)]),
    ]
    chosen, rejected = preferences(groups)
    assert chosen.tolist() == [0, 1, 4]
    assert rejected.tolist() == [2, 0, 3]


@pytest.fixture(scope="module")
def made() -> tuple[list[PromptPairs], torch.Tensor]:
    """Prompts with a true picture, preferred, and one of a near miss; and all pixels, normalised."""
    rng = Random(0)
    pictures, groups = [], []
    for number in range(24):
        scene = sample(rng)
        wrong = rng.choice(list(near_misses(scene)))
        pictures += [render(scene, rng), render(wrong, rng)]
        groups.append(PromptPairs(describe(scene), [2 * number, 2 * number + 1], [Comparison(0, 1)]))
    return groups, from_pictures(pictures) * 2 - 1


@pytest.fixture(params=["new:blip", "new:clip"])
def fresh(request: pytest.FixtureRequest) -> Callable[[], RewardModel]:
    return lambda: open_backbone(request.param, seed=1)


def run_training(
    model: RewardModel, made: tuple[list[PromptPairs], torch.Tensor], folder: Path, stop: int = 0, **config: object
) -> Kept | None:
    """Train and say which weights were kept; None if the training was killed."""
    groups, pixels = made
    settings = RewardModelConfig(
        **{"epochs": 2, "batch": 8, "learning_rate": 1e-3, "freeze": 0.0, "save_every": 2, **config}  # type: ignore[arg-type]
    )
    with Mortal(folder, {}, last=stop) as run, contextlib.suppress(Killed):
        algorithm = RewardTraining(
            model, groups[:-4], groups[-4:], lambda numbers: pixels[numbers], settings, seed=0, world=ALONE
        )
        train(algorithm, run, save_every=settings.save_every, evaluate=algorithm.validate)
        return algorithm.finish()
    return None


@pytest.fixture(scope="module")
def easy() -> tuple[list[PromptPairs], torch.Tensor]:
    """Prompts whose preferred picture has a white background, and the other a black one; and all pixels."""
    rng = Random(3)
    grounds = [read(f"a red circle on a {background} background") for background in ("white", "black")]
    pixels = from_pictures([render(grounds[number % 2], rng) for number in range(48)]) * 2 - 1
    return [
        PromptPairs("a red circle", [2 * number, 2 * number + 1], [Comparison(0, 1)]) for number in range(24)
    ], pixels


def test_it_learns_what_is_preferred(
    fresh: Callable[[], RewardModel], easy: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path
) -> None:
    groups, pixels = easy
    model = fresh()
    run_training(model, easy, tmp_path, epochs=6)
    unseen = measure(model, groups[20:], lambda numbers: pixels[numbers], 8, CPU)
    assert unseen.accuracy == 1
    assert unseen.loss < 0.3


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    fresh: Callable[[], RewardModel], made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path
) -> None:
    whole, cut, again = fresh(), fresh(), fresh()
    run_training(whole, made, tmp_path / "whole")
    run_training(cut, made, tmp_path / "cut", stop=5)
    with torch.no_grad():
        for weight in again.parameters():
            weight.zero_()
    run_training(again, made, tmp_path / "cut")
    for name, weight in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()


def test_passes_that_are_accumulated_give_the_loss_and_the_gradients_of_one_pass(
    fresh: Callable[[], RewardModel], made: tuple[list[PromptPairs], torch.Tensor]
) -> None:
    """The prompts have one, two or three pairs, and the last pass is smaller: every pair must weigh the same.

    Some pairs are tied, and some say nothing about an aspect.
    """
    groups, pixels = made
    uneven = [
        group._replace(pairs=[Comparison(0, 1, 0.25 * (number % 2), {"aesthetic": 0.5 - number % 3, "fidelity": 0.0})])
        if number % 3 == 0
        else group._replace(pairs=[Comparison(0, 1, 0.5, {"fidelity": 0.1})] * (1 + number % 3))
        for number, group in enumerate(groups[:7])
    ]
    found: dict[int, list[Any]] = {}
    for batch, accumulate in ((7, 1), (2, 4), (1, 7)):
        settings = RewardModelConfig(
            batch=batch, accumulate=accumulate, freeze=0.0, epochs=1, loss="ties", aspect_weight=0.5
        )
        how: dict[str, Any] = {"seed": 0, "world": ALONE, "aspects": ["aesthetic", "fidelity"]}
        algorithm = RewardTraining(fresh(), uneven, [], lambda numbers: pixels[numbers], settings, **how)
        assert algorithm.total == 1
        metrics = algorithm.step(1)
        means = [state["exp_avg"] for state in algorithm.state_dict()["optimizer"]["state"].values()]
        found[batch] = [metrics["loss"], metrics["aspect_loss"], torch.cat([mean.flatten() for mean in means])]
    *whole, gradient = found[7]
    assert float(gradient.abs().max()) > 0
    for *losses, accumulated in (found[2], found[1]):
        assert losses == pytest.approx(whole, rel=1e-5)
        torch.testing.assert_close(accumulated, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_in_half_precision_the_weights_stay_float32_and_the_loss_is_nearly_the_same(
    made: tuple[list[PromptPairs], torch.Tensor], dtype: str, near: float
) -> None:
    groups, pixels = made
    losses = {}
    for precision in ("float32", dtype):
        model = open_backbone("", seed=0)
        settings = RewardModelConfig(dtype=precision, epochs=1, freeze=0.0)
        algorithm = RewardTraining(
            model, groups[:8], [], lambda numbers: pixels[numbers], settings, seed=0, world=ALONE
        )
        losses[precision] = algorithm.step(1)["loss"]
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert losses[dtype] != losses["float32"]
    assert losses[dtype] == pytest.approx(losses["float32"], rel=near)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_resumed_run_in_half_precision_ends_with_the_very_weights(
    made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path, dtype: str
) -> None:
    whole, cut, again = (open_backbone("new:clip", seed=1) for _ in range(3))
    few = made[0][:12], made[1]  # a CPU computes slowly in float16
    how: dict[str, Any] = {"dtype": dtype, "epochs": 1, "batch": 2}
    run_training(whole, few, tmp_path / "whole", **how)
    run_training(cut, few, tmp_path / "cut", stop=3, **how)
    run_training(again, few, tmp_path / "cut", **how)
    for name, weight in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()


def test_a_loss_that_is_scaled_too_high_for_float16_is_scaled_lower_and_its_step_is_left_out(
    made: tuple[list[PromptPairs], torch.Tensor],
) -> None:
    groups, pixels = made
    settings = RewardModelConfig(dtype="float16", epochs=30, freeze=0.0)
    state = None
    for _ in range(2):  # the second goes on from the first one's state
        model = open_backbone("new:clip", seed=1)
        algorithm = RewardTraining(
            model, groups[:8], [], lambda numbers: pixels[numbers], settings, seed=0, world=ALONE
        )
        if state:
            algorithm.load_state_dict(state)
        else:
            algorithm.step(1)
            fresh = algorithm.state_dict()
            algorithm.load_state_dict({**fresh, "scaler": {**fresh["scaler"], "scale": 2.0**60}})
        before = [weight.clone() for weight in model.parameters()]
        metrics = algorithm.step(2)
        assert metrics["loss_scale"] == (2.0**58 if state else 2.0**59)
        assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        state = algorithm.state_dict()
    assert state
    algorithm.load_state_dict({**state, "scaler": {**state["scaler"], "scale": 0.5}})
    with torch.no_grad():
        model.get_parameter("backbone.logit_scale").fill_(math.inf)
    with pytest.raises(UserError, match="step 3: training has diverged"):
        algorithm.step(3)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_accumulates_the_same_prompts(
    made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path, stop: int
) -> None:
    """20 prompts, in steps of 6: the last step of an epoch has two passes and a smaller one."""
    how = {"batch": 3, "accumulate": 2, "save_every": 1}
    whole, cut, again = (open_backbone("new:clip", seed=1) for _ in range(3))
    run_training(whole, made, tmp_path / "whole", **how)
    run_training(cut, made, tmp_path / "cut", stop=stop, **how)
    run_training(again, made, tmp_path / "cut", **how)
    for name, weight in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    metrics = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert metrics.count('"loss"') == 2 * 4


def test_scores_of_a_batch_are_scores_one_by_one(
    fresh: Callable[[], RewardModel], made: tuple[list[PromptPairs], torch.Tensor]
) -> None:
    groups, pixels = made
    model = fresh().eval()
    found = [
        torch.cat([rewards for _, rewards in rewarded(model, groups[:6], lambda numbers: pixels[numbers], batch, CPU)])
        for batch in (6, 1)
    ]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_the_last_weights_are_the_best_on_the_validation_pairs(
    fresh: Callable[[], RewardModel], made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path
) -> None:
    groups, pixels = made
    model = fresh()
    run_training(model, made, tmp_path, epochs=6, learning_rate=3e-3)
    lines = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "validation_loss" in line]
    best = min(float(line.partition('"validation_loss":')[2].partition(",")[0]) for line in lines)
    assert len(lines) == 6
    reached = measure(model, groups[20:], lambda numbers: pixels[numbers], 8, CPU).loss
    assert reached == pytest.approx(best, rel=1e-5)


def test_patience_ends_the_training_and_keeps_the_epoch_before_it_got_worse(
    easy: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path
) -> None:
    """The validation pairs are swapped, so the more is learnt, the higher is their loss."""
    groups, pixels = easy
    misled = [*groups[:20], *(group._replace(pairs=[Comparison(1, 0)]) for group in groups[20:])], pixels
    whole, again = (open_backbone("new:clip", seed=1) for _ in range(2))
    how: dict[str, Any] = {"epochs": 9, "batch": 20, "patience": 2, "save_every": 1}
    kept = run_training(whole, misled, tmp_path / "whole", **how)
    assert kept is not None
    assert (kept.epoch, kept.epochs) == (1, 3)
    logged = [orjson.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_bytes().splitlines()]
    assert max(line["step"] for line in logged) == 3, "a step is an epoch"
    assert kept.loss == next(line["validation_loss"] for line in logged if "validation_loss" in line)
    for stop in (2, 3):
        cut, folder = open_backbone("new:clip", seed=1), tmp_path / f"cut-{stop}"
        assert run_training(cut, misled, folder, stop=stop, **how) is None
        assert run_training(again, misled, folder, **how) == kept
        for name, weight in whole.state_dict().items():
            assert torch.equal(again.state_dict()[name], weight), name


def test_every_aspect_prefers_its_own_picture() -> None:
    pairs = [Comparison(0, 1, 0.3, {"aesthetic": 0.5, "fidelity": -0.25}), Comparison(1, 0, 0.3, {"fidelity": 0.0})]
    groups = [PromptPairs("a", [0, 1], pairs), PromptPairs("b", [2, 3], [Comparison(1, 0)])]
    assert preferred_by_aspect(groups, ["fidelity", "aesthetic"]).tolist() == [[-1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("kind", ["", "new:clip"])
def test_heads_of_aspects_are_trained_together_with_the_overall_one(
    easy: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path, kind: str
) -> None:
    """One aspect agrees with the overall preference, and the other one does not."""
    groups, pixels = easy
    aspects = {"aesthetic": 1.0, "fidelity": -1.0}
    judged = [group._replace(pairs=[Comparison(0, 1, 1.0, aspects)]) for group in groups]
    settings = RewardModelConfig(epochs=12, batch=20, learning_rate=2e-2, freeze=0.7, aspect_weight=1.0)
    model = open_backbone(kind, seed=1)
    how: dict[str, Any] = {"seed": 0, "world": ALONE, "aspects": ["aesthetic", "fidelity"]}
    algorithm = RewardTraining(model, judged[:20], [], lambda numbers: pixels[numbers], settings, **how)
    steps = [algorithm.step(number) for number in range(1, algorithm.total + 1)]
    assert steps[-1]["aspect_loss"] < steps[0]["aspect_loss"]
    algorithm.finish()
    with torch.no_grad():
        outputs = algorithm.heads(model, features_of(model, judged[20:], pixels[40:48], CPU))
    overall, both = outputs.rewards.view(4, 2), outputs.aspects.view(4, 2, 2)
    assert bool((overall[:, 0] > overall[:, 1]).all())
    assert bool((both[:, 0, 0] > both[:, 1, 0]).all())
    assert bool((both[:, 0, 1] < both[:, 1, 1]).all())
    algorithm.heads.save(tmp_path)
    with safe_open(tmp_path / "heads.safetensors", "pt") as file:
        assert file.metadata() == {"names": '["aesthetic", "fidelity"]'}
        features = features_of(model, judged[20:], pixels[40:48], CPU).detach()
        read = features @ file.get_tensor("weight").T + file.get_tensor("bias")
    torch.testing.assert_close(read, outputs.aspects)


def test_a_deviation_is_learnt_beside_the_reward(made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path) -> None:
    groups, pixels = made
    settings = RewardModelConfig(epochs=2, learning_rate=1e-3, freeze=0.7, loss="uncertainty")
    model = open_backbone("", seed=1)
    algorithm = RewardTraining(model, groups, [], lambda numbers: pixels[numbers], settings, seed=0, world=ALONE)
    features = features_of(model, groups, pixels, CPU).detach()
    before = algorithm.heads(model, features)
    assert before.variances.tolist() == [1.0] * 48, "a deviation of 1 to begin with"
    for number in range(1, algorithm.total + 1):
        algorithm.step(number)
    assert algorithm.heads.names == ["log_std"]
    assert algorithm.heads(model, features).variances.unique().numel() > 40


def test_a_head_of_five_layers_is_folded_into_the_backbone(
    made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path
) -> None:
    groups, pixels = made
    torch.manual_seed(3)
    layers = five_layers(128)
    assert [tuple(one.weight.shape) for one in layers if isinstance(one, torch.nn.Linear)] == [
        (1024, 128), (128, 1024), (64, 128), (16, 64), (1, 16)
    ]  # fmt: skip
    assert [one.p for one in layers if isinstance(one, torch.nn.Dropout)] == [0.2, 0.2, 0.1]
    inputs = torch.randn(64, 128)
    weight, bias = collapsed(layers)
    torch.testing.assert_close(inputs @ weight + bias, layers.eval()(inputs)[:, 0], rtol=1e-4, atol=1e-5)
    assert 0.1 < float(layers(inputs).detach().std()) < 10, "the size of a reward, and not a millionth of it"

    model = open_backbone("", seed=0)
    settings = RewardModelConfig(epochs=1, learning_rate=1e-3, head="mlp")
    algorithm = RewardTraining(model, groups, [], lambda numbers: pixels[numbers], settings, seed=0, world=ALONE)
    algorithm.step(1)
    algorithm.finish()
    with torch.no_grad():
        features = features_of(model, groups, pixels, CPU)
        torch.testing.assert_close(model.reward(features), algorithm.heads(model, features).rewards)


def test_the_dead_head_of_imagereward_is_told_and_the_same_head_with_another_start_is_not(
    made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path
) -> None:
    """Its five layers as they are published: all weights of a deviation of 1 / (768 + 1), no bias."""
    groups, pixels = made
    settings = RewardModelConfig(epochs=20, batch=4, learning_rate=1e-5, head="mlp")
    for dead in (True, False):
        model = open_backbone("", seed=0)
        algorithm = RewardTraining(model, groups, [], lambda numbers: pixels[numbers], settings, seed=0, world=ALONE)
        assert algorithm.heads.mlp is not None
        if dead:
            torch.manual_seed(1234)
            for name, weight in algorithm.heads.mlp.named_parameters():
                torch.nn.init.normal_(weight, std=1 / (768 + 1)) if "weight" in name else torch.nn.init.zeros_(weight)
            losses = [algorithm.step(number)["loss"] for number in range(1, 10)]
            assert losses == pytest.approx([math.log(2)] * 9, abs=1e-6)
            again = RewardTraining(model, groups, [], lambda numbers: pixels[numbers], settings, seed=0, world=ALONE)
            again.load_state_dict(algorithm.state_dict())
            for one in (algorithm, again):  # a resumed run counts on
                with pytest.raises(UserError, match="step 10: the rewards have collapsed: in 10 steps in a row no two"):
                    one.step(10)
        else:
            for number in range(1, 13):
                algorithm.step(number)


@pytest.fixture(scope="module")
def near_missed() -> tuple[list[PromptPairs], torch.Tensor]:
    """200 prompts, each with a true picture, preferred, and one of a near miss; and all pixels."""
    rng = Random(0)
    pictures, groups = [], []
    for number in range(200):
        scene = sample(rng)
        pictures += [render(scene, rng), render(rng.choice(list(near_misses(scene))), rng)]
        groups.append(PromptPairs(describe(scene), [2 * number, 2 * number + 1], [Comparison(0, 1)]))
    return groups, from_pictures(pictures) * 2 - 1


def headline(model: RewardModel, groups: list[PromptPairs], pixels: torch.Tensor) -> Report:
    """The report of the accuracy on these pairs."""
    found = labelled(model, groups, lambda numbers: pixels[numbers], 50, CPU)
    return accuracy_reports(found, None, "vp:rm")[0]


@pytest.mark.parametrize("labels", ["swapped", "shuffled"])
def test_what_is_learnt_from_120_wrong_or_random_labels_is_wrong_or_random(
    near_missed: tuple[list[PromptPairs], torch.Tensor], labels: str
) -> None:
    """The backbone begins with the right preference. Random labels teach equal rewards, which is not a collapse."""
    groups, pixels = near_missed
    coin = Random(1)
    told = [
        group._replace(pairs=[Comparison(1, 0) if labels == "swapped" or coin.random() < 0.5 else Comparison(0, 1)])
        for group in groups[:120]
    ]
    model = open_backbone("", seed=1)
    before = headline(model, groups[120:], pixels)
    assert before["low"] > 0.8
    freeze(model.backbone, 0.7)
    settings = RewardModelConfig(epochs=3, batch=16, learning_rate=1e-3)
    algorithm = RewardTraining(model, told, [], lambda numbers: pixels[numbers], settings, seed=0, world=ALONE)
    for number in range(1, algorithm.total + 1):
        algorithm.step(number)
    algorithm.finish()
    after = headline(model, groups[120:], pixels)
    if labels == "swapped":
        assert after["high"] < 0.5
    else:
        assert after["low"] <= 0.5 <= after["high"]


@pytest.mark.parametrize("how", [{"head": "mlp"}, {"loss": "uncertainty"}])
def test_a_resumed_run_with_new_heads_ends_with_the_very_weights(
    made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path, how: dict[str, Any]
) -> None:
    whole, cut, again = (open_backbone("", seed=1) for _ in range(3))
    kept = run_training(whole, made, tmp_path / "whole", **how)
    run_training(cut, made, tmp_path / "cut", stop=5, **how)
    assert run_training(again, made, tmp_path / "cut", **how) == kept
    for name, weight in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_an_undecided_model_is_half_right(made: tuple[list[PromptPairs], torch.Tensor]) -> None:
    groups, pixels = made
    model = open_backbone("new:blip", seed=0).eval()
    with torch.no_grad():
        model.get_parameter("backbone.itm_head.weight").zero_()
    assert measure(model, groups, lambda numbers: pixels[numbers], 8, CPU).accuracy == 0.5
    assert headline(model, groups, pixels)["value"] == 0.5


def test_what_is_frozen_does_not_move(made: tuple[list[PromptPairs], torch.Tensor], tmp_path: Path) -> None:
    model = open_backbone("new:blip", seed=0)
    freeze(model.backbone, 0.7)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    run_training(model, made, tmp_path, weight_decay=0.1)
    unused = ("backbone.vision_proj", "backbone.text_proj")
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            assert torch.equal(weight, before[name]), name
        elif weight.dim() > 1 and not name.startswith(unused):
            assert not torch.equal(weight, before[name]), name
