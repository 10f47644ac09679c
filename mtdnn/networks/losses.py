"""Logits and labels → scalar losses, in float32 (float64 stays float64), in nats; and their names.

Every mean is over the values that count: a mean over nothing is 0 with a zero gradient, never NaN, and values that do
not count get no gradient, even if they are not finite. Dimension letters: B batch, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtdnn.batch import IGNORED
from mtdnn.config.options import Named, Options, option_values, options_of, takes_options
from mtdnn.deferred import deferred
from mtdnn.networks.divergences import squared_difference
from mtdnn.networks.means import (
    as_numbers,
    in_float32,
    log_softmax,
    masked_mean,
    masked_mean_per_example,
    require_same_shape,
)
from mtdnn.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:  # so that `check` knows the losses and their options without PyTorch
    torch = deferred("torch")
    F = deferred("torch.nn.functional")

UNKNOWN = -1.0
"""The relevance, in a batch, of a padded candidate, or of a candidate in a row without label."""

Loss = Callable[..., "Tensor"]
"""`loss(logits, labels, mask=None, *, weights=None, options)` → scalar; `mask` only where rows may have no label, and
`weights` only where classes have weights."""

LOSSES: Registry[Loss] = Registry("loss", takes=("logits", "labels"), optional=("mask", "weights"))
"""The names for `loss:` in a task definition."""


class MarginOptions(Options):
    """Options of `pairwise_margin`."""

    margin: float = Field(1.0, gt=0, description="Smallest lead of a more relevant candidate, in units of the score.")


class SmoothingOptions(Options):
    """Options of `cross_entropy`."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of a label spread over all classes; 0: none.")


class HybridOptions(Options):
    """Options of `hybrid`."""

    gamma: float = Field(10.0, gt=0, description="γ, factor of the scores before the softmax over candidates.")
    margin: float = Field(0.6, ge=0, description="β, added to the scores of wrong candidates, whose range is 0 to 1.")


class FocalOptions(Options):
    """Options of the focal losses."""

    gamma: float = Field(2.0, ge=0, description="γ, how much less rows count that are already learnt; 0: no less.")


def loss_of(named: Named) -> Loss:
    """The loss of a name, with its options bound.

    Raises:
        ConfigError: the name or an option is unknown.
    """
    loss, values = LOSSES.get(named.name, key="loss"), loss_options(named)
    return partial(loss, **values) if values else loss


def loss_options(named: Named) -> dict[str, Any]:
    """Every option of a named loss, with defaults for those not given.

    Raises:
        ConfigError: the name or an option is unknown.
    """
    return option_values(options_of(LOSSES, LOSSES.get(named.name, key="loss")), named.options)


@LOSSES.register("cross_entropy")
@takes_options(SmoothingOptions)
def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross entropy of the logits with the given classes, in nats.

    Args:
        logits: [B, C] or [B, T, C], float, not normalised.
        labels: [B] or [B, T], long, class numbers; `IGNORED` does not count.
        mask: [B] or [B, T], bool, True = counts; None counts all that are not ignored.
        weights: [B] or [B, T], factor of each term; the sum is divided by the number of terms, not the sum of weights.
        label_smoothing: see `SmoothingOptions`.
    Returns:
        Scalar ≥ 0; 0 when nothing counts.
    Raises:
        ValueError: the shape of the labels is not that of the logits without the last dimension.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits {list(logits.shape)} need labels {list(logits.shape[:-1])}, not {list(labels.shape)}")
    counts = labels != IGNORED if mask is None else mask & (labels != IGNORED)
    kept = in_float32(logits).masked_fill(~counts.unsqueeze(-1), 0.0)  # so that NaN in padding reaches no gradient
    targets = labels.masked_fill(~counts, IGNORED)
    total = _weighted_sum(
        lambda reduction: F.cross_entropy(
            kept.flatten(0, -2),
            targets.flatten(),
            reduction=reduction,
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        ),
        weights,
    )
    return total / counts.sum().clamp(min=1)


def _weighted_sum(terms: Callable[[str], Tensor], weights: Tensor | None) -> Tensor:
    """The weighted sum of the terms of a PyTorch loss.

    Args:
        terms: reduction, "sum" or "none" → the loss.
        weights: any shape with one number per term; None: 1 each.
    """
    return terms("sum") if weights is None else (terms("none") * weights.flatten()).sum()


