"""Hidden states and their gradients on a GPU against those of the plain transformers forward on the CPU."""

from __future__ import annotations

import pytest
import torch

from mtdnn.config.execution import Execution
from mtdnn.networks.encoder import Encoder
from tests.unit.networks.test_encoder import CONFIGS, LENGTHS, PACKED, backbone, batch, gradients, plain_forward

ATTENTION = ("auto", "kernel", "squares", "padded")
WAYS = [(family, {"layout": "padded"}) for family in CONFIGS] + [
    (family, {"layout": "packed", "attention": attention}) for family in PACKED for attention in ATTENTION
]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize(("family", "execution"), WAYS, ids=str)
def test_hidden_states_and_gradients_in_float32(
    device: torch.device, family: str, execution: dict[str, str], lengths: tuple[int, ...]
) -> None:
    """Sums in another order, on two layers: 1e-4 of the largest value."""
    ids, mask, types = batch(lengths)
    plain = backbone(family)
    expected = plain_forward(plain, ids, mask, types)
    expected_gradients = gradients(plain, expected, mask)
    ours = Encoder(backbone(family), execution=Execution(**execution)).to(device)
    hidden = ours(ids.to(device), mask, types.to(device))
    projection = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))  # as `gradients` draws it
    (hidden.cpu() * projection)[mask].sum().backward()
    torch.testing.assert_close(hidden.cpu()[mask], expected[mask], rtol=1e-4, atol=1e-4)
    assert not hidden.cpu()[~mask].any()
    found = {name: each.grad.cpu() for name, each in ours.backbone.named_parameters() if each.grad is not None}
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        largest = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4 * max(largest, 1), msg=name)


@pytest.mark.parametrize("attention", (*ATTENTION, "flex"))
@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_hidden_states_in_bf16(device: torch.device, family: str, attention: str) -> None:
    """bf16 has 8 bits: an error of 2⁻⁸ per product and layer, 3 % of the largest hidden state after two layers."""
    ids, mask, types = batch(LENGTHS["ragged"])
    expected = plain_forward(backbone(family), ids, mask, types)
    ours = Encoder(backbone(family), execution=Execution(layout="packed", attention=attention)).to(device)
    with torch.autocast(device.type, torch.bfloat16), torch.no_grad():
        hidden = ours(ids.to(device), mask, types.to(device)).float().cpu()
    assert float((hidden - expected)[mask].abs().max()) < 0.03 * float(expected[mask].abs().max())


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_compiled_layers_compute_the_same(gpu: torch.device, family: str) -> None:
    ids, mask, types = batch(LENGTHS["ragged"])
    plain, compiled = (Encoder(backbone(family), execution="packed").to(gpu) for _ in range(2))
    compiled.compile_layers()
    expected, found = (each(ids.to(gpu), mask, types.to(gpu)) for each in (plain, compiled))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
