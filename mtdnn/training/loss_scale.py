"""Loss scaling for fp16, whose smallest numbers gradients would fall below, and whose largest they must not exceed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SMALLEST = 2.0**-10
"""A scale below this has been halved 26 times since the start, at 65,536: no scale helps."""


class LossScale:
    """Losses times S, gradients divided by S before they are clipped; where one overflows, the update is skipped.

    S is halved after a skipped update and doubled after 2,000 updates without one. A skipped update
    counts as a step. PyTorch's GradScaler does the arithmetic. Source: Micikevicius et al. 2018, arXiv 1710.03740,
    section 3.2.

    Args:
        device: of the run.
        start: S of the first step.
        agreed: whether processes have to agree on what overflows, as each holds gradients of its own.
        scaler: of somebody else's loop, which does the steps; None: one of its own, from `start`.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        start: float = 2.0**16,
        agreed: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self._scaler = scaler or torch.amp.GradScaler(device.type, init_scale=start)
        self._agreed = agreed
        self._skipped = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)
        self._scaler.scale(self._one)  # its own numbers are made by the first use

    @property
    def factor(self) -> Tensor:
        """S, a scalar on the device."""
        return self._scaler.scale(self._one)

    @property
    def value(self) -> float:
        """S; waits for the device."""
        return float(self._scaler.get_scale())

    @property
    def skipped(self) -> int:
        """Updates that were skipped; waits for the device."""
        return int(self._skipped)

    def unscale(self, optimizer: Optimizer) -> Tensor:
        """Divide the optimizer's gradients by S; a scalar, 1 if any of them, in any process, is not finite, else 0."""
        self._scaler.unscale_(optimizer)
        # PyTorch has no public name for it, and all processes must agree on it before the update.
        found = list(self._scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values())
        for each in found if self._agreed else ():
            torch.distributed.all_reduce(each, op=torch.distributed.ReduceOp.MAX)
        overflow: Tensor = torch.stack([each.to(self._skipped.device) for each in found]).amax()
        self._skipped += overflow
        return overflow

    def step(self, optimizer: Optimizer) -> None:
        """Let the optimizer move, unless a gradient overflowed, and adapt S; once after each `unscale`."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """S, the updates since it changed, and the number of skipped ones."""
        return {"scaler": self._scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` gave."""
        self._scaler.load_state_dict(dict(state["scaler"]))
        self._skipped.fill_(state["skipped"])
