"""SMART's smoothness-inducing adversarial regularizer, the variant its authors released, and one with other sizes.

Source: Jiang et al. 2020, arXiv 1911.03437, equation 1 and Algorithm 1, lines 6-10; and the last commit of
namisan/mt-dnn, `mt_dnn/perturbation.py`. Dimensions: B rows, N sequences, T tokens, E size of the word embeddings.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mtdnn.regularizers.base import REGULARIZERS, RunPrecision
from mtdnn.regularizers.forward_pass import DropoutMode, ForwardPass
from mtdnn.regularizers.perturbation import (
    Norm,
    PerturbationOptions,
    PerturbationRegularizer,
    RelativeSize,
    Scope,
    Size,
    SizeOrZero,
    beyond,
    direction,
    extent,
    held,
    projected,
)

UNIT_OFFSET = 1e-6
"""Added to the norm where the released code rescales to unit norm (its `adv_epsilon`, which limits nothing)."""


class SmartOptions(PerturbationOptions):
    """The paper's values; sizes are numbers, or {relative: number} in units of the embeddings' root mean square."""

    epsilon: Size = Field(1e-5, description="ε, radius of the ball the perturbation stays in.")
    eta: Size = Field(1e-3, description="η, length of an ascent step.")
    noise: SizeOrZero = Field(1e-5, description="σ, standard deviation of the first perturbation; 0 = start at x.")
    steps: int = Field(1, ge=0, description="T_x̃, ascent steps; 0 leaves x + noise, which is not projected.")
    norm: Norm = Field("inf", description="p, of the ball and of the normalised gradient.")
    scope: Scope = Field("example", description="What one norm is taken over: a whole sequence, or each token.")
    projection: Literal["ball", "none", "unit"] = Field(
        "ball", description="After a step: onto the ε-ball; nowhere; rescaled to norm 1 (raw gradient, ε unused)."
    )
    inner_loss: Literal["symmetric", "one_sided", "odds"] = Field(
        "symmetric", description="What ascends: ℓ_s; KL(clean‖perturbed); the release's log odds of classes, else ℓ_s."
    )
    targets: Literal["live", "fixed"] = Field(
        "live", description="fixed: in each KL of R_s the first distribution sends no gradient, as in the release."
    )
    embeddings: Literal["word", "block"] = Field(
        "word", description="block: the embedding block's output is perturbed and embedded a second time (release)."
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
        """How far the noise or all steps go, whichever is farther; ε if the ball ends before."""
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
            self.tell(f"{self.name}: noise is 0: at the embeddings themselves there is no gradient, and nothing moves")

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        clean = self.clean_logits(forward_pass)
        embeddings = forward_pass.embeddings
        if self.options.embeddings == "block":
            embeddings = forward_pass.embedding_block(embeddings, dropout=self.options.dropout)
        delta = self.perturbation(forward_pass, embeddings.detach(), clean.detach())
        perturbed = self.perturbed(forward_pass, embeddings + delta)
        if self.options.targets == "fixed":
            return fixed_target_divergence(forward_pass, perturbed, clean).mean()
        return forward_pass.divergence(perturbed, clean).mean()

    def perturbation(self, forward_pass: ForwardPass, embeddings: Tensor, clean: Tensor) -> Tensor:
        """[N, T, E]: x̃ − x, without gradient, zero at padding.

        Args:
            embeddings: [N, T, E], x, detached.
            clean: logits f(x), detached.
        """
        delta, clipped = forward_pass.noise(self.sizes["noise"]), None
        for _ in range(self.options.steps):
            gradient = self._gradient(forward_pass, embeddings, delta, clean)
            delta, clipped = self._ascend(delta, gradient.masked_fill(~forward_pass.mask.unsqueeze(-1), 0.0))
        if clipped is not None and self.options.norm == "inf":
            delta = held(delta, embeddings, self.sizes["epsilon"])
        self.note(delta, forward_pass, clipped)
        return delta

    def _gradient(self, forward_pass: ForwardPass, embeddings: Tensor, delta: Tensor, clean: Tensor) -> Tensor:
        """[N, T, E]: gradient of each row's inner loss with respect to x̃, and to nothing else."""
        shifted = (embeddings + delta).requires_grad_()
        values = self._inner_loss(forward_pass, self.perturbed(forward_pass, shifted), clean)
        return torch.autograd.grad(values.sum(), shifted)[0]

    def _inner_loss(self, forward_pass: ForwardPass, perturbed: Tensor, clean: Tensor) -> Tensor:
        """[B]: what the perturbation ascends."""
        if self.options.inner_loss == "odds" and perturbed.dim() == 2 and perturbed.shape[1] > 1:
            return odds_difference(perturbed, clean)
        return forward_pass.divergence(perturbed, clean, symmetric=self.options.inner_loss != "one_sided")

    def _ascend(self, delta: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """The perturbation after a step, and what the ball has cut; None without a ball."""
        norm, scope = self.options.norm, self.options.scope
        if self.options.projection == "unit":
            moved = delta + self.sizes["eta"] * gradient
            return moved / (extent(moved, norm, scope) + UNIT_OFFSET), None
        moved = delta + self.sizes["eta"] * direction(gradient, norm, scope)
        if self.options.projection == "none":
            return moved, None
        limit = self.sizes["epsilon"]
        return projected(moved, limit, norm, scope), beyond(moved, limit, norm, scope)


class ReleaseOptions(SmartOptions):
    """The values of the released code, where they differ from the paper's."""

    eta: Size = Field(1e-5, description="Factor of the raw gradient (`adv_step_size`).")
    scope: Scope = Field("token", description="`adv_norm_level: 0`.")
    projection: Literal["ball", "none", "unit"] = Field("unit", description="Each token's perturbation has norm 1.")
    inner_loss: Literal["symmetric", "one_sided", "odds"] = Field("odds", description="Its `stable_kl`.")
    targets: Literal["live", "fixed"] = Field("fixed", description="Its `SymKlCriterion`.")
    embeddings: Literal["word", "block"] = Field("block", description="It perturbs `bert.embeddings(…)`.")
    dropout: DropoutMode = Field("independent", description="It runs in training mode.")


@REGULARIZERS.register("smart-mtdnn-release")
class SmartMtdnnRelease(Smart):
    """What the last commit of namisan/mt-dnn computes with `--adv_train`, minus its crashes.

    Against the paper: the output of the embedding block goes through the block a second time; the perturbation of each
    token is rescaled to norm 1, whatever ε; the gradient is added raw, so that with η=1e-5 next to noise of 1e-5 its
    direction is the noise's; dropout masks differ in every pass; there is no proximal term. Left out: `l2` and
    sentence-level norms (they crash there), and regression's comparison of [B] with [B, 1], which broadcasts.

    Cost: 8 forward units, 2.67 times a plain step.
    """

    name = "smart-mtdnn-release"
    Options = ReleaseOptions
    task_types = ("classification", "regression", "ranking")


class TunedOptions(SmartOptions):
    """The values that did best in `experiments/smart_ablation`, where they differ from the paper's."""

    weight: float = Field(3.0, ge=0, allow_inf_nan=False, description="λ_s, factor of the penalty; 0 turns it off.")
    epsilon: Size = Field(RelativeSize(relative=0.05), description="ε. Default: {relative: 0.05}, 2.8e-3 for MiniLM.")
    eta: Size = Field(RelativeSize(relative=0.05), description="η. Default: as ε, the largest move of a coordinate.")


@REGULARIZERS.register("smart-tuned")
class SmartTuned(Smart):
    """SMART with sizes at which its term matters; at the published radius, with the same masks, it hardly does.

    ε and η in units of the word embeddings and λ_s = 3: the best of eight settings with 235 rows of SciTail, by a
    margin that is within the noise of seeds; on MRPC and RTE it is even with plain fine-tuning, within that noise too
    (`experiments/smart_ablation/README.md`). With η = ε the one step ends
    within the ball: its largest coordinate moves by ε, the others in proportion to the gradient.

    Cost: 8 forward units, 2.67 times a plain step.
    """

    name = "smart-tuned"
    Options = TunedOptions


def fixed_target_divergence(forward_pass: ForwardPass, logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """[B]: the value of ℓ_s, with the gradient of KL(sg p‖q) + KL(sg q‖p)."""
    halves = forward_pass.divergence(logits_p, logits_q.detach(), symmetric=False) + forward_pass.divergence(
        logits_q, logits_p.detach(), symmetric=False
    )
    value = forward_pass.divergence(logits_p.detach(), logits_q.detach())
    return value + (halves - halves.detach())


def odds_difference(logits_p: Tensor, logits_q: Tensor, *, offset: float = 1e-6) -> Tensor:
    """[B]: 2 Σ p (log odds p − log odds q), the log odds being constants: the released code's inner "KL".

    Args:
        logits_p, logits_q: [B, C]; gradients flow through p's probabilities alone.
        offset: keeps the odds finite at 0 and 1.
    """
    p, q = logits_p.float().softmax(dim=-1), logits_q.float().softmax(dim=-1)
    log_odds = [-(1 / (each.detach() + offset) - 1 + offset).log() for each in (p, q)]
    return 2 * (p * (log_odds[0] - log_odds[1])).sum(dim=-1)
