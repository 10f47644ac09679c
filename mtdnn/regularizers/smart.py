"""SMART's smoothness-inducing adversarial regularizer, with the paper's values; other values are in `smart_tuned.py`.

Source: Jiang et al. 2020, arXiv 1911.03437, equation 1 and Algorithm 1, lines 6-10. The code its authors released
computes something else: `smart_release.py`. Dimensions: B rows, N sequences, T tokens, E size of the word embeddings.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from torch import Tensor

from mtdnn.regularizers.base import REGULARIZERS, RunPrecision
from mtdnn.regularizers.directions import Norm, Scope, direction, exceeds, extent, projected, within_ball
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.perturbation import PerturbationOptions, PerturbationRegularizer
from mtdnn.regularizers.sizes import Size, SizeOrZero

UNIT_OFFSET = 1e-6
"""Added to the norm where a step ends at norm 1 (the released code's `adv_epsilon`, which limits nothing)."""


def _in_paper(value: object) -> object:
    """The value; ValueError for the one that only the released code has."""
    if value == "odds":
        raise ValueError("only the released code does this. Use smart-mtdnn-release, which has the option.")
    return value


class SmartOptions(PerturbationOptions):
    """The paper's values; sizes are numbers, or {relative: number} in units of the embeddings' root mean square."""

    epsilon: Size = Field(1e-5, description="ε, radius of the ball the perturbation stays in.")
    eta: Size = Field(1e-3, description="η, length of an ascent step.")
    noise: SizeOrZero = Field(1e-5, description="σ, standard deviation of the first perturbation; 0 = start at x.")
    steps: int = Field(1, ge=0, description="T_x̃, ascent steps; 0 leaves x + noise, which is not projected.")
    norm: Norm = Field("inf", description="p, norm of the ball and of the gradient.")
    scope: Scope = Field("example", description="What a norm is taken over: a whole sequence, or each token.")
    projection: Literal["ball", "none", "unit"] = Field(
        "ball", description="After each step: onto the ε-ball; none; or unit, rescaled to norm 1, ε unused."
    )
    inner_loss: Annotated[Literal["symmetric", "one_sided"], BeforeValidator(_in_paper)] = Field(
        "symmetric", description="What the ascent steps increase: ℓ_s, or KL(clean‖perturbed)."
    )


@REGULARIZERS.register("smart")
class Smart(PerturbationRegularizer):
    """R_s = mean_i ℓ_s(f(x̃_i), f(x_i)) at the x̃_i near x_i that changes the model's output most.

    For each sequence, over real tokens only: x̃ ← x + ν, ν ~ N(0, σ²I); T_x̃ times g ← ∇_x̃ ℓ_s(f(x̃), sg f(x)),
    x̃ ← Π_{‖x̃−x‖≤ε}(x̃ + η g/‖g‖). The gradient of R_s runs through both arguments, through the embedding table too; the
    perturbation x̃ − x is a constant.

    Cost: 3 + 2·T_x̃ + 3 forward units; 8 with one step, 2.67 times a plain step. With `dropout: off` 3 more.
    """

    name = "smart"
    Options = SmartOptions

    @property
    def cost(self) -> float:
        extra = 3 + 2 * int(self.options.steps) + (3 if self.options.dropout == "off" else 0)
        return 3 + extra / float(self.options.every)

    def _resolve(self, embedding_rms: float) -> None:
        super()._resolve(embedding_rms)
        if self.options.projection != "ball":
            del self.sizes["epsilon"]

    def moves(self) -> dict[str, float]:
        """How far the noise or all steps reach, whichever is farther; ε where the ball is smaller than that.

        Empty with `projection: unit`: a step ends at norm 1, which no size changes.
        """
        if self.options.projection == "unit":
            return {}
        reach = {"noise": self.sizes["noise"], "eta": self.options.steps * self.sizes["eta"]}
        farther = max(reach, key=reach.__getitem__)
        if self.options.projection == "ball" and self.options.steps and self.sizes["epsilon"] <= reach[farther]:
            return {"epsilon": self.sizes["epsilon"]}
        return {farther: reach[farther]}

    def coordinates(self, embedding_size: int) -> float:
        return super().coordinates(embedding_size) if self.options.steps else 1.0

    def prepare(self, *, embedding_rms: float, embedding_size: int, precision: RunPrecision) -> None:
        super().prepare(embedding_rms=embedding_rms, embedding_size=embedding_size, precision=precision)
        if self.options.steps and self.sizes["noise"] == 0:
            self.log(f"{self.name}: noise is 0: the gradient at the unperturbed embeddings is zero, so nothing moves")

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        clean, embeddings = self.clean_logits(forward_pass), forward_pass.embeddings
        delta = self.perturbation(forward_pass, embeddings.detach(), clean.detach())
        return forward_pass.divergence(self.perturbed(forward_pass, embeddings + delta), clean).mean()

    def perturbation(self, forward_pass: ForwardPass, embeddings: Tensor, clean: Tensor) -> Tensor:
        """[N, T, E]: x̃ − x, without gradient, zero at padding.

        Args:
            embeddings: [N, T, E], x, detached.
            clean: logits f(x), detached.
            forward_pass: the clean pass of this step.
        """
        delta, clipped = forward_pass.noise(self.sizes["noise"]), None
        for _ in range(self.options.steps):
            gradient = self._gradient(forward_pass, embeddings, delta, clean)
            delta, clipped = self.ascend(delta, gradient.masked_fill(~forward_pass.mask.unsqueeze(-1), 0.0))
        if clipped is not None and self.options.norm == "inf":
            delta = within_ball(delta, embeddings, self.sizes["epsilon"])
        self.note(delta, forward_pass, clipped)
        return delta

    def _gradient(self, forward_pass: ForwardPass, embeddings: Tensor, delta: Tensor, clean: Tensor) -> Tensor:
        """[N, T, E]: gradient of each row's inner loss with respect to x̃ alone."""
        shifted = (embeddings + delta).requires_grad_()
        values = self.inner_loss(forward_pass, self.perturbed(forward_pass, shifted), clean)
        return forward_pass.gradient(values.sum(), shifted)

    def inner_loss(self, forward_pass: ForwardPass, perturbed: Tensor, clean: Tensor) -> Tensor:
        """[B]: the inner loss that the perturbation increases.

        Args:
            forward_pass: computes ℓ_s.
            perturbed: logits f(x̃); gradients flow to x̃.
            clean: logits f(x), detached.
        """
        return forward_pass.divergence(perturbed, clean, symmetric=self.options.inner_loss != "one_sided")

    def ascend(self, delta: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """[N, T, E]: the perturbation after a step along the gradient; where the ball clipped it, or None."""
        norm, scope = self.options.norm, self.options.scope
        moved = delta + self.sizes["eta"] * self.step_direction(gradient)
        if self.options.projection == "none":
            return moved, None
        if self.options.projection == "unit":
            return moved / (extent(moved, norm, scope) + UNIT_OFFSET), None
        limit = self.sizes["epsilon"]
        return projected(moved, limit, norm, scope), exceeds(moved, limit, norm, scope)

    def step_direction(self, gradient: Tensor) -> Tensor:
        """[N, T, E]: what a step adds η times: the gradient, at norm 1."""
        return direction(gradient, self.options.norm, self.options.scope)
