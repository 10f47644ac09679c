"""Norms, directions and limits of perturbations of word embeddings.

Dimensions: N sequences, T tokens, E size of the word embeddings.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["inf", "l2"]
Scope = Literal["example", "token"]


def norm_dims(scope: Scope) -> tuple[int, ...]:
    """Dimensions of [N, T, E] that a norm is taken over."""
    return (1, 2) if scope == "example" else (2,)


def extent(values: Tensor, norm: Norm, scope: Scope) -> Tensor:
    """[N, 1, 1] or [N, T, 1]: the norm of each example or token of [N, T, E], safe from underflow.

    Args:
        values: [N, T, E].
        norm: inf | l2.
        scope: example | token.
    """
    peak = values.abs().amax(norm_dims(scope), keepdim=True)
    if norm == "inf":
        return peak
    scaled = values / peak.clamp(min=torch.finfo(values.dtype).tiny)
    norms: Tensor = peak * torch.linalg.vector_norm(scaled, dim=norm_dims(scope), keepdim=True)
    return norms


def direction(gradient: Tensor, norm: Norm, scope: Scope) -> Tensor:
    """[N, T, E]: g/‖g‖ of each example or token; 0 where the gradient is 0.

    Args:
        gradient: [N, T, E], with respect to the perturbation.
        norm: inf | l2.
        scope: example | token.
    """
    return gradient / extent(gradient, norm, scope).clamp(min=torch.finfo(gradient.dtype).tiny)


def exceeds(delta: Tensor, limit: float, norm: Norm, scope: Scope) -> Tensor:
    """Bool: where a perturbation exceeds its limit, per coordinate for inf, per example or token for l2.

    Args:
        delta: [N, T, E] the perturbation.
        limit: radius of the ball.
        norm: inf | l2.
        scope: example | token.
    """
    return delta.abs() > limit if norm == "inf" else extent(delta, norm, scope) > limit


def projected(delta: Tensor, limit: float, norm: Norm, scope: Scope) -> Tensor:
    """[N, T, E]: the nearest perturbation with ‖δ‖ ≤ limit.

    Args:
        delta: [N, T, E] the perturbation.
        limit: radius of the ball.
        norm: inf | l2.
        scope: example | token.
    """
    if norm == "inf":
        return delta.clamp(-limit, limit)
    return delta * (limit / extent(delta, norm, scope).clamp(min=torch.finfo(delta.dtype).tiny)).clamp(max=1.0)


def within_ball(delta: Tensor, embeddings: Tensor, limit: float) -> Tensor:
    """[N, T, E]: the perturbation, reduced by a rounding error where its sum with the embeddings would exceed ±limit.

    Args:
        delta: [N, T, E] the perturbation.
        embeddings: [N, T, E] the clean word embeddings.
        limit: radius of the ball.
    """
    shifted = embeddings + delta
    rounding = shifted.abs() * torch.finfo(delta.dtype).eps
    return torch.where((shifted - embeddings).abs() > limit, delta - delta.sign() * rounding, delta)


def root_mean_square(delta: Tensor, mask: Tensor) -> Tensor:
    """Scalar: root mean square over the coordinates of real tokens; padding is zero."""
    return (delta.square().sum() / (mask.sum() * delta.shape[-1]).clamp(min=1)).sqrt()


def fraction(chosen: Tensor, mask: Tensor) -> Tensor:
    """Scalar: fraction of the real coordinates [N, T, E], tokens [N, T, 1] or examples [N, 1, 1] that are chosen."""
    real = (mask if chosen.shape[1] == mask.shape[1] else mask.any(dim=1, keepdim=True)).unsqueeze(-1)
    return (chosen & real).sum() / (real.sum() * chosen.shape[2]).clamp(min=1)
