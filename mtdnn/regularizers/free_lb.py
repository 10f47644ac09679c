"""FreeLB: the loss averaged over the steps of an attack; its gradients serve both the weights and the attack.

Source: Zhu et al. 2020, arXiv 1909.11764, Algorithm 1; same dropout masks in all steps as in its section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mtdnn.regularizers.attack import Attack
from mtdnn.regularizers.base import REGULARIZERS, LossTerms
from mtdnn.regularizers.forward_pass import ForwardPass


@REGULARIZERS.register("free_lb")
class FreeLB(Attack):
    """(1/K) Σ_k L(f(x + δ_k), y), δ_{k+1} = Π(δ_k + α g/‖g‖), g = ∇_δ L(f(x + δ_k), y), k = 0 … K−1.

    Each of the K passes has its backward pass before the next begins, so that memory is that of one pass.
    Cost: 3K forward units; 9 with three steps, 3 times a plain step; with a share below 1 the clean pass, 3 more.
    """

    name = "free_lb"

    @property
    def cost(self) -> float:
        applied_cost = 3 * int(self.options.steps) + self._clean_cost
        return 3 + (applied_cost - 3) / float(self.options.every)

    def losses(self, forward_pass: ForwardPass) -> Iterator[LossTerms]:
        if self.weight < 1:
            yield LossTerms((1 - self.weight) * forward_pass.loss(self.clean_logits(forward_pass)))
        steps, delta = self.options.steps, self.start(forward_pass)
        for step in range(steps):
            delta = delta.requires_grad_(step + 1 < steps)
            yield LossTerms(self.weight / steps * self.attacked_loss(forward_pass, delta))
            if step + 1 < steps:
                delta = self.ascended(delta, forward_pass.unscaled(gradient_at(delta)), forward_pass)


def gradient_at(delta: Tensor) -> Tensor:
    """The gradient at δ, from the backward pass of the loss just yielded; of a scaled loss, where the run scales it."""
    if delta.grad is None:
        raise RuntimeError("call backward on each loss before asking for the next")
    return delta.grad
