"""The update whose projection onto every task's gradient is equally long.

Source: Liu et al. 2021, "Towards Impartial Multi-task Learning" (IMTL-G), ICLR; by TorchJD, in the form that allows
linearly dependent gradients.
"""

from __future__ import annotations

from typing import Any

from mtdnn.balancing.base import BALANCERS, GramianBalancer


@BALANCERS.register("imtl")
class IMTL(GramianBalancer):
    """Σ w_i g_i with Σ w_i = 1 and equal (Σ_j w_j g_j)·g_i ∕ ‖g_i‖ for all i; weights may be negative.

    Cost: that of `fixed`, a system of K equations on the host, and the encoder's gradient of each task in memory.
    """

    name = "imtl"

    def weighting(self) -> Any:
        from torchjd.aggregation import IMTLGWeighting

        return IMTLGWeighting()
