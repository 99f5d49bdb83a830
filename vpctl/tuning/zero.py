"""AdamW whose moments several processes divide among themselves: ZeRO, by DeepSpeed.

Rajbhandari et al. 2020 (arXiv 1910.02054). In stage 1 a process keeps the moments of its own part of the trained
weights, updates this part, and gets the other parts from the other processes. In stage 2 it also keeps the sums of the
gradients for its own part only. The numbers stay the same, up to rounding.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..models.devices import World

MOMENTS = ("exp_avg", "exp_avg_sq")
LARGEST_BUCKET = 50_000_000
"""Numbers that are exchanged at once. DeepSpeed reserves memory for so many, and by default for ten times as many."""


def bucket(weights: Sequence[Tensor]) -> int:
    """How many numbers are exchanged at once."""
    return min(sum(one.numel() for one in weights), LARGEST_BUCKET)


class DividedAdamW:
    """An AdamW over `weights`, which all processes of a `World` have. They are moved into one block of memory.

    After that, only this class may use `adamw`, but for its learning rate. Gradients are added up over all calls of
    `backward` in all processes, and clipped to a norm of `max_grad_norm`. All processes must call `step`, `state_dict`
    and `load_state_dict` together, and in stage 2 also `backward` equally often: else they wait forever.
    """

    def __init__(
        self, adamw: torch.optim.Optimizer, weights: Sequence[nn.Parameter], max_grad_norm: float, world: World
    ) -> None:
        self._adamw, self._weights, self._world = adamw, list(weights), world
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
            import deepspeed

            logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
            self._engine, self._divided, *_ = deepspeed.initialize(
                model=nn.ParameterList(self._weights),
                optimizer=adamw,
                model_parameters=self._weights,
                dist_init_required=False,
                config={
                    "train_micro_batch_size_per_gpu": 1,
                    "gradient_accumulation_steps": 1,
                    "gradient_clipping": max_grad_norm,
                    "steps_per_print": sys.maxsize,
                    "zero_allow_untested_optimizer": True,
                    "zero_optimization": {
                        "stage": world.zero_stage,
                        "reduce_bucket_size": bucket(self._weights),
                        "allgather_bucket_size": bucket(self._weights),
                    },
                },
            )
        self._engine.set_gradient_accumulation_boundary(False)
        if not torch.equal(self._own(self._weights), self._part):
            raise RuntimeError("this version of DeepSpeed orders the weights in another way than vpctl knows")

    @property
    def _part(self) -> Tensor:
        """This process's part of the weights: all that `adamw` knows since DeepSpeed has it."""
        [group] = self._adamw.param_groups
        part: Tensor = group["params"][0]
        return part

    def _own(self, whole: Sequence[Tensor]) -> Tensor:
        """This process's part of tensors like the weights: they follow one another, with zeros at the end."""
        found = torch.zeros_like(self._part)
        first, place = self._world.rank * len(found), 0
        for one in whole:
            start, stop = max(first, place), min(first + len(found), place + one.numel())
            if start < stop:
                found[start - first : stop - first] = one.detach().flatten()[start - place : stop - place]
            place += one.numel()
        return found

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to those of the optimizer step."""
        with warnings.catch_warnings(action="ignore"):
            self._engine.backward(loss * self._world.size)  # DeepSpeed takes the mean over the processes

    def step(self) -> float:
        """Do one optimizer step with the gradients of all processes. Returns the norm of the gradient before clipping.

        With a norm that is not finite, the weights may be lost.
        """
        # The processes exchange their gradients in the last call of `backward`, and which one is the last is known only
        # now. This call adds zeros. So each weight also has a gradient in each process.
        self._engine.set_gradient_accumulation_boundary(True)
        self.backward(torch.stack([(weight * 0).sum() for weight in self._weights]).sum())
        with warnings.catch_warnings(action="ignore"):
            self._engine.step()
        self._engine.set_gradient_accumulation_boundary(False)
        return float(self._engine.get_global_grad_norm())

    def state_dict(self) -> dict[str, Any]:
        """In the main process the state of an AdamW that is not divided, in the memory of the CPU; else nothing."""
        own = self._adamw.state.get(self._part)
        moments = {name: self._gathered(own[name]) for name in MOMENTS} if own else {}
        if not self._world.is_main:
            return {}
        places, [group] = [*range(len(self._weights))], self._adamw.param_groups
        state: dict[int, dict[str, Tensor]] = {}
        if own:
            step = own["step"]
            state = {one: {"step": step.clone(), **{name: moments[name][one] for name in MOMENTS}} for one in places}
        return {"state": state, "param_groups": [{**group, "params": places}]}

    def _gathered(self, own: Tensor) -> list[Tensor]:
        """In the main process, tensors like the weights, from the parts of all processes; else an empty list."""
        parts = []
        for rank in range(self._world.size):
            part = own.clone() if rank == self._world.rank else torch.empty_like(own)
            distributed.broadcast(part, src=rank)  # one by one: the device may not have room for all of them
            if self._world.is_main:
                parts.append(part.cpu())
        if not parts:
            return []
        sizes = [weight.numel() for weight in self._weights]
        whole = torch.cat(parts)[: sum(sizes)].split(sizes)
        return [one.view(weight.shape).clone() for one, weight in zip(whole, self._weights, strict=True)]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of an AdamW, after the weights were restored. Raises `ValueError` if it does not fit."""
        self._divided.refresh_fp32_params()
        if not (found := state["state"]):
            return
        if [*found] != [*range(len(self._weights))]:
            raise ValueError("moments of other weights")
        moments = {name: [found[place][name] for place in range(len(self._weights))] for name in MOMENTS}
        for name, whole in moments.items():
            if [one.shape for one in whole] != [weight.shape for weight in self._weights]:
                raise ValueError("moments of another shape")
            self._adamw.state[self._part][name] = self._own(whole)
        self._adamw.state[self._part]["step"] = found[0]["step"].clone()
