"""Fast dropout: the distribution of PyTorch's dropout, as a function of the default generator's state alone."""

import pytest
import torch
from torch import nn

from mtdnn.execution.dropout import Dropout, keep_scale, random_bits, use_fast_dropout

COUNT = 400_000


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_the_share_of_dropped_elements_is_p_and_the_rest_keeps_the_expectation(p):
    torch.manual_seed(0)
    found = Dropout(p)(torch.ones(COUNT))
    deviation = (p * (1 - p) / COUNT) ** 0.5  # of the mean of independent draws
    assert (found == 0).float().mean().item() == pytest.approx(p, abs=4 * deviation)
    assert found.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)  # P(drop) is p rounded to 16 bits
    assert found.mean().item() == pytest.approx(1, abs=4 * deviation / (1 - p))


def test_neighbouring_elements_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (Dropout(0.3)(torch.ones(COUNT)) == 0).double()
    for distance in (1, 2, 3, 4, 8, 384):  # four elements share a word of the generator
        pair = torch.stack([dropped[distance:], dropped[:-distance]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 4 / COUNT**0.5


def test_random_bits_are_uniform():
    torch.manual_seed(0)
    counts = torch.bincount((random_bits(COUNT).int() + 2**15) >> 8, minlength=256).double()
    expected = COUNT / 256
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert 170 < chi_square < 350  # 255 degrees of freedom: mean 255, standard deviation 23


def test_the_same_state_brings_the_same_mask_and_another_state_another():
    dropout, x = Dropout(0.5), torch.ones(1000)
    state = torch.get_rng_state()
    first, second = dropout(x), dropout(x)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x), first)
    agreement = (first == second).float().mean().item()
    assert agreement == pytest.approx(0.5, abs=4 * (0.25 / 1000) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_goes_where_the_value_went(dtype):
    x = torch.randn(50, 7).to(dtype).t().requires_grad_()  # drawn in bfloat16, PyTorch 2.11 has exact zeros
    found = Dropout(0.4)(x)
    found.sum().backward()
    scale = torch.tensor(keep_scale(0.4), dtype=dtype)
    assert found.dtype == x.grad.dtype == dtype
    assert torch.equal(x.grad, torch.where(found == 0, torch.zeros((), dtype=dtype), scale))


@pytest.mark.parametrize("dropout", [Dropout(0.5).eval(), Dropout(0.0)])
def test_nothing_is_drawn_in_evaluation_or_for_nothing(dropout):
    x, state = torch.randn(5), torch.get_rng_state()
    assert dropout(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_everything_is_dropped_with_certainty():
    assert not Dropout(1.0)(torch.ones(9)).any()


def test_every_dropout_of_a_model_is_replaced_with_its_probability_and_mode():
    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.7).eval()))
    use_fast_dropout(model)
    assert isinstance(model[0], Dropout) and isinstance(model[1][1], Dropout)
    assert (model[0].p, model[1][1].p) == (0.2, 0.7)
    assert model[0].training and not model[1][1].training
