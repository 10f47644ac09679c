"""R-Drop: two passes with different dropout masks should agree.

Source: Liang et al. 2021, arXiv 2106.14448, equations 1-4; weights as in the authors' code, ½(L₁+L₂) + α·½(KL+KL).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mtdnn.regularizers.base import REGULARIZERS, LossTerms, Regularizer
from mtdnn.regularizers.forward_pass import ForwardPass


@REGULARIZERS.register("r_drop")
class RDrop(Regularizer):
    """Loss ½(L(f₁) + L(f₂)), penalty ½ mean_i ℓ_s(f₁(x_i), f₂(x_i)); f₁ and f₂ differ only in their dropout masks.

    ℓ_s is the task's symmetric divergence (the paper's for classification). `weight` is the paper's α: 1 by default, of
    its {0.1, 0.5, 1} for GLUE. Without dropout the penalty is 0. Cost: 6 forward units, 2 times a plain step.
    """

    name = "r_drop"

    @property
    def cost(self) -> float:
        return 3 + 3 / float(self.options.every)

    def losses(self, forward_pass: ForwardPass) -> Iterator[LossTerms]:
        first = forward_pass.logits
        second = forward_pass.rerun(forward_pass.embeddings, dropout="independent")
        loss = (forward_pass.loss(first) + forward_pass.loss(second)) / 2
        penalty: Tensor = forward_pass.divergence(first, second).mean() / 2
        yield LossTerms(loss, self.weight * self.options.every * penalty, penalty)
