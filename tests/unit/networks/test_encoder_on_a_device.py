"""Encoders of every family on a device: nothing is left on the host, and the host does not wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from mtdnn.batch import on_device
from mtdnn.config.execution import Execution
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.layers import outermost_layers
from tests.reference.pretended_gpu import GPU, WAITING, pretended_gpu, waiting_allowed
from tests.unit.networks.test_encoder import CONFIGS, PACKED, backbone, batch

WAYS = [
    *((family, "padded", "auto") for family in CONFIGS),
    *((family, "packed", "auto") for family in PACKED),
    *((family, "packed", "squares") for family in ("bert", "modernbert", "gpt2")),
]


@pytest.mark.parametrize(("family", "layout", "attention"), WAYS)
def test_hidden_states_on_a_device_are_those_of_the_host(family: str, layout: str, attention: str) -> None:
    ids, mask, types = batch((17, 3, 9, 3))
    encoder = Encoder(backbone(family), execution=Execution(layout=layout, attention=attention))
    expected = encoder(ids, mask, types)
    given: list[torch.device] = []

    def note(layer: torch.nn.Module, arguments: Any, keywords: Any) -> None:
        """FSDP copies to the device what a layer is given on the host, and waits for it."""
        tensors = [each for each in tree_leaves((arguments, keywords)) if isinstance(each, torch.Tensor)]
        given.extend(each.device for each in tensors)

    for layer in outermost_layers(encoder.backbone):
        layer.register_forward_pre_hook(note, with_kwargs=True)
    with pretended_gpu() as gpu:
        with waiting_allowed(gpu):
            encoder.to(GPU)
        gpu.may_wait = family in WAITING
        hidden = encoder(on_device(ids, GPU), mask, on_device(types, GPU))
        hidden.square().sum().backward()
        with waiting_allowed(gpu):
            found = hidden.detach().cpu()
    assert set(given) == {GPU}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # float32, sums in another order
