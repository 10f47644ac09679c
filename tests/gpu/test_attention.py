"""Every way in which packed rows attend on a GPU, against one example at a time on the CPU in float32."""

from __future__ import annotations

import pytest
import torch

from mtdnn.execution.attention import attend_unpacked
from mtdnn.execution.layout import Layout
from mtdnn.execution.ragged import (
    attend_by_dropping_flash,
    attend_by_efficient_kernel,
    attend_by_flash,
    attend_by_flex,
    attend_by_squares,
)
from mtdnn.execution.terms import Attend, AttentionSettings
from tests.unit.execution.test_attention import SCALE, mask_of, one_by_one

CPU = torch.device("cpu")
HEADS, SIZE = 3, 32
LENGTHS = [(17, 3, 9, 3), (1,), (6, 6, 6), (0, 3), (130, 5, 300, 128, 7)]
BF16, FP32 = torch.bfloat16, torch.float32
ONLY_GPU = (attend_by_flash, attend_by_dropping_flash, attend_by_efficient_kernel, attend_by_flex)
TOLERANCE = {FP32: (1e-4, 1e-4), BF16: (2e-2, 5e-2)}
"""Of the output and of gradients, relative and absolute: float32 sums of up to 300 terms in another order; of bf16, two
units in its last place for the output, and a few more for gradients, which are sums of such numbers."""


def leaves(layout: Layout) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (sum(layout.lengths), HEADS, SIZE)
    return [torch.randn(shape, generator=generator).requires_grad_() for _ in range(3)]


def require(device: torch.device, attend: Attend, dtype: torch.dtype) -> None:
    if attend in ONLY_GPU and device.type != "cuda":
        pytest.skip("a kernel of GPUs")
    if dtype == BF16 and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("bf16 needs an Ampere GPU or a later one")


@pytest.mark.parametrize(
    ("attend", "dtype", "window"),
    [
        (attend_by_flash, BF16, None),
        (attend_by_flash, BF16, 3),
        (attend_by_dropping_flash, BF16, None),
        (attend_by_dropping_flash, BF16, 3),
        (attend_by_efficient_kernel, FP32, None),
        (attend_by_efficient_kernel, BF16, None),
        (attend_by_squares, FP32, None),
        (attend_by_squares, FP32, 3),
        (attend_by_squares, BF16, None),
        (attend_by_flex, FP32, None),
        (attend_by_flex, FP32, 3),
        (attend_by_flex, BF16, None),
        (attend_unpacked, FP32, None),
        (attend_unpacked, FP32, 3),
        (attend_unpacked, BF16, None),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_output_and_gradients_are_those_of_one_example_at_a_time(
    device: torch.device, attend: Attend, dtype: torch.dtype, window: int | None, causal: bool, lengths: tuple[int, ...]
) -> None:
    require(device, attend, dtype)
    layout, on_host = Layout.of(mask_of(lengths), device), Layout.of(mask_of(lengths), CPU)
    expected_leaves = leaves(on_host)
    found_leaves = [leaf.detach().to(device, dtype).requires_grad_() for leaf in expected_leaves]
    found = attend(*found_leaves, AttentionSettings(layout, SCALE, 0.0, window, causal))
    expected = one_by_one(*expected_leaves, layout.lengths, window, causal=causal)
    of_output, of_gradients = TOLERANCE[dtype]
    torch.testing.assert_close(found.float().cpu(), expected, rtol=of_output, atol=of_output)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (found.float() * direction.to(device)).sum().backward()
    (expected * direction).sum().backward()
    for mine, theirs in zip(found_leaves, expected_leaves, strict=True):
        torch.testing.assert_close(mine.grad.float().cpu(), theirs.grad, rtol=of_gradients, atol=of_gradients)


@pytest.mark.parametrize(
    ("attend", "dtype"),
    [
        (attend_by_dropping_flash, BF16),
        (attend_by_efficient_kernel, FP32),
        (attend_by_efficient_kernel, BF16),
        (attend_by_squares, FP32),
        (attend_by_squares, BF16),
        (attend_unpacked, FP32),
    ],
)
def test_dropped_weights_have_the_mean_and_the_variance_of_dropout_and_follow_the_seed(
    device: torch.device, attend: Attend, dtype: torch.dtype
) -> None:
    """Values of 1 and equal weights: the output is a sum of kept weights, its variance is p ∕ (1 − p) ∕ length."""
    require(device, attend, dtype)
    layout = Layout.of(mask_of((40,) * 50), device)
    query, key = (torch.zeros(2000, HEADS, SIZE, dtype=dtype, device=device) for _ in range(2))
    terms = AttentionSettings(layout, SCALE, 0.2, None)

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return attend(query, key, torch.ones_like(query), terms)[..., 0].float().cpu()

    found = drawn(0)
    assert torch.equal(found, drawn(0)) and not torch.equal(found, drawn(1))
    assert float(found.mean()) == pytest.approx(1, abs=5 * (0.25 / 40 / found.numel()) ** 0.5 + 2**-9)
    assert float(found.var()) == pytest.approx(0.25 / 40, rel=0.15)  # 6,000 sums: 5 standard errors are 0.09


@pytest.mark.parametrize("attend", [attend_by_dropping_flash, attend_by_efficient_kernel, attend_by_squares])
def test_the_backward_pass_drops_what_the_forward_pass_has_dropped(device: torch.device, attend: Attend) -> None:
    """The gradient of a value is the sum of the kept weights it was multiplied with: Σ output = Σ value·gradient."""
    dtype = FP32 if attend is not attend_by_dropping_flash else BF16
    require(device, attend, dtype)
    layout = Layout.of(mask_of((17, 30, 5)), device)
    query, key, value = (leaf.detach().to(device, dtype).requires_grad_() for leaf in leaves(layout))
    output = attend(query, key, value, AttentionSettings(layout, SCALE, 0.3, None))
    output.backward(torch.ones_like(output))  # of a sum, it would be one number, expanded, which no kernel is given
    summed = (value.float() * value.grad.float()).sum()
    assert float(summed.detach()) == pytest.approx(float(output.float().sum().detach()), rel=5e-2, abs=0.5)
