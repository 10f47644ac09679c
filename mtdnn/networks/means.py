"""What losses and divergences are made of: means over the values that count, and values in float32 (float64 stays).

A mean over nothing is 0 with a zero gradient, never NaN, and values that do not count get no gradient, even if they are
not finite. Dimension letters: B batch, N sequences, K candidates, T tokens, C classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mtdnn.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:  # as losses.py
    torch = deferred("torch")
    F = deferred("torch.nn.functional")


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the values that count; 0, with a zero gradient, if none does.

    Args:
        values: any shape, float.
        mask: the same shape, bool, True = counts; None counts all.
    """
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def masked_mean_per_example(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B]: for each example the mean of its values that count; 0 if none does.

    Args:
        values: [B, …], float; [B] is an example's only value.
        mask: the same shape, bool, True = counts; None counts all.
    """
    rows = values.reshape(len(values), math.prod(values.shape[1:]))  # −1 is ambiguous for an empty tensor
    if mask is None:
        return rows.sum(dim=1) / max(rows.shape[1], 1)
    counts = mask.reshape(rows.shape)
    return rows.masked_fill(~counts, 0.0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def scores_by_row(scores: Tensor, present: Tensor, *, absent: float) -> Tensor:
    """[B, K, …]: the scores [N, …] of all candidates, row after row, in the places where there is one.

    Args:
        scores: [N, …], as many as True in `present`, and at least 1.
        present: [B, K] bool, True = a candidate.
        absent: in the other places.
    """
    order = (present.flatten().cumsum(0) - 1).clamp(min=0)
    found = scores.index_select(0, order).unflatten(0, present.shape)
    return found.masked_fill(~present[(..., *[None] * (found.dim() - 2))], absent)


def mean_by_row(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """[B]: the mean of the values of each row, 0 for a row without any.

    Args:
        values: [M], float.
        rows: [M] long, the row of each value.
        num_rows: B.
    """
    sums, counts = (values.new_zeros(num_rows).index_add(0, rows, each) for each in (values, torch.ones_like(values)))
    return sums / counts.clamp(min=1)


def log_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Log probabilities; uniform, without gradient, where the mask is False."""
    wide = in_float32(logits)
    return F.log_softmax(wide if mask is None else wide.masked_fill(~mask.unsqueeze(-1), 0.0), dim=-1)


def in_float32(values: Tensor) -> Tensor:
    """The values as float32; float64 stays float64."""
    return values if values.dtype == torch.float64 else values.float()


def as_numbers(values: Tensor) -> Tensor:
    """[B] from [B] or [B, 1]. Broadcasting one against the other would silently compare all pairs."""
    if values.dim() == 1 or (values.dim() == 2 and values.shape[1] == 1):
        return in_float32(values.reshape(-1))
    raise ValueError(f"one number per example is a tensor [B] or [B, 1], not {list(values.shape)}")


def require_same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {list(first.shape)} and {list(second.shape)}")
