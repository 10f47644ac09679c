"""Gradients projected onto the cone of the updates that no task loses by, and averaged.

Source: Quinton, Rey 2024, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232, section 3; by TorchJD.
"""

from __future__ import annotations

from typing import Any

from mtdnn.balancing.base import BALANCERS, GramianBalancer

RIDGE = 1e-12
"""Added to the diagonal of the products, whose trace is 1, so that the solver finds them positive definite."""


@BALANCERS.register("upgrad")
class UPGrad(GramianBalancer):
    """(1 ∕ K)·Σ_i π(g_i), π being the projection onto {x : x·g_j ≥ 0 for all j}.

    No task's loss rises by a small enough step. Cost: that of `fixed`, K quadratic programs in K variables on the host,
    and the encoder's gradient of each task in memory.
    """

    name = "upgrad"
    packages = ("torchjd", "qpsolvers", "quadprog")

    def weighting(self) -> Any:
        from torchjd.aggregation import UPGradWeighting
        from torchjd.linalg import QuadprogProjector

        return UPGradWeighting(projector=QuadprogProjector(norm_eps=0.0, reg_eps=RIDGE))
