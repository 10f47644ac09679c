"""Divergences against hand-worked numbers and scipy; their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import rel_entr, softmax
from torch.nn import functional as F

from mtdnn.networks.divergences import (
    divergence_per_example,
    kl,
    kl_per_example,
    symmetric_kl,
    symmetric_kl_per_example,
)
from tests.reference.tiny import random_logits

HALF_AND_HALF = [0.0, 0.0]
THREE_TO_ONE = [math.log(3.0), 0.0]
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}  # the same formula in float64: rounding only


def test_symmetric_kl_of_half_and_three_quarters_is_a_quarter_of_log_three() -> None:
    # Σ (p−q)(log p − log q) = ¼·log(½ ∕ ¼) + ¼·log(¾ ∕ ½) = ¼·log 2 + ¼·log 1.5 = ¼·log 3
    value = symmetric_kl(torch.tensor([HALF_AND_HALF]), torch.tensor([THREE_TO_ONE]))
    assert value.item() == pytest.approx(math.log(3) / 4, rel=1e-6)  # float32


def test_kl_of_half_and_three_quarters_is_half_log_four_thirds() -> None:
    # ½·log(½ ∕ ¾) + ½·log(½ ∕ ¼) = ½·log(4∕3)
    value = kl(torch.tensor([HALF_AND_HALF]), torch.tensor([THREE_TO_ONE]))
    assert value.item() == pytest.approx(math.log(4 / 3) / 2, rel=1e-6)  # float32


def test_kl_and_symmetric_kl_equal_scipy_per_example() -> None:
    p, q = random_logits(7, 4, seed=1), random_logits(7, 4, seed=2)
    probabilities_p, probabilities_q = softmax(p.numpy(), axis=1), softmax(q.numpy(), axis=1)
    forward = torch.from_numpy(rel_entr(probabilities_p, probabilities_q).sum(axis=1))
    backward = torch.from_numpy(rel_entr(probabilities_q, probabilities_p).sum(axis=1))
    torch.testing.assert_close(kl_per_example(p, q), forward, **FLOAT64)
    torch.testing.assert_close(symmetric_kl_per_example(p, q), forward + backward, **FLOAT64)
    torch.testing.assert_close(symmetric_kl(p, q), (forward + backward).mean(), **FLOAT64)
    torch.testing.assert_close(kl(p, q), F.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean"), **FLOAT64)


def test_no_examples_have_no_divergences_and_a_gradient_of_nothing() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    for per_example in (kl_per_example, symmetric_kl_per_example):
        found = per_example(logits, logits.detach())
        assert found.shape == (0,)
        found.sum().backward()
    assert logits.grad is not None and logits.grad.shape == (0, 3)


def test_symmetric_kl_in_float32_keeps_its_digits_for_a_tiny_change() -> None:
    p = random_logits(64, 3, seed=3)
    q = p + 1e-3 * random_logits(64, 3, seed=4)
    exact = symmetric_kl(p, q)  # near 1e-6: what SMART's published ε gives
    rounded = symmetric_kl(p.float(), q.float())
    # Logits of size 1 are rounded by 6e-8: a relative 6e-5 of the change of 1e-3.
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-3)


def test_symmetric_kl_is_never_negative_however_small_the_change() -> None:
    p = random_logits(1000, 3, seed=3, dtype=torch.float32)
    q = p + 1e-7 * random_logits(1000, 3, seed=4, dtype=torch.float32)
    assert (symmetric_kl_per_example(p, q) >= 0).all()


def test_symmetric_kl_sends_gradients_through_both_arguments() -> None:
    p, q = random_logits(3, 4, seed=5).requires_grad_(), random_logits(3, 4, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(symmetric_kl, (p, q))
    assert torch.autograd.gradcheck(kl, (p, q))


def test_token_divergences_average_over_the_tokens_that_count() -> None:
    p, q = random_logits(2, 3, 4, seed=7), random_logits(2, 3, 4, seed=8)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    token = symmetric_kl_per_example(p.reshape(6, 4), q.reshape(6, 4)).reshape(2, 3)
    expected = torch.stack([(token[0, 0] + token[0, 1]) / 2, token[1, 0]])
    torch.testing.assert_close(symmetric_kl_per_example(p, q, mask), expected, **FLOAT64)
    all_counted = (token[0, 0] + token[0, 1] + token[1, 0]) / 3
    torch.testing.assert_close(symmetric_kl(p, q, mask), all_counted, **FLOAT64)


def test_a_candidate_that_is_in_neither_distribution_adds_nothing() -> None:
    p, q = random_logits(2, 3, seed=9), random_logits(2, 3, seed=10)
    absent = torch.full((2, 1), -torch.inf, dtype=torch.float64)
    wide_p, wide_q = torch.cat([p, absent], dim=1).requires_grad_(), torch.cat([q, absent], dim=1)
    for divergence in (kl, symmetric_kl):
        value = divergence(wide_p, wide_q)
        torch.testing.assert_close(value, divergence(p, q), **FLOAT64)
        (gradient,) = torch.autograd.grad(value, wide_p)
        assert torch.isfinite(gradient).all() and (gradient[:, -1] == 0).all()


def test_one_direction_is_from_the_second_predictions_to_the_first() -> None:
    p, q = random_logits(3, 4, seed=1), random_logits(3, 4, seed=2)
    assert torch.equal(divergence_per_example(p, q, symmetric=False), kl_per_example(q, p))
    assert torch.equal(divergence_per_example(p, q, symmetric=True), symmetric_kl_per_example(p, q))
