"""Losses of a run: their means per task since the last log line, and an error when one is not finite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mtdnn.batch import Batch
from mtdnn.errors import MtdnnError


class NonFiniteLoss(MtdnnError):
    """The loss of a step, or its gradient, is not finite; the weights are not updated with it."""


@dataclass
class Meter:
    """Sums of named values per task since the last line of the log, kept on the device.

    Attributes:
        sums, counts: task → name → sum of its values, and the number of steps that had one.
        steps: task → its steps.
    """

    sums: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    steps: Counter[str] = field(default_factory=Counter)

    def add(self, task: str, values: Mapping[str, Tensor]) -> None:
        """Add one step's named values of a task."""
        sums = self.sums.setdefault(task, {})
        for name, value in values.items():
            sums[name] = sums[name] + value if name in sums else value.clone()
        self.counts.setdefault(task, Counter()).update(values.keys())
        self.steps[task] += 1

    def take(self) -> dict[str, dict[str, float]]:
        """Per task the mean of each value over the steps that had it, and the number of steps; resets the meter. Waits
        for the device."""
        means = {
            task: {
                **{name: float(total) / self.counts[task][name] for name, total in sums.items()},
                "steps": self.steps[task],
            }
            for task, sums in self.sums.items()
        }
        self.sums, self.counts, self.steps = {}, {}, Counter()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Copies on the CPU."""
        sums = {task: {name: value.cpu() for name, value in sums.items()} for task, sums in self.sums.items()}
        counts = {task: dict(of_task) for task, of_task in self.counts.items()}
        return {"sums": sums, "counts": counts, "steps": dict(self.steps)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned."""
        self.sums = {
            task: {name: value.to(device) for name, value in sums.items()} for task, sums in state["sums"].items()
        }
        self.counts = {task: Counter(counts) for task, counts in state["counts"].items()}
        self.steps = Counter(state["steps"])


class LossWatch:
    """The losses of one step, copied to the host while the device runs the backward pass.

    Reading a loss right away would make the host wait for the device in every step. The copy is requested before
    the backward pass and read after that is queued, so the device is never idle.

    Attributes:
        named: sums of the named values of the step's parts.
        moves: optimizer updates within this step.
    """

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self.moves = 0
        self._copies: list[Tensor] = []
        self._since_move: list[Tensor] = []
        self._events: list[torch.cuda.Event] = []

    def observe(self, loss: Tensor) -> None:
        """Copy a loss to the host, without waiting for it."""
        self._since_move.append(loss.detach())
        if loss.device.type != "cuda":
            self._copies.append(loss.detach())
            return
        copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
        copy.copy_(loss.detach(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._copies.append(copy)
        self._events.append(event)

    def take_total(self) -> Tensor:
        """The sum of the losses seen since the last call, on their device."""
        total, self._since_move = torch.stack(self._since_move).sum(), []
        return total

    def add(self, named: Mapping[str, Tensor]) -> None:
        """Add the named values of one part, weighted so that the parts sum to the step's values."""
        for name, value in named.items():
            self.named[name] = self.named[name] + value if name in self.named else value

    def require_finite(self, parts: Sequence[Batch], step: int) -> None:
        """Raise NonFiniteLoss, naming task, step and rows, when any loss seen is infinite or not a number."""
        for event in self._events:
            event.synchronize()
        self._require(sum(float(copy) for copy in self._copies), "the loss", parts, step)

    def require_finite_gradient(
        self, norm: Mapping[str, Tensor], parts: Sequence[Batch], step: int, *, summed: bool
    ) -> None:
        """Raise NonFiniteLoss when the norm of the gradient is, where it can be read without waiting for a device.

        Args:
            norm: of the gradient.
            parts: batches of the step.
            step: optimizer steps so far.
            summed: the gradient is the sum of all processes', of which the parts are this one's.
        """
        name = "the norm of the gradient" + (" of all processes" if summed else "")
        for value in norm.values():
            if value.device.type == "cpu":
                self._require(float(value), name, parts, step, whose="rows of this process" if summed else "rows")

    def _require(self, value: float, name: str, parts: Sequence[Batch], step: int, *, whose: str = "rows") -> None:
        if math.isfinite(value):
            return
        tasks = list(dict.fromkeys(f"'{part.task}'" for part in parts))
        named = f"task{'s' if len(tasks) > 1 else ''} {', '.join(tasks)}"
        ids = [row_id for part in parts for row_id in part.row_ids]
        shown = ", ".join(ids[:20]) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
        times = "once" if self.moves == 1 else f"{self.moves} times"
        moved = f"have moved {times} within this step" if self.moves else "have not moved"
        raise NonFiniteLoss(
            f"step {step + 1}: {named}: {name} is {value}; {whose} {shown}. The weights {moved}; "
            "lower the learning rate or the regularizer's weight, or look at these rows."
        )
