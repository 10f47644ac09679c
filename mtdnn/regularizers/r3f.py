"""R3F: the output should not depend on noise in the word embeddings.

Source: Aghajanyan et al. 2020, arXiv 2008.03156, equation 5; defaults of fairseq's `sentence_prediction_r3f`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.forward_pass import DropoutMode, ForwardPass
from mtdnn.regularizers.perturbation import PerturbationOptions, PerturbationRegularizer
from mtdnn.regularizers.sizes import Size


class R3FOptions(PerturbationOptions):
    """Sizes are numbers, or {relative: number} in units of the embeddings' root mean square."""

    noise: Size = Field(1e-5, description="σ: standard deviation of normal, half-width of uniform noise.")
    distribution: Literal["uniform", "normal"] = Field("uniform", description="Distribution of the noise.")
    dropout: DropoutMode = Field("independent", description="Of the noisy pass; independent, as in the authors' code.")


@REGULARIZERS.register("r3f")
class R3F(PerturbationRegularizer):
    """mean_i ℓ_s(f(x_i + z), f(x_i)), z ~ U(−σ, σ) or N(0, σ²) in every coordinate of real tokens.

    The embedding table gets gradients through both passes, as with every method here; the authors' code detaches it in
    the noisy one. `weight` is the paper's λ: 1 by default.

    Cost: 6 forward units, 2 times a plain step; with `dropout: off` 3 more.
    """

    name = "r3f"
    Options = R3FOptions
    size_names = ("noise",)

    @property
    def cost(self) -> float:
        return 3 + (6 if self.options.dropout == "off" else 3) / float(self.options.every)

    def moves(self) -> dict[str, float]:
        return {"noise": self.sizes["noise"]}

    def coordinates(self, embedding_size: int) -> float:
        return 1.0

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        clean = self.clean_logits(forward_pass)
        delta = forward_pass.noise(self.sizes["noise"], uniform=self.options.distribution == "uniform")
        self.note(delta, forward_pass)
        return forward_pass.divergence(self.perturbed(forward_pass, forward_pass.embeddings + delta), clean).mean()
