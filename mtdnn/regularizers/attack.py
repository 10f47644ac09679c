"""Base of adversarial training on labels: perturbations that increase the task's own loss.

Dimensions: N sequences, T tokens, E size of the word embeddings.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mtdnn.regularizers.directions import Norm, Scope, direction, exceeds, projected
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.perturbation import PerturbationOptions, PerturbationRegularizer
from mtdnn.regularizers.sizes import Size, SizeOrZero


class AttackOptions(PerturbationOptions):
    """Defaults: the FreeLB authors' values for MNLI (`adv_lr`, `adv_init_mag`, `adv_max_norm: 0`, `adv_steps`)."""

    weight: float = Field(1.0, ge=0, le=1, description="Share of the adversarial loss; the clean loss has the rest.")
    every: int = Field(1, ge=1, description="Apply at every k-th step of the task, same share; 1 = every step.")
    steps: int = Field(3, ge=1, description="K, ascent steps.")
    eta: Size = Field(0.04, description="α, length of an ascent step.")
    start: SizeOrZero = Field(0.08, description="Norm bound of the random start; 0 starts at the word embeddings.")
    epsilon: Size | None = Field(None, description="ε, radius of the ball each step is projected onto; null = no ball.")
    norm: Norm = Field("l2", description="Norm of the start, the steps and the ball.")
    scope: Scope = Field("example", description="What a norm is taken over: a whole sequence, or each token.")


class Attack(PerturbationRegularizer):
    """A regularizer whose loss at perturbed embeddings takes the share `weight` of the task's loss."""

    Options = AttackOptions
    size_names = ("epsilon", "eta", "start")
    compares = False

    def moves(self) -> dict[str, float]:
        """The step, and the radius of the ball if there is one."""
        return {name: self.sizes[name] for name in ("eta", "epsilon") if name in self.sizes}

    @property
    def _clean_cost(self) -> float:
        """Forward units of the clean loss, which only a share below 1 needs."""
        return 0.0 if self.weight == 1 else 3.0

    def start(self, forward_pass: ForwardPass) -> Tensor:
        """[N, T, E]: uniform in ±start in each coordinate; for l2 divided by the root of the number of coordinates."""
        delta = forward_pass.noise(self.sizes["start"], uniform=True)
        if self.options.norm == "inf":
            return delta
        tokens = forward_pass.mask.sum(dim=1)[:, None, None] if self.options.scope == "example" else 1
        return delta / (tokens * delta.shape[2]) ** 0.5

    def ascended(self, delta: Tensor, gradient: Tensor, forward_pass: ForwardPass) -> Tensor:
        """[N, T, E]: the perturbation after a step along the gradient and projection onto the ball; zero at padding.

        Args:
            delta: [N, T, E] the perturbation.
            gradient: [N, T, E], with respect to the perturbation.
            forward_pass: the clean pass of this step.
        """
        norm, scope = self.options.norm, self.options.scope
        gradient = gradient.masked_fill(~forward_pass.mask.unsqueeze(-1), 0.0)
        moved = delta.detach() + self.sizes["eta"] * direction(gradient, norm, scope)
        if "epsilon" not in self.sizes:
            self.note(moved, forward_pass)
            return moved
        limit = self.sizes["epsilon"]
        self.note(projected(moved, limit, norm, scope), forward_pass, exceeds(moved, limit, norm, scope))
        return projected(moved, limit, norm, scope)

    def attacked_loss(self, forward_pass: ForwardPass, delta: Tensor) -> Tensor:
        """The task's loss at word embeddings + δ, in a graph of its own."""
        return forward_pass.loss(self.perturbed(forward_pass, forward_pass.embed() + delta))
