"""The update near the mean gradient whose worst task gains most.

Source: Liu, Liu, Jin, Stone, Liu 2021, "Conflict-Averse Gradient Descent", arXiv 2110.14048, Algorithm 1; by TorchJD.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mtdnn.balancing.base import BALANCERS, GramianBalancer
from mtdnn.config.options import Options

LEAST_NORM = 1e-12
"""Of g_w, relative to the gradients: below, they cancel and the update is zero."""


class CAGradOptions(Options):
    """Options of `cagrad`."""

    c: float = Field(0.5, ge=0, lt=1, description="Radius around the mean gradient, in units of its norm; 0: the mean.")


@BALANCERS.register("cagrad")
class CAGrad(GramianBalancer):
    """g_0 + c·‖g_0‖ ∕ ‖g_w‖·g_w, where g_0 is the mean gradient and g_w = Σ w_i g_i, w ≥ 0, Σ w_i = 1, minimizes
    g_w·g_0 + c·‖g_0‖·‖g_w‖.

    Cost: that of `fixed`, a convex problem in K variables solved on the host, and the encoder's gradient of each task
    in memory.
    """

    name = "cagrad"
    Options = CAGradOptions
    packages = ("torchjd", "cvxpy", "clarabel")

    def weighting(self) -> Any:
        from torchjd.aggregation import CAGradWeighting

        return CAGradWeighting(c=self.options.c, norm_eps=LEAST_NORM)
