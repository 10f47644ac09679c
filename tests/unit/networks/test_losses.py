"""Losses against hand-worked numbers, PyTorch's own functions and scipy; their gradients where nothing counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor
from torch.nn import functional as F

from mtdnn.networks.losses import (
    IGNORED,
    LOSSES,
    cross_entropy,
    kl,
    kl_per_example,
    masked_mean,
    mse,
    soft_cross_entropy,
    squared_difference,
    symmetric_kl,
    symmetric_kl_per_example,
)

HALF_AND_HALF = [0.0, 0.0]
THREE_TO_ONE = [math.log(3.0), 0.0]
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}  # the same formula in float64: rounding only


def random_logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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


def test_cross_entropy_equals_pytorch_and_skips_ignored_labels() -> None:
    logits = random_logits(4, 3, seed=11)
    labels = torch.tensor([0, 2, IGNORED, 1])
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels), **FLOAT64)
    mask = torch.tensor([True, False, True, True])
    expected = F.cross_entropy(logits[[0, 3]], labels[[0, 3]])
    torch.testing.assert_close(cross_entropy(logits, labels, mask), expected, **FLOAT64)


def test_cross_entropy_of_tokens_is_the_mean_over_tokens() -> None:
    logits = random_logits(2, 3, 5, seed=12)
    labels = torch.tensor([[0, 1, IGNORED], [4, IGNORED, IGNORED]])
    expected = F.cross_entropy(logits.reshape(6, 5), labels.reshape(6))
    torch.testing.assert_close(cross_entropy(logits, labels), expected, **FLOAT64)


def test_soft_cross_entropy_with_certain_labels_is_cross_entropy() -> None:
    logits, labels = random_logits(4, 3, seed=13), torch.tensor([0, 2, 1, 1])
    certain = F.one_hot(labels, 3).double()
    torch.testing.assert_close(soft_cross_entropy(logits, certain), cross_entropy(logits, labels), **FLOAT64)


def test_soft_cross_entropy_equals_pytorch_with_probabilities() -> None:
    logits, votes = random_logits(4, 3, seed=14), random_logits(4, 3, seed=15).softmax(1)
    torch.testing.assert_close(soft_cross_entropy(logits, votes), F.cross_entropy(logits, votes), **FLOAT64)


def test_mse_of_a_column_and_a_row_compares_example_with_example() -> None:
    value = mse(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 0.0, 1.0]))
    assert value.item() == pytest.approx((0 + 4 + 9) / 3)
    assert squared_difference(torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [1.0]])).tolist() == [1.0, 9.0]


def nothing_counts(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor) -> None:
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels, torch.zeros(logits.shape[0], dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None and (logits.grad == 0).all()


@pytest.mark.parametrize("filler", [0.5, math.nan, math.inf])
def test_a_mean_over_nothing_is_zero_with_a_zero_gradient(filler: float) -> None:
    logits = torch.full((2, 3), filler)
    nothing_counts(cross_entropy, logits, torch.tensor([0, 1]))
    nothing_counts(soft_cross_entropy, logits, torch.full((2, 3), 1 / 3))
    nothing_counts(symmetric_kl, logits, torch.zeros(2, 3))
    nothing_counts(kl, logits, torch.zeros(2, 3))
    nothing_counts(mse, logits[:, :1], torch.zeros(2))
    nothing_counts(mse, torch.zeros(2, 1), torch.full((2,), filler))
    assert symmetric_kl_per_example(logits, logits, torch.zeros(2, dtype=torch.bool)).tolist() == [0.0, 0.0]


def test_an_empty_batch_costs_nothing() -> None:
    empty = torch.zeros(0, 3, requires_grad=True)
    for value in (
        cross_entropy(empty, torch.zeros(0, dtype=torch.long)),
        soft_cross_entropy(empty, torch.zeros(0, 3)),
        symmetric_kl(empty, torch.zeros(0, 3)),
        mse(empty[:, :1], torch.zeros(0)),
        masked_mean(empty),
    ):
        assert value.item() == 0.0
        value.backward()


@pytest.mark.parametrize("name", ["cross_entropy", "soft_cross_entropy", "mse"])
def test_losses_of_half_precision_logits_are_float32(name: str) -> None:
    logits = random_logits(4, 1 if name == "mse" else 3, dtype=torch.bfloat16)
    labels = torch.tensor([0, 0, 0, 0]) if name == "cross_entropy" else torch.ones_like(logits)
    loss = LOSSES.get(name)
    assert loss(logits, labels).dtype == torch.float32
    torch.testing.assert_close(loss(logits, labels), loss(logits.float(), labels))
    assert loss(logits.double(), labels.double() if name != "cross_entropy" else labels).dtype == torch.float64


@pytest.mark.parametrize("loss", [kl, symmetric_kl, soft_cross_entropy, squared_difference])
def test_differing_shapes_are_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\[2"):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_cross_entropy_and_mse_refuse_labels_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"need labels \[2\], not \[3\]"):
        cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"shapes differ: \[2\] and \[3\]"):
        mse(torch.zeros(2, 1), torch.zeros(3))