@LOSSES.register("focal")
@takes_options(FocalOptions)
def focal(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """As `cross_entropy`, with each term multiplied by (1 − p)^γ, where p is the probability of the true class.

    Args:
        logits, labels, mask, weights: as for `cross_entropy`, [B, C] and [B].
        gamma: γ; 0 is `cross_entropy`.
    Source: Lin et al. 2017, arXiv 1708.02002, eq. 4; `class_weights` are its α.
    """
    counts = labels != IGNORED if mask is None else mask & (labels != IGNORED)
    terms = -log_softmax(logits, counts).gather(1, labels.masked_fill(~counts, 0).unsqueeze(1)).squeeze(1)
    terms = _missed(terms, gamma) * terms
    return masked_mean(terms if weights is None else terms * weights, counts)


@LOSSES.register("ordinal")
def ordinal(logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, weights: Tensor | None = None) -> Tensor:
    """Mean squared earth mover's distance between the predicted and the true distribution over ordered classes.

    Σ_k (P(class ≤ k) − [label ≤ k])²: the loss of an error grows with its distance from the label.

    Args:
        logits, labels, mask, weights: as for `cross_entropy`, [B, C] and [B]; classes are numbered in their order.
    Returns:
        Scalar, 0 to C − 1.
    Source: Hou, Yu & Samaras 2016, arXiv 1611.05916, eq. 4 with l = 2.
    """
    counts = labels != IGNORED if mask is None else mask & (labels != IGNORED)
    classes = torch.arange(logits.shape[-1], device=logits.device)
    probabilities = log_softmax(logits, counts).exp()
    # Not `cumsum`, for which PyTorch has no deterministic algorithm on a GPU.
    below = (probabilities.unsqueeze(-2) * (classes <= classes.unsqueeze(-1))).sum(dim=-1)
    right = (labels.masked_fill(~counts, 0).unsqueeze(-1) <= classes).to(below.dtype)
    terms = (below - right).square().sum(dim=-1)
    return masked_mean(terms if weights is None else terms * weights, counts)


@LOSSES.register("soft_cross_entropy")
def soft_cross_entropy(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, weights: Tensor | None = None
) -> Tensor:
    """Mean cross entropy of the logits with given distributions over the classes, in nats.

    Args:
        logits: [B, C] or [B, T, C], float, not normalised.
        labels: the same shape, probabilities (annotators' votes, a teacher's predictions); no gradient flows into them.
        mask: [B] or [B, T], bool, True = counts; None counts all.
        weights: the mask's shape, factor of each term; the sum is divided by the number of terms.
    Returns:
        Scalar ≥ 0; 0 when nothing counts.
    Raises:
        ValueError: the two shapes differ.
    """
    require_same_shape(logits, labels)
    log_p = log_softmax(logits, mask)
    terms = (labels.detach().to(log_p.dtype) * log_p).masked_fill(labels == 0, 0.0)  # 0 · log 0 is 0
    values = -terms.sum(dim=-1)
    return masked_mean(values if weights is None else values * weights, mask)


@LOSSES.register("binary_cross_entropy")
def binary_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over rows and labels of the cross-entropy of each label's sigmoid, in nats, as in transformers.

    Args:
        logits: [B, C], float.
        labels: [B, C], float, 1 where a label applies, 0 where not.
        mask: [B], bool, True = counts; None counts all.
    Returns:
        Scalar ≥ 0; 0 when nothing counts.
    Raises:
        ValueError: the two shapes differ.
    """
    return masked_mean(_binary_cross_entropies(logits, labels, mask).mean(dim=-1), mask)


@LOSSES.register("binary_focal")
@takes_options(FocalOptions)
def binary_focal(logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, gamma: float) -> Tensor:
    """As `binary_cross_entropy`, with each term multiplied by (1 − p)^γ, where p is the probability of the true value.

    Args:
        logits, labels, mask: as for `binary_cross_entropy`.
        gamma: γ; 0 is `binary_cross_entropy`.
    Source: Lin et al. 2017, arXiv 1708.02002, eq. 4, without its α.
    """
    terms = _binary_cross_entropies(logits, labels, mask)
    return masked_mean((_missed(terms, gamma) * terms).mean(dim=-1), mask)


def _binary_cross_entropies(logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """[B, C]: −log of the probability of each label's true value; without gradient where the mask is False."""
    require_same_shape(logits, labels)
    wide, targets = in_float32(logits), labels.detach()
    if mask is not None:
        wide, targets = (each.masked_fill(~mask.unsqueeze(-1), 0.0) for each in (wide, targets))
    return F.binary_cross_entropy_with_logits(wide, targets.to(wide.dtype), reduction="none")


def _missed(terms: Tensor, gamma: float) -> Tensor:
    """(1 − p)^γ for terms −log p; its gradient is finite at p = 1."""
    missed = -torch.expm1(-terms)
    return missed.clamp(min=torch.finfo(missed.dtype).tiny) ** gamma


@LOSSES.register("mse")
def mse(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference between predicted and given numbers.

    Args:
        logits: [B] or [B, 1], float: the predicted numbers.
        labels: [B] or [B, 1], float.
        mask: [B], bool, True = counts; None counts all.
    Returns:
        Scalar ≥ 0; 0 when nothing counts.
    Raises:
        ValueError: the two have different numbers of values.
    """
    numbers, targets = as_numbers(logits), as_numbers(labels)
    if mask is not None:  # before the square, whose gradient would otherwise be NaN where NaN does not count
        numbers, targets = numbers.masked_fill(~mask, 0.0), targets.masked_fill(~mask, 0.0)
    return masked_mean(squared_difference(numbers, targets), mask)


@LOSSES.register("listwise")
def listwise(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows of the cross entropy of the softmax of the scores with the relevances, normalised to sum to 1.

    Args:
        logits: [B, K]; −inf where there is no candidate.
        labels: [B, K], relevance ≥ 0; UNKNOWN where there is none. A row without a relevance above 0 does not count.
    Source: Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach"; with one relevant
        candidate it is MT-DNN (Liu et al. 2019), eq. 6 to 8.
    """
    relevance = labels.clamp(min=0)
    total = relevance.sum(dim=-1, keepdim=True)
    return soft_cross_entropy(logits, relevance / total.clamp(min=torch.finfo(relevance.dtype).tiny), total[:, 0] > 0)


@LOSSES.register("pairwise_margin")
@takes_options(MarginOptions)
def pairwise_margin(logits: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Mean over rows of the mean of max(0, margin − gap) over pairs of a more and a less relevant candidate.

    The gap is the difference of their scores. Rows and candidates count as in `listwise`.

    Args:
        logits: [B, K] scores; −inf where there is no candidate.
        labels: [B, K] relevance; UNKNOWN where there is none.
        margin: smallest lead of the more relevant candidate, in units of the score.
    """
    scores = logits.masked_fill(labels == UNKNOWN, 0.0).float()
    better = (labels.unsqueeze(2) > labels.unsqueeze(1)) & (labels.unsqueeze(1) != UNKNOWN)
    loss = (margin - (scores.unsqueeze(2) - scores.unsqueeze(1))).clamp(min=0).masked_fill(~better, 0.0)
    per_row = loss.sum(dim=(1, 2)) / better.sum(dim=(1, 2)).clamp(min=1)
    return masked_mean(per_row, (labels > 0).any(dim=1))


def hybrid_scores(logits: Tensor) -> Tensor:
    """[…]: ½ (P + σ(similarity)), the score of a candidate by the hybrid network, from 0 to 1.

    Args:
        logits: […, 2], log P of its tokens in the pronoun's place, and its similarity to the pronoun.
    Source: He et al. 2019, arXiv 1907.11983, section 2.
    """
    wide = in_float32(logits)
    return (wide[..., 0].exp() + torch.sigmoid(wide[..., 1])) / 2


@LOSSES.register("hybrid")
@takes_options(HybridOptions)
def hybrid(logits: Tensor, labels: Tensor, *, gamma: float = 10.0, margin: float = 0.6) -> Tensor:
    """Mean over labelled rows of the sum of three losses: of the language model, the similarity, and both together.

        −log P(right) + ½ [−log σ(s_right) − mean over wrong of log σ(−s_wrong)]
        − log Σ_possible softmax(γ (score + β · [not possible]))

    The terms of the right candidate are of rows where exactly one candidate is possible; the last one is 0 for a row
    with a single candidate.

    Args:
        logits: [B, K, 2], as for `hybrid_scores`; any values without a candidate.
        labels: [B, K], 1 = can be the antecedent, 0 = cannot, UNKNOWN = no label or no candidate.
        gamma, margin: γ and β.
    Source: He et al. 2019, arXiv 1907.11983, section 3.2; weights of the terms as in the authors' script.
    """
    known, possible, wrong = labels >= 0, labels > 0, labels == 0
    wide = in_float32(logits).masked_fill(~known.unsqueeze(-1), 0.0)
    right = possible & (possible.sum(dim=1, keepdim=True) == 1)
    words = -wide[..., 0].masked_fill(~right, 0.0).sum(dim=1)
    alike = -F.logsigmoid(wide[..., 1]).masked_fill(~right, 0.0).sum(dim=1)
    unlike = masked_mean_per_example(-F.logsigmoid(-wide[..., 1]), wrong)
    shifted = gamma * (hybrid_scores(wide) + margin * wrong)
    compared = known.sum(dim=1) > possible.sum(dim=1)  # else every candidate is possible
    compared &= possible.any(dim=1)
    lowest = torch.finfo(shifted.dtype).min
    of_all = shifted.masked_fill(~known, lowest).logsumexp(dim=1)
    of_possible = shifted.masked_fill(~possible, lowest).logsumexp(dim=1)
    together = (of_all - of_possible).masked_fill(~compared, 0.0)
    return masked_mean(words + (alike + unlike) / 2 + together, known.any(dim=1))
