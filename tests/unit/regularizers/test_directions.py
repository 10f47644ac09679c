"""Directions and limits of perturbations."""

from __future__ import annotations

import pytest
import torch

from mtdnn.regularizers.directions import direction, exceeds, extent, fraction, projected, root_mean_square, within_ball


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_direction_has_norm_one_over_its_scope() -> None:
    gradient = random(3, 4, 5)
    assert torch.allclose(direction(gradient, "inf", "example").abs().amax((1, 2)), torch.ones(3))
    assert torch.allclose(direction(gradient, "l2", "example").norm(dim=(1, 2)), torch.ones(3))
    assert torch.allclose(direction(gradient, "inf", "token").abs().amax(2), torch.ones(3, 4))
    assert torch.allclose(direction(gradient, "l2", "token").norm(dim=2), torch.ones(3, 4))


@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("scope", ["example", "token"])
def test_a_zero_gradient_has_no_direction(norm: str, scope: str) -> None:
    assert not direction(torch.zeros(2, 3, 4), norm, scope).any()


def test_a_gradient_whose_square_underflows_has_a_direction() -> None:
    gradient = torch.full((1, 2, 2), 1e-30)
    assert torch.allclose(direction(gradient, "l2", "example"), torch.full((1, 2, 2), 0.5))


@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("scope", ["example", "token"])
def test_projection_ends_in_the_ball_and_moves_nothing_inside(norm: str, scope: str) -> None:
    delta = random(3, 4, 5)
    limited = projected(delta, 0.7, norm, scope)
    assert extent(limited, norm, scope).max().item() <= 0.7 * (1 + 1e-6)
    assert torch.allclose(projected(0.01 * delta, 0.7, norm, scope), 0.01 * delta)
    assert torch.equal(projected(delta, 100.0, norm, scope), delta)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("scale", [1e-6, 0.05, 1.0, 30.0])
def test_the_limit_holds_for_the_sum_as_float32_computes_it(epsilon: float, scale: float) -> None:
    embeddings = scale * random(50, 20, 30)
    delta = projected(random(50, 20, 30), epsilon, "inf", "example")
    shifted = embeddings + within_ball(delta, embeddings, epsilon)
    assert not ((shifted - embeddings).abs() > epsilon).any()


def test_share_counts_real_places_only() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    coordinates = torch.tensor([[[1, 0], [0, 0]], [[1, 1], [1, 1]]]).bool()
    assert fraction(coordinates, mask).item() == 0.5  # 3 of 6
    assert fraction(torch.tensor([[[1], [0]], [[0], [1]]]).bool(), mask).item() == pytest.approx(1 / 3)
    assert fraction(torch.tensor([[[1]], [[0]]]).bool(), mask).item() == 0.5


def test_root_mean_square_is_over_real_tokens() -> None:
    delta = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    assert root_mean_square(delta, torch.tensor([[True, False]])).item() == pytest.approx(12.5**0.5)
    assert exceeds(delta, 4.5, "l2", "token").flatten().tolist() == [True, False]
    assert exceeds(delta, 3.5, "inf", "token").flatten().tolist() == [False, True, False, False]
