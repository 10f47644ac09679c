"""Two sets of predictions → how far they are apart, for each example or as a mean, in float32, in nats.

Dimension letters: B batch, T tokens, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtdnn.deferred import deferred
from mtdnn.networks.means import as_numbers, log_softmax, masked_mean, masked_mean_per_example, require_same_shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:  # as losses.py
    torch = deferred("torch")


def squared_difference(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """[B]: squared difference of two sets of predicted numbers, the divergence of regression.

    Args:
        logits_p, logits_q: [B] or [B, 1], float; gradients flow through both.
    Raises:
        ValueError: one of them is neither [B] nor [B, 1], or they have different numbers of values.
    """
    p, q = as_numbers(logits_p), as_numbers(logits_q)
    require_same_shape(p, q)
    return (p - q).square()


def kl(logits_p: Tensor, logits_q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean KL divergence KL(p‖q) between two sets of predictions, in nats.

    Args and errors are those of `symmetric_kl`. For distillation p is the (detached) teacher.

    Args:
        logits_p: [B, …] the predictions compared, not normalised.
        logits_q: [B, …] the reference predictions, not normalised.
        mask: bool, True = counts; None counts all.
    """
    return masked_mean(_kl_values(logits_p, logits_q, mask), mask)


def kl_per_example(logits_p: Tensor, logits_q: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B]: KL(p‖q) of each example in nats; for [B, T, C] the mean over the tokens that count.

    Args:
        logits_p: [B, …] the predictions compared, not normalised.
        logits_q: [B, …] the reference predictions, not normalised.
        mask: bool, True = counts; None counts all.
    """
    return masked_mean_per_example(_kl_values(logits_p, logits_q, mask), mask)


def symmetric_kl(logits_p: Tensor, logits_q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean symmetric KL divergence between two sets of predictions, in nats.

    Args:
        logits_p, logits_q: [B, C] or [B, T, C], float, not normalised; gradients flow through both. A logit that is
            −inf in both (a padded candidate) adds nothing.
        mask: [B] or [B, T], bool, True = counts; None counts all.
    Returns:
        Scalar ≥ 0: KL(p‖q) + KL(q‖p), averaged over what counts; 0 when nothing counts.
    Raises:
        ValueError: the two shapes differ.
    Source: Jiang et al. 2020, arXiv 1911.03437, smoothness loss for classification. Added here: the mask.
    """
    return masked_mean(_symmetric_kl_values(logits_p, logits_q, mask), mask)


def symmetric_kl_per_example(logits_p: Tensor, logits_q: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B]: symmetric KL divergence of each example, in nats.

    Args and errors are those of `symmetric_kl`. For [B, T, C] it is the mean over the tokens of the example that
    count, and 0 for an example where none does.

    Args:
        logits_p: [B, …] the predictions compared, not normalised.
        logits_q: [B, …] the reference predictions, not normalised.
        mask: bool, True = counts; None counts all.
    """
    return masked_mean_per_example(_symmetric_kl_values(logits_p, logits_q, mask), mask)


def _kl_values(logits_p: Tensor, logits_q: Tensor, mask: Tensor | None) -> Tensor:
    """[B] or [B, T]: KL(p‖q); arbitrary but finite where the mask is False."""
    require_same_shape(logits_p, logits_q)
    log_p, log_q = log_softmax(logits_p, mask), log_softmax(logits_q, mask)
    impossible = log_p.isneginf()  # p log p is 0 at p = 0
    return (log_p.exp() * (log_p - log_q).masked_fill(impossible, 0.0)).sum(dim=-1)


def _symmetric_kl_values(logits_p: Tensor, logits_q: Tensor, mask: Tensor | None) -> Tensor:
    """[B] or [B, T]: KL(p‖q) + KL(q‖p); arbitrary but finite where the mask is False.

    Computed as Σ (p−q)(log p − log q): no term is negative, so rounding cannot make a small sum negative.
    """
    require_same_shape(logits_p, logits_q)
    log_p, log_q = log_softmax(logits_p, mask), log_softmax(logits_q, mask)
    impossible = log_p.isneginf() & log_q.isneginf()
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q).masked_fill(impossible, 0.0)).sum(dim=-1)


def divergence_per_example(
    logits_p: Tensor, logits_q: Tensor, mask: Tensor | None = None, *, symmetric: bool
) -> Tensor:
    """[B]: KL(p‖q) + KL(q‖p) of each example, or KL(q‖p) alone, in nats.

    Args:
        logits_p, logits_q, mask: as for `symmetric_kl_per_example`.
        symmetric: whether both directions count.
    """
    if symmetric:
        return symmetric_kl_per_example(logits_p, logits_q, mask)
    return kl_per_example(logits_q, logits_p, mask)


def binary_divergence_per_example(logits_p: Tensor, logits_q: Tensor, *, symmetric: bool) -> Tensor:
    """[B]: the mean over labels of the divergence of two binary predictions; σ(z) is the softmax of (z, 0).

    Args:
        logits_p, logits_q: [B, C], one logit per label.
        symmetric: whether both directions count.
    """
    both = (torch.stack((x, torch.zeros_like(x)), dim=-1) for x in (logits_p, logits_q))
    return divergence_per_example(*both, symmetric=symmetric)
