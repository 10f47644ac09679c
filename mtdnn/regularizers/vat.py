"""Virtual adversarial training: the output should not depend on the direction it depends on most.

Source: Miyato et al. 2018, arXiv 1704.03976, equations 5-13, for texts Miyato et al. 2017, arXiv 1605.07725; defaults
of the latter's code: ε=5, one power iteration, ξ=0.1, for embeddings normalised to variance 1.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.directions import Scope, direction
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.perturbation import PerturbationOptions, PerturbationRegularizer
from mtdnn.regularizers.sizes import RelativeSize, Size


class VATOptions(PerturbationOptions):
    """Sizes are numbers, or {relative: number} in units of the embeddings' root mean square."""

    epsilon: Size = Field(RelativeSize(relative=5.0), description="ε, l2 norm of the move. Default: {relative: 5}.")
    xi: Size = Field(
        RelativeSize(relative=0.1), description="ξ, l2 norm of the probe for its direction. Default: {relative: 0.1}."
    )
    steps: int = Field(1, ge=1, description="Power iterations.")
    scope: Scope = Field("example", description="What a norm is taken over: a whole sequence, or each token.")


@REGULARIZERS.register("vat")
class VAT(PerturbationRegularizer):
    """LDS = mean_i KL(sg f(x_i) ‖ f(x_i + r_i)), r_i = ε g/‖g‖₂, g = ∇_r KL(f(x_i) ‖ f(x_i + r)) at r = ξ d.

    d starts as a random unit vector; each further power iteration takes g/‖g‖₂ for d. The clean prediction is a
    constant. For regression KL is the squared difference. Cost: 6 + 2·steps forward units, 2.67 times a plain step.
    """

    name = "vat"
    Options = VATOptions
    size_names = ("epsilon", "xi")

    @property
    def cost(self) -> float:
        return 3 + (3 + 2 * int(self.options.steps) + (self.options.dropout == "off")) / float(self.options.every)

    def moves(self) -> dict[str, float]:
        return {"xi": self.sizes["xi"]}

    def coordinates(self, embedding_size: int) -> float:
        return float(embedding_size) ** 0.5

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        embeddings, clean = forward_pass.embeddings, self._reference(forward_pass)
        delta = self.sizes["epsilon"] * self._worst_direction(forward_pass, embeddings.detach(), clean)
        self.note(delta, forward_pass)
        logits = self.perturbed(forward_pass, embeddings + delta)
        return forward_pass.divergence(logits, clean, symmetric=False).mean()

    def _reference(self, forward_pass: ForwardPass) -> Tensor:
        """Logits of the clean pass as constants."""
        with torch.no_grad() if self.options.dropout == "off" else torch.enable_grad():
            return self.clean_logits(forward_pass).detach()

    def _worst_direction(self, forward_pass: ForwardPass, embeddings: Tensor, clean: Tensor) -> Tensor:
        """[N, T, E] of l2 norm 1 per example or token, zero at padding."""
        unit = direction(forward_pass.noise(1.0), "l2", self.options.scope)
        for _ in range(self.options.steps):
            shifted = (embeddings + self.sizes["xi"] * unit).requires_grad_()
            values = forward_pass.divergence(self.perturbed(forward_pass, shifted), clean, symmetric=False)
            gradient = forward_pass.gradient(values.sum(), shifted)
            unit = direction(gradient.masked_fill(~forward_pass.mask.unsqueeze(-1), 0.0), "l2", self.options.scope)
        return unit
