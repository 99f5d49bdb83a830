"""What a launcher asks for: which trainings can divide the weights, and which divisions vpctl does not know."""

import os
from typing import Any

import pytest

from vpctl.errors import UserError
from vpctl.models import launcher
from vpctl.tuning.spans import check_batches

TWO = {"WORLD_SIZE": "2", "RANK": "1"}
SHARDED = {**TWO, "ACCELERATE_USE_FSDP": "true"}


def launched(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in [name for name in os.environ if name in ("WORLD_SIZE", "RANK") or name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("vpctl.models.launcher.find_spec", lambda name: name == "deepspeed")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, (1, 0, False)),
        (TWO, (2, 1, False)),
        (SHARDED, (2, 1, True)),
        ({**TWO, "ACCELERATE_USE_FSDP": "false"}, (2, 1, False)),
        ({"ACCELERATE_USE_FSDP": "true"}, (1, 0, False)),  # nothing to divide
    ],
)
def test_a_process_knows_the_others_and_whether_they_divide_the_weights(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: tuple[int, int, bool]
) -> None:
    launched(monkeypatch, variables)
    assert (launcher.processes(), launcher.rank(), launcher.shards()) == found


@pytest.mark.parametrize(
    ("variables", "training", "said"),
    [
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "ACCELERATE_USE_MEGATRON_LM: vpctl does not train with Megatron"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "FSDP_OFFLOAD_PARAMS: vpctl keeps all weights on the GPUs; launch"),
        ({}, {"full": True}, "--full: FSDP shards the frozen weights, and here none is frozen"),
        ({}, {"algorithm": "refl"}, "--algorithm refl: stops each picture at a random step"),
    ],
)
def test_what_cannot_be_divided_is_told(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], training: dict[str, Any], said: str
) -> None:
    launched(monkeypatch, {**SHARDED, **variables})
    with pytest.raises(UserError) as raised:
        launcher.check_sharding(**training)
    assert str(raised.value).startswith(said)


DIVIDED = {**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}
STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, 0),
        (TWO, 0),
        (DIVIDED, 2),  # accelerate's default
        ({**DIVIDED, STAGE: "1"}, 1),
        ({**DIVIDED, STAGE: "0"}, 0),
        ({**DIVIDED, "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none"}, 2),
        ({**DIVIDED, "ACCELERATE_USE_DEEPSPEED": "false"}, 0),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, 0),  # one process has all of it
    ],
)
def test_the_stage_is_that_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: int
) -> None:
    launched(monkeypatch, variables)
    assert launcher.zero_stage() == found
    launcher.check_sharding(full=True, algorithm="dpo")


@pytest.mark.parametrize(
    ("variables", "training", "said"),
    [
        (
            {STAGE: "3"},
            {},
            "ACCELERATE_DEEPSPEED_ZERO_STAGE 3: vpctl divides weights with FSDP; launch it with --use_f",
        ),
        (
            {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "a.json"},
            {},
            "ACCELERATE_DEEPSPEED_CONFIG_FILE: vpctl sets all but the",
        ),
        (
            {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
            {},
            "ACCELERATE_USE_DEEPSPEED: vpctl keeps all that it trains on the GPUs; launch it with --offload_optim",
        ),
        (
            {"ACCELERATE_USE_FSDP": "true"},
            {},
            "ACCELERATE_USE_DEEPSPEED: cannot be used together with ACCELERATE_USE_F",
        ),
        ({}, {"optimizer": "adamw8bit"}, "--optimizer adamw8bit: DeepSpeed divides the moments of adamw; leave"),
        ({}, {"dtype": "float16"}, "--dtype float16: cannot be used with DeepSpeed; name --dtype bfloat16"),
        (
            {},
            {"algorithm": "nft"},
            "--algorithm nft: the processes compute different numbers of gradients, and stage 2",
        ),
    ],
)
def test_what_deepspeed_cannot_do_here_is_told(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], training: dict[str, Any], said: str
) -> None:
    launched(monkeypatch, {**DIVIDED, **variables})
    with pytest.raises(UserError) as raised:
        launcher.check_sharding(**training)
    assert str(raised.value).startswith(said)


def test_without_deepspeed_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, DIVIDED)
    monkeypatch.setattr("vpctl.models.launcher.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs the package deepspeed: pip install 'vpctl\[deepspeed\]'"):
        launcher.zero_stage()
    monkeypatch.setenv(STAGE, "0")
    assert launcher.zero_stage() == 0


def test_processes_that_divide_the_weights_need_batches_in_equal_numbers() -> None:
    check_batches(12, 1, 4, 2)
    check_batches(16, 2, 4, 2, sharded=True)
    with pytest.raises(UserError, match="--batch 4: an optimizer step has 3 batches for 2 processes; with FSDP"):
        check_batches(12, 1, 4, 2, sharded=True)
