"""What a launcher asks for: which trainings can divide the weights, and which divisions vpctl does not know."""

import pytest

from vpctl.errors import UserError
from vpctl.models import launcher
from vpctl.tuning.spans import check_batches

TWO = {"WORLD_SIZE": "2", "RANK": "1"}
SHARDED = {**TWO, "ACCELERATE_USE_FSDP": "true"}


def launched(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
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
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "ACCELERATE_USE_DEEPSPEED: vpctl does not train with DeepSpeed"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "FSDP_OFFLOAD_PARAMS: vpctl keeps all weights on the GPUs; launch"),
        ({}, {"full": True}, "--full: FSDP shards the frozen weights, and here none is frozen"),
        ({}, {"algorithm": "refl"}, "--algorithm refl: stops each picture at a random step"),
    ],
)
def test_what_cannot_be_divided_is_told(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], training: dict[str, object], said: str
) -> None:
    launched(monkeypatch, {**SHARDED, **variables})
    with pytest.raises(UserError) as raised:
        launcher.check_sharding(**training)  # type: ignore[arg-type]
    assert str(raised.value).startswith(said)


def test_processes_that_divide_the_weights_need_batches_in_equal_numbers() -> None:
    check_batches(12, 1, 4, 2)
    check_batches(16, 2, 4, 2, sharded=True)
    with pytest.raises(UserError, match="--batch 4: an optimizer step has 3 batches for 2 processes; with FSDP"):
        check_batches(12, 1, 4, 2, sharded=True)
