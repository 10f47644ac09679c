"""More weight for the tasks whose loss falls slowly.

Source: Liu, Johns, Davison 2019, "End-to-End Multi-Task Learning with Attention", arXiv 1803.10704, equation 7. TorchJD
has it for updates that always hold every task; here a task's average is over the updates that it is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from mtdnn.balancing.base import BALANCERS, Balancer
from mtdnn.config.options import Options
from mtdnn.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")


class DWAOptions(Options):
    """Options of `dwa`."""

    temperature: float = Field(2.0, gt=0, description="T of the softmax; larger: more even.")
    every: int | Literal["epoch"] = Field("epoch", description="Length of a period: a number of steps, or epoch.")

    @field_validator("every")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("not a period; give at least 1 step, or epoch")
        return value


@BALANCERS.register("dwa")
class DWA(Balancer):
    """K·softmax_i(r_i ∕ T), r_i = L_i(t−1) ∕ L_i(t−2): the ratio of a task's mean losses in the last two periods.

    K and the softmax are over the tasks of the run. All weights are 1 until two periods have ended; a task without a
    batch in a period keeps its mean. An epoch is the paper's period; a run of few epochs needs a shorter one.
    Cost: that of `fixed`.
    """

    name = "dwa"
    Options = DWAOptions
    needs_several = False

    def __init__(self, tasks: Mapping[str, Any], *, device: torch.device | str = "cpu", **options: Any) -> None:
        super().__init__(tasks, device=device, **options)
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.means: list[dict[str, Tensor]] = []
        self.current: dict[str, Tensor] = {}

    def weight(self, task: str) -> Tensor | float:
        return self.current.get(task, 1.0)

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        for task, loss in losses.items():
            self.sums[task] = self.sums[task] + loss if task in self.sums else loss.clone()
            self.counts[task] = self.counts.get(task, 0) + 1
        self.steps += 1
        every = self.options.every
        if every != "epoch" and self.steps % every == 0:
            self._end_period()

    def after_epoch(self) -> None:
        if self.options.every == "epoch":
            self._end_period()

    def _end_period(self) -> None:
        before = self.means[-1] if self.means else {}
        means = {task: total / self.counts[task] for task, total in self.sums.items()}
        self.means = [*self.means[-1:], {**before, **means}]
        self.sums, self.counts = {}, {}
        if len(self.means) == 2:
            self.current = self._next_weights(*self.means)

    def _next_weights(self, before: Mapping[str, Tensor], last: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = {task: (last[task], before[task]) for task in self.tasks if task in before}
        one = torch.ones((), device=self.device)
        falls = [
            torch.where(known[task][1] > 0, known[task][0] / known[task][1], one) if task in known else one
            for task in self.tasks
        ]
        shares = len(falls) * torch.softmax(torch.stack(falls) / self.options.temperature, dim=0)
        return dict(zip(self.tasks, shares.unbind(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        def on_host(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {task: value.cpu() for task, value in values.items()}

        means = [on_host(each) for each in self.means]
        tensors = {"sums": on_host(self.sums), "means": means, "current": on_host(self.current)}
        return {**tensors, "counts": dict(self.counts), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        def on_device(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {task: value.to(self.device) for task, value in values.items()}

        self.sums, self.current = on_device(state["sums"]), on_device(state["current"])
        self.means = [on_device(each) for each in state["means"]]
        self.counts, self.steps = dict(state["counts"]), state["steps"]
