"""Losses against hand-worked numbers, PyTorch's own functions and scipy; their gradients where nothing counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtdnn.networks.divergences import kl, squared_difference, symmetric_kl, symmetric_kl_per_example
from mtdnn.networks.losses import IGNORED, LOSSES, cross_entropy, mse, soft_cross_entropy
from mtdnn.networks.means import masked_mean
from tests.reference.tiny import random_logits

FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}  # the same formula in float64: rounding only


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
