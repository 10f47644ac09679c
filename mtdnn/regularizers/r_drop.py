"""R-Drop: two passes with different dropout masks should agree.

Source: Liang et al. 2021, arXiv 2106.14448, equations 1-4, divided by 2.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mtdnn.regularizers.base import REGULARIZERS, LossTerms, Regularizer
from mtdnn.regularizers.forward_pass import ForwardPass


@REGULARIZERS.register("r_drop")
class RDrop(Regularizer):
    """Loss ½(L(f₁) + L(f₂)), penalty ½ mean_i ℓ_s(f₁(x_i), f₂(x_i)); f₁ and f₂ differ only in their dropout masks.

    ℓ_s is the task's symmetric divergence (the paper's for classification), a mean over the rows. Equation 4 adds the
    two losses where this takes their mean, so that its α is 2·`weight`: 2 by default. The authors' code for GLUE also
    sums the divergence over the batch: its α at B rows is a `weight` of α·B/2, 4 for an α of 0.5 at 16 rows. Without
    dropout the penalty is 0. Cost: 6 forward units, 2 times a plain step.
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
