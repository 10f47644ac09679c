"""Free adversarial training: several passes over the same batch, each updating the weights and the perturbation.

Source: Shafahi et al. 2019, arXiv 1904.12843, Algorithm 1. Differences for texts: steps along g/‖g‖ in place of its
sign, as in Zhu et al. 2020, arXiv 1909.11764; and each batch starts with a new perturbation, since its rows
have other lengths than the last batch's.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtdnn.regularizers.attack import Attack
from mtdnn.regularizers.base import REGULARIZERS, LossTerms
from mtdnn.regularizers.forward_pass import DropoutMode, ForwardPass
from mtdnn.regularizers.free_lb import gradient_at


@REGULARIZERS.register("free_at")
class FreeAT(Attack):
    """m = `steps` times: θ moves down and δ up the gradient of L(f(x + δ), y), both from one backward pass.

    The optimizer updates the weights m times per batch; divide the epochs by m for the budget of a plain run, as the
    authors do.
    Cost: 3m forward units; 9 with three replays, 3 times a plain step; with a share below 1 the clean pass each time.
    """

    name = "free_at"
    moves_within_step = True

    @property
    def cost(self) -> float:
        applied_cost = int(self.options.steps) * (3 + self._clean_cost)
        return 3 + (applied_cost - 3) / float(self.options.every)

    def losses(self, forward_pass: ForwardPass) -> Iterator[LossTerms]:
        steps, delta = self.options.steps, self.start(forward_pass)
        for step in range(steps):
            last = step + 1 == steps
            delta = delta.requires_grad_(not last)
            loss = self.weight * self.attacked_loss(forward_pass, delta)
            if self.weight < 1:
                mode: DropoutMode = "off" if self.options.dropout == "off" else "same"
                clean = forward_pass.rerun(forward_pass.embed(), dropout=mode)
                loss = loss + (1 - self.weight) * forward_pass.loss(clean)
            yield LossTerms(loss, then_update=not last, log_share=1 / steps)
            if not last:
                delta = self.ascended(delta, forward_pass.unscaled(gradient_at(delta)), forward_pass)
