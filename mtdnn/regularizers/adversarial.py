"""Adversarial training by projected gradient ascent (PGD) on the label loss.

Source: Madry et al. 2018, arXiv 1706.06083, equation 2.1, on word embeddings as in Zhu et al. 2020, arXiv 1909.11764.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from mtdnn.regularizers.attack import Attack, AttackOptions
from mtdnn.regularizers.base import REGULARIZERS, LossTerms
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.sizes import Size


class AdversarialOptions(AttackOptions):
    """As for the other attacks, but within a ball: that of the random start, as in Madry et al."""

    epsilon: Size | None = Field(0.08, description="ε, radius of the ball each step ends in; null = none.")


@REGULARIZERS.register("adversarial")
class Adversarial(Attack):
    """Loss at x + δ_K, where δ ← Π(δ + α g/‖g‖), g = ∇_δ L(f(x+δ), y), K times from a random start.

    Cost: 3 + 2K forward units; 9 with three steps, 3 times a plain step; with a share below 1 the clean pass, 3 more.
    """

    name = "adversarial"
    Options = AdversarialOptions

    @property
    def cost(self) -> float:
        applied_cost = 3 + 2 * int(self.options.steps) + self._clean_cost
        return 3 + (applied_cost - 3) / float(self.options.every)

    def losses(self, forward_pass: ForwardPass) -> Iterator[LossTerms]:
        embeddings, delta = forward_pass.embeddings.detach(), self.start(forward_pass)
        for _ in range(self.options.steps):
            shifted = (embeddings + delta).requires_grad_()
            loss = forward_pass.loss(self.perturbed(forward_pass, shifted))
            delta = self.ascended(delta, forward_pass.gradient(loss, shifted), forward_pass)
        loss = self.attacked_loss(forward_pass, delta)
        if self.weight < 1:
            loss = self.weight * loss + (1 - self.weight) * forward_pass.loss(self.clean_logits(forward_pass))
        yield LossTerms(loss)
