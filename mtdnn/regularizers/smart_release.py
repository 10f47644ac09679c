"""SMART as its authors released it, so that results can be compared: not Algorithm 1, which is `smart.py`.

Source: the last commit of namisan/mt-dnn, `mt_dnn/perturbation.py` and `mt_dnn/loss.py`. Dimensions: B rows,
N sequences, T tokens, C classes, E size of the word embeddings.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.directions import Scope
from mtdnn.regularizers.forward_pass import DropoutMode, ForwardPass
from mtdnn.regularizers.sizes import Size
from mtdnn.regularizers.smart import Smart, SmartOptions


class ReleaseOptions(SmartOptions):
    """The values of the released code, where they differ from the paper's."""

    eta: Size = Field(1e-5, description="Factor of the raw gradient (`adv_step_size`).")
    scope: Scope = Field("token", description="`adv_norm_level: 0`.")
    projection: Literal["ball", "none", "unit"] = Field(
        "unit", description="unit: each token's perturbation is rescaled to norm 1 (raw gradient, ε unused)."
    )
    inner_loss: Literal["symmetric", "one_sided", "odds"] = Field(  # type: ignore[assignment]  # one value more
        "odds", description="odds: its `stable_kl`, the log odds of classes, or ℓ_s where there are none."
    )
    targets: Literal["live", "fixed"] = Field(
        "fixed", description="fixed: in each KL of R_s the first distribution has no gradient (`SymKlCriterion`)."
    )
    embeddings: Literal["word", "block"] = Field(
        "block", description="block: the output of `bert.embeddings(…)` is perturbed and embedded a second time."
    )
    dropout: DropoutMode = Field("independent", description="The released code perturbs in training mode.")


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
    logits_of = ("classes", "number", "candidates")

    @property
    def needs_embedding_block(self) -> bool:
        return bool(self.options.embeddings == "block")

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        clean, embeddings = self.clean_logits(forward_pass), forward_pass.embeddings
        if self.needs_embedding_block:
            embeddings = forward_pass.embedding_block(embeddings, dropout=self.options.dropout)
        delta = self.perturbation(forward_pass, embeddings.detach(), clean.detach())
        perturbed = self.perturbed(forward_pass, embeddings + delta)
        if self.options.targets == "fixed":
            return fixed_target_divergence(forward_pass, perturbed, clean).mean()
        return forward_pass.divergence(perturbed, clean).mean()

    def inner_loss(self, forward_pass: ForwardPass, perturbed: Tensor, clean: Tensor) -> Tensor:
        if self.options.inner_loss == "odds" and perturbed.dim() == 2 and perturbed.shape[1] > 1:
            return odds_difference(perturbed, clean)
        return super().inner_loss(forward_pass, perturbed, clean)

    def step_direction(self, gradient: Tensor) -> Tensor:
        return gradient if self.options.projection == "unit" else super().step_direction(gradient)


def fixed_target_divergence(forward_pass: ForwardPass, logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """[B]: the value of ℓ_s, with the gradient of KL(sg p‖q) + KL(sg q‖p).

    Args:
        forward_pass: the clean pass of this step.
        logits_p: [B, …] the predictions compared, not normalised.
        logits_q: [B, …] the reference predictions, not normalised.
    """
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
