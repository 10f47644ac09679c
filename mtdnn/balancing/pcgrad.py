"""Gradients projected onto the normal planes of those that they conflict with.

Source: Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782, Algorithm 1; by TorchJD.
"""

from __future__ import annotations

from typing import Any

from mtdnn.balancing.base import BALANCERS, GramianBalancer


@BALANCERS.register("pcgrad")
class PCGrad(GramianBalancer):
    """Σ_i g_i', where g_i' is g_i less, for each j ≠ i in random order, its part against g_j.

    g_i' ← g_i' − min(0, g_i'·g_j) ∕ ‖g_j‖²·g_j. The order is a function of the run's seed and the step.
    Cost: that of `fixed`, and the encoder's gradient of each task in memory.
    """

    name = "pcgrad"

    def weighting(self) -> Any:
        from torchjd.aggregation import PCGradWeighting

        return PCGradWeighting()
