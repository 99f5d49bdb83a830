"""The loop that all trainings share: resume, step, log, evaluate, save, and stop at an interrupt."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Protocol

from torch import Tensor
from torch.utils._pytree import tree_map_only

from .. import progress
from ..errors import UserError
from .run import Run

Metrics = Mapping[str, float]

UNMEASURED = "unmeasured"
"""Key of a checkpoint whose step was done, but not evaluated: the evaluation ended with an error."""


class Algorithm(Protocol):
    """A training algorithm: its computation, and all the state that its next step depends on.

    `state_dict` and `load_state_dict` work as in torch. With the same state the next step is the same, to the bit on a
    CPU. A resumed run therefore ends with the weights of an uninterrupted one.
    """

    unit: Literal["step", "round"] = "step"
    """What `step` does. An interrupt lets a step finish. A round is long: an interrupt discards it at once."""
    total: int
    """How many steps, or rounds, the training has. An algorithm that ends early sets it to the step it has reached."""

    def step(self, number: int) -> Metrics:
        """Do step `number`, counted from 1, and return the metrics to log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state, in types that ``torch.load(weights_only=True)`` reads. It may share memory with the algorithm.

        All processes call it together; that of the main process is saved.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. For one that does not fit, raise any exception: `train` reports a damaged checkpoint."""
        ...


def train(algorithm: Algorithm, run: Run, *, save_every: int, evaluate: Callable[[int], Metrics]) -> None:
    """Do the steps of `algorithm` that `run` does not have yet, and save a checkpoint after every `save_every` of them.

    `evaluate` is called with 0 before the first step of a new run, and after each step with its number. What it returns
    is logged on a line of its own, unless it is empty. It may change the state of `algorithm`, also its `total`.

    An interrupt saves a checkpoint: after the step, or in the state before the round. So does an error of the user in a
    round, such as a limit that a judge has reached. An error in `evaluate` saves the finished step, and the next run
    begins with its evaluation.
    """
    if run.resumes:
        with run.restoring() as state:
            algorithm.load_state_dict(state)
            unmeasured = state.get(UNMEASURED, False)
        del state  # it takes memory
        if unmeasured:
            if measured := evaluate(run.step):
                run.log(run.step, **measured)
            run.save(run.step, algorithm.state_dict())
    elif measured := evaluate(0):
        run.log(0, **measured)
    with run.training(algorithm.total, algorithm.unit):
        first = run.step + 1
        while run.step < algorithm.total:
            number = run.step + 1
            with _discarded_on_interrupt(algorithm, run) if algorithm.unit == "round" else nullcontext():
                metrics = algorithm.step(number)
            run.log(number, **metrics)
            with _saved_on_error(algorithm, run, number):
                measured = evaluate(number)
            if measured:
                run.log(number, **measured)
            if number == first and (peak := run.world.peak_memory()):
                progress.note(f"in {algorithm.unit} {number}, at most {peak}")
            run.finished(number)
            if run.due(save_every) or number == algorithm.total:
                run.save(number, algorithm.state_dict())


@contextmanager
def _discarded_on_interrupt(algorithm: Algorithm, run: Run) -> Iterator[None]:
    """A context in which an interrupt ends the round at once. The state before the round is saved, if it is not yet.

    So it is after an error of the user: a judge has reached a limit, gave too few scores, or cannot be asked any more.
    """
    # On the CPU: with --full the state takes 12 bytes for each weight, which the device may not have.
    before = tree_map_only(Tensor, lambda one: one.detach().to("cpu", copy=True), algorithm.state_dict())
    try:
        with run.interruptible():
            yield
    except (KeyboardInterrupt, UserError):
        if run.step > run.saved:
            run.save(run.step, before)
        raise


@contextmanager
def _saved_on_error(algorithm: Algorithm, run: Run, number: int) -> Iterator[None]:
    """A context in which an error of the user saves step `number`, as one that is still to be evaluated."""
    try:
        yield
    except UserError:
        run.save(number, {**algorithm.state_dict(), UNMEASURED: True})
        raise
